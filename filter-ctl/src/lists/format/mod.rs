//! Placeholder, to be replaced by the formats of lists: reads one address or prefix a line, and nothing else.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::items::Said;
use super::reading::Reading;
use crate::policy::Prefix;

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

/// Why a text can't be read as a list.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is something else.
    #[error("this is {0}, not a list of addresses")]
    NotAList(String),
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
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
