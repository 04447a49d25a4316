//! The summary of a file: how many anomalies there are, how long they last, and which are the
//! worst.

use std::fmt;

use super::error::PredictCsvError;
use super::predictor::Predicted;
use super::readings::{Readings, Times};
use crate::escape::escape;
use crate::registry::ServedModel;

/// How many runs, readings and problems are shown.
pub(super) const MAX_SHOWN: usize = 5;

/// How many bytes of a time are shown.
const MAX_TIME_LENGTH: usize = 64;

/// How many values of a reading are shown.
const MAX_VALUES: usize = 8;

/// Why a line has no prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: u64,
    /// The fault of the line.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, escape(&self.text))
    }
}

/// The first lines without a prediction, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Problems {
    count: u64,
    first: Vec<Problem>,
}

impl Problems {
    /// Adds a problem. Callers add problems in the order of their lines.
    pub(super) fn add(&mut self, line: u64, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < MAX_SHOWN {
            let text = text();
            self.first.push(Problem { line, text });
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.sort_by_key(|problem| problem.line);
        self.first.truncate(MAX_SHOWN);
    }
}

/// Where a reading stands.
#[derive(Debug, Clone, PartialEq, Default)]
struct Place {
    line: u64,
    /// The field in the column of the times; empty without one.
    time: Vec<u8>,
}

impl Place {
    fn new(line: u64, time: &[u8]) -> Self {
        let mut place = Self::default();
        place.set(line, time);
        place
    }

    fn set(&mut self, line: u64, time: &[u8]) {
        self.line = line;
        self.time.clear();
        self.time
            .extend_from_slice(&time[..time.len().min(MAX_TIME_LENGTH)]);
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match self.time.as_slice() {
            [] => Ok(()),
            time => write!(f, " ({})", escape(&String::from_utf8_lossy(time))),
        }
    }
}

/// Anomalies one after the other.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    first: Place,
    last: Place,
    readings: u64,
}

/// A reading with a high score.
#[derive(Debug, Clone, PartialEq)]
struct Worst {
    place: Place,
    score: f64,
    values: Vec<f64>,
}

/// Inserts an item into a list of the greatest ones, the greatest first; of equal ones, the first stay.
fn keep_greatest<T>(list: &mut Vec<T>, item: T, is_less: impl Fn(&T, &T) -> bool) {
    let at = list.partition_point(|other| !is_less(other, &item));
    if at < MAX_SHOWN {
        list.insert(at, item);
        list.truncate(MAX_SHOWN);
    }
}

/// The part of a [`Summary`] that comes from one chunk.
#[derive(Debug, Default)]
pub(super) struct Tally {
    readings: u64,
    warming_up: u64,
    alarms: u64,
    /// Each anomaly: how many readings come before it, and its line.
    anomalies: Vec<(u64, u64)>,
    /// The times of the anomalies.
    times: Times,
    worst: Vec<Worst>,
    pub(super) problems: Problems,
}

impl Tally {
    /// Adds a reading, which has the position `parsed` among `readings`.
    pub(super) fn add(
        &mut self,
        parsed: usize,
        line: u64,
        predicted: &Predicted,
        readings: &Readings,
    ) {
        self.readings += 1;
        self.warming_up += u64::from(predicted.score.is_none());
        self.alarms += u64::from(predicted.is_alarm_raised);
        let Some(score) = predicted.score.filter(|_| predicted.is_anomaly) else {
            return;
        };
        let time = readings.times.get(parsed);
        self.anomalies.push((self.readings - 1, line));
        self.times.push(time);
        let is_full = self.worst.len() == MAX_SHOWN;
        if is_full && self.worst.last().is_some_and(|worst| worst.score >= score) {
            return;
        }
        let values = readings.values.iter().skip(parsed * readings.width);
        let shown = readings.width.min(MAX_VALUES);
        let worst = Worst {
            place: Place::new(line, time),
            score,
            values: values.take(shown).copied().collect(),
        };
        keep_greatest(&mut self.worst, worst, |a, b| a.score < b.score);
    }
}

