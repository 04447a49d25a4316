//! Predictions and retrains at the same time, through the registry: no prediction fails, waits for a
//! retrain, or mixes two models.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iforest_server::detector::{Detector, Prediction};
use iforest_server::registry::{
    Actor, ChangeError, DefaultModel, Registry, RegistryConfig, ServedModel, TrainingEstimate,
    TrainingRequest,
};
use iforest_server::store::{ModelName, ModelSettings, Store};
use iforest_server::training_data;
use ndarray::Array2;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use crate::support::data::{params, readings};

const VALUE: f64 = 3.5;

/// A registry that serves the synthetic model.
fn registry() -> Registry {
    Registry::train(params(), training_data::synthetic(42)).expect("it trains")
}

fn bits(prediction: Prediction) -> (u64, u64, bool) {
    let Prediction {
        scaled,
        anomaly_score,
        is_anomaly,
        ..
    } = prediction;
    (scaled.to_bits(), anomaly_score.to_bits(), is_anomaly)
}

fn name(name: &str) -> ModelName {
    name.parse().expect("a valid name")
}

fn training(samples: Array2<f64>) -> TrainingRequest {
    TrainingRequest {
        samples,
        runs: Vec::new(),
        feature_names: Vec::new(),
        settings: ModelSettings::default(),
    }
}

async fn retrain(registry: &Registry, data: Array2<f64>) -> Result<Arc<ServedModel>, ChangeError> {
    let name = ModelName::default_model();
    registry
        .retrain(
            &name,
            0,
            Actor::default(),
            |_| Ok(TrainingEstimate::default()),
            |_| Ok(training(data)),
        )
        .await
}

// Measured on server.py: 63 % of predictions fail while it retrains, because it replaces scaler
// and model one after the other. The scaled value comes from the one and the score from the other,
// so a mixture shows as a pair that no model gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_prediction_during_hundreds_of_retrains_uses_one_whole_model() {
    const MODELS: u64 = 8;
    const RETRAINS: u64 = 320;
    let of_width = |model: u64| readings(model, 300, 1) * (0.8 + 0.2 * model as f64);
    let registry = Arc::new(registry());
    let mut possible = HashSet::from([bits(
        registry
            .default_model()
            .detector
            .predict(VALUE)
            .expect("a valid reading"),
    )]);
    for model in 0..MODELS {
        let detector = Detector::fit(&params(), of_width(model));
        possible.insert(bits(
            detector
                .expect("it trains")
                .predict(VALUE)
                .expect("a valid reading"),
        ));
    }
    assert_eq!(
        possible.len() as u64,
        MODELS + 1,
        "each model gives another prediction"
    );

    let done = Arc::new(AtomicBool::new(false));
    let possible = Arc::new(possible);
    let predicted = Arc::new(AtomicUsize::new(0));
    let predictors: Vec<_> = (0..4)
        .map(|_| {
            let (registry, done) = (Arc::clone(&registry), Arc::clone(&done));
            let (possible, predicted) = (Arc::clone(&possible), Arc::clone(&predicted));
            tokio::spawn(async move {
                let mut seen = HashSet::new();
                while !done.load(Ordering::Relaxed) {
                    let prediction = registry
                        .default_model()
                        .detector
                        .predict(VALUE)
                        .expect("never fails");
                    assert!(possible.contains(&bits(prediction)), "{prediction:?}");
                    seen.insert(bits(prediction));
                    predicted.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
                seen.len()
            })
        })
        .collect();

    for i in 0..RETRAINS {
        if i % 5 == 4 {
            let bad = Array2::from_elem((3, 1), f64::NAN);
            retrain(&registry, bad).await.expect_err("must be refused");
        } else {
            let model = i % MODELS;
            let data = of_width(model);
            retrain(&registry, data).await.expect("it trains");
        }
    }
    done.store(true, Ordering::Relaxed);
    for predictor in predictors {
        let models_seen = predictor.await.expect("no prediction failed");
        assert!(models_seen > 2, "only {models_seen} models were seen");
    }
    assert!(predicted.load(Ordering::Relaxed) > 1000);
}

// A slow retrain blocks neither a lock nor the threads that predict.
#[tokio::test]
async fn predictions_do_not_wait_for_a_retrain() {
    let registry = Arc::new(registry());
    let slow = readings(1, 3_000_000, 1);
    let running = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { retrain(&registry, slow).await }
    });
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    while !running.is_finished() {
        let asked = Instant::now();
        let serving = registry.default_model();
        serving.detector.predict(VALUE).expect("never fails");
        longest = longest.max(asked.elapsed());
        tokio::task::yield_now().await;
    }
    let retrain = start.elapsed();
    running.await.expect("no panic").expect("it trains");
    // A prediction that waited would take almost as long as the retrain.
    assert!(longest < retrain / 2, "{longest:?} of {retrain:?}");
}

// Each waits for the one before, though the first takes longest.
#[tokio::test]
async fn of_concurrent_retrains_the_last_requested_wins() {
    let registry = registry();
    let last = readings(2, 30, 1);
    let mut expected = Detector::fit(&params(), last.clone()).expect("it trains");
    expected.drop_trees();
    let (first, second, third) = tokio::join!(
        retrain(&registry, readings(1, 60_000, 1)),
        retrain(&registry, readings(3, 300, 1)),
        retrain(&registry, last),
    );
    assert_eq!(
        first.expect("it trains").detector.forest().n_samples(),
        60_000
    );
    assert_eq!(
        second.expect("it trains").detector.forest().n_samples(),
        300
    );
    assert_eq!(third.expect("it trains").detector, expected);
    assert_eq!(registry.default_model().detector, expected);
}

