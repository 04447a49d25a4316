//! Reads bytes in chunks of whole records, in UTF-8.

use std::io::{ErrorKind, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::PredictCsvError;
use super::records::{Records, count_lines, end_of_last_record};

/// How much is read at a time, in bytes: a millisecond of work, and small enough for a processor's
/// cache. Less is taken as it comes, so that a slow input is predicted without delay.
const READ_SIZE: usize = 128 * 1024;

/// The longest record, in bytes. A thousand features with all their digits take 25 KB, and a quote
/// that is never closed must not fill the memory.
const MAX_RECORD: usize = 1024 * 1024;

/// Buffers that are used again: to return their memory to the system and to allocate it again would
/// take a fifth of the time.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Each buffer is added and removed in one step, so a poisoned lock holds valid ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer.
    pub(super) fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_default()
    }

    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.lock().push(buffer);
    }
}

/// Whole records, in UTF-8.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// The number of its first line.
    pub(super) line: u64,
}

/// The first record.
#[derive(Debug)]
pub(super) struct FirstRecord {
    pub(super) fields: Vec<String>,
    pub(super) delimiter: u8,
    pub(super) line: u64,
    /// All bytes up to its end, without the line end.
    pub(super) text: Vec<u8>,
    /// Where the next record begins, or the rest of a line end.
    pub(super) next: usize,
    /// The end of its line; empty at the end of the input.
    pub(super) line_end: &'static str,
}

/// The encoding of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// UTF-8, or another one that extends ASCII.
    Ascii,
    Utf16LittleEndian,
    Utf16BigEndian,
}

