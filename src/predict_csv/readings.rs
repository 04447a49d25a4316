//! The readings of a chunk.

use chrono::{DateTime, NaiveDateTime};

use super::layout::Layout;
use super::records::Records;
use super::summary::{Problem, Problems};
use crate::excerpt::excerpt;
use crate::training_data::columns_problem;

/// A record of a chunk.
#[derive(Debug)]
pub(super) struct Row {
    /// Where it ends in the chunk, without line ends. It begins where the row before ends, with the
    /// line ends between them.
    pub(super) end: usize,
    pub(super) line: u64,
    pub(super) kind: RowKind,
}

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// A reading, the next one in [`Readings::values`].
    Reading,
    /// Something that cannot be predicted, in a record that is so many fields too short.
    Unreadable(usize),
    /// Empty fields, in a record that is so many fields too short.
    Empty(usize),
}

/// Why a record is no reading.
enum Refusal {
    /// The record is at fault.
    Record(String),
    /// The file is, so that nothing after it can be trusted.
    File(String),
}

/// The texts of the times of all readings of a chunk; empty without a column of times.
#[derive(Debug, Default)]
pub(super) struct Times {
    text: Vec<u8>,
    /// Where each of them ends in the text.
    ends: Vec<usize>,
}

impl Times {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    pub(super) fn push(&mut self, time: &[u8]) {
        self.text.extend_from_slice(time);
        self.ends.push(self.text.len());
    }

    /// The time of a reading as the file writes it; empty if the reading has no time.
    pub(super) fn get(&self, reading: usize) -> &[u8] {
        let end = |at: Option<usize>| at.and_then(|at| self.ends.get(at)).copied().unwrap_or(0);
        let (start, end) = (end(reading.checked_sub(1)), end(Some(reading)));
        self.text.get(start..end).unwrap_or_default()
    }
}

/// Readings of a chunk.
#[derive(Debug, Default)]
pub(super) struct Readings {
    pub(super) rows: Vec<Row>,
    /// The values of all readings, one reading after the other.
    pub(super) values: Vec<f64>,
    /// Number of values of a reading.
    pub(super) width: usize,
    pub(super) times: Times,
    /// The times of all readings in milliseconds since 1970, if the model uses them.
    pub(super) milliseconds: Vec<Option<i64>>,
    /// The unreadable records, and how many there are.
    pub(super) problems: Problems,
    /// Why the file ends here.
    pub(super) fatal: Option<Problem>,
}

impl Readings {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            width: layout.values.len(),
            ..Self::default()
        }
    }

    /// Replaces the readings by those of the next records, at most `count`. Returns false after the
    /// last record.
    pub(super) fn parse(
        &mut self,
        records: &mut Records<'_>,
        count: usize,
        layout: &Layout,
    ) -> bool {
        self.rows.clear();
        self.values.clear();
        self.times.clear();
        self.milliseconds.clear();
        self.problems = Problems::default();
        while self.rows.len() < count
            && self.fatal.is_none()
            && let Some(record) = records.next(true)
        {
            let missing = layout.columns.saturating_sub(records.len());
            let kind = match self.parse_record(records, layout) {
                Ok(true) => RowKind::Reading,
                Ok(false) => RowKind::Empty(missing),
                Err(Refusal::Record(text)) => {
                    self.problems.add(record.line, || text);
                    RowKind::Unreadable(missing)
                }
                Err(Refusal::File(text)) => {
                    let line = record.line;
                    self.fatal = Some(Problem { line, text });
                    break;
                }
            };
            self.rows.push(Row {
                end: record.content.end,
                line: record.line,
                kind,
            });
        }
        !self.rows.is_empty()
    }

    /// Appends the reading of a record. Returns false if all of its fields are empty.
    fn parse_record(&mut self, records: &Records<'_>, layout: &Layout) -> Result<bool, Refusal> {
        let held = self.values.len();
        let refusal = match self.parse_values(records, layout) {
            Ok(milliseconds) => {
                if let Some(time) = layout.time {
                    self.times.push(records.field(time));
                }
                if layout.is_windowed {
                    self.milliseconds.push(milliseconds);
                }
                return Ok(true);
            }
            Err(refusal) => refusal,
        };
        self.values.truncate(held);
        match records.fields().all(<[u8]>::is_empty) {
            true => Ok(false),
            false => Err(refusal),
        }
    }

    /// Appends the values of a record, and returns its time if the model uses that.
    fn parse_values(
        &mut self,
        records: &Records<'_>,
        layout: &Layout,
    ) -> Result<Option<i64>, Refusal> {
        if records.len() != layout.columns {
            let problem = columns_problem(layout.columns, records.len());
            return Err(match has_split_number(records, layout) {
                false => Refusal::Record(problem),
                // Its problem asks for a decimal point already.
                true if layout.columns == 1 => Refusal::File(problem),
                true => Refusal::File(format!("{problem}; is this a number with a decimal comma?")),
            });
        }
        for &column in &layout.values {
            let field = records.field(column);
            match finite(field) {
                Some(value) => self.values.push(value),
                None if has_decimal_comma(field) => {
                    return Err(Refusal::File(number_problem(field)));
                }
                None => return Err(Refusal::Record(number_problem(field))),
            }
        }
        match layout.time.filter(|_| layout.is_windowed) {
            Some(time) => parse_time(records.field(time)).map_err(Refusal::Record),
            None => Ok(None),
        }
    }
}

