//! The forest itself: fitting, offset and threshold, scores and labels.

use linfa::Float;
use linfa::dataset::{DatasetBase, Records};
use linfa::traits::{Fit, PredictInplace, Transformer};
use ndarray::{Array1, ArrayBase, Data, Ix2};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use super::error::{FitError, ScoreError};
use super::evaluate::Evaluator;
use super::hyperparams::{IsolationForestParams, IsolationForestValidParams, MaxSamples};
use super::random::NumpyRandom;
use super::tree::{Growth, Tree, Trees};
use super::{as_f32, as_f64};

/// A fitted isolation forest.
///
/// Scores and labels are those of PyOD's `IForest`, which are those of scikit-learn's
/// `IsolationForest` with the sign turned round: greater is more abnormal.
///
/// Values are compared as `f32`, as in scikit-learn. One beyond the range of `f32` counts as
/// infinite, and among training rows that has an odd effect which is kept: trained on 0 to 9 and
/// 1e39, the forest flags 0, not 1e39.
///
/// ```
/// use iforest_server::forest::{IsolationForest, IsolationForestParams};
/// use linfa::prelude::*;
/// use ndarray::array;
///
/// let normal = Dataset::from(array![[0.23], [0.25], [0.21], [0.29]]);
/// let forest = IsolationForest::params().random_state(42).fit(&normal)?;
/// let labels = forest.predict(&array![[0.25], [0.45]]);
/// assert_eq!(labels.to_vec(), [false, true]);
/// # Ok::<(), iforest_server::forest::FitError>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Stored")]
pub struct IsolationForest {
    fitted: Stored,
    evaluator: Evaluator,
}

/// All that is learnt; the rest of a forest follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    params: IsolationForestValidParams,
    random_state: u32,
    n_features: u32,
    n_samples: u32,
    /// Rows per tree, resolved.
    max_samples: u32,
    trees: Trees,
    offset: f64,
    threshold: f64,
}

impl PartialEq for IsolationForest {
    fn eq(&self, other: &Self) -> bool {
        self.fitted == other.fitted
    }
}

impl Serialize for IsolationForest {
    /// Fails after [`drop_trees`](IsolationForest::drop_trees).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.fitted.trees.len() == 0 {
            return Err(S::Error::custom("the trees of the forest were dropped"));
        }
        self.fitted.serialize(serializer)
    }
}

impl TryFrom<Stored> for IsolationForest {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let whole = stored.trees.len() == stored.params.n_estimators()
            && stored.params.rows_per_tree(stored.n_samples).ok() == Some(stored.max_samples)
            && stored.trees.is_sound(stored.n_features, stored.max_samples);
        if !whole {
            return Err("the trees of the forest are damaged".to_owned());
        }
        if !(stored.offset.is_finite() && stored.threshold.is_finite()) {
            return Err("the offset or the threshold of the forest is not finite".to_owned());
        }
        Ok(Self::from_stored(stored))
    }
}

impl IsolationForest {
    /// Hyper-parameters at their defaults.
    pub fn params() -> IsolationForestParams {
        IsolationForestParams::default()
    }

    fn from_stored(fitted: Stored) -> Self {
        Self {
            evaluator: Evaluator::new(
                &fitted.trees,
                fitted.n_features as usize,
                fitted.max_samples,
            ),
            fitted,
        }
    }

    /// The hyper-parameters of the fit.
    pub fn hyperparams(&self) -> &IsolationForestValidParams {
        &self.fitted.params
    }

    /// The seed of the fit: the one asked for, or the one drawn. With it the same data give the
    /// same forest again.
    pub fn random_state(&self) -> u32 {
        self.fitted.random_state
    }

    /// Number of features of a row.
    pub fn n_features(&self) -> usize {
        self.fitted.n_features as usize
    }

    /// Number of rows that the forest was fitted on.
    pub fn n_samples(&self) -> usize {
        self.fitted.n_samples as usize
    }

