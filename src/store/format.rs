//! The bytes of a stored model.

use thiserror::Error;

use super::Record;

/// The format written. Older ones, once there are any, must stay readable.
const FORMAT: u32 = 1;

/// What every stored model begins with; the format and a line feed follow.
const MAGIC: &[u8] = b"iforest-server model ";

/// Why bytes are not a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Whole, but of a format that this program does not know yet.
    #[error(
        "it is of format {0}, from a newer version of this program, which reads up to {FORMAT}"
    )]
    Newer(u32),
}

/// A record that could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the model has no stored form: {0}")]
pub struct EncodeError(String);

/// The bytes of a record.
///
/// # Errors
///
/// [`EncodeError`] for a detector whose trees were dropped.
pub fn encode(record: &Record) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(format!("{FORMAT}\n").bytes());
    let mut bytes =
        postcard::to_extend(record, bytes).map_err(|error| EncodeError(error.to_string()))?;
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    Ok(bytes)
}

/// Reads what [`encode`] wrote, now or in an earlier version of this program.
///
/// # Errors
///
/// [`FormatError`] for anything else: nothing is read in part.
pub fn decode(bytes: &[u8]) -> Result<Record, FormatError> {
    let damaged = |problem: &str| FormatError::Damaged(problem.to_owned());
    // The checksum comes first: only of a whole file is it known what its format says.
    let Some((content, checksum)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum does not match"));
    }
    let rest = content.strip_prefix(MAGIC);
    let line_end = rest.and_then(|rest| Some((rest, rest.iter().position(|&b| b == b'\n')?)));
    let (rest, line_end) = line_end.ok_or_else(|| damaged("it does not begin as a model"))?;
    let format = std::str::from_utf8(&rest[..line_end]).ok();
    match format.and_then(|format| format.parse().ok()) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(FormatError::Newer(newer)),
        _ => return Err(damaged("its format is not a number from 1")),
    }
    match postcard::take_from_bytes(&rest[line_end + 1..]) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(FormatError::Damaged(format!(
            "{} bytes are left over",
            rest.len()
        ))),
        Err(error) => Err(FormatError::Damaged(error.to_string())),
    }
}
