//! Integration tests, in one binary: `cargo test --test it`, or a part of it, as
//! `cargo test --test it durability::`.
//!
//! * `forest`, `detector`, `store`, `stored_format`, `concurrency`: the library
//! * `distance`: distances, windows and held-back thresholds against a reference in numpy
//! * `cost`: bounds on the work that requests ask for
//! * `predict`, `retrain`, `protocol`, `server_py`, `models`, `error_codes`: requests through the router
//! * `openapi`: the OpenAPI document against the server
//! * `window_streams`: predictions of windowed models, through the router
//! * `program`, `durability`, `cluster`, `untrusted_store`, `loading`, `memory`: the real binary
//! * `predict_csv`, `upgrades`: predictions of a file; stores of older releases; by the real binary
//! * `access`: who may do what, through the router and the real binary
//! * `examples`, `docs`: what the documents and the examples show
//! * `support`: what the tests share

// Tests of other builds: tests/small.sh.
#![cfg(all(feature = "cloud", feature = "tls"))]
// Some tests need signals, shells, or the limits of Linux, and leave what they use idle elsewhere.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod access;
mod cluster;
mod concurrency;
mod cost;
mod detector;
mod distance;
mod docs;
mod durability;
mod error_codes;
mod examples;
mod forest;
mod loading;
mod many_models;
mod memory;
mod metrics;
mod models;
mod openapi;
mod predict;
mod predict_csv;
mod program;
mod protocol;
mod retrain;
mod server_py;
mod store;
mod stored_format;
mod support;
mod untrusted_store;
mod upgrades;
mod window_streams;
