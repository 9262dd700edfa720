//! The formats of blocklists, one file each, and what tells them apart. Pure: bytes in, a [`Reading`] out.

pub mod crowdsec;
mod csv;
mod cymru;
mod dat;
mod date;
mod detect;
mod dshield;
mod duration;
mod firehol;
mod ipset;
mod json;
mod lines;
mod nft;
mod nft_json;
mod nft_tokens;
mod p2p;
mod plain;
mod range;
mod spamhaus;
mod spamhaus_json;
mod span;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, BufRead, Cursor, Read as _};

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::reading::Reading;

/// Most bytes of a line, and of a string of JSON: more is no list, and would be held in memory.
pub const LONGEST_LINE: usize = 64 << 10;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// Bytes by which a format is told: the head of a FireHOL list takes three thousand.
const HEAD: usize = 16 << 10;

/// A format of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An address or prefix a line; comments after `#`, `;` or `//`
    Plain,
    /// Ranges, `192.0.2.4-192.0.2.8`, also in two columns and as decimal numbers
    Range,
    /// PeerGuardian's text, `Name:192.0.2.4-192.0.2.8`
    P2p,
    /// eMule's ipfilter.dat, `192.000.002.004 - 192.000.002.008 , 100 , name`
    Dat,
    /// Spamhaus DROP as text
    Spamhaus,
    /// Spamhaus DROP as JSON, an object a line
    SpamhausJson,
    /// FireHOL's .netset and .ipset
    Firehol,
    /// What `ipset save` prints
    Ipset,
    /// What `nft list set` and `nft list ruleset` print, nft scripts, lists with commas between
    Nft,
    /// What `nft -j list set` and `nft -j list ruleset` print
    NftJson,
    /// CrowdSec's decisions, as its local API answers
    Crowdsec,
    /// Team Cymru's fullbogons
    Cymru,
    /// DShield's block.txt
    Dshield,
    /// A table with a header, such as AbuseIPDB's
    Csv,
}

impl Format {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Range => "range",
            Self::P2p => "p2p",
            Self::Dat => "dat",
            Self::Spamhaus => "spamhaus",
            Self::SpamhausJson => "spamhaus-json",
            Self::Firehol => "firehol",
            Self::Ipset => "ipset",
            Self::Nft => "nft",
            Self::NftJson => "nft-json",
            Self::Crowdsec => "crowdsec",
            Self::Cymru => "cymru",
            Self::Dshield => "dshield",
            Self::Csv => "csv",
        }
    }

    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }
}

/// How a list is to be read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// The format; told by what is in the list if there is none.
    pub format: Option<Format>,
    /// Whether host bits are cleared; otherwise an entry that has some is refused.
    pub mask: bool,
    /// The column of a table that holds the addresses.
    pub column: Option<String>,
}

/// Reads all of a list, and tells which format it has. Columns are counted behind a byte order mark, if there is one.
///
/// # Errors
///
/// If it is no list, or not one of that format. What is wrong with single entries is told in the reading.
pub fn read(input: &mut dyn BufRead, options: &Options) -> Result<(Format, Reading), Unreadable> {
    let mut head = Vec::new();
    io::Read::take(&mut *input, HEAD as u64).read_to_end(&mut head)?;
    let is_all = head.len() < HEAD;
    detect::check(&head)?;
    if let Some(text) = head.strip_prefix(b"\xef\xbb\xbf") {
        head = text.to_vec();
        detect::check(&head)?;
    }
    let format = match options.format {
        Some(format) => format,
        None => detect::detect(&head, is_all, options.column.is_some())?,
    };
    let all = Cursor::new(head).chain(input);
    let mut reading = Reading::default();
    let (mask, told) = (options.mask, &mut reading);
    match format {
        Format::Plain => plain::read(all, mask, told, |_, _| {}),
        Format::Spamhaus => plain::read(all, mask, told, spamhaus::comment),
        Format::Firehol => plain::read(all, mask, told, firehol::comment),
        Format::Cymru => plain::read(all, mask, told, cymru::comment),
        Format::Range => range::read(all, mask, told),
        Format::P2p => p2p::read(all, told),
        Format::Dat => dat::read(all, told),
        Format::SpamhausJson => spamhaus_json::read(all, mask, told),
        Format::Ipset => ipset::read(all, told),
        Format::Nft => nft::read(all, mask, told),
        Format::NftJson => nft_json::read(all, mask, told),
        Format::Crowdsec => crowdsec::read(all, told),
        Format::Dshield => dshield::read(all, told),
        Format::Csv => csv::read(all, mask, options.column.as_deref(), told),
    }?;
    Ok((format, reading))
}

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
