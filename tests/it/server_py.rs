//! End to end against recorded answers of server.py, to which only a `random_state` was added
//! (`tests/reference/record.py --server`).

use std::collections::BTreeMap;

use iforest_server::registry::Registry;
use iforest_server::training_data;
use serde::Deserialize;
use serde_json::json;

use crate::support::data::{DataSpec, fixture, hash_words, params, samples};
use crate::support::router::App;

#[derive(Deserialize)]
struct Case {
    data: DataSpec,
    random_state: u32,
    retrain: String,
    low: f64,
    high: f64,
    count: usize,
    /// A hash of each answer.
    bodies: Vec<String>,
    /// Some answers in full, to show what differs.
    samples: BTreeMap<usize, String>,
}

// Scores, scaled values, labels, key order, number format and newline.
#[tokio::test]
async fn answers_equal_those_of_server_py_byte_for_byte() {
    let cases: Vec<Case> = fixture("server.json");
    let mut compared = 0;
    for case in cases {
        let params = params().random_state(case.random_state);
        let registry = Registry::train(params, training_data::synthetic(0)).expect("it trains");
        let app = App::of(registry);
        let body = json!({ "samples": samples(&case.data.data()) });
        let answer = app.post("/retrain", body.to_string()).await;
        assert_eq!(answer.body, case.retrain);
        assert_eq!(case.bodies.len(), case.count);
        for (i, hash) in case.bodies.iter().enumerate() {
            let value = case.low + (case.high - case.low) * i as f64 / (case.count - 1) as f64;
            let body = json!({ "value": value });
            let answer = app.predict(&body.to_string()).await.body;
            if let Some(recorded) = case.samples.get(&i) {
                assert_eq!(&answer, recorded, "{:?}", case.data);
            }
            let words = answer.bytes().map(u64::from);
            assert_eq!(&hash_words(words)[..8], hash, "{answer} {:?}", case.data);
            compared += 1;
        }
    }
    assert!(compared > 4000, "{compared}");
}
