//! The columns of a file, from its first record.

use super::chunks::FirstRecord;
use super::predictor::Predicted;
use super::readings::{finite, number_problem};
use crate::detector::OutOfRange;
use crate::excerpt::excerpt;
use crate::registry::ServedModel;

/// How many columns or features a message names: there may be thousands.
const MAX_LISTED: usize = 16;

/// Number of combinations of the four flags of a prediction.
const COMBINATIONS: usize = 1 << 4;

/// The column of the times, in upper or lower case.
const TIME: &str = "time";

/// The column of the readings of a model of one feature, in upper or lower case.
const VALUE: &str = "value";

/// Where the readings stand.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) delimiter: u8,
    /// Number of columns.
    pub(super) columns: usize,
    /// The column of each feature.
    pub(super) values: Vec<usize>,
    /// The column of the times.
    pub(super) time: Option<usize>,
    /// Whether the model has a window, so that it uses the times and answers with `alarm`.
    pub(super) is_windowed: bool,
    /// Whether the model answers with `out_of_range`.
    pub(super) has_out_of_range: bool,
    /// Whether the first record is a header.
    pub(super) is_header: bool,
    pub(super) cells: Cells,
}

/// The columns of a prediction that follow its score.
#[derive(Debug)]
pub(super) struct Cells(Vec<Vec<u8>>);

impl Cells {
    fn new(delimiter: u8, has_out_of_range: bool, is_windowed: bool) -> Self {
        let delimiter = char::from(delimiter);
        let cells = (0..COMBINATIONS).map(|combination| {
            let is = |bit: usize| combination & (1 << bit) != 0;
            let mut cells = vec![if is(0) { "1" } else { "0" }.to_owned()];
            cells.push(
                match (is(1), is(0)) {
                    (true, _) => "Warming Up",
                    (false, true) => "Anomaly Detected",
                    (false, false) => "Normal Behaviour",
                }
                .to_owned(),
            );
            if has_out_of_range {
                cells.push(is(2).to_string());
            }
            if is_windowed {
                cells.push(is(3).to_string());
            }
            let cells: String = cells
                .iter()
                .map(|cell| format!("{delimiter}{cell}"))
                .collect();
            cells.into_bytes()
        });
        Self(cells.collect())
    }

    pub(super) fn of(&self, predicted: &Predicted) -> &[u8] {
        let combination = usize::from(predicted.is_anomaly)
            | usize::from(predicted.score.is_none()) << 1
            | usize::from(predicted.out_of_range) << 2
            | usize::from(predicted.alarm) << 3;
        &self.0[combination]
    }
}

impl Layout {
    /// Finds the columns by the names of the model's features, or `value` for one feature, in a header;
    /// or by their positions.
    pub(super) fn detect(first: &FirstRecord, model: &ServedModel) -> Result<Self, String> {
        let fields = &first.fields;
        let features = model.features();
        let names = &model.feature_names;
        let time = find(fields, |field| field.eq_ignore_ascii_case(TIME))?;
        let is_windowed = model.window.is_some();
        let has_out_of_range = is_windowed || model.out_of_range != OutOfRange::Score;
        let layout = |values, is_header| Self {
            delimiter: first.delimiter,
            columns: fields.len(),
            values,
            time,
            is_windowed,
            has_out_of_range,
            is_header,
            cells: Cells::new(first.delimiter, has_out_of_range, is_windowed),
        };
        let named = names
            .iter()
            .map(|name| find(fields, |field| field == name))
            .collect::<Result<Vec<_>, _>>()?;
        let is_any_named = named.iter().any(Option::is_some);
        if let Some(values) = named.into_iter().collect::<Option<Vec<_>>>()
            && !values.is_empty()
        {
            return Ok(layout(values, true));
        }
        if features == 1
            && let Some(value) = find(fields, |field| field.eq_ignore_ascii_case(VALUE))?
        {
            return Ok(layout(vec![value], true));
        }
        if fields.len() == features
            && fields
                .iter()
                .all(|field| finite(field.as_bytes()).is_some())
        {
            return Ok(layout((0..features).collect(), false));
        }
        // A field with a digit may be a mistyped reading, which must not be skipped silently.
        let is_name = |field: &String| !field.contains(|c: char| c.is_ascii_digit());
        let is_header = time.is_some() || is_any_named || fields.iter().all(is_name);
        let others: Vec<usize> = (0..fields.len()).filter(|&at| Some(at) != time).collect();
        if is_header && names.is_empty() && others.len() == features {
            return Ok(layout(others, true));
        }
        Err(match (is_header, names.as_slice()) {
            (true, []) if features == 1 => {
                format!("no column is named value; the columns are {}", list(fields))
            }
            (true, []) => format!(
                "the features of this model have no names, so beside time there must be {features} \
                 columns, one for each feature; the columns are {}",
                list(fields)
            ),
            (true, names) => {
                let missing = |name: &&String| !fields.contains(name);
                let missing: Vec<String> = names.iter().filter(missing).cloned().collect();
                format!(
                    "no column is named {}; the columns are {}",
                    list(&missing),
                    list(fields)
                )
            }
            (false, _) if fields.len() == features => {
                let wrong = fields
                    .iter()
                    .find(|field| finite(field.as_bytes()).is_none());
                number_problem(wrong.map_or(&[], |field| field.as_bytes()))
            }
            (false, names) => format!(
                "expected {} on each line (with a decimal point, not a comma), or a header with {}; \
                 got {} columns",
                match features {
                    1 => "one reading".to_owned(),
                    features => format!("{features} numbers"),
                },
                match names {
                    [] if features == 1 => "a column named value".to_owned(),
                    [] => format!("{features} columns"),
                    names => format!("columns named {}", list(names)),
                },
                fields.len()
            ),
        })
    }
}

/// The only field that satisfies `is_it`; `None` if no field does.
fn find(fields: &[String], is_it: impl Fn(&String) -> bool) -> Result<Option<usize>, String> {
    let mut found = (0..fields.len()).filter(|&at| is_it(&fields[at]));
    match (found.next(), found.next()) {
        (Some(first), Some(_)) => Err(format!(
            "two columns are named {}; rename one of them",
            excerpt(&fields[first])
        )),
        (first, _) => Ok(first),
    }
}

/// Names for a message.
fn list(names: &[String]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(MAX_LISTED)
        .map(|name| excerpt(name))
        .collect();
    let more = if names.len() > MAX_LISTED {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}