    /// Rows per tree: scikit-learn's `max_samples_`.
    pub fn max_samples(&self) -> usize {
        self.fitted.max_samples as usize
    }

    /// scikit-learn's `offset_`: the score below which the contamination share of the training
    /// rows lies.
    pub fn offset(&self) -> f64 {
        self.fitted.offset
    }

    /// PyOD's `threshold_`: a row is an anomaly when its decision function is greater. It is zero
    /// up to rounding, because the decision function counts from the offset.
    pub fn threshold(&self) -> f64 {
        self.fitted.threshold
    }

    /// The trees, in order; none after [`drop_trees`](Self::drop_trees).
    pub fn trees(&self) -> impl ExactSizeIterator<Item = Tree<'_>> {
        self.fitted.trees.iter()
    }

    /// Gives back the memory of the trees, most of what a forest takes. It scores as before, since
    /// it has compiled them into a form of its own, but cannot be stored any more.
    pub fn drop_trees(&mut self) {
        self.fitted.trees = Trees::default();
    }

    /// scikit-learn's `score_samples`: in `[-1, 0)`, lower is more abnormal.
    ///
    /// # Errors
    ///
    /// [`ScoreError`] when the rows have another number of features than the forest, or one is
    /// not finite.
    pub fn score_samples<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f64>, ScoreError> {
        self.check_width(rows.ncols())?;
        if let Some((row, feature, value)) = first_not_finite(rows) {
            return Err(ScoreError::NotFinite {
                row,
                feature,
                value,
            });
        }
        let mut scores = vec![0.0; rows.nrows()];
        self.evaluator.score_samples(rows, &mut scores);
        Ok(Array1::from(scores))
    }

    /// PyOD's `decision_function`: greater is more abnormal; compare it with
    /// [`threshold`](Self::threshold).
    ///
    /// # Errors
    ///
    /// As [`score_samples`](Self::score_samples).
    pub fn decision_function<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f64>, ScoreError> {
        let mut scores = self.score_samples(rows)?;
        scores.mapv_inplace(|score| self.decision(score));
        Ok(scores)
    }

    /// The decision function of one row, without the cost of arrays.
    ///
    /// # Errors
    ///
    /// As [`score_samples`](Self::score_samples).
    pub fn decision_function_one(&self, row: &[f64]) -> Result<f64, ScoreError> {
        self.check_width(row.len())?;
        let not_finite = row.iter().position(|value| !value.is_finite());
        if let Some(feature) = not_finite {
            return Err(ScoreError::NotFinite {
                row: 0,
                feature,
                value: row[feature],
            });
        }
        Ok(self.decision(self.evaluator.score_one(row)))
    }

    /// The greatest value of the decision function: that of a row which every tree sets apart from
    /// all others at once. It always marks an anomaly.
    pub fn max_decision(&self) -> f64 {
        self.decision(-1.0).max(self.fitted.threshold.next_up())
    }

    /// Whether a value of the decision function marks an anomaly.
    pub fn is_anomaly(&self, decision: f64) -> bool {
        decision > self.fitted.threshold
    }

    /// For a forest of one feature, the ranges of values that are labelled normal, in ascending
    /// order. A value `x` is in a range `(low, high)` when `low < x as f32 && x as f32 <= high`.
    pub fn normal_ranges(&self) -> Option<Vec<(f32, f32)>> {
        let mut ranges: Vec<(f32, f32)> = Vec::new();
        let mut low = f32::NEG_INFINITY;
        for (high, score) in self.evaluator.intervals()? {
            if !self.is_anomaly(self.decision(score)) {
                match ranges.last_mut() {
                    Some(range) if range.1 == low => range.1 = high,
                    _ => ranges.push((low, high)),
                }
            }
            low = high;
        }
        Some(ranges)
    }

    fn check_width(&self, got: usize) -> Result<(), ScoreError> {
        let expected = self.n_features();
        if got == expected {
            Ok(())
        } else {
            Err(ScoreError::Width { expected, got })
        }
    }

    fn decision(&self, score: f64) -> f64 {
        -(score - self.fitted.offset)
    }
}

