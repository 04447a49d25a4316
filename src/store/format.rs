//! Encodes a model as the bytes of a stored version, and decodes it.

use super::error::{EncodeError, FormatError};
use super::record::{FORMAT, Record};

/// The first bytes of every stored version; the number of the format and a line feed follow.
const MAGIC: &[u8] = b"iforest-server model ";

/// Encodes a record.
///
/// # Errors
///
/// [`EncodeError`] for a detector whose trees were dropped.
pub fn encode(record: &Record) -> Result<Vec<u8>, EncodeError> {
    let header = [MAGIC, format!("{FORMAT}\n").as_bytes()].concat();
    let mut bytes =
        postcard::to_extend(record, header).map_err(|error| EncodeError(error.to_string()))?;
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    Ok(bytes)
}

/// Decodes the bytes that [`encode`] wrote in this or an earlier version of the program.
///
/// # Errors
///
/// [`FormatError`] for any other bytes. A damaged record is never read in part.
pub fn decode(bytes: &[u8]) -> Result<Record, FormatError> {
    let damaged = |problem: &str| FormatError::Damaged(problem.to_owned());
    // Verify the checksum first: the format number of a damaged file cannot be trusted.
    let Some((content, checksum)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum does not match"));
    }
    let (format, body) = content
        .strip_prefix(MAGIC)
        .and_then(|rest| {
            let line_end = rest.iter().position(|&byte| byte == b'\n')?;
            Some((&rest[..line_end], &rest[line_end + 1..]))
        })
        .ok_or_else(|| damaged("it does not begin with the header of a model"))?;
    match std::str::from_utf8(format)
        .ok()
        .and_then(|format| format.parse().ok())
    {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(FormatError::Newer(newer)),
        _ => return Err(damaged("its format is not a positive number")),
    }
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(FormatError::Damaged(format!(
            "{} bytes are left over",
            rest.len()
        ))),
        Err(error) => Err(FormatError::Damaged(error.to_string())),
    }
}
