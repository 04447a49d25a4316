//! What a training costs, estimated before it starts.
//!
//! The estimate depends on the parameters and the shape of the data alone, so it is the same on
//! every machine. Its unit is a nanosecond of one core of a 2020s server. Measured against trainings
//! of 1 to 50,000 trees, 1 to 1,024 features and 2 to 33,000,000 rows, it is right within a factor
//! of two.

use super::evaluate::MIN_COMPILE_ROWS;
use super::hyperparams::IsolationForestValidParams;

/// Most additions made to precompute the scores of a forest over one feature, about half a second;
/// a forest that needs more is walked. They are made again whenever the model is loaded. Forests of
/// 256 rows per tree stay below up to 3,900 trees.
pub const MAX_TABLE_ADDITIONS: u64 = 4_000_000_000;

/// For each value: it is checked, scaled, checked again, narrowed to `f32` and padded.
const PER_VALUE: u64 = 20;

/// For each row: its random target, its score in two percentiles, and a look-up in the table.
const PER_ROW: u64 = 35;

/// For each tree: its two generators are seeded, each with 624 words.
const PER_TREE: u64 = 3_000;

/// For each row of a permuted population: a draw, one in three of which is rejected, and a swap with
/// a place that is in the cache up to [`CACHED_ROWS`].
const PER_PERMUTED_ROW: u64 = 10;
const PER_PERMUTED_ROW_UNCACHED: u64 = 40;
const CACHED_ROWS: u64 = 1 << 17;

/// For each row of a tree over one feature that is grown from sorted rows.
const PER_SORTED_ROW: u64 = 30;

/// For each row of other trees and each level: its value is compared twice, its target is added
/// three times.
const PER_GROWN_ROW: u64 = 12;

/// For each row of a tree and each feature: its value is copied, and on each path a feature is found
/// constant once.
const PER_DRAWN_VALUE: u64 = 5;

/// For each ten additions of path lengths: see [`MAX_TABLE_ADDITIONS`].
const PER_TEN_ADDITIONS: u64 = 1;

/// For ten levels of a padded tree that one row walks down, many rows at a time.
const PER_TEN_PADDED_LEVELS: u64 = 7;

/// The same for trees of at most [`MAX_PLANE_ROWS`] rows and a batch that is worth compiling planes.
const PER_TEN_PLANE_LEVELS: u64 = 2;

/// For each level of another tree that one row walks down. Most nodes are not in the cache, and each
/// branch is mispredicted every other time.
const PER_LEVEL: u64 = 20;

/// For each level of a tree with boxes that one row walks down, and for each feature of a box: an edge
/// of the box is compared with the row.
const PER_BOX: u64 = 6;
const PER_BOX_UNCACHED: u64 = 20;
const PER_BOX_FEATURE: u64 = 1;

/// Trees that are grown from at most so many rows together stay in the cache with their boxes.
const CACHED_TREE_ROWS: u64 = 100_000;

/// Trees over several features of at most so many rows and features are padded.
const MAX_PADDED_ROWS: u64 = 1024;
const MAX_PADDED_FEATURES: u64 = 256;
const MAX_PLANE_ROWS: u64 = 256;

/// The estimated cost of a training, in nanoseconds of one core. See
/// [`IsolationForestValidParams::training_cost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingCost {
    /// Checking and scaling the rows, and their percentiles: grows with rows times features.
    pub rows: u64,
    /// Drawing the rows of each tree. Where a tree draws between 1 and 99 % of the rows, all rows
    /// are permuted for it: grows with trees times rows.
    pub sampling: u64,
    /// Growing the trees: grows with trees times the rows per tree.
    pub growth: u64,
    /// Precomputing the scores of a forest over one feature: grows with the square of the trees
    /// times the rows per tree. Zero where that would take more than [`MAX_TABLE_ADDITIONS`].
    pub table: u64,
    /// Scoring the rows by walking down the trees: grows with trees times rows. Zero for a forest
    /// whose scores are precomputed.
    pub scoring: u64,
    /// The most additions that precomputing the scores can take; zero with several features.
    pub table_additions: u64,
}

