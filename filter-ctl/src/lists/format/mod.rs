//! The formats of blocklists, one file each, and what tells them apart. Pure: bytes in, a [`Reading`] out.

pub mod crowdsec;
mod duration;
mod json;
mod text;

use std::io;

use thiserror::Error;

/// Most bytes of a line, and of a string of JSON: more is no list, and would be held in memory.
pub const LONGEST_LINE: usize = 64 << 10;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// Why a text can't be read as a list at all. What is wrong with single entries is in the [`Reading`].
///
/// [`Reading`]: super::reading::Reading
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is something else; what it looks like, for people.
    #[error("this is {0}, not a list of addresses")]
    NotAList(String),
    /// A line is so long that this can hardly be a list.
    #[error("line {line} is over {LONGEST_LINE} bytes long")]
    LongLine {
        /// From 1.
        line: u64,
    },
    /// There is no column of addresses, or not the one that was named; which there are, for people.
    #[error("{0}")]
    Column(String),
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is not JSON, though its format is.
    #[error("{line}:{column}: no JSON: {why}")]
    Json {
        /// From 1.
        line: u64,
        /// From 1, in bytes.
        column: u64,
        /// What is wrong there.
        why: String,
    },
}
