//! Training data for the default model: a file of readings, or server.py's synthetic readings.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Axis};
use thiserror::Error;

use crate::encoding;
use crate::excerpt::excerpt;
use crate::forest::NumpyRandom;

/// Number of synthetic readings, as in server.py.
const SYNTHETIC_READINGS: usize = 500;

/// An error that occurs while a file of readings is read. Its message names the file and, if known,
/// the line.
#[derive(Debug, Error)]
#[error("{}{}: {problem}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TrainingDataError {
    path: PathBuf,
    /// Counted from 1.
    line: Option<u64>,
    problem: String,
}

/// Generates server.py's synthetic "normal" vibration, of shape (500, 1): uniform in `[0, 5)`, and
/// equal to `numpy.random.RandomState(random_state).uniform(0, 5, 500)`.
pub fn synthetic(random_state: u32) -> Array2<f64> {
    let mut random = NumpyRandom::new(random_state);
    Array2::from_shape_simple_fn((SYNTHETIC_READINGS, 1), || 5.0 * random.uniform())
}

/// Reads a file with one reading per line, or a CSV file whose readings are its only column or the
/// column named `value`, in upper or lower case. Returns an array of shape (readings, 1).
///
/// The delimiter is `;` if the first line contains one, else `,`. Empty lines are skipped. The text
/// may be UTF-8 or UTF-16.
///
/// # Errors
///
/// [`TrainingDataError`] if the file cannot be read or contains no readings, or if a line has no
/// finite number in the expected column.
pub fn from_file(path: &Path) -> Result<Array2<f64>, TrainingDataError> {
    let error = |line: Option<u64>, problem: String| TrainingDataError {
        path: path.to_owned(),
        line,
        problem,
    };
    let bytes = std::fs::read(path)
        .map_err(|cause| error(None, format!("cannot read the readings: {cause}")))?;
    let text = encoding::decode(&bytes)
        .map_err(|problem| error(None, format!("the file is {problem}")))?;
    let values = parse(&text).map_err(|(line, problem)| error(line, problem))?;
    Ok(Array1::from(values).insert_axis(Axis(1)))
}

/// Parses the readings of a file. The error is a line, if known, and a problem.
fn parse(text: &str) -> Result<Vec<f64>, (Option<u64>, String)> {
    let first_line = text.lines().find(|line| !line.trim().is_empty());
    let semicolons = first_line.is_some_and(|line| line.contains(';'));
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(if semicolons { b';' } else { b',' })
        .from_reader(text.as_bytes());

    let mut layout: Option<Layout> = None;
    let mut values = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map(csv::Position::line);
            (line, error.to_string())
        })?;
        let line = record.position().map(|position| {
            // The position is the end of the previous record; empty lines may follow it.
            let rest = text.as_bytes().get(position.byte() as usize..);
            let empty_lines = rest
                .unwrap_or_default()
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .filter(|&&byte| byte == b'\n')
                .count();
            position.line() + empty_lines as u64
        });
        if record.iter().all(str::is_empty) {
            continue;
        }
        let at_line = |problem| (line, problem);
        if let Some(layout) = &layout {
            values.push(layout.reading(&record).map_err(at_line)?);
            continue;
        }
        let (detected, is_header) = Layout::detect(&record).map_err(at_line)?;
        if !is_header {
            values.push(detected.reading(&record).map_err(at_line)?);
        }
        layout = Some(detected);
    }
    if values.is_empty() {
        return Err((None, "the file contains no readings".to_owned()));
    }
    Ok(values)
}

/// The columns of a file, detected from its first line.
struct Layout {
    /// Number of columns.
    columns: usize,
    /// Index of the column of readings.
    reading: usize,
}

