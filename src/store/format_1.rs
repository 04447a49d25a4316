//! What format 1 holds: this struct in postcard's encoding, so its fields never change.

use serde::Deserialize;

use super::record::{ModelSettings, Record};
use crate::detector::{Detector, OutOfRange};
use crate::forest::MaxSamples;

/// A version of format 1. See [`Record`].
#[derive(Deserialize)]
pub(super) struct Record1 {
    detector: Detector,
    feature_names: Vec<String>,
    settings: Settings1,
    trained_at: u64,
    restored_from: Option<u64>,
}

#[derive(Deserialize)]
struct Settings1 {
    contamination: Option<f64>,
    n_estimators: Option<usize>,
    max_samples: Option<MaxSamples>,
    random_state: Option<u32>,
    out_of_range: Option<OutOfRange>,
    out_of_range_margin: Option<f64>,
}

impl From<Record1> for Record {
    fn from(record: Record1) -> Self {
        let settings = record.settings;
        Self {
            detector: record.detector,
            window: None,
            held_back: None,
            feature_names: record.feature_names,
            settings: ModelSettings {
                contamination: settings.contamination,
                n_estimators: settings.n_estimators,
                max_samples: settings.max_samples,
                random_state: settings.random_state,
                out_of_range: settings.out_of_range,
                out_of_range_margin: settings.out_of_range_margin,
                ..ModelSettings::default()
            },
            trained_at: record.trained_at,
            restored_from: record.restored_from,
        }
    }
}
