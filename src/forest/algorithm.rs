//! The forest: fitting, offset and threshold, scores and labels.

use linfa::Float;
use linfa::dataset::{DatasetBase, Records};
use linfa::traits::{Fit, PredictInplace, Transformer};
use ndarray::{Array1, ArrayBase, Data, Ix2};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use super::convert::{as_f32, as_f64, to_u32};
use super::error::{FitError, ScoreError};
use super::evaluate::Evaluator;
use super::hyperparams::{IsolationForestParams, IsolationForestValidParams};
use super::percentile::percentile;
use super::random::NumpyRandom;
use super::tree::{Boxes, Growth, Tree, Trees, are_sound};
use super::validate::{check_finite, first_not_finite};

/// A fitted isolation forest.
///
/// Scores and labels equal those of PyOD's `IForest`: scikit-learn's `IsolationForest` with the
/// sign flipped, so that a greater score is more abnormal.
///
/// Values are compared as `f32`, as in scikit-learn, and become infinite beyond the range of `f32`.
/// In training rows this has an odd effect, kept for parity: a forest trained on 0 to 9 and 1e39
/// flags 0, not 1e39.
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
#[serde(try_from = "StoredForest")]
pub struct IsolationForest {
    fitted: StoredForest,
    evaluator: Evaluator,
}

/// The serialised form of a forest: everything that fitting learns. The evaluator is derived from
/// it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredForest {
    params: IsolationForestValidParams,
    random_state: u32,
    n_features: u32,
    n_samples: u32,
    /// Rows per tree, after `MaxSamples` is resolved.
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

impl TryFrom<StoredForest> for IsolationForest {
    type Error = String;

    fn try_from(stored: StoredForest) -> Result<Self, Self::Error> {
        let sound = stored.n_features > 0
            && stored.n_samples > 0
            && stored.trees.len() == stored.params.n_estimators()
            && stored.params.rows_per_tree(stored.n_samples).ok() == Some(stored.max_samples)
            && stored.trees.is_sound(stored.n_features, stored.max_samples);
        if !sound {
            return Err("the trees of the forest are damaged".to_owned());
        }
        if !(stored.offset.is_finite() && stored.threshold.is_finite()) {
            return Err("the offset or the threshold of the forest is not finite".to_owned());
        }
        Ok(Self::new(stored, None))
    }
}

impl IsolationForest {
    /// Returns hyper-parameters at their defaults.
    pub fn params() -> IsolationForestParams {
        IsolationForestParams::default()
    }

    fn new(fitted: StoredForest, boxes: Option<Boxes>) -> Self {
        let features = fitted.n_features as usize;
        Self {
            evaluator: Evaluator::new(&fitted.trees, features, fitted.max_samples, boxes),
            fitted,
        }
    }

    #[cfg(test)]
    pub(super) fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    /// The boxes of the trees' nodes, which serialisation omits; `None` unless the forest was
    /// [fitted with them](IsolationForestValidParams::fit_with_distance).
    pub(crate) fn boxes(&self) -> Option<&[f32]> {
        self.evaluator.boxes()
    }

