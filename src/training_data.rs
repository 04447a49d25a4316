//! The readings that a server starts from: a file of real ones, or synthetic ones as server.py's.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Axis};
use thiserror::Error;

use crate::encoding;
use crate::excerpt::excerpt;
use crate::forest::NumpyRandom;

/// How many synthetic readings server.py trains on.
const SYNTHETIC: usize = 500;

/// A file of readings that could not be used.
#[derive(Debug, Error)]
#[error("{}{}: {problem}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TrainingDataError {
    path: PathBuf,
    line: Option<u64>,
    problem: String,
}

/// "Normal" vibration as server.py makes it up: 500 values uniform in 0 to 5. They equal
/// `numpy.random.RandomState(random_state).uniform(0, 5, 500)`.
pub fn synthetic(random_state: u32) -> Array2<f64> {
    let mut random = NumpyRandom::new(random_state);
    Array2::from_shape_simple_fn((SYNTHETIC, 1), || 5.0 * random.uniform())
}

/// Reads a file with one reading per line, or a CSV file whose readings are its only column or the
/// one called `value`. Columns are parted by `,` or `;`; empty lines are passed over.
///
/// # Errors
///
/// [`TrainingDataError`] names the file and the line.
pub fn from_file(path: &Path) -> Result<Array2<f64>, TrainingDataError> {
    let fail = |line: Option<u64>, problem: String| TrainingDataError {
        path: path.to_owned(),
        line,
        problem,
    };
    let bytes = std::fs::read(path).map_err(|error| fail(None, error.to_string()))?;
    let text = encoding::decode(&bytes).map_err(|problem| fail(None, problem))?;
    let values = parse(&text).map_err(|(line, problem)| fail(line, problem))?;
    Ok(Array1::from(values).insert_axis(Axis(1)))
}

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
            let line = error.position().map(|position| position.line());
            (line, error.to_string())
        })?;
        let line = record.position().map(|position| {
            // The position is where the record before ended: empty lines may follow.
            let rest = text.as_bytes().get(position.byte() as usize..);
            let empty = rest.unwrap_or_default().iter();
            let empty = empty.take_while(|byte| matches!(byte, b'\r' | b'\n'));
            position.line() + empty.filter(|&&byte| byte == b'\n').count() as u64
        });
        if record.iter().all(str::is_empty) {
            continue;
        }
        let Some(layout) = &layout else {
            let (found, is_header) = Layout::of(&record).map_err(|problem| (line, problem))?;
            if !is_header {
                values.push(found.reading(&record).map_err(|problem| (line, problem))?);
            }
            layout = Some(found);
            continue;
        };
        values.push(layout.reading(&record).map_err(|problem| (line, problem))?);
    }
    if values.is_empty() {
        return Err((None, "there is no reading in this file".to_owned()));
    }
    Ok(values)
}

/// Where in a line the reading stands, as the first line shows it.
struct Layout {
    columns: usize,
    reading: usize,
}

impl Layout {
    /// The layout, and whether the line is a header.
    fn of(first: &csv::StringRecord) -> Result<(Self, bool), String> {
        let columns = first.len();
        // A name with a digit in it may be a misspelt reading, which must not be dropped in silence.
        let is_header = first.iter().all(|field| {
            !field.contains(|c: char| c.is_ascii_digit()) && field.parse::<f64>().is_err()
        });
        let named = first
            .iter()
            .position(|name| name.eq_ignore_ascii_case("value"));
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
                "none of the columns {} is called value",
                first.iter().collect::<Vec<_>>().join(", ")
            )),
            None => Err(format!(
                "expected one reading per line (with a decimal point, not a comma), or a header \
                 with a column called value; got {columns} columns"
            )),
        }
    }

    fn reading(&self, line: &csv::StringRecord) -> Result<f64, String> {
        if line.len() != self.columns {
            return Err(format!(
                "expected {} column(s) as in the first line, got {}",
                self.columns,
                line.len()
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    // The shapes in which people have readings: bare lines, exports with a header, Excel's marks.
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

    // A bad line must be found by its number, and never be dropped in silence.
    #[test]
    fn refuses_a_bad_line_by_its_number() {
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
                "expected 1 column(s) as in the first line, got 2",
            ),
            (
                "time,value\n10:00,\n",
                Some(2),
                "expected a finite number, got \"\"",
            ),
            (
                "a,b\n1,2\n",
                Some(1),
                "none of the columns a, b is called value",
            ),
            ("", None, "there is no reading in this file"),
            ("value\n", None, "there is no reading in this file"),
        ] {
            assert_eq!(parse(text), Err((line, problem.to_owned())), "{text:?}");
        }
        let (line, problem) = parse("2,5\n1,0\n").expect_err("a decimal comma");
        assert_eq!(line, Some(1));
        assert!(problem.contains("with a decimal point"), "{problem}");
    }

    // Whoever doubts the start model can make it again in Python. Recorded with numpy 2.4.6:
    // RandomState(42).uniform(0, 5, 500)[:2].
    #[test]
    fn synthetic_readings_are_those_of_numpy() {
        let readings = synthetic(42);
        assert_eq!(readings.dim(), (500, 1));
        assert_eq!(readings[(0, 0)], 1.8727005942368125);
        assert_eq!(readings[(1, 0)], 4.75357153204958);
    }
}
