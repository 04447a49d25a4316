//! Shared test code.
//!
//! * `data`: parameters, readings and recorded fixtures
//! * `http`: one client over a socket, and the response type
//! * `router`: the same requests through the router, in this process
//! * `server`: the real binary, or an example, as a child process
//! * `folder`: temporary folders and files, and the layout of a store
//! * `object_store`: an S3 server for the tests of buckets
//! * `plain`: reference evaluation of a forest
//! * `tools`: programs that a test needs and a machine may lack

pub(crate) mod data;
pub(crate) mod folder;
pub(crate) mod http;
pub(crate) mod object_store;
pub(crate) mod plain;
pub(crate) mod router;
pub(crate) mod server;
pub(crate) mod tools;

use std::time::{Duration, Instant};

/// Polls until a condition holds and returns how long that took. Panics after 30 seconds.
pub(crate) fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "timed out waiting until {condition}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}