fn first_not_finite<F: Float, D: Data<Elem = F>>(
    rows: &ArrayBase<D, Ix2>,
) -> Option<(usize, usize, f64)> {
    rows.indexed_iter()
        .map(|((row, feature), &value)| (row, feature, as_f64(value)))
        .find(|(_, _, value)| !value.is_finite())
}

impl<F: Float, D: Data<Elem = F> + Sync, T> Fit<ArrayBase<D, Ix2>, T, FitError>
    for IsolationForestValidParams
{
    type Object = IsolationForest;

    fn fit(
        &self,
        dataset: &DatasetBase<ArrayBase<D, Ix2>, T>,
    ) -> Result<IsolationForest, FitError> {
        let rows = dataset.records();
        let n_samples = narrow(rows.nrows(), "the number of rows")?;
        let n_features = narrow(rows.ncols(), "the number of features")?;
        if n_samples == 0 {
            return Err(FitError::NoRows);
        }
        if n_features == 0 {
            return Err(FitError::NoFeatures);
        }
        if let Some((row, feature, value)) = first_not_finite(rows) {
            return Err(FitError::NotFinite {
                row,
                feature,
                value,
            });
        }
        let max_samples = self.rows_per_tree(n_samples)?;
        let random_state = self.random_state().unwrap_or_else(rand::random);

        let mut random = NumpyRandom::new(random_state);
        let seeds: Vec<u32> = (0..self.n_estimators()).map(|_| random.seed()).collect();
        // scikit-learn draws seeds and targets from two streams that start alike.
        let mut random = NumpyRandom::new(random_state);
        let targets: Vec<f64> = (0..n_samples).map(|_| random.uniform()).collect();
        let growth = Growth {
            value: |row, feature| as_f32(rows[(row as usize, feature as usize)]),
            targets: &targets,
            n_rows: n_samples,
            n_features,
            max_samples,
        };
        let mut forest = IsolationForest::from_stored(Stored {
            params: self.clone(),
            random_state,
            n_features,
            n_samples,
            max_samples,
            trees: growth.grow(&seeds)?,
            offset: 0.0,
            threshold: 0.0,
        });

        // Of millions of rows they take as much as the scores.
        drop(targets);
        let mut scores = vec![0.0; rows.nrows()];
        forest.evaluator.score_samples(rows, &mut scores);
        // The products are PyOD's and scikit-learn's own; their rounding matters.
        let contamination = self.contamination();
        forest.fitted.offset = percentile(&mut scores, 100.0 * contamination);
        for score in &mut scores {
            *score = forest.decision(*score);
        }
        forest.fitted.threshold = percentile(&mut scores, 100.0 * (1.0 - contamination));
        Ok(forest)
    }
}

impl IsolationForestValidParams {
    /// How many of `n_samples` rows each tree is grown from: scikit-learn's `max_samples_`.
    ///
    /// # Errors
    ///
    /// [`FitError::NoSamples`] for a share that draws no row.
    pub fn rows_per_tree(&self, n_samples: u32) -> Result<u32, FitError> {
        let rows = n_samples as usize;
        let count = match self.max_samples() {
            MaxSamples::Auto => rows.min(256),
            MaxSamples::Count(count) => rows.min(count),
            MaxSamples::Fraction(fraction) => match (fraction * rows as f64) as usize {
                0 => return Err(FitError::NoSamples { fraction, rows }),
                count => count,
            },
        };
        narrow(count, "max_samples")
    }
}

fn narrow(count: usize, what: &'static str) -> Result<u32, FitError> {
    u32::try_from(count).map_err(|_| FitError::TooLarge(what))
}

