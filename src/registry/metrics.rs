//! Counters of predictions and trainings, and gauges of the models.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::shared::Shared;
use crate::metrics::{Exposition, Histogram, Sharded};
use crate::store::ModelName;

/// How many models have their own metrics. Each label costs Prometheus memory, and any client that
/// may retrain can make up names.
const MAX_MODEL_LABELS: usize = 1000;

/// The label of all other models, and of a model of this name.
const OTHER_MODELS: &str = "other";

/// The predictions of a model, by their verdict.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Sharded<[AtomicU64; 3]>);

impl Verdicts {
    /// Counts predictions: so many normal, so many anomalies, and so many without a verdict since
    /// their window was not full.
    pub(crate) fn count(&self, normal: usize, anomaly: usize, none: usize) {
        let counts = self.0.local().iter().zip([normal, anomaly, none]);
        for (sum, count) in counts.filter(|&(_, count)| count > 0) {
            sum.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    fn sums(&self) -> [u64; 3] {
        let mut sums = [0; 3];
        for shard in self.0.iter() {
            for (sum, count) in sums.iter_mut().zip(shard) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sums
    }
}

/// The metrics of a registry.
#[derive(Debug, Default)]
pub(super) struct RegistryMetrics {
    verdicts: RwLock<BTreeMap<ModelName, Arc<Verdicts>>>,
    other_verdicts: Arc<Verdicts>,
    trained: AtomicU64,
    training_failures: AtomicU64,
    training_samples: AtomicU64,
    training_durations: Histogram,
    /// In milliseconds since 1970; 0 before the first time.
    last_sync: AtomicU64,
}

impl RegistryMetrics {
    /// The counts of a model, to be kept beside it.
    pub(super) fn verdicts(&self, name: &ModelName) -> Arc<Verdicts> {
        let mut verdicts = self
            .verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(verdicts) = verdicts.get(name) {
            return Arc::clone(verdicts);
        }
        if verdicts.len() >= MAX_MODEL_LABELS - 1 || name.as_str() == OTHER_MODELS {
            return Arc::clone(&self.other_verdicts);
        }
        Arc::clone(verdicts.entry(name.clone()).or_default())
    }

    /// Ends the metrics of a model that was deleted.
    pub(super) fn forget(&self, name: &ModelName) {
        let mut verdicts = self
            .verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        verdicts.remove(name);
    }

    /// A model was trained, and is served.
    pub(super) fn trained(&self, duration: Duration, samples: usize) {
        self.trained.fetch_add(1, Ordering::Relaxed);
        self.training_samples
            .fetch_add(samples as u64, Ordering::Relaxed);
        self.training_durations.observe(duration);
    }

    /// A training that was not refused has failed.
    pub(super) fn training_failed(&self) {
        self.training_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The store was looked at for changes of other servers.
    pub(super) fn synced(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as u64;
        self.last_sync.store(now, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn write_metrics(&self, text: &mut Exposition) {
        let metrics = &self.metrics;
        // Writing takes longer than a retrain should wait for the lock.
        let verdicts = metrics.verdicts.read();
        let verdicts = verdicts.unwrap_or_else(PoisonError::into_inner).clone();

        let mut predictions = text.counter(
            "iforest_predictions_total",
            "Predictions by model and verdict; none is that of a window that is not yet full.",
        );
        let mut write = |model: &str, verdicts: &Verdicts| {
            for (verdict, count) in ["normal", "anomaly", "none"].iter().zip(verdicts.sums()) {
                predictions.sample(&[("model", &model), ("verdict", verdict)], count);
            }
        };
        for (name, verdicts) in &verdicts {
            write(name.as_str(), verdicts);
        }
        if metrics.other_verdicts.sums() != [0; 3] {
            write(OTHER_MODELS, &metrics.other_verdicts);
        }

        let summaries = verdicts
            .keys()
            .filter_map(|name| Some((name, self.models.summary(name)?)))
            .collect::<Vec<_>>();
        let mut family = text.gauge(
            "iforest_model_version",
            "Number of the stored version that is served; 0 if it is not stored.",
        );
        for (name, summary) in &summaries {
            family.sample(&[("model", name)], summary.version.unwrap_or(0));
        }
        let mut family = text.gauge(
            "iforest_model_trained_timestamp_seconds",
            "Time of the training, in seconds since 1970.",
        );
        for (name, summary) in &summaries {
            let trained_at = summary.trained_at.duration_since(UNIX_EPOCH);
            let trained_at = trained_at.unwrap_or_default().as_secs_f64();
            family.sample(&[("model", name)], trained_at);
        }
        let mut family = text.gauge(
            "iforest_model_expected_anomaly_ratio",
            "Share of normal readings that the model may call anomalies: its contamination or its \
             rate of false alarms.",
        );
        for (name, summary) in &summaries {
            family.sample(&[("model", name)], summary.expected_anomaly_ratio);
        }

        let mut family = text.counter(
            "iforest_trainings_total",
            "Completed trainings by result; refused requests do not count.",
        );
        for (result, count) in [
            ("success", &metrics.trained),
            ("failure", &metrics.training_failures),
        ] {
            family.sample(&[("result", &result)], count.load(Ordering::Relaxed));
        }
        text.histogram(
            "iforest_training_duration_seconds",
            "Time of successful trainings, from the body to the bytes to store.",
        )
        .durations(&[], std::iter::once(&metrics.training_durations));
        text.counter(
            "iforest_training_samples_total",
            "Readings that models were trained on.",
        )
        .sample(&[], metrics.training_samples.load(Ordering::Relaxed));
        text.gauge(
            "iforest_trainings_waiting",
            "Trainings that were admitted and have not begun.",
        )
        .sample(&[], self.backlog.waiting());

        if self.store.is_shared() && self.config.refresh_interval.is_some() {
            let last_sync = Duration::from_millis(metrics.last_sync.load(Ordering::Relaxed));
            text.gauge(
                "iforest_sync_last_success_timestamp_seconds",
                "When the store was last polled for changes of other servers, in seconds since 1970.",
            )
            .sample(&[], last_sync.as_secs_f64());
        }
        let (stored, loaded) = self.models.counts();
        text.gauge("iforest_models_stored", "Models that are served.")
            .sample(&[], stored);
        text.gauge("iforest_models_loaded", "Models that are in memory.")
            .sample(&[], loaded);
        self.store.write_metrics(text);
    }
}
