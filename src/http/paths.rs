//! Other spellings of a path.
//!
//! Flask decodes a path and ignores slashes in front before it matches a route, so `//predict` and
//! `/%70redict` reach server.py. Only `/predict` and `/retrain` do so here. Every model's path has
//! exactly one spelling: otherwise a proxy that forbids `/models/motor/retrain` would let
//! `/models/motor%2Fretrain` pass.

use percent_encoding::percent_decode_str;

pub(super) const PREDICT: &str = "/predict";
pub(super) const RETRAIN: &str = "/retrain";
pub(super) const MODELS: &str = "/models";
pub(super) const MODEL: &str = "/models/{name}";
pub(super) const MODEL_PREDICT: &str = "/models/{name}/predict";
pub(super) const MODEL_RETRAIN: &str = "/models/{name}/retrain";
pub(super) const MODEL_ROLLBACK: &str = "/models/{name}/rollback";
pub(super) const MODEL_VERSIONS: &str = "/models/{name}/versions";
pub(super) const HEALTH: &str = "/health";
pub(super) const READY: &str = "/ready";
pub(super) const VERSION: &str = "/version";
pub(super) const METRICS: &str = "/metrics";
pub(super) const OPENAPI: &str = "/openapi.json";
pub(super) const DOCS: &str = "/docs";

/// The patterns of all routes. The last one stands for all paths that have no route.
pub(super) const PATTERNS: [&str; 15] = [
    PREDICT,
    RETRAIN,
    MODEL_PREDICT,
    MODEL_RETRAIN,
    MODEL_ROLLBACK,
    MODEL_VERSIONS,
    MODELS,
    MODEL,
    HEALTH,
    READY,
    VERSION,
    METRICS,
    OPENAPI,
    DOCS,
    "other",
];

/// The index of a path's pattern in [`PATTERNS`].
pub(super) fn pattern(path: &str) -> usize {
    let pattern = match path.strip_prefix("/models/") {
        Some(rest) => match rest.split_once('/') {
            None => MODEL,
            Some((_, "predict")) => MODEL_PREDICT,
            Some((_, "retrain")) => MODEL_RETRAIN,
            Some((_, "rollback")) => MODEL_ROLLBACK,
            Some((_, "versions")) => MODEL_VERSIONS,
            Some(_) => return PATTERNS.len() - 1,
        },
        None => path,
    };
    let find = |path| PATTERNS.iter().position(|&pattern| pattern == path);
    find(pattern)
        .or_else(|| find(flask_path(path)?))
        .unwrap_or(PATTERNS.len() - 1)
}

/// The path of server.py that Flask reads from another spelling.
pub(super) fn flask_path(path: &str) -> Option<&'static str> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let plain = decoded.trim_start_matches('/');
    [PREDICT, RETRAIN]
        .into_iter()
        .find(|path| path.strip_prefix('/') == Some(plain))
}

/// Whether a path below `/models` has a percent sign or a double slash. No name of a model needs
/// either.
pub(super) fn is_ambiguous(path: &str) -> bool {
    path.starts_with("/models/") && (path.contains('%') || path.contains("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A spelling that leads anywhere else would pass a proxy's rules for that path.
    #[test]
    fn other_spellings_lead_to_the_paths_of_server_py_alone() {
        for (path, expected) in [
            ("/predict", Some(PREDICT)),
            ("//predict", Some(PREDICT)),
            ("/%70redict", Some(PREDICT)),
            ("/%2Fretrain", Some(RETRAIN)),
            ("///retrain", Some(RETRAIN)),
            ("/predict/", None),
            ("/predict%3F", None),
            ("/%2570redict", None),
            ("//models", None),
            ("/models%2Fdefault", None),
            ("/models/../predict", None),
            ("*", None),
            ("/", None),
        ] {
            assert_eq!(flask_path(path), expected, "{path}");
        }
    }
}
