//! Encodes a model as the bytes of a stored version, and decodes it.
//!
//! The checksum of a version is verified before anything else is read, so an accident never gets
//! past it. Bytes with the right checksum may still be crafted: no length in them is trusted, and no
//! allocation exceeds a small multiple of the bytes that are there.

use super::error::{EncodeError, FormatError};
use super::format_1::Record1;
use super::record::{Metadata, Record};
use crate::detector::{Detector, DistanceParts, HeldBack, Window};

/// The format that is written. The program reads all earlier formats too.
pub(super) const FORMAT: u32 = 2;

/// The first bytes of every stored version; the number of the format and a line feed follow.
const MAGIC: &[u8] = b"iforest-server model ";

/// The section that describes the model in JSON. It is the first one, and the checksum of the
/// metadata block follows it.
const METADATA: &str = "metadata";

/// The section that holds the detector in postcard's encoding.
const DETECTOR: &str = "detector";

/// The sections of models that have these parts, in postcard's encoding. A release that does not know
/// them does not serve such a model, since it would predict otherwise.
const DISTANCE: &str = "distance";
const HELD_BACK: &str = "held-back";
const WINDOW: &str = "window";

/// Digits of a section's length. Their number is fixed, so that the length can be filled in after the
/// section is written.
const LENGTH_DIGITS: usize = 10;

/// Longest name of a section.
const MAX_SECTION_NAME: usize = 32;

/// Longest metadata that are read. Those of 1,024 features with names of 128 bytes, the most that a
/// request can give, take less than 1 MiB.
const MAX_METADATA: usize = 16 * 1024 * 1024;

/// Encodes a record.
///
/// # Errors
///
/// [`EncodeError`] for a detector whose trees were dropped.
pub fn encode(record: &Record) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = [MAGIC, format!("{FORMAT}\n").as_bytes()].concat();
    bytes = push_section(bytes, METADATA, |mut bytes| {
        serde_json::to_writer(&mut bytes, &record.metadata())
            .map_err(|error| EncodeError(error.to_string()))?;
        Ok(bytes)
    })?;
    push_checksum(&mut bytes);
    bytes = push_section(bytes, DETECTOR, |bytes| {
        postcard::to_extend(&record.detector, bytes).map_err(|error| EncodeError(error.to_string()))
    })?;
    bytes = push_if_some(bytes, DISTANCE, record.detector.distance_parts())?;
    bytes = push_if_some(bytes, HELD_BACK, record.held_back)?;
    bytes = push_if_some(bytes, WINDOW, record.window.as_ref())?;
    push_checksum(&mut bytes);
    Ok(bytes)
}

/// Appends a section in postcard's encoding, if the model has that part.
fn push_if_some(
    bytes: Vec<u8>,
    name: &str,
    part: Option<impl serde::Serialize>,
) -> Result<Vec<u8>, EncodeError> {
    match part {
        Some(part) => push_section(bytes, name, |bytes| {
            postcard::to_extend(&part, bytes).map_err(|error| EncodeError(error.to_string()))
        }),
        None => Ok(bytes),
    }
}

/// Appends a section, whose content `write` appends.
fn push_section(
    mut bytes: Vec<u8>,
    name: &str,
    write: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    bytes.extend(format!("{name} {:0LENGTH_DIGITS$} ", 0).into_bytes());
    let start = bytes.len();
    let mut bytes = write(bytes)?;
    let length = format!("{:0LENGTH_DIGITS$} ", bytes.len() - start);
    if length.len() > LENGTH_DIGITS + 1 {
        return Err(EncodeError("it is too large".to_owned()));
    }
    bytes[start - length.len()..start].copy_from_slice(length.as_bytes());
    bytes.push(b'\n');
    Ok(bytes)
}

fn push_checksum(bytes: &mut Vec<u8>) {
    let checksum = crc32fast::hash(bytes);
    bytes.extend(checksum.to_le_bytes());
}

/// Decodes the bytes that [`encode`] wrote in this or an earlier version of the program.
///
/// # Errors
///
/// [`FormatError`] for any other bytes. A damaged record is never read in part.
pub fn decode(bytes: &[u8]) -> Result<Record, FormatError> {
    // Verify the checksum first: the format number of a damaged file cannot be trusted.
    let content = strip_checksum(bytes)?;
    let (format, body) = split_format(content)?;
    let record = match format {
        1 => decode_postcard::<Record1>(body)?.into(),
        FORMAT => decode_sections(content, body)?,
        newer if newer > FORMAT => return Err(FormatError::Newer(newer)),
        _ => return Err(FormatError::damaged("its format is not a positive number")),
    };
    record.check().map_err(FormatError::damaged)?;
    Ok(record)
}

/// What the first bytes of a version tell of its metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataPrefix {
    /// The metadata.
    Complete(Box<Metadata>),
    /// The metadata take this many bytes from the start of the version.
    Needs(usize),
    /// The metadata cannot be read alone: decode the whole version.
    Absent,
}

/// Decodes the metadata from the first bytes of a version, without the rest of it.
///
/// Metadata that it returns have the right checksum.
pub fn decode_metadata(bytes: &[u8]) -> MetadataPrefix {
    let Ok((FORMAT, body)) = split_format(bytes) else {
        return MetadataPrefix::Absent;
    };
    let Ok((METADATA, length, rest)) = split_section_header(body) else {
        return MetadataPrefix::Absent;
    };
    if length > MAX_METADATA {
        return MetadataPrefix::Absent;
    }
    let needs = bytes.len() - rest.len() + length + "\n".len() + size_of::<u32>();
    let Some(block) = bytes.get(..needs) else {
        return MetadataPrefix::Needs(needs);
    };
    match strip_checksum(block).map(|_| serde_json::from_slice(&rest[..length])) {
        Ok(Ok(metadata)) => MetadataPrefix::Complete(Box::new(metadata)),
        _ => MetadataPrefix::Absent,
    }
}

