//! The usual body of a large batch: `{"values": […]}` with nothing but JSON numbers in it.

use crate::http::limits::MAX_VALUES;

/// The numbers of a body `{"values": […]}` whose readings are plain numbers, or lists of them for
/// several features, one reading after the other. `None` for any other body, also for one that is
/// valid: the careful parsers read it, and word its errors.
///
/// One pass over the text, with no memory for each reading.
pub(in crate::http) fn plain_values(body: &[u8], features: usize) -> Option<Vec<f64>> {
    let mut text = Text(body);
    text.expect(b"{")?;
    text.expect(b"\"values\"")?;
    text.expect(b":")?;
    text.expect(b"[")?;
    // Most numbers have more digits, so this seldom grows.
    let mut values = Vec::with_capacity(text.0.len() / 8);
    let most = MAX_VALUES * features;
    loop {
        if values.len() == most {
            return None;
        }
        if features > 1 {
            text.expect(b"[")?;
            values.push(text.number()?);
            for _ in 1..features {
                text.expect(b",")?;
                values.push(text.number()?);
            }
            text.expect(b"]")?;
        } else {
            values.push(text.number()?);
        }
        if text.expect(b",").is_none() {
            break;
        }
    }
    text.expect(b"]")?;
    text.expect(b"}")?;
    text.skip_space();
    text.0.is_empty().then_some(values)
}

/// What is still to be read.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn expect(&mut self, token: &[u8]) -> Option<()> {
        self.skip_space();
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// A finite number.
    fn number(&mut self) -> Option<f64> {
        self.skip_space();
        let (length, is_whole) = number_length(self.0)?;
        let (number, rest) = self.0.split_at(length);
        self.0 = rest;
        let value: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        if !value.is_finite() {
            return None;
        }
        // To Python -0 is a whole number, and whole numbers have no negative zero.
        Some(if is_whole && value == 0.0 { 0.0 } else { value })
    }
}

/// The length of the JSON number that `text` begins with, and whether it is a whole number to Python.
fn number_length(text: &[u8]) -> Option<(usize, bool)> {
    let digits = |at: usize| {
        let digits = text.get(at..)?.iter();
        let count = digits.take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(at + count)
    };
    let start = usize::from(text.first() == Some(&b'-'));
    let mut end = digits(start)?;
    // No number begins with a zero and another digit.
    if text[start] == b'0' && end > start + 1 {
        return None;
    }
    let mut is_whole = true;
    if text.get(end) == Some(&b'.') {
        is_whole = false;
        end = digits(end + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(end) {
        is_whole = false;
        let sign = matches!(text.get(end + 1), Some(b'+' | b'-'));
        end = digits(end + 1 + usize::from(sign))?;
    }
    Some((end, is_whole))
}

#[cfg(test)]
mod tests {
    use super::super::predict_request::{PredictRequest, parse_rows, parse_values};
    use super::*;

    const NUMBERS: [&str; 30] = [
        "0",
        "-0",
        "-0.0",
        "0.0",
        "-0e5",
        "1",
        "-1",
        "12.5",
        "1e3",
        "1E-3",
        "1e+3",
        "0.1",
        "1e22",
        "1e23",
        "9007199254740993",
        "123456789012345678901234567890",
        "5e-324",
        "2.5e-324",
        "1.7976931348623157e308",
        "1e309",
        "1.",
        ".5",
        "01",
        "-",
        "+1",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "1_0",
    ];

    const TOKENS: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "\t",
        "\"values\"",
        "\"value\"",
        "\"explain\"",
        "true",
        "null",
        "\"1.5\"",
        "1.5",
        "-0",
        "2",
        "[1,2]",
        "[1, 2.5]",
        "\u{feff}",
        "\u{a0}",
        "{\"values\":[",
        "]}",
    ];

    /// What the careful parsers make of a body, where they make a batch of it.
    fn carefully(body: &str, features: usize) -> Option<Vec<u64>> {
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect();
        if features == 1 {
            return match parse_values(body.as_bytes()) {
                Ok((PredictRequest::Many(values), false)) => Some(bits(values)),
                _ => None,
            };
        }
        match parse_rows(body.as_bytes(), features, &[]) {
            Ok((PredictRequest::Many(rows), false)) => Some(bits(rows.concat())),
            _ => None,
        }
    }

    fn check(body: &str, features: usize) -> bool {
        let plain = plain_values(body.as_bytes(), features);
        let plain: Option<Vec<u64>> = plain.map(|v| v.into_iter().map(f64::to_bits).collect());
        if plain.is_some() {
            assert_eq!(plain, carefully(body, features), "{body}");
        }
        plain.is_some()
    }

    // Whatever it reads, the careful parsers read with the same bits; what they refuse it leaves to
    // them.
    #[test]
    fn plain_values_are_those_of_the_careful_parsers() {
        let mut read = 0;
        for number in NUMBERS {
            for (before, after) in [("", ""), (" ", "\r\n"), ("1,", ""), ("", ",\t2")] {
                let body = format!("{{\"values\":[{before}{number}{after}]}}");
                read += usize::from(check(&body, 1));
                let body = format!("{{ \"values\" : [[{before}{number}{after}]] }}\n");
                check(&body, 2);
                check(&format!("{{\"values\":[[1,{number}]{after}]}}"), 2);
            }
        }
        // The first 19 are numbers of JSON within the range of a double.
        assert_eq!(read, 4 * 19);
        assert!(check("{\"values\":[[1,2],[3,4.5e-3]]}", 2));

        let mut state = 1u64;
        let mut next = |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % n
        };
        let mut read = 0;
        for _ in 0..100_000 {
            // A good body with some tokens replaced, removed or added.
            let mut tokens = vec!["{", "\"values\"", ":", "[", "1.5", ",", "2", "]", "}"];
            if next(2) == 0 {
                tokens.splice(4..7, ["[1,2]", ",", "[1, 2.5]"]);
            }
            for _ in 0..next(3) {
                let (at, token) = (next(tokens.len()), TOKENS[next(TOKENS.len())]);
                match next(3) {
                    0 => tokens[at] = token,
                    1 => tokens.insert(at, token),
                    _ => drop(tokens.remove(at)),
                }
            }
            let body = tokens.concat();
            read += usize::from(check(&body, 1)) + usize::from(check(&body, 2));
        }
        assert!(read > 10_000, "{read}");
    }

    #[test]
    fn too_many_readings_are_left_to_the_careful_parsers() {
        let body = |count: usize| format!("{{\"values\":[{}]}}", vec!["1"; count].join(","));
        assert!(plain_values(body(MAX_VALUES).as_bytes(), 1).is_some());
        assert!(plain_values(body(MAX_VALUES + 1).as_bytes(), 1).is_none());
    }
}
