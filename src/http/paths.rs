//! Other spellings of a path.
//!
//! Flask decodes a path and ignores slashes in front before it matches a route, so `//predict` and
//! `/%70redict` reach server.py. Only `/predict` and `/retrain` do so here. Every model's path has
//! exactly one spelling: otherwise a proxy that forbids `/models/motor/retrain` would let
//! `/models/motor%2Fretrain` pass.

use percent_encoding::percent_decode_str;

pub(super) const PREDICT: &str = "/predict";
pub(super) const RETRAIN: &str = "/retrain";

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