/// Verifies and strips the checksum at the end.
fn strip_checksum(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (content, checksum) = bytes
        .split_last_chunk::<4>()
        .ok_or_else(|| FormatError::damaged("it is too short"))?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(FormatError::damaged("its checksum does not match"));
    }
    Ok(content)
}

/// Splits off the first line; returns the format that it names.
fn split_format(content: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let (format, body) = content
        .strip_prefix(MAGIC)
        .and_then(|rest| {
            let line_end = rest.iter().position(|&byte| byte == b'\n')?;
            Some((&rest[..line_end], &rest[line_end + 1..]))
        })
        .ok_or_else(|| FormatError::damaged("it does not begin with the header of a model"))?;
    let format = std::str::from_utf8(format)
        .ok()
        .and_then(|format| format.parse().ok())
        .ok_or_else(|| FormatError::damaged("its format is not a positive number"))?;
    Ok((format, body))
}

/// Decodes the sections of format 2. `content` is the version without its checksum, and `body` what
/// follows its first line.
fn decode_sections(content: &[u8], body: &[u8]) -> Result<Record, FormatError> {
    let (METADATA, metadata, block_end) = split_section(body)? else {
        return Err(FormatError::damaged("it does not begin with its metadata"));
    };
    let (_, mut rest) = block_end
        .split_first_chunk::<4>()
        .ok_or_else(|| FormatError::damaged("its metadata are cut short"))?;
    strip_checksum(&content[..content.len() - rest.len()])
        .map_err(|_| FormatError::damaged("the checksum of its metadata does not match"))?;
    let metadata: Metadata = serde_json::from_slice(metadata)
        .map_err(|error| FormatError::damaged(format!("its metadata: {error}")))?;

    let mut detector: Option<Detector> = None;
    let mut distance: Option<DistanceParts<'_>> = None;
    let mut held_back: Option<HeldBack> = None;
    let mut window: Option<Window> = None;
    while !rest.is_empty() {
        let (name, section, next) = split_section(rest)?;
        match name {
            DETECTOR if detector.is_none() => detector = Some(decode_postcard(section)?),
            DISTANCE if distance.is_none() => distance = Some(decode_postcard(section)?),
            HELD_BACK if held_back.is_none() => held_back = Some(decode_postcard(section)?),
            WINDOW if window.is_none() => window = Some(decode_postcard(section)?),
            DETECTOR | DISTANCE | HELD_BACK | WINDOW | METADATA => {
                return Err(FormatError::damaged("a section is in it twice"));
            }
            unknown => return Err(FormatError::UnknownSection(unknown.to_owned())),
        }
        rest = next;
    }
    let mut detector = detector.ok_or_else(|| FormatError::damaged("it has no detector"))?;
    if let Some(parts) = distance {
        detector = detector
            .with_distance_parts(parts)
            .map_err(FormatError::damaged)?;
    }
    let record = Record {
        detector,
        window,
        held_back,
        feature_names: metadata.feature_names.clone(),
        settings: metadata.settings.clone(),
        trained_at: metadata.trained_at,
        restored_from: metadata.restored_from,
    };
    if record.metadata() != metadata {
        let problem = "its metadata are not those of its detector";
        return Err(FormatError::damaged(problem));
    }
    Ok(record)
}

/// Splits off a section: its name, its content, and what follows it.
fn split_section(bytes: &[u8]) -> Result<(&str, &[u8], &[u8]), FormatError> {
    let (name, length, rest) = split_section_header(bytes)?;
    let (section, rest) = rest
        .split_at_checked(length)
        .ok_or_else(|| FormatError::damaged("a section is cut short"))?;
    let rest = rest
        .strip_prefix(b"\n")
        .ok_or_else(|| FormatError::damaged("a section does not end with a line feed"))?;
    Ok((name, section, rest))
}

/// Splits off the header of a section: its name, its length, and what follows.
fn split_section_header(bytes: &[u8]) -> Result<(&str, usize, &[u8]), FormatError> {
    let header = || {
        let name_end = bytes
            .iter()
            .take(MAX_SECTION_NAME + 1)
            .position(|&byte| byte == b' ')?;
        let (name, rest) = bytes.split_at(name_end);
        let (length, rest) = rest[1..].split_at_checked(LENGTH_DIGITS)?;
        let rest = rest.strip_prefix(b" ")?;
        // A log line may show the name, so it holds no control characters.
        let is_name = !name.is_empty()
            && name
                .iter()
                .all(|&byte| byte.is_ascii_lowercase() || byte == b'-');
        let is_length = length.iter().all(u8::is_ascii_digit);
        if !(is_name && is_length) {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        let length = std::str::from_utf8(length).ok()?.parse().ok()?;
        Some((name, length, rest))
    };
    header().ok_or_else(|| FormatError::damaged("a section has no header"))
}

/// Decodes postcard that takes all the bytes.
fn decode_postcard<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, FormatError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FormatError::damaged(format!(
            "{} bytes are left over",
            rest.len()
        ))),
        Err(error) => Err(FormatError::damaged(error.to_string())),
    }
}
