//! Anomaly detection over HTTP, with an isolation forest that equals scikit-learn's to the bit.
//!
//! This is the library behind the `iforest-server` command. The forest can be used alone, as a
//! linfa algorithm; with a scaler, as a [`Detector`](detector::Detector); or behind HTTP.
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
//! Each layer depends only on the layers below it.
//!
//! * [`http`]: routes, JSON requests and responses; [`server`]: accept loop and graceful shutdown
//! * [`predict_csv`]: predictions of a file, without a server
//! * [`registry`]: the served models, their retraining, and the changes that other servers make
//! * [`store`]: storage of models and its format
//! * [`detector`]: scaler, forest and threshold as one value
//! * [`forest`]: the isolation forest
//!
//! Helpers: [`training_data`], the training data of the default model; [`memory`], the memory budget;
//! [`reload`], files that are read again when they change; [`encoding`], [`excerpt`] and [`escape`], text
//! from files and clients; `total_order`, floats as ordered integers.

#![forbid(unsafe_code)]

pub mod detector;
pub mod encoding;
pub mod escape;
pub mod excerpt;
pub mod forest;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod predict_csv;
pub mod registry;
pub mod reload;
pub mod server;
pub mod store;
mod total_order;
pub mod training_data;
