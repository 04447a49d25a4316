//! Work is bounded by what it costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use iforest_server::forest::{
    IsolationForest, IsolationForestParams, MAX_TABLE_ADDITIONS, MaxSamples,
};
use iforest_server::registry::{
    Actor, ChangeError, DefaultModel, Registry, RegistryConfig, TrainingEstimate, TrainingRequest,
};
use iforest_server::store::{ModelName, ModelSettings, Store};
use iforest_server::training_data;
use linfa::prelude::*;
use ndarray::array;
use serde_json::{Value, json};

use crate::support::data::{encoded, fit, is_from, params, readings, samples};
use crate::support::folder::{Folder, write};
use crate::support::plain;
use crate::support::router::App;

const SECOND: u64 = 1_000_000_000;

/// A hundred bytes that once cost 20 s of a processor.
const COSTLY: &str = r#"{"samples":[1,2,3,4,5,6,7,8,9,10],"n_estimators":100000}"#;

fn registry(server: IsolationForestParams) -> Arc<Registry> {
    let registry = Registry::train(server, training_data::synthetic(42));
    Arc::new(registry.expect("it trains"))
}

fn name(name: &str) -> ModelName {
    name.parse().expect("a valid name")
}

fn training(seed: u64) -> TrainingRequest {
    TrainingRequest {
        samples: readings(seed, 50, 1),
        runs: Vec::new(),
        feature_names: Vec::new(),
        settings: ModelSettings::default(),
    }
}

#[tokio::test]
async fn a_small_request_for_a_costly_training_is_refused_at_once() {
    let app = App::new();
    let start = Instant::now();
    let refused = app.post("/models/x/retrain", COSTLY).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["code"], "too_costly");
    let error = refused.error();
    assert!(error.contains("n_estimators"), "{error}");
    assert!(error.contains("max_samples"), "{error}");
    let missing = app.get("/models/x").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "nothing is stored");
}

// It is refused before it waits, also where another training takes minutes.
#[tokio::test]
async fn a_costly_training_is_refused_while_another_one_runs() {
    let registry = registry(params());
    let app = App::of(Arc::clone(&registry));
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let default = ModelName::default_model();
    let blocking = registry.retrain::<ChangeError>(
        &default,
        0,
        Actor::default(),
        |_| Ok(TrainingEstimate::default()),
        move |_| {
            let _ = blocked.recv();
            Ok(training(1))
        },
    );
    let mut blocking = std::pin::pin!(blocking);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, blocking.as_mut()).await.is_err());
    // One waits behind it for the same model, and is refused all the same.
    for path in ["/models/x/retrain", "/models/default/retrain"] {
        let refused = app.post(path, COSTLY);
        let refused = tokio::time::timeout(Duration::from_secs(30), refused).await;
        let refused = refused.expect("it does not wait").json();
        assert_eq!(refused["code"], "too_costly", "{path}");
    }
    unblock.send(()).expect("it is blocked");
    blocking.await.expect("it trains");
}

#[tokio::test]
async fn each_way_to_make_a_training_costly_is_refused() {
    let app = App::new();
    let (one, two) = (readings(1, 100_000, 1), readings(2, 100_000, 2));
    for (settings, data, reason) in [
        (
            json!({ "n_estimators": 10_000, "max_samples": 100 }),
            &one,
            "n_estimators squared times the readings per tree",
        ),
        (
            json!({ "n_estimators": 9_000, "max_samples": 0.011 }),
            &one,
            "at most 1000000",
        ),
        (
            json!({ "n_estimators": 490, "max_samples": 2_000 }),
            &two,
            "fewer trees (n_estimators, 490), fewer readings per tree (max_samples, 2000) or \
             fewer samples (100000)",
        ),
    ] {
        let mut body = settings.clone();
        body["samples"] = samples(data);
        let refused = app.post("/models/x/retrain", body.to_string()).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        let error = refused.error();
        assert!(error.contains(reason), "{settings}: {error}");
    }
}

// The operator's settings are not bounded for /retrain, and a request cannot multiply them.
#[tokio::test]
async fn the_operators_settings_bound_what_a_request_may_add() {
    let server = params()
        .n_estimators(50_000)
        .max_samples(MaxSamples::Count(5));
    let app = App::of(registry(server));
    let ten = json!({ "samples": samples(&readings(4, 10, 1)) }).to_string();
    app.post("/retrain", ten.clone()).await.ok_json();
    app.post("/models/x/retrain", ten).await.ok_json();
    let more_trees = app.post("/models/x/retrain", COSTLY).await;
    assert_eq!(more_trees.json()["code"], "too_costly");
    let larger_trees = COSTLY.replace("\"n_estimators\":100000", "\"max_samples\":10");
    let larger_trees = app.post("/models/x/retrain", larger_trees).await;
    assert_eq!(larger_trees.json()["code"], "too_costly");
}

