//! The JSON of requests and answers.
//!
//! * `json`: JSON as Python reads it
//! * `question`: the bodies of /predict
//! * `training`: the bodies of /retrain
//! * `answer`: all that is answered but errors

mod answer;
mod json;
mod question;
mod training;

pub(super) use answer::{
    ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions, Reading,
    judgement, judgements, retrained,
};
pub(super) use question::{Question, numbers, rows};
pub(super) use training::{check_size, flat, training, version};
