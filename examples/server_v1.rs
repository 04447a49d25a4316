//! The tutorial's first server on one page of axum: four training readings and `POST /predict`,
//! which returns the tutorial's JSON, `{"prediction":1,"status":"Anomaly","value":0.45}`.
//!
//!     cargo run --example server_v1 [ADDRESS]
//!
//! The default ADDRESS is 0.0.0.0:5000.

use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::{Json, Router, routing::post};
use iforest_server::forest::IsolationForest;
use linfa::prelude::*;
use ndarray::array;
use serde::Deserialize;

#[derive(Deserialize)]
struct Reading {
    value: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(f64),
    Text(String),
    Flag(bool),
}

/// Python's `float()`, which accepts surrounding white space and underscores between digits.
fn float(value: Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(number),
        Value::Flag(flag) => Some(f64::from(u8::from(flag))),
        Value::Text(text) => {
            let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
            let parts: Vec<&str> = text.trim().split('_').collect();
            let between_digits = parts
                .windows(2)
                .all(|pair| is_digit(pair[0].chars().last()) && is_digit(pair[1].chars().next()));
            between_digits.then(|| parts.concat().parse().ok())?
        }
    }
}

async fn predict(
    State(forest): State<Arc<IsolationForest>>,
    Json(reading): Json<Reading>,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    let reject = |error: String| (StatusCode::UNPROCESSABLE_ENTITY, error);
    let value = float(reading.value).ok_or_else(|| reject("value must be a number".to_owned()))?;
    let decision = forest
        .decision_function_one(&[value])
        .map_err(|error| reject(error.to_string()))?;
    let (prediction, status) = match forest.is_anomaly(decision) {
        true => (1, "Anomaly"),
        false => (0, "Normal"),
    };
    // Like Flask: keys in alphabetical order, and a newline at the end.
    let body =
        format!("{{\"prediction\":{prediction},\"status\":\"{status}\",\"value\":{value:?}}}\n");
    Ok(([(CONTENT_TYPE, "application/json")], body))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("0.0.0.0:5000".to_owned());
    let normal_vibration = Dataset::from(array![[0.23], [0.25], [0.21], [0.29]]);
    // With four readings the threshold depends strongly on the seed; about one seed in a thousand
    // labels 0.45 normal. A fixed seed makes the result reproducible.
    let forest = IsolationForest::params()
        .random_state(42)
        .fit(&normal_vibration)?;

    let router = Router::new()
        .route("/predict", post(predict))
        .with_state(Arc::new(forest));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
