//! The records of a chunk, and where they lie in it.

use std::ops::Range;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// Where a record lies in its chunk.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Its bytes, without line ends.
    pub(super) content: Range<usize>,
    /// Where the next record begins, or the rest of a line end.
    pub(super) next: usize,
    /// The line on which it begins, counted from 1.
    pub(super) line: u64,
}

/// Reads records one after the other, with the dialect of the crate `csv`. Unlike that crate, it says
/// where each record lies, so that it can be written as it was.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    delimiter: u8,
    position: usize,
    line: u64,
    /// Reads records where quotes occur; without any, to search for line ends and delimiters takes a
    /// third of the time.
    quoted: Option<Quoted>,
    /// Where the first field of the last record begins, in the bytes or in [`Quoted::fields`].
    start: usize,
    /// Where each of its fields ends there.
    ends: Vec<usize>,
    /// How many fields it has.
    count: usize,
}

/// A reader of records with quotes.
struct Quoted {
    reader: Reader,
    /// The fields of the last record, one after the other, without their quotes.
    fields: Vec<u8>,
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8], delimiter: u8, line: u64) -> Self {
        let quoted = || Quoted {
            reader: ReaderBuilder::new().delimiter(delimiter).build(),
            fields: vec![0; 1024],
        };
        Self {
            bytes,
            delimiter,
            position: 0,
            line,
            quoted: has_quotes(bytes).then(quoted),
            start: 0,
            ends: vec![0; 32],
            count: 0,
        }
    }

    /// The next record, skipping empty lines. The end of the bytes ends the last one if `is_all`, that
    /// is, if nothing follows these bytes.
    pub(super) fn next(&mut self, is_all: bool) -> Option<Record> {
        match self.quoted {
            Some(_) => self.next_quoted(is_all),
            None => self.next_plain(is_all),
        }
    }

    fn next_plain(&mut self, is_all: bool) -> Option<Record> {
        let rest = &self.bytes[self.position..];
        let (leading, lines) = line_ends(rest.iter());
        let content = &rest[leading..];
        let length = match memchr::memchr2(b'\r', b'\n', content) {
            Some(length) => length,
            None if is_all && !content.is_empty() => content.len(),
            None => return None,
        };
        self.start = self.position + leading;
        let end = self.start + length;
        self.ends.clear();
        let delimiters = memchr::memchr_iter(self.delimiter, &content[..length]);
        self.ends.extend(delimiters.map(|at| self.start + at));
        self.ends.push(end);
        self.count = self.ends.len();
        let line = self.line + lines;
        self.line = line + u64::from(content.get(length) == Some(&b'\n'));
        // Like the reader of quotes, it takes one byte of a line end.
        self.position = (end + 1).min(self.bytes.len());
        Some(Record {
            content: self.start..end,
            next: self.position,
            line,
        })
    }

    fn next_quoted(&mut self, is_all: bool) -> Option<Record> {
        let Quoted { reader, fields } = self.quoted.as_mut()?;
        let start = self.position;
        let (mut written, mut ended) = (0, 0);
        loop {
            let rest = &self.bytes[self.position..];
            if rest.is_empty() && !is_all {
                return None;
            }
            let (result, read, bytes, ends) =
                reader.read_record(rest, &mut fields[written..], &mut self.ends[ended..]);
            self.position += read;
            written += bytes;
            ended += ends;
            match result {
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return None,
                // An empty rest then ends the record.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => fields.resize(2 * fields.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
            }
        }
        self.count = ended;
        let slice = &self.bytes[start..self.position];
        let (leading, lines) = line_ends(slice.iter());
        let (trailing, _) = line_ends(slice[leading..].iter().rev());
        let line = self.line + lines;
        self.line = line + count_lines(&slice[leading..]);
        Some(Record {
            content: start + leading..self.position - trailing,
            next: self.position,
            line,
        })
    }

    /// Number of fields of the last record.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// A field of the last record, without surrounding white space.
    pub(super) fn field(&self, index: usize) -> &[u8] {
        let (source, gap) = match &self.quoted {
            Some(quoted) => (quoted.fields.as_slice(), 0),
            None => (self.bytes, 1),
        };
        let start = match index {
            0 => self.start,
            index => self.ends[index - 1] + gap,
        };
        source[start..self.ends[index]].trim_ascii()
    }

    /// The fields of the last record.
    pub(super) fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|index| self.field(index))
    }
}

