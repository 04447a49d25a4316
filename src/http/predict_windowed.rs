//! Predictions of windowed models.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};

use super::body::JSON;
use super::error::ApiError;
use super::limits::{MAX_INLINE_WALKS, check_explained, windowed_walks};
use super::predict::{prediction_error, run_blocking};
use super::state::AppState;
use super::wire::{self, WindowedForm, WindowedPrediction, WindowedRequest};
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
    // Large requests wait for each other, and hold each reading twice.
    let waiting = match is_large {
        true => {
            let size = 2 * size_of::<f64>() * window.sensors() + size_of::<Option<i64>>();
            Some(app.bodies.reserve(readings * size)?)
        }
        false => None,
    };
    let stream = match request.form {
        WindowedForm::Window => None,
        _ => {
            let found = app.registry.stream(name).await?;
            let (current, stream) = found.ok_or_else(|| ChangeError::NoModel(name.clone()))?;
            if !Arc::ptr_eq(&current, &model) {
                return Ok(ControlFlow::Continue(current));
            }
            Some(stream)
        }
    };
    let job = Job {
        model,
        request,
        scaled,
        stream,
    };
    let response = match is_large {
        true => {
            run_blocking(move || {
                let response = job.respond();
                drop(waiting);
                response
            })
            .await?
        }
        false => job.respond()?,
    };
    Ok(ControlFlow::Break(response))
}

/// The readings scaled, one after the other.
fn scale(window: &Window, request: &WindowedRequest) -> Result<Vec<f64>, ApiError> {
    let mut scaled = Vec::with_capacity(request.readings.len());
    for (i, reading) in request.readings.chunks_exact(window.sensors()).enumerate() {
        let values = window.scale(reading).map_err(|error| match reading {
            [value] => prediction_error(request.place(i), value, &error),
            reading => prediction_error(request.place(i), &reading.to_vec(), &error),
        })?;
        scaled.extend(values);
    }
    Ok(scaled)
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
    fn respond(self) -> Result<Response, ApiError> {
        let Self {
            model,
            request,
            scaled,
            stream,
        } = self;
        let window = model.window.as_ref();
        let window = window.ok_or_else(|| ApiError::internal("the model has no window"))?;
        let explain = request.explain;
        let judge = |readings: &[f64]| window.judge(&model.detector, readings, explain);
        let names = explain.then_some(&*model.feature_names);
        let prediction = |reading, scaled, judgement, alarm| WindowedPrediction {
            reading,
            scaled,
            is_outside: window.is_outside(reading),
            judgement,
            alarm,
        };
        let body =
            match stream {
                Some(mut stream) => {
                    let answers: Vec<StreamAnswer> = stream
                        .of(window, &model.feature_names)
                        .append(&request.readings, &request.times, explain, judge);
                    drop(stream);
                    let judgements = answers.iter().map(|answer| answer.judgement.as_ref());
                    count(&model, judgements);
                    let readings = request.readings.chunks_exact(window.sensors());
                    let scaled = scaled.chunks_exact(window.sensors());
                    let predictions =
                        readings
                            .zip(scaled)
                            .zip(&answers)
                            .map(|((reading, scaled), answer)| {
                                let judgement = answer.judgement.as_ref();
                                prediction(reading, scaled, judgement, Some(answer.alarm))
                            });
                    let is_list = request.form == WindowedForm::Many;
                    wire::windowed_predictions(predictions, names, is_list)
                }
                None => {
                    let judgement = judge(&request.readings);
                    count(&model, std::iter::once(Some(&judgement)));
                    let last = request.readings.len() - window.sensors();
                    let reading = &request.readings[last..];
                    let prediction = prediction(reading, &scaled[last..], Some(&judgement), None);
                    wire::windowed_predictions([prediction], names, false)
                }
            };
        Ok(([JSON], body).into_response())
    }
}