/// numpy's `percentile` with linear interpolation, including the order of its operations.
/// Reorders `values`, which must not be empty.
fn percentile(values: &mut [f64], q: f64) -> f64 {
    let last = values.len() - 1;
    let index = last as f64 * (q / 100.0);
    // At the last value numpy writes the lower neighbour as index -1, and so counts from there:
    // the value is the same, but the sign of a zero depends on it.
    let (low, gamma) = if index >= last as f64 {
        (last, index + 1.0)
    } else {
        (index.floor() as usize, index - index.floor())
    };
    let (_, &mut a, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    let b = above.iter().copied().min_by(f64::total_cmp).unwrap_or(a);
    let step = b - a;
    if gamma < 0.5 {
        a + step * gamma
    } else {
        b - step * (1.0 - gamma)
    }
}

/// Labels: `true` for an anomaly. A row that cannot be scored, because it is not finite or has
/// another number of features than the forest, is labelled an anomaly: nothing unknown passes as
/// normal. Use [`IsolationForest::decision_function`] to have such rows refused instead.
impl<F: Float, D: Data<Elem = F> + Sync> PredictInplace<ArrayBase<D, Ix2>, Array1<bool>>
    for IsolationForest
{
    fn predict_inplace<'a>(&'a self, rows: &'a ArrayBase<D, Ix2>, labels: &mut Array1<bool>) {
        let decisions: Array1<f64> = self.transform(rows);
        *labels = decisions.mapv(|decision| decision.is_nan() || self.is_anomaly(decision));
    }

    fn default_target(&self, rows: &ArrayBase<D, Ix2>) -> Array1<bool> {
        Array1::from_elem(rows.nsamples(), false)
    }
}

/// The decision function, as [`IsolationForest::decision_function`]; NaN for a row that cannot be
/// scored, because it is not finite or has another number of features than the forest.
impl<F: Float, D: Data<Elem = F> + Sync> Transformer<&ArrayBase<D, Ix2>, Array1<f64>>
    for IsolationForest
{
    fn transform(&self, rows: &ArrayBase<D, Ix2>) -> Array1<f64> {
        if let Ok(decisions) = self.decision_function(rows) {
            return decisions;
        }
        // Row by row, since some can be scored.
        let rows = rows.rows().into_iter();
        rows.map(|row| {
            let row: Vec<f64> = row.iter().map(|&value| as_f64(value)).collect();
            self.decision_function_one(&row).unwrap_or(f64::NAN)
        })
        .collect()
    }
}

/// As for a bare array; the targets are ignored.
impl<F: Float, D: Data<Elem = F> + Sync, T>
    Transformer<&DatasetBase<ArrayBase<D, Ix2>, T>, Array1<f64>> for IsolationForest
{
    fn transform(&self, dataset: &DatasetBase<ArrayBase<D, Ix2>, T>) -> Array1<f64> {
        self.transform(dataset.records())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // linfa's own models promise these; a service that shares a forest between threads needs them.
    #[test]
    fn autotraits() {
        fn has_autotraits<T: Send + Sync + Sized + Unpin>() {}
        has_autotraits::<IsolationForest>();
        has_autotraits::<IsolationForestParams>();
        has_autotraits::<IsolationForestValidParams>();
        has_autotraits::<FitError>();
        has_autotraits::<ScoreError>();
    }

    // Recorded with numpy 2.4.6. The second and third show the two orders of operations.
    #[test]
    fn percentiles_are_those_of_numpy() {
        for (values, q, expected) in [
            (vec![3.0], 5.0, 3.0),
            (vec![0.1, 0.7], 49.0, 0.394),
            (vec![0.1, 0.7], 51.0, 0.40599999999999997),
            (vec![4.0, 1.0, 3.0, 2.0], 100.0, 4.0),
            (vec![4.0, 1.0, 3.0, 2.0], 95.0, 3.8499999999999996),
        ] {
            assert_eq!(
                percentile(&mut values.clone(), q),
                expected,
                "{values:?} at {q}"
            );
        }
    }
}
