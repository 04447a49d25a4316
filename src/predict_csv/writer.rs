//! Writes the records of a chunk with their predictions.

use super::chunks::FirstRecord;
use super::layout::Layout;
use super::predictor::{Predicted, TooFar};
use super::readings::{Readings, RowKind};
use super::summary::{Problem, Tally};
use crate::registry::ServedModel;

/// The columns that are added.
const COLUMNS: [&str; 3] = ["anomaly_score", "prediction", "status"];

/// The status of a record without a prediction.
const UNREADABLE: &str = "Unreadable";

/// The mark that tells Excel that a file is in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The line with the names of all columns. If the file has none, its columns are named after the
/// features.
pub(super) fn header(
    layout: &Layout,
    first: &FirstRecord,
    model: &ServedModel,
    has_byte_order_mark: bool,
) -> Vec<u8> {
    let mut head = Vec::new();
    if has_byte_order_mark {
        head.extend_from_slice(BYTE_ORDER_MARK);
    }
    if layout.is_header {
        head.extend_from_slice(&first.text);
    } else {
        let names = (0..layout.columns).map(|column| match model.feature_names.get(column) {
            Some(name) => quoted(name, layout.delimiter),
            None if layout.columns == 1 => "value".to_owned(),
            None => format!("value_{column}"),
        });
        let delimiter = char::from(layout.delimiter).to_string();
        head.extend_from_slice(names.collect::<Vec<_>>().join(&delimiter).as_bytes());
    }
    let extra = [
        (layout.has_out_of_range, "out_of_range"),
        (layout.is_windowed, "alarm"),
    ];
    let extra = extra.into_iter().filter(|&(is_there, _)| is_there);
    for name in COLUMNS.into_iter().chain(extra.map(|(_, name)| name)) {
        head.push(layout.delimiter);
        head.extend_from_slice(name.as_bytes());
    }
    let line_end = match first.line_end {
        "" => "\n",
        // The rest of the line end is still to be written.
        "\r\n" if layout.is_header => "\r",
        line_end => line_end,
    };
    head.extend_from_slice(line_end.as_bytes());
    head
}

/// A field, in quotes if it needs them.
fn quoted(field: &str, delimiter: u8) -> String {
    if field.contains(['"', '\r', '\n', char::from(delimiter)]) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// The records of a chunk with their predictions.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) output: Vec<u8>,
    pub(super) tally: Tally,
    /// Why the file ends here.
    pub(super) fatal: Option<Problem>,
    /// Where the last record ends in the chunk.
    end: usize,
}

impl Written {
    /// Begins a chunk, in a buffer that is empty.
    pub(super) fn new(output: Vec<u8>) -> Self {
        Self {
            output,
            tally: Tally::default(),
            fatal: None,
            end: 0,
        }
    }

    /// Appends the next records of the chunk `bytes`.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        readings: &mut Readings,
        predictions: &[Result<Predicted, TooFar>],
        layout: &Layout,
    ) {
        let Self {
            output, tally, end, ..
        } = self;
        // Written before any of them is copied: a processor waits where bytes are read in one piece
        // right after they were written in several.
        let buffers = predictions.iter().map(|_| zmij::Buffer::new());
        let mut buffers: Vec<_> = buffers.collect();
        let scores = buffers.iter_mut().zip(predictions);
        let scores: Vec<&str> = scores.map(|(buffer, of)| score(of, buffer)).collect();
        let mut predictions = predictions.iter().zip(scores).enumerate();
        for row in &readings.rows {
            output.extend_from_slice(&bytes[*end..row.end]);
            *end = row.end;
            match row.kind {
                RowKind::Reading => {
                    match predictions.next() {
                        Some((parsed, (Ok(predicted), score))) => {
                            output.push(layout.delimiter);
                            output.extend_from_slice(score.as_bytes());
                            output.extend_from_slice(layout.cells.of(predicted));
                            tally.add(parsed, row.line, predicted, readings);
                        }
                        Some((_, (&Err(TooFar(value)), _))) => {
                            push_none(output, 0, UNREADABLE, layout);
                            tally.problems.add(row.line, || {
                            format!("expected a value nearer to the training readings, got {value:e}")
                        });
                        }
                        None => {}
                    }
                }
                RowKind::Unreadable(missing) => push_none(output, missing, UNREADABLE, layout),
                RowKind::Empty(missing) => push_none(output, missing, "", layout),
            }
        }
        tally.problems.merge(std::mem::take(&mut readings.problems));
    }

    /// Ends the chunk `bytes`, and the file if there is a reason for it.
    pub(super) fn finish(mut self, bytes: &[u8], fatal: Option<Problem>) -> Self {
        self.fatal = fatal;
        if self.fatal.is_none() {
            let rest = &bytes[self.end..];
            self.output.extend_from_slice(rest);
            if rest.is_empty() && self.end > 0 {
                // The last line of the file has no end.
                self.output.push(b'\n');
            }
        }
        self
    }
}

/// The score as text; empty while the model warms up.
fn score<'a>(of: &Result<Predicted, TooFar>, buffer: &'a mut zmij::Buffer) -> &'a str {
    let score = of.ok().and_then(|predicted| predicted.score);
    score.map_or("", |score| buffer.format_finite(score))
}

/// Fills a record that has no prediction and is so many fields too short.
fn push_none(output: &mut Vec<u8>, missing: usize, status: &str, layout: &Layout) {
    let mut push = |count| output.extend(std::iter::repeat_n(layout.delimiter, count));
    push(missing + COLUMNS.len());
    output.extend_from_slice(status.as_bytes());
    let extra = usize::from(layout.has_out_of_range) + usize::from(layout.is_windowed);
    output.extend(std::iter::repeat_n(layout.delimiter, extra));
}
