//! Predictions of the readings of a chunk.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::readings::Readings;
use crate::detector::{Detector, DetectorError, Judgement, Prediction, Stream, Window};
use crate::registry::ServedModel;

/// How many values of windows are held at a time, some megabytes: each reading has a window of its
/// own.
const MAX_WINDOW_VALUES: usize = 1 << 20;

/// The prediction of a reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Predicted {
    /// `None` while the model is warming up.
    pub(super) score: Option<f64>,
    pub(super) is_anomaly: bool,
    pub(super) out_of_range: bool,
    pub(super) alarm: bool,
    /// Whether the alarm was off before.
    pub(super) is_alarm_raised: bool,
}

/// The reading is too far from the training readings to be scaled; holds the value.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooFar(pub(super) f64);

/// Predicts readings with a model without a window.
pub(super) fn predict(model: &ServedModel, readings: &Readings) -> Vec<Result<Predicted, TooFar>> {
    let detector = &model.detector;
    let features = detector.forest().n_features();
    let rows = readings.values.chunks_exact(features);
    // Fails if a reading is too far out, whose neighbours are still to be predicted.
    if let Ok(view) = ArrayView2::from_shape((rows.len(), features), &readings.values)
        && let Ok((predictions, _)) = detector.predict_rows_scaled(view)
    {
        let predictions = predictions.into_iter().zip(rows);
        return predictions
            .map(|(prediction, row)| predicted(Ok(prediction), row))
            .collect();
    }
    rows.map(|row| predicted(detector.predict_row(row), row))
        .collect()
}

fn predicted<S>(
    prediction: Result<Prediction<S>, DetectorError>,
    reading: &[f64],
) -> Result<Predicted, TooFar> {
    match prediction {
        Ok(prediction) => Ok(Predicted {
            score: Some(prediction.anomaly_score),
            is_anomaly: prediction.is_anomaly,
            out_of_range: prediction.out_of_range == Some(true),
            alarm: false,
            is_alarm_raised: false,
        }),
        Err(error) => Err(too_far(&error, reading)),
    }
}

fn too_far(error: &DetectorError, reading: &[f64]) -> TooFar {
    // The readings are finite and of the right width, so there is no other error.
    let feature = match *error {
        DetectorError::Overflow { feature, .. } => feature,
        _ => 0,
    };
    TooFar(reading.get(feature).copied().unwrap_or(f64::NAN))
}

/// Predicts readings in their order, with a windowed model.
///
/// Which windows there are depends only on the readings and their times. So one stream finds the
/// windows, all threads judge them, and a second stream takes the results.
pub(super) struct StreamPredictor<'a> {
    detector: &'a Detector,
    window: &'a Window,
    finder: Stream,
    stream: Stream,
    alarm: bool,
}

impl<'a> StreamPredictor<'a> {
    /// `None` if the model has no window.
    pub(super) fn new(model: &'a ServedModel) -> Option<Self> {
        let window = model.window.as_ref()?;
        let stream = || Stream::new(window, &model.feature_names);
        Some(Self {
            detector: &model.detector,
            window,
            finder: stream(),
            stream: stream(),
            alarm: false,
        })
    }

    pub(super) fn predict(&mut self, readings: &Readings) -> Vec<Result<Predicted, TooFar>> {
        let sensors = self.window.sensors();
        let batch = (MAX_WINDOW_VALUES / (self.window.size() * sensors)).max(1);
        let values = readings.values.chunks(batch * sensors);
        let times = readings.milliseconds.chunks(batch);
        let mut predictions = Vec::with_capacity(readings.milliseconds.len());
        for (values, times) in values.zip(times) {
            self.predict_batch(values, times, &mut predictions);
        }
        predictions
    }

    fn predict_batch(
        &mut self,
        values: &[f64],
        times: &[Option<i64>],
        predictions: &mut Vec<Result<Predicted, TooFar>>,
    ) {
        let Self {
            detector,
            window,
            finder,
            stream,
            alarm,
        } = self;
        let readings = || values.chunks_exact(window.sensors()).zip(times);
        let refused: Vec<Option<TooFar>> = readings()
            .map(|(reading, _)| window.scale(reading).err().map(|e| too_far(&e, reading)))
            .collect();
        let mut windows = Vec::new();
        for ((reading, &time), _) in readings().zip(&refused).filter(|(_, no)| no.is_none()) {
            finder.append(reading, &[time], false, |readings| {
                windows.extend_from_slice(readings);
                Judgement {
                    anomaly_score: 0.0,
                    is_anomaly: false,
                    contributions: None,
                }
            });
        }
        let judged: Vec<Judgement> = windows
            .par_chunks_exact(window.size() * window.sensors())
            .map(|readings| window.judge(detector, readings, false))
            .collect();
        let mut judged = judged.into_iter();
        for ((reading, &time), refused) in readings().zip(refused) {
            if let Some(too_far) = refused {
                predictions.push(Err(too_far));
                continue;
            }
            let answers = stream.append(reading, &[time], false, |readings| {
                let judge = || window.judge(detector, readings, false);
                judged.next().unwrap_or_else(judge)
            });
            for answer in answers {
                predictions.push(Ok(Predicted {
                    score: answer.judgement.as_ref().map(|j| j.anomaly_score),
                    is_anomaly: answer.judgement.is_some_and(|j| j.is_anomaly),
                    out_of_range: window.is_outside(reading),
                    alarm: answer.alarm,
                    is_alarm_raised: answer.alarm && !*alarm,
                }));
                *alarm = answer.alarm;
            }
        }
    }
}