// Such models were trained before the bound, or by the operator: the server once computed for 20 s
// at each start.
#[tokio::test]
async fn a_stored_model_of_very_many_trees_loads_fast_and_predicts_as_before() {
    let folder = Folder::new();
    let detector = fit(100_000, readings(6, 10, 1));
    write(&folder.version("many", 1), &encoded(detector.clone()));
    let start = Instant::now();
    let store = Store::open(folder.text()).expect("a folder");
    let default = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(store, RegistryConfig::new(params()), default);
    let app = App::of(registry.expect("it opens"));
    let row = [2.25];
    let predicted = app.post("/models/many/predict", r#"{"value":2.25}"#).await;
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(is_from(&predicted, &detector, &row));

    let info = app.get("/models/many").await.ok_json();
    assert_eq!(info["normal_ranges"], Value::Null);
    assert_eq!(info["n_estimators"], 100_000);
    let values: Vec<f64> = (0..20).map(|i| 0.3 * f64::from(i) - 0.5).collect();
    let body = json!({ "values": values }).to_string();
    let many = app.post("/models/many/predict", body).await.ok_json();
    for (value, prediction) in values
        .iter()
        .zip(many["predictions"].as_array().expect("a list"))
    {
        let expected = detector.predict(*value).expect("a good value");
        let score = prediction["anomaly_score"].as_f64().map(f64::to_bits);
        assert_eq!(score, Some(expected.anomaly_score.to_bits()), "{value}");
    }
}

// On both sides of the bound the scores are those of the plain evaluation.
#[test]
fn walked_and_precomputed_forests_have_the_bits_of_the_plain_evaluation() {
    let data = readings(7, 3, 1);
    for (trees, is_walked) in [(20_000, false), (70_000, true)] {
        let forest = IsolationForest::params()
            .n_estimators(trees)
            .random_state(8)
            .fit(&DatasetBase::from(data.clone()))
            .expect("good data");
        let splits: usize = forest.trees().map(|tree| tree.node_count() / 2).sum();
        let additions = (splits * trees) as u64;
        assert_eq!(additions > MAX_TABLE_ADDITIONS, is_walked);
        assert_eq!(forest.walks_per_row(), if is_walked { trees } else { 0 });
        assert_eq!(forest.normal_ranges().is_none(), is_walked);
        let thresholds = forest
            .trees()
            .step_by(trees / 10)
            .filter_map(|t| t.split(0));
        let mut probes: Vec<f64> = thresholds
            .flat_map(|(_, threshold)| {
                let near = f64::from(threshold as f32);
                [threshold, threshold.next_up(), threshold.next_down(), near]
            })
            .collect();
        probes.extend([0.0, -0.0, 1e39, -1e39]);
        for probe in probes {
            let score = forest.score_samples(&array![[probe]]).expect("a good row");
            let plain = plain::score(&forest, &[probe]);
            let is_equal = plain::is_equal(score[0], plain);
            assert!(is_equal, "{probe} of {trees}: {} {plain}", score[0]);
        }
    }
}

// The trainings that wait are bounded by their cost, and a refusal says when to try again.
#[tokio::test]
async fn the_work_that_waits_is_bounded() {
    let registry = registry(params());
    let app = App::of(Arc::clone(&registry));
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let running = name("running");
    let blocking = registry.retrain::<ChangeError>(
        &running,
        0,
        Actor::default(),
        |_| {
            Ok(TrainingEstimate {
                nanos: 60 * SECOND,
                numbers: 0,
            })
        },
        move |_| {
            let _ = blocked.recv();
            Ok(training(1))
        },
    );
    let mut blocking = std::pin::pin!(blocking);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, blocking.as_mut()).await.is_err());

    let body = json!({ "samples": samples(&readings(9, 50, 1)) }).to_string();
    let refused = app.post("/models/other/retrain", body.clone()).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.json()["code"], "busy");
    assert_eq!(refused.headers[header::RETRY_AFTER], "60");

    unblock.send(()).expect("it is blocked");
    blocking.await.expect("it trains");
    app.post("/models/other/retrain", body).await.ok_json();
}

// The queue of one model holds up another model for no longer than the training that runs.
#[tokio::test]
async fn names_take_turns() {
    let app = App::new();
    let costly = json!({ "samples": samples(&readings(10, 256, 1)), "n_estimators": 3_900 });
    let greedy: Vec<_> = (0..4)
        .map(|_| {
            let (app, body) = (app.clone(), costly.to_string());
            tokio::spawn(async move { app.post("/models/greedy/retrain", body).await })
        })
        .collect();
    // All four are in the queue, and the first one is about to be trained.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let body = json!({ "samples": samples(&readings(11, 50, 1)) }).to_string();
    app.post("/models/honest/retrain", body).await.ok_json();
    let done = app.get("/models/greedy").await;
    if done.status == StatusCode::OK {
        let version = done.ok_json()["version"].as_u64();
        assert!(version <= Some(2), "{version:?}");
    }
    for (i, retrain) in greedy.into_iter().enumerate() {
        let trained = retrain.await.expect("no panic").ok_json();
        assert_eq!(trained["version"], i + 1, "in the order of the requests");
    }
}

// Bounds of one feature hold for the most costly request that server.py takes.
#[test]
fn the_largest_default_retrain_is_far_below_the_bound() {
    let params = params().check().expect("good parameters");
    let cost = params.training_cost(33_000_000, 1).total();
    assert!(cost < 10 * SECOND / 4, "{cost}");
    // 64 MiB of [1,2],
    let cost = params.training_cost(11_000_000, 2).total();
    assert!(cost < 10 * SECOND, "{cost}");
}
