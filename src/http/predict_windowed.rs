//! Predictions of windowed models.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};

use super::body::JSON;
use super::error::ApiError;
use super::limits::{MAX_INLINE_WALKS, check_explained, windowed_walks};
use super::place::Place;
use super::predict::{prediction_error, run_blocking};
use super::predict_many::Answer;
use super::state::AppState;
use super::wire::{self, ModelReading, WindowedForm, WindowedPrediction, WindowedRequest};
use crate::detector::{Judgement, StreamAnswer, Window};
use crate::registry::{ChangeError, ServedModel, StreamGuard};
use crate::store::ModelName;

/// Predicts with a windowed model. If the model is replaced while the request waits for those before
/// it, the new one is returned instead, to begin anew.
pub(super) async fn predict(
    app: &AppState,
    name: &ModelName,
    model: Arc<ServedModel>,
    body: &[u8],
) -> Result<ControlFlow<Response, Arc<ServedModel>>, ApiError> {
    let Some(window) = &model.window else {
        return Ok(ControlFlow::Continue(model));
    };
    // All errors are found here, before the stream changes.
    let request = wire::parse_windowed(body, window, &model.feature_names)?;
    let readings = request.readings.len() / window.sensors();
    let judged = match request.form {
        WindowedForm::Window => 1,
        _ => readings,
    };
    if request.explain {
        check_explained(judged, model.detector.forest().n_features())?;
    }
    let scaled = scale(window, &request)?;
    let is_large =
        windowed_walks(window, &model.detector, judged, request.explain) > MAX_INLINE_WALKS;
    let job = Job {
        model,
        request,
        scaled,
        stream: None,
    };
    run(app, name, job, is_large, Job::respond).await
}

/// As [`predict`], of readings that are a part of a request. `request_walks` are those of the request
/// so far.
pub(super) async fn predict_readings(
    app: &AppState,
    name: &ModelName,
    model: Arc<ServedModel>,
    readings: &[ModelReading<'_>],
    request_walks: &mut usize,
) -> Result<ControlFlow<Vec<Answer>, Arc<ServedModel>>, ApiError> {
    let Some(window) = &model.window else {
        return Ok(ControlFlow::Continue(model));
    };
    let mut request = WindowedRequest {
        form: WindowedForm::Many,
        readings: Vec::with_capacity(readings.len() * window.sensors()),
        times: Vec::with_capacity(readings.len()),
        explain: false,
    };
    let mut scaled = Vec::with_capacity(request.readings.capacity());
    // The errors of the readings that are refused; the others go to the stream.
    let mut errors = Vec::with_capacity(readings.len());
    for reading in readings {
        let start = request.readings.len();
        let parsed = reading
            .windowed_into(&mut request.readings, window, &model.feature_names)
            .and_then(|time| {
                scaled.extend(scale_one(
                    window,
                    &request.readings[start..],
                    "value".into(),
                )?);
                Ok(time)
            });
        match parsed {
            Ok(time) => {
                request.times.push(time);
                errors.push(None);
            }
            Err(error) => {
                request.readings.truncate(start);
                errors.push(Some(error));
            }
        }
    }
    let valid = request.times.len();
    let mut predicted = Vec::new();
    if valid > 0 {
        let walks = windowed_walks(window, &model.detector, valid, false);
        *request_walks = request_walks.saturating_add(walks);
        let is_large = *request_walks > MAX_INLINE_WALKS;
        let job = Job {
            model,
            request,
            scaled,
            stream: None,
        };
        predicted = match run(app, name, job, is_large, Job::respond_each).await? {
            ControlFlow::Break(predicted) => predicted,
            ControlFlow::Continue(current) => return Ok(ControlFlow::Continue(current)),
        };
    }
    let mut predicted = predicted.into_iter();
    let answers = errors.into_iter().map(|error| match error {
        Some(error) => Err(error),
        None => {
            let missing = || ApiError::internal("a reading has no prediction");
            predicted.next().ok_or_else(missing)
        }
    });
    Ok(ControlFlow::Break(answers.collect()))
}

/// Does `work` once the turn of a job has come, with the stream that it needs.
async fn run<T: Send + 'static>(
    app: &AppState,
    name: &ModelName,
    mut job: Job,
    is_large: bool,
    work: fn(Job) -> Result<T, ApiError>,
) -> Result<ControlFlow<T, Arc<ServedModel>>, ApiError> {
    // Large requests wait for each other, and hold each reading twice.
    let waiting = match is_large {
        true => {
            let values = size_of_val(&*job.request.readings) + size_of_val(&*job.scaled);
            Some(
                app.bodies
                    .reserve(values + size_of_val(&*job.request.times))?,
            )
        }
        false => None,
    };
    job.stream = match job.request.form {
        WindowedForm::Window => None,
        _ => {
            let found = app.registry.stream(name).await?;
            let (current, stream) = found.ok_or_else(|| ChangeError::NoModel(name.clone()))?;
            if !Arc::ptr_eq(&current, &job.model) {
                return Ok(ControlFlow::Continue(current));
            }
            Some(stream)
        }
    };
    let done = match is_large {
        true => {
            run_blocking(move || {
                let done = work(job);
                drop(waiting);
                done
            })
            .await?
        }
        false => work(job)?,
    };
    Ok(ControlFlow::Break(done))
}

