//! The real binary over a real socket.

mod connections;
mod load;
mod shutdown;
mod startup;

/// A body for `/predict`.
const READING: &str = r#"{"value": 2.5}"#;