/// The chunks of an input.
pub(super) struct Chunks<R> {
    input: R,
    encoding: Encoding,
    has_byte_order_mark: bool,
    /// Bytes that are read and not yet part of a chunk, in UTF-8.
    pending: Vec<u8>,
    /// Bytes of UTF-16 that are not decoded yet: half a unit, or the first of two.
    undecoded: Vec<u8>,
    /// The number of the first line in `pending`.
    line: u64,
    is_at_end: bool,
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            encoding: Encoding::Ascii,
            has_byte_order_mark: false,
            pending: Vec::new(),
            undecoded: Vec::new(),
            line: 1,
            is_at_end: false,
        }
    }

    /// Whether the input began with a byte order mark or was in UTF-16.
    pub(super) fn has_byte_order_mark(&self) -> bool {
        self.has_byte_order_mark
    }

    /// Reads and returns the first record; `None` if the input has no records. The first chunk still
    /// contains the record.
    pub(super) fn first_record(&mut self) -> Result<Option<FirstRecord>, PredictCsvError> {
        // As long as the longest byte order mark, which a slow input may split.
        while self.pending.len() < 3 && !self.is_at_end {
            self.fill()?;
        }
        self.detect_encoding();
        loop {
            if let Some(first) = self.find_first_record() {
                return Ok(Some(first));
            }
            if self.is_at_end {
                return Ok(None);
            }
            self.check_length()?;
            self.fill()?;
        }
    }

    fn find_first_record(&self) -> Option<FirstRecord> {
        let is_blank = |line: &&[u8]| line.trim_ascii().is_empty();
        let mut lines = self.pending.split_inclusive(|&byte| byte == b'\n');
        let first_line = lines.find(|line| !is_blank(line))?;
        if !first_line.ends_with(b"\n") && !self.is_at_end {
            return None;
        }
        let delimiter = if first_line.contains(&b';') {
            b';'
        } else {
            b','
        };
        let mut records = Records::new(&self.pending, delimiter, self.line);
        loop {
            let record = records.next(self.is_at_end)?;
            if records.fields().all(<[u8]>::is_empty) {
                continue;
            }
            let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
            return Some(FirstRecord {
                fields: records.fields().map(text).collect(),
                delimiter,
                line: record.line,
                text: self.pending[..record.content.end].to_vec(),
                next: record.next,
                line_end: match &self.pending[record.content.end..] {
                    [b'\r', b'\n', ..] => "\r\n",
                    [b'\r', ..] => "\r",
                    [b'\n', ..] => "\n",
                    _ => "",
                },
            });
        }
    }

    /// Leaves out the first bytes of the first chunk.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.line += count_lines(&self.pending[..bytes]);
        self.pending.drain(..bytes);
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(
        &mut self,
        delimiter: u8,
        buffers: &Buffers,
    ) -> Result<Option<Chunk>, PredictCsvError> {
        loop {
            let end = match self.is_at_end {
                true => Some(self.pending.len()),
                false => end_of_last_record(&self.pending, delimiter),
            };
            if let Some(end) = end {
                let mut rest = buffers.take();
                rest.extend_from_slice(&self.pending[end..]);
                self.pending.truncate(end);
                let bytes = std::mem::replace(&mut self.pending, rest);
                let line = self.line;
                self.line += count_lines(&bytes);
                return Ok((!bytes.is_empty()).then_some(Chunk { bytes, line }));
            }
            self.check_length()?;
            self.fill()?;
        }
    }

    fn check_length(&self) -> Result<(), PredictCsvError> {
        if self.pending.len() <= MAX_RECORD {
            return Ok(());
        }
        let problem = format!(
            "the record that begins here is longer than {MAX_RECORD} bytes; is a quotation mark \
             not closed, or is this no CSV file?"
        );
        Err(PredictCsvError::Line {
            line: self.line,
            problem,
        })
    }

    /// Reads once.
    fn fill(&mut self) -> Result<(), PredictCsvError> {
        let target = match self.encoding {
            Encoding::Ascii => &mut self.pending,
            Encoding::Utf16LittleEndian | Encoding::Utf16BigEndian => &mut self.undecoded,
        };
        let held = target.len();
        target.resize(held + READ_SIZE, 0);
        let read = loop {
            match self.input.read(&mut target[held..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        target.truncate(held + read.as_ref().copied().unwrap_or(0));
        self.is_at_end = read.map_err(PredictCsvError::Read)? == 0;
        self.decode();
        Ok(())
    }

    /// Detects the encoding from the first bytes, as [`encoding::decode`](crate::encoding::decode)
    /// does, and leaves out the byte order mark.
    fn detect_encoding(&mut self) {
        let (encoding, mark) = match *self.pending {
            [0xEF, 0xBB, 0xBF, ..] => (Encoding::Ascii, 3),
            [0xFF, 0xFE, ..] => (Encoding::Utf16LittleEndian, 2),
            [0xFE, 0xFF, ..] => (Encoding::Utf16BigEndian, 2),
            [_, 0, ..] => (Encoding::Utf16LittleEndian, 0),
            [0, _, ..] => (Encoding::Utf16BigEndian, 0),
            _ => (Encoding::Ascii, 0),
        };
        self.encoding = encoding;
        self.has_byte_order_mark = mark > 0 || encoding != Encoding::Ascii;
        self.pending.drain(..mark);
        if self.encoding != Encoding::Ascii {
            self.undecoded = std::mem::take(&mut self.pending);
            self.decode();
        }
    }

    /// Moves whole characters of UTF-16 to `pending`. Invalid units become U+FFFD.
    fn decode(&mut self) {
        let unit = match self.encoding {
            Encoding::Ascii => return,
            Encoding::Utf16LittleEndian => u16::from_le_bytes,
            Encoding::Utf16BigEndian => u16::from_be_bytes,
        };
        let (pairs, _) = self.undecoded.as_chunks::<2>();
        let is_first_of_two = |&pair: &[u8; 2]| matches!(unit(pair), 0xD800..0xDC00);
        let held_back = usize::from(pairs.last().is_some_and(is_first_of_two) && !self.is_at_end);
        let whole = pairs.len() - held_back;
        let units = pairs[..whole].iter().map(|&pair| unit(pair));
        for character in char::decode_utf16(units) {
            let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
            let mut bytes = [0; 4];
            self.pending
                .extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
        }
        self.undecoded.drain(..2 * whole);
    }
}