/// The readings scaled, one after the other.
fn scale(window: &Window, request: &WindowedRequest) -> Result<Vec<f64>, ApiError> {
    let mut scaled = Vec::with_capacity(request.readings.len());
    for (i, reading) in request.readings.chunks_exact(window.sensors()).enumerate() {
        scaled.extend(scale_one(window, reading, request.place(i))?);
    }
    Ok(scaled)
}

fn scale_one(window: &Window, reading: &[f64], place: Place) -> Result<Vec<f64>, ApiError> {
    window.scale(reading).map_err(|error| match reading {
        [value] => prediction_error(place, value, &error),
        reading => prediction_error(place, &reading.to_vec(), &error),
    })
}

/// Counts predictions by their verdict.
fn count<'a>(model: &ServedModel, judgements: impl Iterator<Item = Option<&'a Judgement>>) {
    let (mut normal, mut anomaly, mut none) = (0, 0, 0);
    for judgement in judgements {
        match judgement {
            Some(judgement) if judgement.is_anomaly => anomaly += 1,
            Some(_) => normal += 1,
            None => none += 1,
        }
    }
    model.verdicts.count(normal, anomaly, none);
}

/// A valid request to a windowed model whose turn has come.
struct Job {
    model: Arc<ServedModel>,
    request: WindowedRequest,
    scaled: Vec<f64>,
    /// `None` if the request holds the whole window.
    stream: Option<StreamGuard>,
}

impl Job {
    /// The response to the request.
    fn respond(mut self) -> Result<Response, ApiError> {
        let answers = self.append()?;
        let names = self.request.explain.then_some(&*self.model.feature_names);
        let body = match answers {
            Some(answers) => {
                let is_list = self.request.form == WindowedForm::Many;
                wire::windowed_predictions(self.predictions(&answers)?, names, is_list)
            }
            None => {
                let window = self.window()?;
                let judgement = self.judge(window, &self.request.readings);
                count(&self.model, std::iter::once(Some(&judgement)));
                let last = self.scaled.len() - window.sensors();
                let reading = &self.request.readings[last..];
                let prediction = prediction(
                    window,
                    reading,
                    &self.scaled[last..],
                    Some(&judgement),
                    None,
                );
                wire::windowed_predictions([prediction], names, false)
            }
        };
        Ok(([JSON], body).into_response())
    }

    /// The body of the response to each reading, as if it was alone.
    fn respond_each(mut self) -> Result<Vec<Vec<u8>>, ApiError> {
        let answers = self.append()?.unwrap_or_default();
        let predictions = self.predictions(&answers)?;
        Ok(predictions
            .map(|prediction| wire::windowed_predictions([prediction], None, false))
            .collect())
    }

    /// Appends the readings to the stream, if there is one, and ends its use.
    fn append(&mut self) -> Result<Option<Vec<StreamAnswer>>, ApiError> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(None);
        };
        let window = self.window()?;
        let WindowedRequest {
            readings,
            times,
            explain,
            ..
        } = &self.request;
        let judge = |readings: &[f64]| self.judge(window, readings);
        let answers = stream
            .of(window, &self.model.feature_names)
            .append(readings, times, *explain, judge);
        drop(stream);
        let judgements = answers.iter().map(|answer| answer.judgement.as_ref());
        count(&self.model, judgements);
        Ok(Some(answers))
    }

    /// The predictions with the answers of the stream.
    fn predictions<'a>(
        &'a self,
        answers: &'a [StreamAnswer],
    ) -> Result<impl Iterator<Item = WindowedPrediction<'a>>, ApiError> {
        let window = self.window()?;
        let readings = self.request.readings.chunks_exact(window.sensors());
        let scaled = self.scaled.chunks_exact(window.sensors());
        let answered = readings.zip(scaled).zip(answers);
        Ok(answered.map(|((reading, scaled), answer)| {
            let judgement = answer.judgement.as_ref();
            prediction(window, reading, scaled, judgement, Some(answer.alarm))
        }))
    }

    fn judge(&self, window: &Window, readings: &[f64]) -> Judgement {
        window.judge(&self.model.detector, readings, self.request.explain)
    }

    fn window(&self) -> Result<&Window, ApiError> {
        let window = self.model.window.as_ref();
        window.ok_or_else(|| ApiError::internal("the model has no window"))
    }
}

fn prediction<'a>(
    window: &Window,
    reading: &'a [f64],
    scaled: &'a [f64],
    judgement: Option<&'a Judgement>,
    alarm: Option<bool>,
) -> WindowedPrediction<'a> {
    WindowedPrediction {
        reading,
        scaled,
        is_outside: window.is_outside(reading),
        judgement,
        alarm,
    }
}