/// The anomalies of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    expected: String,
    is_windowed: bool,
    readings: u64,
    anomalies: u64,
    warming_up: u64,
    alarms: u64,
    problems: Problems,
    runs: Vec<Run>,
    worst: Vec<Worst>,
    /// The run that may go on, and the position of the reading after it.
    current: Option<(Run, u64)>,
}

impl Summary {
    pub(super) fn new(model: &ServedModel) -> Self {
        let contamination = model.detector.forest().hyperparams().contamination();
        let expected = match model.held_back {
            Some(held_back) => format!("false_alarm_rate {}", percent(held_back.false_alarm_rate)),
            None => format!("contamination {}", percent(contamination)),
        };
        Self {
            expected,
            is_windowed: model.window.is_some(),
            readings: 0,
            anomalies: 0,
            warming_up: 0,
            alarms: 0,
            problems: Problems::default(),
            runs: Vec::new(),
            worst: Vec::new(),
            current: None,
        }
    }

    /// Adds the next chunk.
    pub(super) fn add(&mut self, tally: Tally) {
        for (i, &(before, line)) in tally.anomalies.iter().enumerate() {
            let position = self.readings + before;
            let time = tally.times.get(i);
            match &mut self.current {
                Some((run, next)) if *next == position => {
                    run.last.set(line, time);
                    run.readings += 1;
                    *next += 1;
                }
                _ => {
                    self.end_run();
                    let run = Run {
                        first: Place::new(line, time),
                        last: Place::new(line, time),
                        readings: 1,
                    };
                    self.current = Some((run, position + 1));
                }
            }
        }
        self.readings += tally.readings;
        self.anomalies += tally.anomalies.len() as u64;
        self.warming_up += tally.warming_up;
        self.alarms += tally.alarms;
        for worst in tally.worst {
            keep_greatest(&mut self.worst, worst, |a, b| a.score < b.score);
        }
        self.problems.merge(tally.problems);
    }

    fn end_run(&mut self) {
        if let Some((run, _)) = self.current.take() {
            keep_greatest(&mut self.runs, run, |a, b| a.readings < b.readings);
        }
    }

    /// The summary of the whole file.
    pub(super) fn finish(mut self) -> Result<Self, PredictCsvError> {
        self.end_run();
        if self.readings > 0 {
            return Ok(self);
        }
        Err(match self.problems.first.into_iter().next() {
            Some(first) => PredictCsvError::NoneReadable {
                count: self.problems.count,
                first,
            },
            None => PredictCsvError::NoReadings,
        })
    }
}

/// A share as a percentage, without the digits of rounding.
fn percent(share: f64) -> String {
    format!("{} %", (share * 1e8).round() / 1e6)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.anomalies as f64 / self.readings as f64;
        writeln!(
            f,
            "readings: {}; anomalies: {}, {share:.2} % (the model has {})",
            self.readings, self.anomalies, self.expected
        )?;
        if self.is_windowed {
            writeln!(
                f,
                "alarms: {}; readings while the model warmed up: {}",
                self.alarms, self.warming_up
            )?;
        }
        if !self.runs.is_empty() {
            writeln!(f, "longest runs of anomalies:")?;
        }
        for run in &self.runs {
            match run.readings {
                1 => writeln!(f, "  1 reading, {}", run.first)?,
                readings => writeln!(f, "  {readings} readings, {} to {}", run.first, run.last)?,
            }
        }
        if !self.worst.is_empty() {
            writeln!(f, "worst readings:")?;
        }
        for worst in &self.worst {
            let values: Vec<String> = worst
                .values
                .iter()
                .map(|value| format!("{value:?}"))
                .collect();
            let (place, values) = (&worst.place, values.join(", "));
            writeln!(f, "  {values} at {place}, anomaly_score {:.4}", worst.score)?;
        }
        if self.problems.count > 0 {
            writeln!(f, "unreadable lines: {}", self.problems.count)?;
        }
        for problem in &self.problems.first {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}
