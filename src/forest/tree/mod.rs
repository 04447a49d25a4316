//! Isolation trees in flat arrays, grown exactly as scikit-learn grows them.
//!
//! An isolation tree is scikit-learn's `ExtraTreeRegressor(max_features=1, splitter="random")`
//! fitted to random targets: each node draws a feature, and a threshold between the extremes of
//! that feature (Liu, Ting and Zhou, "Isolation Forest", 2008).
//!
//! * `trees`: the arrays
//! * `boxes`: the ranges of the rows that reached each node
//! * `growth`: grows the trees of a forest, in parallel
//! * `exact`: follows scikit-learn step by step, for any number of features
//! * `sorted`: grows the same trees over one feature from sorted values, several times as fast;
//!   falls back to `exact` in the rare case where rounding errors decide
//! * `preorder`: the serialised form

mod boxes;
mod exact;
mod growth;
mod preorder;
mod sorted;
mod trees;

pub(super) use boxes::{Boxes, are_sound};
pub(super) use growth::Growth;
pub use trees::Tree;
pub(super) use trees::{LEAF, Trees};