// Whether the retrain is running or still waiting when the client disconnects, it completes, and
// the queue moves on.
#[tokio::test]
async fn a_retrain_completes_after_its_client_disconnects() {
    let registry = registry();
    let data = readings(3, 300, 1);
    let mut expected = Detector::fit(&params(), data.clone()).expect("it trains");
    expected.drop_trees();
    for data in [readings(1, 20_000, 1), data] {
        let gone = retrain(&registry, data);
        let soon = Duration::from_micros(1);
        assert!(tokio::time::timeout(soon, gone).await.is_err());
    }
    while registry.default_model().detector != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let next = retrain(&registry, readings(4, 30, 1)).await;
    next.expect("the queue moves on");
}

// A flood of retrains is refused before it fills the memory, and a panic in one does not stop the
// others.
#[tokio::test]
async fn a_full_queue_refuses_retrains_and_survives_a_panic() {
    let registry = registry();
    let before = registry.default_model();
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let name = ModelName::default_model();
    let blocking = registry.retrain::<ChangeError>(
        &name,
        0,
        Actor::default(),
        |_| Ok(TrainingEstimate::default()),
        move |_| {
            let _ = blocked.recv();
            panic!("on purpose");
        },
    );
    let mut blocking = std::pin::pin!(blocking);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, blocking.as_mut()).await.is_err());
    let mut waiting: Vec<_> = (0..40)
        .map(|_| Box::pin(retrain(&registry, readings(4, 30, 1))))
        .collect();
    let mut refused = 0;
    for retrain in &mut waiting {
        let soon = Duration::from_micros(1);
        if let Ok(answer) = tokio::time::timeout(soon, retrain).await {
            assert!(matches!(answer, Err(ChangeError::Busy { .. })));
            refused += 1;
        }
    }
    assert_eq!(refused, 24, "16 may wait");
    unblock.send(()).expect("it is blocked");
    assert!(matches!(blocking.await, Err(ChangeError::Interrupted)));
    while Arc::ptr_eq(&registry.default_model(), &before) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// While the training of one machine's model is blocked, the models of other machines answer as
// before.
#[tokio::test]
async fn a_retrain_of_one_model_does_not_delay_predictions_of_another() {
    let registry = registry();
    let train = async |model: &str| {
        let (model, data) = (name(model), readings(1, 300, 1));
        let trained = registry.retrain(
            &model,
            0,
            Actor::default(),
            |_| Ok(TrainingEstimate::default()),
            |_| Ok::<_, ChangeError>(training(data)),
        );
        trained.await.expect("it trains")
    };
    train("a").await;
    let before = train("b").await;
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let model = name("a");
    let blocking = registry.retrain::<ChangeError>(
        &model,
        0,
        Actor::default(),
        |_| Ok(TrainingEstimate::default()),
        move |_| {
            let _ = blocked.recv();
            Ok(training(readings(2, 300, 1)))
        },
    );
    let mut blocking = std::pin::pin!(blocking);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, blocking.as_mut()).await.is_err());
    for _ in 0..1000 {
        let served = registry
            .get(&name("b"))
            .await
            .expect("in memory")
            .expect("it is served");
        assert!(Arc::ptr_eq(&served, &before));
        served.detector.predict(VALUE).expect("never fails");
        let a = registry.get(&name("a")).await.expect("in memory");
        assert!(a.is_some(), "still served");
    }
    unblock.send(()).expect("it is blocked");
    let after = blocking.await.expect("it trains");
    assert!(Arc::ptr_eq(
        &after,
        &registry
            .get(&name("a"))
            .await
            .expect("in memory")
            .expect("served")
    ));
}

// An object store takes its time for each write; other models are trained and stored meanwhile.
#[tokio::test]
async fn models_are_stored_in_parallel() {
    const MODELS: u32 = 16;
    let put = Duration::from_millis(400);
    let slow = ThrottledStore::new(
        InMemory::new(),
        ThrottleConfig {
            wait_put_per_call: put,
            ..ThrottleConfig::default()
        },
    );
    let store = Store::from_objects(Arc::new(slow), "slow memory");
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry =
        Registry::open(store, RegistryConfig::new(params()), first).expect("the store opens");
    let start = Instant::now();
    let trainings = (0..MODELS).map(|i| {
        let (registry, model) = (&registry, name(&format!("m{i}")));
        async move {
            let data = readings(i.into(), 50, 1);
            let retrain = registry.retrain(
                &model,
                0,
                Actor::default(),
                |_| Ok(TrainingEstimate::default()),
                |_| Ok::<_, ChangeError>(training(data)),
            );
            retrain.await.expect("it trains")
        }
    });
    futures_util::future::join_all(trainings).await;
    assert!(start.elapsed() < put * MODELS / 2, "{:?}", start.elapsed());
    let models = registry.list().await.expect("all are known");
    assert_eq!(models.len() as u32, MODELS + 1);
}
