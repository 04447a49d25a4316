//! Stores in which other programs, or an attacker, put files: the real binary names each once and
//! serves everything else.

#[cfg(unix)]
mod files;
mod models;