    /// Gives a deserialised forest the boxes that it had.
    ///
    /// # Errors
    ///
    /// A message if these cannot be the boxes of its trees.
    pub(crate) fn with_boxes(self, boxes: Vec<f32>) -> Result<Self, &'static str> {
        if !are_sound(&boxes, &self.fitted.trees, self.n_features()) {
            return Err("the boxes of the forest are damaged");
        }
        Ok(Self::new(self.fitted, Some(boxes)))
    }

    /// Whether scores grow with the distance from the training rows.
    pub fn knows_distance(&self) -> bool {
        self.evaluator.boxes().is_some()
    }

    /// Makes a score the threshold: rows that score higher are anomalies. A score is in `(0, 1]`, as
    /// in the paper.
    pub(crate) fn set_threshold(&mut self, score: f64) {
        self.fitted.offset = -score;
        self.fitted.threshold = 0.0;
    }

    /// For each feature, its share of a row's distance from the training rows, not normalised. `None`
    /// if the row is inside all boxes on its way, or the forest does not know distances.
    pub(crate) fn distance_shares(&self, row: &[f64]) -> Option<Vec<f64>> {
        self.evaluator.distance_shares(row)
    }

    /// The hyper-parameters of the fit.
    pub fn hyperparams(&self) -> &IsolationForestValidParams {
        &self.fitted.params
    }

    /// The seed of the fit, given or drawn. Fitting the same data with it gives the same forest.
    pub fn random_state(&self) -> u32 {
        self.fitted.random_state
    }

    /// Number of features per row.
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

    /// scikit-learn's `offset_`: the percentile of the training scores at the contamination share.
    pub fn offset(&self) -> f64 {
        self.fitted.offset
    }

    /// PyOD's `threshold_`: a row is an anomaly if its decision function is greater. It is zero up
    /// to rounding, because the decision function is relative to the offset.
    pub fn threshold(&self) -> f64 {
        self.fitted.threshold
    }

    /// The trees, in order; none after [`drop_trees`](Self::drop_trees).
    pub fn trees(&self) -> impl ExactSizeIterator<Item = Tree<'_>> {
        self.fitted.trees.iter()
    }

    /// Frees the trees, which take most of a forest's memory.
    ///
    /// Scores do not change, because the forest is evaluated from a compiled form of the trees. The
    /// forest can no longer be serialised.
    pub fn drop_trees(&mut self) {
        self.fitted.trees = Trees::default();
    }

    /// The bytes that the forest holds, on the heap and in itself.
    pub fn memory_size(&self) -> usize {
        size_of::<Self>() + self.fitted.trees.memory_size() + self.evaluator.memory_size()
    }

    /// Compiles what the first large batch would compile: for many small ones, which are as many rows.
    pub(crate) fn prepare_batches(&self) {
        self.evaluator.prepare_batches();
    }

    /// The bytes of them that were compiled for the first large batch.
    pub(crate) fn batch_memory_size(&self) -> usize {
        self.evaluator.planes_memory_size()
    }

    /// scikit-learn's `score_samples`, one score per row: in `[-1, 0)`, lower is more abnormal.
    ///
    /// `rows` has the shape (rows, features).
    ///
    /// # Errors
    ///
    /// [`ScoreError::Width`] if the number of columns differs from
    /// [`n_features`](Self::n_features), [`ScoreError::NotFinite`] if a value is NaN or infinite.
    pub fn score_samples<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f64>, ScoreError> {
        self.check_width(rows.ncols())?;
        let mut scores = vec![0.0; rows.nrows()];
        let is_finite = self.evaluator.score_samples(rows, &mut scores);
        if !is_finite && let Some((row, feature, value)) = first_not_finite(rows) {
            return Err(ScoreError::NotFinite {
                row,
                feature,
                value,
            });
        }
        Ok(Array1::from(scores))
    }

    /// PyOD's `decision_function`, one value per row: greater is more abnormal; compare it with
    /// [`threshold`](Self::threshold).
    ///
    /// `rows` has the shape (rows, features).
    ///
    /// # Errors
    ///
    /// Same as [`score_samples`](Self::score_samples).
    pub fn decision_function<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f64>, ScoreError> {
        let mut scores = self.score_samples(rows)?;
        scores.mapv_inplace(|score| self.decision(score));
        Ok(scores)
    }

    /// The decision function of one row, without building an array.
    ///
    /// # Errors
    ///
    /// Same as [`score_samples`](Self::score_samples).
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

    /// The upper bound of the decision function: the value of a row that every tree isolates at its
    /// root. It always marks an anomaly.
    pub fn max_decision(&self) -> f64 {
        self.decision(-1.0).max(self.fitted.threshold.next_up())
    }

    /// Whether a value of the decision function marks an anomaly.
    pub fn is_anomaly(&self, decision: f64) -> bool {
        decision > self.fitted.threshold
    }

    /// How many trees are walked to score a row. Zero if scores are looked up in a table, which
    /// takes a few nanoseconds for any number of trees: see [`TrainingCost`](super::TrainingCost).
    pub fn walks_per_row(&self) -> usize {
        self.evaluator.walks_per_row()
    }

    /// The ranges of values that are labelled normal, in ascending order; `None` unless the forest
    /// has one feature and few enough trees to be [a table](Self::walks_per_row).
    ///
    /// A value `x` is in a range `(low, high)` if `low < x as f32 && x as f32 <= high`.
    pub fn normal_ranges(&self) -> Option<Vec<(f32, f32)>> {
        let is_normal = |score| !self.is_anomaly(self.decision(score));
        if let Some(ranges) = self.evaluator.normal_ranges(is_normal) {
            return Some(ranges);
        }
        let mut ranges: Vec<(f32, f32)> = Vec::new();
        let mut low = f32::NEG_INFINITY;
        for (high, score) in self.evaluator.intervals()? {
            if is_normal(score) {
                match ranges.last_mut() {
                    Some(range) if range.1 == low => range.1 = high,
                    _ => ranges.push((low, high)),
                }
            }
            low = high;
        }
        Some(ranges)
    }

    /// Returns [`ScoreError::Width`] unless a row of `got` values fits the forest.
    pub(crate) fn check_width(&self, got: usize) -> Result<(), ScoreError> {
        let expected = self.n_features();
        if got == expected {
            Ok(())
        } else {
            Err(ScoreError::Width { expected, got })
        }
    }

    /// Converts a value of `score_samples` into one of the decision function.
    fn decision(&self, score: f64) -> f64 {
        -(score - self.fitted.offset)
    }
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
        let mut forest = self.grow(rows, false)?;
        forest.learn_threshold(rows);
        Ok(forest)
    }
}

