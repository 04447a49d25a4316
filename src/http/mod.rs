//! The HTTP API: server.py's `POST /predict` and `POST /retrain`, and models by name.
//!
//! * `api`, `routes`: the API as a service: the check of keys, then the routes
//! * `predict`, `predict_windowed`, `retrain`, `models`: the handlers
//! * `docs`: the OpenAPI document, and the page that shows it
//! * `wire`: the JSON of requests and responses
//! * `access`, `keys`, `origin`: who may send which request
//! * `host`: the Host header
//! * `paths`: other spellings of paths
//! * `body`, `budget`: reading and rejecting bodies, and the memory for them
//! * `place`, `error`: error responses
//! * `limits`: bounds on what one request may cost
//! * `state`: what the handlers share

mod access;
mod api;
mod body;
mod budget;
mod docs;
mod error;
mod host;
mod keys;
mod limits;
mod models;
mod origin;
mod paths;
mod place;
mod predict;
mod predict_many;
mod predict_windowed;
mod probes;
mod requests;
mod retrain;
mod routes;
mod starting;
mod state;
mod wire;

pub use self::api::{Api, ApiConfig};
pub(crate) use self::error::ApiError;
pub(crate) use self::host::check_host;
pub use self::keys::{ApiKeys, KeyFileError};
pub use self::limits::{BODY_BUDGET, MAX_PREDICT_BODY, MAX_RETRAIN_BODY};
pub use self::origin::{Origin, OriginError};
pub use self::starting::StartingApi;
