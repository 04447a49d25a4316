//! Counters, histograms, and Prometheus' text format.
//!
//! Each part of the server keeps its counters beside what they count, and writes them with an
//! `Exposition` when it is asked to.
//!
//! * `sharded`: counters that many threads count up
//! * `histogram`: durations
//! * `exposition`: the text format
//! * `connections`, `process`: the metrics of a server's connections, and of the process

mod connections;
mod exposition;
mod histogram;
mod process;
mod sharded;

pub use self::connections::ConnectionMetrics;
pub(crate) use self::exposition::Exposition;
pub(crate) use self::histogram::Histogram;
pub(crate) use self::process::write_process_metrics;
pub(crate) use self::sharded::Sharded;