impl IsolationForestValidParams {
    /// Fits a forest whose scores grow with the distance from the training rows, continuously and
    /// towards 1.
    ///
    /// The trees are those of a plain fit. Each node keeps the range of its training rows, its box.
    /// A random cut of the node would part a row outside the box from all training rows, with a
    /// probability that grows with the distance (Guha et al., "Robust Random Cut Forest Based Anomaly
    /// Detection On Streams", 2016); the score takes the expected depth. A row that is inside all
    /// boxes on its way through the trees has the score of a plain forest, in every bit.
    ///
    /// ```
    /// use iforest_server::forest::IsolationForest;
    /// use linfa::ParamGuard;
    /// use ndarray::array;
    ///
    /// let normal = array![[0.23], [0.25], [0.21], [0.29], [0.27]];
    /// let forest = IsolationForest::params().random_state(42).check()?.fit_with_distance(&normal)?;
    /// let scores = forest.score_samples(&array![[0.25], [0.30], [0.4], [5.0]])?;
    /// assert!(scores[0] > scores[1] && scores[1] > scores[2] && scores[2] > scores[3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for a plain fit, and [`FitError::BeyondF32`] for a value beyond the range of `f32`,
    /// [`FitError::NoDistance`] if the trees are grown from a single row each.
    pub fn fit_with_distance<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<IsolationForest, FitError> {
        let mut forest = self.grow(rows, true)?;
        forest.learn_threshold(rows);
        Ok(forest)
    }

