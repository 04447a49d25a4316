//! The real binary on a real folder: acknowledged trainings survive kills, damaged files, full disks
//! and restarts.

mod corruption;
mod kills;
mod resources;
mod versions;

/// `--n-estimators` of tests that train often.
const TREES: &str = "10";