impl Layout {
    /// Returns the layout and whether the line is a header.
    fn detect(first: &csv::StringRecord) -> Result<(Self, bool), String> {
        let columns = first.len();
        // A field with a digit may be a mistyped reading, which must not be skipped silently.
        let is_header = first.iter().all(|field| {
            !field.contains(|c: char| c.is_ascii_digit()) && field.parse::<f64>().is_err()
        });
        let mut all_named = (0..columns).filter(|&at| first[at].eq_ignore_ascii_case("value"));
        let named = all_named.next();
        if named.is_some() && all_named.next().is_some() {
            return Err("two columns are named value; rename one of them".to_owned());
        }
        match named {
            Some(reading) => Ok((Self { columns, reading }, true)),
            None if columns == 1 => Ok((
                Self {
                    columns,
                    reading: 0,
                },
                is_header,
            )),
            None if is_header => Err(format!(
                "no column is named value; the columns are {}",
                first.iter().collect::<Vec<_>>().join(", ")
            )),
            None => Err(format!(
                "expected one reading per line (with a decimal point, not a comma), or a header \
                 with a column named value; got {columns} columns"
            )),
        }
    }

    /// Parses the reading of a line.
    fn reading(&self, line: &csv::StringRecord) -> Result<f64, String> {
        if line.len() != self.columns {
            return Err(columns_problem(self.columns, line.len()));
        }
        let field = &line[self.reading];
        match field.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(format!(
                "expected a finite number, got {:?}",
                excerpt(field)
            )),
        }
    }
}

/// The problem of a line that has more or fewer columns than the first one.
pub(crate) fn columns_problem(expected: usize, got: usize) -> String {
    match expected {
        1 => format!(
            "expected one column as in the first line, got {got}; a number needs a decimal point, not \
             a comma"
        ),
        _ => format!("expected {expected} columns as in the first line, got {got}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Formats that users have: bare lines, exports with a header, Excel's delimiters.
    #[test]
    fn reads_lines_and_columns() {
        for text in [
            "1\n2.5\n-3e2\n",
            "1\r\n\r\n2.5\r\n -3e2 ",
            "vibration\n1\n2.5\n-300\n",
            "time,Value\n10:00,1\n10:01,2.5\n10:02,-300\n",
            "time;value;unit\n10:00;1;mm/s\n10:01;2.5;mm/s\n10:02;-300;mm/s\n",
            "\"value\"\n\"1\"\n\"2.5\"\n\"-300\"\n",
        ] {
            assert_eq!(parse(text), Ok(vec![1.0, 2.5, -300.0]), "{text:?}");
        }
    }

    // An error names the line, and no bad line is skipped silently.
    #[test]
    fn rejects_a_bad_line_by_its_number() {
        for (text, line, problem) in [
            (
                "1\n2\nabc\n",
                Some(3),
                "expected a finite number, got \"abc\"",
            ),
            (
                "1\n\n\nNaN\n",
                Some(4),
                "expected a finite number, got \"NaN\"",
            ),
            ("O.5\n1\n", Some(1), "expected a finite number, got \"O.5\""),
            ("inf\n1\n", Some(1), "expected a finite number, got \"inf\""),
            (
                "v\n1\n1e999\n",
                Some(3),
                "expected a finite number, got \"1e999\"",
            ),
            (
                "1\n2,5\n",
                Some(2),
                "expected one column as in the first line, got 2; a number needs a decimal point, not \
                 a comma",
            ),
            (
                "time,value\n10:00,\n",
                Some(2),
                "expected a finite number, got \"\"",
            ),
            (
                "a,b\n1,2\n",
                Some(1),
                "no column is named value; the columns are a, b",
            ),
            (
                "VALUE,value\n1,2\n",
                Some(1),
                "two columns are named value; rename one of them",
            ),
            ("", None, "the file contains no readings"),
            ("value\n", None, "the file contains no readings"),
        ] {
            assert_eq!(parse(text), Err((line, problem.to_owned())), "{text:?}");
        }
        let (line, problem) = parse("2,5\n1,0\n").expect_err("a decimal comma");
        assert_eq!(line, Some(1));
        assert!(problem.contains("with a decimal point"), "{problem}");
    }

    // The default model can be reproduced in Python. Recorded with numpy 2.4.6:
    // RandomState(42).uniform(0, 5, 500)[:2].
    #[test]
    fn synthetic_readings_are_those_of_numpy() {
        let readings = synthetic(42);
        assert_eq!(readings.dim(), (500, 1));
        assert_eq!(readings[(0, 0)], 1.8727005942368125);
        assert_eq!(readings[(1, 0)], 4.75357153204958);
    }
}
