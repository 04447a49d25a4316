//! The JSON of requests and answers.
//!
//! * `json`: JSON as Python reads it
//! * `question`: the bodies of /predict
//! * `training`: the bodies of /retrain
//! * `answer`: all that is answered but errors

mod json;
mod predict_request;
mod response;
mod retrain_request;

pub(super) use predict_request::{PredictRequest, parse_rows, parse_values};
pub(super) use response::{
    ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions, Reading,
    prediction, predictions, retrained,
};
pub(super) use retrain_request::{check_size, parse_flask_retrain, parse_retrain, parse_rollback};