/// The end of the last complete record in `bytes`; `None` if no record is complete.
pub(super) fn end_of_last_record(bytes: &[u8], delimiter: u8) -> Option<usize> {
    if !has_quotes(bytes) {
        return memchr::memrchr(b'\n', bytes).map(|at| at + 1);
    }
    let mut records = Records::new(bytes, delimiter, 1);
    let mut end = None;
    while let Some(record) = records.next(false) {
        end = Some(record.next);
    }
    end
}

/// Number of line feeds.
pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn has_quotes(bytes: &[u8]) -> bool {
    memchr::memchr(b'"', bytes).is_some()
}

/// The number of bytes at the beginning that end lines, and how many lines they end.
fn line_ends<'a>(bytes: impl Iterator<Item = &'a u8>) -> (usize, u64) {
    let (mut count, mut lines) = (0, 0);
    for &byte in bytes {
        if !matches!(byte, b'\r' | b'\n') {
            break;
        }
        count += 1;
        lines += u64::from(byte == b'\n');
    }
    (count, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a text: their fields, where they lie, and on which line.
    fn all(records: &mut Records<'_>) -> Vec<(Vec<Vec<u8>>, Range<usize>, u64)> {
        let mut all = Vec::new();
        while let Some(record) = records.next(true) {
            let fields = records.fields().map(<[u8]>::to_vec).collect();
            all.push((fields, record.content, record.line));
        }
        all
    }

    fn fields(records: &mut Records<'_>) -> Vec<Vec<Vec<u8>>> {
        all(records)
            .into_iter()
            .map(|(fields, ..)| fields)
            .collect()
    }

    // Texts without quotes are read in another way.
    #[test]
    fn texts_without_quotes_are_read_as_by_the_reader_of_quotes() {
        let mut state = 1_u64;
        for length in 0..2000 {
            let text: Vec<u8> = (0..length % 40)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    b"\n\n\r,,ab 1"[(state >> 33) as usize % 9]
                })
                .collect();
            let plain = all(&mut Records::new(&text, b',', 1));
            let mut records = Records::new(b"\"", b',', 1);
            records.bytes = &text;
            assert_eq!(
                plain,
                all(&mut records),
                "{:?}",
                String::from_utf8_lossy(&text)
            );
            // The same records come from two chunks.
            let (chunk, rest) = text.split_at(end_of_last_record(&text, b',').unwrap_or(0));
            let chunks = [chunk, rest].map(|chunk| fields(&mut Records::new(chunk, b',', 1)));
            let whole = fields(&mut Records::new(&text, b',', 1));
            assert_eq!(
                chunks.concat(),
                whole,
                "{:?}",
                String::from_utf8_lossy(&text)
            );
        }
    }

    #[test]
    fn a_record_with_quotes_may_have_several_lines() {
        let text = b"a,\"b\r\n\"\"c\"\"\"\r\n\r\nd, e ,\"f\ng";
        let mut records = Records::new(text, b',', 7);
        let expected = [
            (vec![b"a".to_vec(), b"b\r\n\"c\"".to_vec()], 0..12, 7),
            (
                vec![b"d".to_vec(), b"e".to_vec(), b"f\ng".to_vec()],
                16..26,
                10,
            ),
        ];
        assert_eq!(all(&mut records), expected);
        assert_eq!(end_of_last_record(text, b','), Some(13));
        assert_eq!(end_of_last_record(b"a,\"b\n", b','), None);
        assert_eq!(end_of_last_record(b"a\nb", b','), Some(2));
    }
}