impl TrainingCost {
    /// The sum of all parts, in nanoseconds of one core.
    pub fn total(&self) -> u64 {
        [
            self.rows,
            self.sampling,
            self.growth,
            self.table,
            self.scoring,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl IsolationForestValidParams {
    /// Estimates the cost of a training on data of shape (`n_rows`, `n_features`). All its parts
    /// saturate.
    pub fn training_cost(&self, n_rows: usize, n_features: usize) -> TrainingCost {
        let (rows, features) = (n_rows as u64, n_features as u64);
        let trees = self.n_estimators() as u64;
        let drawn = self.drawn(n_rows);
        let depth = levels(drawn);

        let table_additions = match features {
            1 => product([trees, trees, drawn.saturating_sub(1)]),
            _ => 0,
        };
        let is_table = features == 1 && table_additions <= MAX_TABLE_ADDITIONS;
        let is_padded = features > 1 && drawn <= MAX_PADDED_ROWS && features <= MAX_PADDED_FEATURES;
        let scored_levels = product([trees, rows, depth]);
        TrainingCost {
            rows: product([
                rows,
                features.saturating_mul(PER_VALUE).saturating_add(PER_ROW),
            ]),
            sampling: product([trees, PER_TREE + per_sample(rows, drawn)]),
            growth: product([
                trees,
                drawn,
                if features == 1 && drawn <= MAX_PADDED_ROWS {
                    PER_SORTED_ROW
                } else {
                    features
                        .saturating_mul(PER_DRAWN_VALUE)
                        .saturating_add(depth * PER_GROWN_ROW)
                },
            ]),
            table: if is_table {
                table_additions / 10 * PER_TEN_ADDITIONS
            } else {
                0
            },
            scoring: if is_table {
                0
            } else if is_padded {
                let per_ten = if drawn <= MAX_PLANE_ROWS && n_rows >= MIN_COMPILE_ROWS {
                    PER_TEN_PLANE_LEVELS
                } else {
                    PER_TEN_PADDED_LEVELS
                };
                (scored_levels / 10).saturating_mul(per_ten)
            } else {
                scored_levels.saturating_mul(PER_LEVEL)
            },
            table_additions,
        }
    }
}

impl IsolationForestValidParams {
    /// As [`training_cost`](Self::training_cost), for a fit
    /// [with distances](Self::fit_with_distance).
    pub fn distance_training_cost(&self, n_rows: usize, n_features: usize) -> TrainingCost {
        let (rows, features) = (n_rows as u64, n_features as u64);
        let trees = self.n_estimators() as u64;
        let drawn = self.drawn(n_rows);
        let levels = levels(drawn) + 1;
        let boxes = product([
            trees,
            drawn,
            features
                .saturating_mul(2)
                .saturating_add(PER_LEVEL * levels),
        ]);
        let per_box = if product([trees, drawn]) <= CACHED_TREE_ROWS {
            PER_BOX
        } else {
            PER_BOX_UNCACHED
        };
        let per_level = features
            .saturating_mul(PER_BOX_FEATURE)
            .saturating_add(per_box);
        let plain = self.training_cost(n_rows, n_features);
        TrainingCost {
            growth: plain.growth.saturating_add(boxes),
            table: 0,
            table_additions: 0,
            scoring: product([trees, rows, levels, per_level]),
            ..plain
        }
    }

    /// The rows that each tree is grown from.
    fn drawn(&self, n_rows: usize) -> u64 {
        // A fit refuses a fraction that draws no row, and more rows than a `u32` counts.
        let drawn = u32::try_from(n_rows)
            .ok()
            .and_then(|rows| self.rows_per_tree(rows).ok());
        drawn.unwrap_or(0).into()
    }
}

/// The levels of a tree of so many rows.
fn levels(drawn: u64) -> u64 {
    u64::from(drawn.max(2).next_power_of_two().trailing_zeros())
}

/// The cost of drawing the rows of one tree: see
/// [`RowSampler::draw`](super::random::RowSampler::draw).
fn per_sample(rows: u64, drawn: u64) -> u64 {
    // One bit per row marks those drawn.
    let marks = rows / 64;
    let is_permuted = drawn < rows && drawn > rows / 100;
    if !is_permuted {
        return marks + PER_PERMUTED_ROW * drawn;
    }
    let per_row = if rows <= CACHED_ROWS {
        PER_PERMUTED_ROW
    } else {
        PER_PERMUTED_ROW_UNCACHED
    };
    // The last draws are not needed.
    marks + per_row * (rows - drawn) + PER_PERMUTED_ROW * drawn
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;

    use super::super::{IsolationForestParams, MAX_ESTIMATORS, MaxSamples};
    fn total(trees: usize, max_samples: MaxSamples, rows: usize, features: usize) -> u64 {
        let params = IsolationForestParams::default()
            .n_estimators(trees)
            .max_samples(max_samples);
        let params = params.check().expect("good parameters");
        params.training_cost(rows, features).total()
    }

    // Seconds of processor time that `Detector::fit` took in a release build, with one thread, on an
    // AMD EPYC; those of planes on an Intel Xeon with AVX-512. The readings were uniform.
    #[test]
    fn estimates_are_within_a_factor_of_two_of_measured_times() {
        use MaxSamples::{Auto, Count, Fraction};
        for (trees, max_samples, rows, features, measured) in [
            (100, Auto, 500, 1, 0.0014),
            (100, Auto, 10_000, 1, 0.0084),
            (100, Auto, 1_000_000, 1, 0.0481),
            (100, Auto, 33_000_000, 1, 1.70),
            (10_000, Auto, 10, 1, 0.116),
            (20_000, Auto, 10, 1, 0.43),
            (3_900, Auto, 256, 1, 0.268),
            (30_000, Auto, 5, 1, 0.47),
            (100, Count(10_000), 10_000, 1, 0.163),
            (100, Count(1025), 50_000, 1, 0.058),
            (100, Fraction(0.02), 1_000_000, 1, 4.70),
            (10, Fraction(0.5), 1_000_000, 1, 1.29),
            (1, Fraction(1.0), 1_000_000, 1, 0.315),
            (100, Auto, 500, 2, 0.0026),
            (100, Auto, 100_000, 2, 0.0156),
            (100, Auto, 100_000, 10, 0.0381),
            (100, Auto, 20_000, 64, 0.0779),
            (100, Auto, 2_000, 1024, 0.241),
            (100, Count(1000), 100_000, 2, 0.114),
            (100, Count(3000), 20_000, 2, 0.29),
            (100, Fraction(0.0102), 1_000_000, 2, 30.8),
            (240, Count(4166), 200_000, 2, 17.1),
            (20, Count(10_000), 10_000, 100, 0.26),
            (33, Count(20_000), 20_000, 500, 3.50),
            (100, Auto, 30_000, 1000, 1.54),
        ] {
            let estimate = total(trees, max_samples, rows, features) as f64 / 1e9;
            let ratio = estimate / measured;
            assert!(
                (0.5..=2.0).contains(&ratio),
                "{trees} trees, {max_samples}, {rows} x {features}: {estimate:.4} s, not \
                 {measured:.4} s"
            );
        }
    }

    #[test]
    fn no_estimate_overflows() {
        let most = total(
            MAX_ESTIMATORS,
            MaxSamples::Fraction(1.0),
            usize::MAX,
            usize::MAX,
        );
        assert_eq!(most, u64::MAX);
        let rows = u32::MAX as usize;
        let most = total(MAX_ESTIMATORS, MaxSamples::Fraction(1.0), rows, 2);
        assert!(most > 1 << 58);
    }
}
