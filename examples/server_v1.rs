//! The tutorial's first server in a page of axum: four training readings, `POST /predict`, and
//! answers of its own shape, `{"prediction":1,"status":"Anomaly","value":0.45}`.
//!
//!     cargo run --example server_v1 [ADDRESS]
//!
//! listens on 0.0.0.0:5000 unless told otherwise.

use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, Router, routing::post};
use iforest_server::forest::IsolationForest;
use linfa::prelude::*;
use ndarray::array;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Reading {
    value: f64,
}

// In the alphabetical order in which Flask writes keys.
#[derive(Serialize)]
struct Answer {
    prediction: u8,
    status: &'static str,
    value: f64,
}

async fn predict(
    State(forest): State<Arc<IsolationForest>>,
    Json(Reading { value }): Json<Reading>,
) -> Result<Json<Answer>, (StatusCode, String)> {
    let decision = forest
        .decision_function_one(&[value])
        .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    let is_anomaly = forest.is_anomaly(decision);
    Ok(Json(Answer {
        prediction: u8::from(is_anomaly),
        status: if is_anomaly { "Anomaly" } else { "Normal" },
        value,
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("0.0.0.0:5000".to_owned());
    let normal_vibration = Dataset::from(array![[0.23], [0.25], [0.21], [0.29]]);
    let forest = IsolationForest::params().fit(&normal_vibration)?;

    let router = Router::new()
        .route("/predict", post(predict))
        .with_state(Arc::new(forest));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
