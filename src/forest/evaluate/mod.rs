//! Computes scores from trees, bit for bit as the plain evaluation does: walk down every tree, add
//! the path lengths in the order of the trees, raise 2 to the power.
//!
//! * `evaluator`: picks one of the methods below and scores rows in parallel
//! * `step`: for one feature. The whole forest is a step function of the value, so its scores are
//!   precomputed and looked up. Precomputing takes time in the number of trees squared, so forests
//!   of very many trees are walked instead.
//! * `perfect`: for 2 to 256 features and trees up to 10 levels deep (those of up to 1,024 rows
//!   each), for single rows and small batches. Trees are padded to perfect ones and walked without a
//!   branch that could be mispredicted, many rows at a time.
//! * `planes`: for large batches with perfect trees up to 8 levels deep (those of up to 256 rows each).
//!   One bit for each row: an instruction compares 512 rows with a threshold. Compiled when the first
//!   large batch comes, because that takes as long as scoring a thousand rows, and as much memory as
//!   the perfect trees.
//! * `distance`: for forests with boxes, whose scores know how far outside the training rows a row
//!   is. A single row walks down several trees side by side; many rows of four features or more go down
//!   a tree together.
//! * `walk`: for the rest. Deeper trees are too sparse to pad, longer rows too long, and very many
//!   trees too large.
//! * `normal`: the ranges of normal values of a forest with boxes
//! * `path_length`: path lengths of leaves, and the score
//! * `threshold`: thresholds as `f32`
//! * `search`: the place of a value among thresholds

mod distance;
mod evaluator;
mod normal;
mod path_length;
mod perfect;
mod planes;
mod search;
mod step;
mod threshold;
mod walk;

pub(super) use evaluator::{Evaluator, MIN_COMPILE_ROWS};