/// Whether a decimal comma may have split a number: where a value should be there is a whole number, and
/// digits follow, in a record with too many fields.
fn has_split_number(records: &Records<'_>, layout: &Layout) -> bool {
    let are_digits = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    layout.delimiter == b','
        && records.len() > layout.columns
        && layout.values.iter().any(|&column| {
            let whole = records.field(column);
            are_digits(whole.strip_prefix(b"-").unwrap_or(whole))
                && are_digits(records.field(column + 1))
        })
}

fn text(field: &[u8]) -> Option<&str> {
    str::from_utf8(field).ok()
}

/// A finite number, as `--train` reads it.
pub(super) fn finite(field: &[u8]) -> Option<f64> {
    let parse = || {
        text(field)?
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
    };
    short_decimal(field).or_else(parse)
}

/// The number in a field of up to 15 digits, in a third of the time that any number takes; `None` for
/// any other field.
fn short_decimal(field: &[u8]) -> Option<f64> {
    const MAX_DIGITS: usize = 15;
    const POWERS: [f64; MAX_DIGITS + 1] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    ];
    let (is_negative, unsigned) = match field {
        [b'-', unsigned @ ..] => (true, unsigned),
        unsigned => (false, unsigned),
    };
    let (mut number, mut digits, mut point) = (0_u64, 0, None);
    for &byte in unsigned {
        match byte {
            b'0'..=b'9' if digits < MAX_DIGITS => {
                number = 10 * number + u64::from(byte - b'0');
                digits += 1;
            }
            b'.' if point.is_none() => point = Some(digits),
            _ => return None,
        }
    }
    let decimals = point.map_or(0, |point| digits - point);
    // Both are doubles without a rounding, so the quotient is the double next to the number.
    let number = number as f64 / POWERS[decimals];
    (digits > 0).then_some(if is_negative { -number } else { number })
}

fn has_decimal_comma(field: &[u8]) -> bool {
    let with_point = text(field).map(|text| text.replacen(',', ".", 1));
    field.contains(&b',') && with_point.is_some_and(|text| finite(text.as_bytes()).is_some())
}

/// The problem of a field that is no finite number.
pub(super) fn number_problem(field: &[u8]) -> String {
    let expected = match has_decimal_comma(field) {
        true => "a number with a decimal point, not a comma",
        false => "a finite number",
    };
    let field = String::from_utf8_lossy(field);
    format!("expected {expected}, got {:?}", excerpt(&field))
}

/// Parses a time, in milliseconds since 1970, rounded down; `None` for an empty field. Takes what
/// requests take, and also a time without an offset, which counts as UTC: exports have such times,
/// and only their differences matter.
fn parse_time(field: &[u8]) -> Result<Option<i64>, String> {
    if field.is_empty() {
        return Ok(None);
    }
    // The cast saturates, as in requests.
    let milliseconds = || finite(field).map(|number| number.floor() as i64);
    let parse = |text: &str| {
        DateTime::parse_from_rfc3339(text)
            .map(|time| time.to_utc())
            .or_else(|_| {
                NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                    .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
                    .map(|time| time.and_utc())
            })
            .ok()
            .map(|time| time.timestamp_millis())
    };
    let time = milliseconds().or_else(|| text(field).and_then(parse));
    time.map(Some).ok_or_else(|| {
        format!(
            "expected a time such as 2026-11-24T09:30:00Z, or a number of milliseconds since 1970, \
             got {:?}; to predict without times, rename the column time",
            excerpt(&String::from_utf8_lossy(field))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_decimals_are_the_numbers_that_rust_reads() {
        let mut state = 1_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let sign = if state & (1 << 40) == 0 { "" } else { "-" };
            let digits = (state >> 8) % 10_u64.pow((state >> 56) as u32 % 16);
            let mut text = format!("{sign}{digits}");
            let point = sign.len() + (state >> 50) as usize % (text.len() - sign.len() + 2);
            if point <= text.len() {
                text.insert(point, '.');
            }
            let number: f64 = text.parse().expect("a number");
            let short = short_decimal(text.as_bytes()).map(f64::to_bits);
            assert_eq!(short, Some(number.to_bits()), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "-.",
            "1..2",
            "+1",
            "1e5",
            "1 ",
            "1234567890123456",
            "NaN",
        ] {
            assert_eq!(short_decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn times_are_those_of_requests_or_have_no_offset() {
        for (text, expected) in [
            ("", None),
            ("1700000000000", Some(1_700_000_000_000)),
            ("-1.5", Some(-2)),
            ("1e300", Some(i64::MAX)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-15T03:43:20.5+05:30", Some(1_700_000_000_500)),
            ("2023-11-14T22:13:20", Some(1_700_000_000_000)),
            ("2023-11-14 22:13:20.123456", Some(1_700_000_000_123)),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Ok(expected), "{text}");
        }
        for text in [
            "noon",
            "14.11.2023 22:13:20",
            "2023-11-14",
            "2023-02-29T22:13:20",
        ] {
            let error = parse_time(text.as_bytes()).expect_err(text);
            assert!(error.contains(&format!("got {text:?}")), "{error}");
        }
    }
}
