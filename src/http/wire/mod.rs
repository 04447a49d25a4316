//! The JSON of requests and responses.
//!
//! * `json`: JSON values as Python reads them
//! * `predict_request`, `retrain_request`, `rollback_request`: request bodies
//! * `plain_values`: the usual body of a large batch, read in one pass
//! * `readings_request`: the body of a prediction with many models
//! * `windowed_request`: the body of a prediction of a windowed model
//! * `samples`: the readings of a retrain
//! * `response`: response bodies but errors

mod json;
mod plain_values;
mod predict_request;
mod readings_request;
mod response;
mod retrain_request;
mod rollback_request;
mod samples;
mod windowed_request;

pub(super) use json::decode;
pub(super) use plain_values::plain_values;
pub(super) use predict_request::{PredictRequest, parse_rows, parse_values};
pub(super) use readings_request::{ModelReading, ModelReadings, parse_readings};
pub(super) use response::{
    ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions, Reading,
    Version, WindowedPrediction, explained_predictions, prediction, predictions, retrained,
    windowed_predictions,
};
pub(super) use retrain_request::{
    estimate_flask_retrain, estimate_retrain, parse_flask_retrain, parse_retrain,
};
pub(super) use rollback_request::parse_rollback;
pub(super) use windowed_request::{WindowedForm, WindowedRequest, parse_windowed};
