//! A threshold from held-back scores: it keeps to a rate of false alarms on readings that the forest
//! has not seen.
//!
//! A forest scores its own training rows lower than new ones, so the share of training rows above a
//! threshold says little of new ones. Therefore the rows are cut into five blocks of time, and each
//! block is scored by a forest of the others.

use std::ops::Range;

use ndarray::{ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::algorithm::Detector;
use super::error::DetectorError;
use crate::forest::{IsolationForestParams, percentile};

/// Into how many blocks rows are cut.
pub(super) const FOLDS: usize = 5;

/// Whether a number can be a false-alarm rate: more than 0, at most 0.5.
pub fn is_false_alarm_rate(rate: f64) -> bool {
    rate > 0.0 && rate <= 0.5
}

/// Fewest rows that are cut: of windows of `size` readings, the middle block would otherwise leave
/// no rows to train on.
pub(super) fn min_rows(size: usize) -> usize {
    4 * size + 50
}

/// A threshold that was learnt from held-back scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldBack {
    /// The share of normal readings that may be called anomalies.
    pub false_alarm_rate: f64,
    /// How many held-back scores there were.
    pub scores: u64,
}

impl HeldBack {
    /// The least false-alarm rate that so many scores can promise, where `window` neighbouring ones
    /// say no more than one.
    pub fn promised_rate(&self, window: usize) -> f64 {
        let independent = self.scores / window.max(1) as u64;
        self.false_alarm_rate.max(1.0 / (independent as f64 + 1.0))
    }

    /// How many scores the false-alarm rate needs.
    pub fn needed_scores(&self, window: usize) -> usize {
        ((1.0 / self.false_alarm_rate).ceil() as usize).saturating_mul(window.max(1))
    }
}

/// The score of each row from a detector that has not seen it: see [`folds`]. `seed` is that of the
/// model's own forest.
pub(super) fn held_back_scores(
    params: &IsolationForestParams,
    rows: ArrayView2<'_, f64>,
    runs: &[usize],
    window: usize,
    distance: bool,
    seed: u32,
) -> Result<Vec<f64>, DetectorError> {
    let mut scores = Vec::with_capacity(rows.nrows());
    for (fold, Fold { held_back, trained }) in folds(runs, window).into_iter().enumerate() {
        let seed = seed.wrapping_add(1 + fold as u32);
        let params = params.clone().random_state(seed);
        let trained: Vec<usize> = trained.into_iter().flatten().collect();
        let trained = rows.select(Axis(0), &trained);
        let (detector, _) = Detector::grow(&params, trained, distance)?;
        scores.extend(
            detector.anomaly_scores(rows.slice_axis(Axis(0), held_back.into()).to_owned())?,
        );
    }
    Ok(scores)
}

/// The score that the given share of held-back scores exceeds; the greatest where there are too few.
pub(super) fn threshold(scores: &mut [f64], false_alarm_rate: f64) -> f64 {
    if (scores.len() as f64) * false_alarm_rate < 1.0 {
        return scores.iter().copied().fold(f64::MIN, f64::max);
    }
    percentile(scores, 100.0 * (1.0 - false_alarm_rate))
}

/// Rows that are held back, and rows to train on meanwhile.
#[derive(Debug, PartialEq)]
struct Fold {
    held_back: Range<usize>,
    trained: Vec<Range<usize>>,
}

/// Cuts rows into blocks: of whole runs where there are five or more, else of as many rows each.
/// `runs` are the rows in each run, one for each full window. A row that shares readings with a block
/// is neither held back with it nor trained on meanwhile.
fn folds(runs: &[usize], window: usize) -> Vec<Fold> {
    let mut end = 0;
    let runs: Vec<_> = runs
        .iter()
        .filter(|&&rows| rows > 0)
        .map(|rows| {
            let start = end;
            end += rows;
            start..end
        })
        .collect();
    let rows = end;
    let blocks: Vec<_> = if runs.len() >= FOLDS {
        let block = |i: usize| {
            let mut of_block = (0..runs.len()).filter(|run| run * FOLDS / runs.len() == i);
            let first = of_block.next().unwrap_or(0);
            let last = of_block.next_back().unwrap_or(first);
            runs[first].start..runs[last].end
        };
        (0..FOLDS).map(block).collect()
    } else {
        // As numpy's array_split.
        let start = |i: usize| i * (rows / FOLDS) + i.min(rows % FOLDS);
        (0..FOLDS).map(|i| start(i)..start(i + 1)).collect()
    };
    blocks
        .into_iter()
        .map(|block| {
            // Rows of the same run within this distance share readings.
            let shared = window - 1;
            let mut trained = Vec::new();
            for run in &runs {
                let before = run.start..run.end.min(block.start);
                let after = run.start.max(block.end)..run.end;
                let touches_start = run.contains(&block.start) && before.end == block.start;
                let touches_end = run.end > block.end && run.start < block.end;
                let before = if touches_start {
                    before.start..before.end.saturating_sub(shared)
                } else {
                    before
                };
                let after = if touches_end {
                    after.start + shared..after.end
                } else {
                    after
                };
                trained.extend([before, after].into_iter().filter(|part| !part.is_empty()));
            }
            Fold {
                held_back: block,
                trained,
            }
        })
        .collect()
}
