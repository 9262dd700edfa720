//! The formats of blocklists, one file each, and what tells them apart. Pure: bytes in, a [`Reading`] out.

pub mod crowdsec;
mod duration;
mod json;
mod text;

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use super::items::Said;
use super::reading::Reading;
use crate::policy::Prefix;

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

/// A format of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An address or prefix a line; a comment from `#` or `;`.
    Plain,
}

impl Format {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        "plain"
    }
}

/// How a list is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The format; told from the text, if none.
    pub format: Option<Format>,
    /// Clear host bits.
    pub mask: bool,
    /// The column of addresses.
    pub column: Option<String>,
}

/// Reads a list.
///
/// # Errors
///
/// [`Unreadable`] if it is none.
pub fn read(input: &mut dyn BufRead, options: &Options) -> Result<(Format, Reading), Unreadable> {
    let mut reading = Reading::default();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        if number == 1 && line.trim_start().starts_with('<') {
            return Err(Unreadable::NotAList("a web page".into()));
        }
        let entry = line.split(['#', ';']).next().unwrap_or("").trim();
        if entry.is_empty() {
            continue;
        }
        match Prefix::parse(entry, options.mask) {
            Ok(prefix) => reading.entry(prefix, Said::default()),
            Err(error) => reading.refuse(number, 1, entry, error),
        }
    }
    Ok((Format::Plain, reading))
}
