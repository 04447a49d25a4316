//! Anomaly detection over HTTP with an isolation forest that equals scikit-learn's to the bit.
//!
//! The library of the `iforest-server` command: the forest can be used alone, as a linfa
//! algorithm; with a scaler, as a [`Detector`](detector::Detector); or behind HTTP.
//!
//! ```
//! use iforest_server::detector::Detector;
//! use iforest_server::forest::IsolationForest;
//! use ndarray::array;
//!
//! let params = IsolationForest::params().contamination(0.05).random_state(42);
//! let detector = Detector::fit(&params, array![[2.4], [2.5], [2.6], [2.5], [2.4]])?;
//! assert!(detector.predict(9.0)?.is_anomaly);
//! # Ok::<(), iforest_server::detector::DetectorError>(())
//! ```
//!
//! # Layout
//!
//! Dependencies point downwards only.
//!
//! * [`http`]: routes, JSON shapes and error answers; [`server`]: accept loop and graceful stop
//! * [`registry`]: the models that are served, their retraining, and other servers' changes
//! * [`store`]: where models are kept, and in what form
//! * [`detector`]: scaler, forest and threshold as one value
//! * [`forest`]: the isolation forest
//!
//! beside them [`training_data`], what a server is first trained on, and `text`, how it is written.

#![forbid(unsafe_code)]

pub mod detector;
mod encoding;
mod excerpt;
pub mod forest;
pub mod http;
pub mod registry;
pub mod server;
pub mod store;
mod total_order;
pub mod training_data;