    /// Grows a forest without a threshold.
    pub(crate) fn grow<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
        with_boxes: bool,
    ) -> Result<IsolationForest, FitError> {
        let n_samples = to_u32(rows.nrows(), "the number of rows")?;
        let n_features = to_u32(rows.ncols(), "the number of features")?;
        if n_samples == 0 {
            return Err(FitError::NoRows);
        }
        if n_features == 0 {
            return Err(FitError::NoFeatures);
        }
        check_finite(rows)?;
        let max_samples = self.rows_per_tree(n_samples)?;
        if with_boxes {
            if max_samples < 2 {
                return Err(FitError::NoDistance { rows: n_samples });
            }
            let mut values = rows.indexed_iter();
            let beyond = values.find(|&(_, &value)| !as_f32(value).is_finite());
            if let Some(((row, feature), &value)) = beyond {
                return Err(FitError::BeyondF32 {
                    row,
                    feature,
                    value: as_f64(value),
                });
            }
        }
        let random_state = self.random_state().unwrap_or_else(rand::random);

        let mut random = NumpyRandom::new(random_state);
        let seeds: Vec<u32> = (0..self.n_estimators()).map(|_| random.seed()).collect();
        // scikit-learn draws seeds and targets from two generators with the same seed.
        let mut random = NumpyRandom::new(random_state);
        let targets: Vec<f64> = (0..n_samples).map(|_| random.uniform()).collect();
        let growth = Growth {
            value: |row, feature| as_f32(rows[(row as usize, feature as usize)]),
            targets: &targets,
            n_rows: n_samples,
            n_features,
            max_samples,
            with_boxes,
        };
        let (trees, boxes) = growth.grow(&seeds)?;
        let stored = StoredForest {
            params: self.clone(),
            random_state,
            n_features,
            n_samples,
            max_samples,
            trees,
            offset: 0.0,
            threshold: 0.0,
        };
        Ok(IsolationForest::new(stored, with_boxes.then_some(boxes)))
    }
}

impl IsolationForest {
    /// Sets offset and threshold by the contamination share of the training rows.
    pub(crate) fn learn_threshold<F: Float, D: Data<Elem = F> + Sync>(
        &mut self,
        rows: &ArrayBase<D, Ix2>,
    ) {
        let mut scores = vec![0.0; rows.nrows()];
        // `grow` has checked that the rows are finite.
        let _ = self.evaluator.score_samples(rows, &mut scores);
        self.evaluator.drop_planes();
        // scikit-learn and PyOD compute these products; their rounding matters.
        let contamination = self.hyperparams().contamination();
        self.fitted.offset = percentile(&mut scores, 100.0 * contamination);
        for score in &mut scores {
            *score = self.decision(*score);
        }
        self.fitted.threshold = percentile(&mut scores, 100.0 * (1.0 - contamination));
    }
}

/// Labels rows: `true` is an anomaly.
///
/// A row that cannot be scored, because a value is not finite or the number of features is wrong,
/// is labelled an anomaly, so that no unknown row passes as normal. To get an error instead, use
/// [`IsolationForest::decision_function`].
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

/// The decision function, as in [`IsolationForest::decision_function`]; NaN for a row that cannot
/// be scored, because a value is not finite or the number of features is wrong.
impl<F: Float, D: Data<Elem = F> + Sync> Transformer<&ArrayBase<D, Ix2>, Array1<f64>>
    for IsolationForest
{
    fn transform(&self, rows: &ArrayBase<D, Ix2>) -> Array1<f64> {
        if let Ok(decisions) = self.decision_function(rows) {
            return decisions;
        }
        // One by one, because some rows can be scored.
        rows.rows()
            .into_iter()
            .map(|row| {
                let row: Vec<f64> = row.iter().map(|&value| as_f64(value)).collect();
                self.decision_function_one(&row).unwrap_or(f64::NAN)
            })
            .collect()
    }
}

/// Same as for a bare array; the targets are ignored.
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

    // linfa's models have these traits; a service that shares a forest between threads needs them.
    #[test]
    fn autotraits() {
        fn has_autotraits<T: Send + Sync + Sized + Unpin>() {}
        has_autotraits::<IsolationForest>();
        has_autotraits::<IsolationForestParams>();
        has_autotraits::<IsolationForestValidParams>();
        has_autotraits::<FitError>();
        has_autotraits::<ScoreError>();
    }
}
