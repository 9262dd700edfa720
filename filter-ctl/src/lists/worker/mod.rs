//! Fetching and reading lists in a child without privileges: what goes to it, and what comes back. The parent runs as root
//! and trusts nothing that the child says; the child trusts nothing that it fetches.
//!
//! The child is this same program with [`WORD`] as its argument. It closes its jail first. Then one line of JSON comes on
//! its standard input, the [`Job`], so that no credential is ever in an argument or a variable; the bytes of a file follow
//! it. Its answer goes out in frames (`frame.rs`).

mod answer;
mod calls;
mod child;
mod fetch;
mod frame;
mod jail;
mod parent;
mod roots;
mod source;
mod unpack;
mod url;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::format::{Format, Options};
use super::reading::{About, Refused};

pub use child::entry;
pub use parent::{run, run_program};
pub use url::shown;

/// The first argument of the child. The second is `file` or `url`: whether its jail has a way to the network.
pub const WORD: &str = "list-worker";

/// What the child is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where the list is.
    pub source: Source,
    /// How it is read.
    pub options: Options,
    /// How much of it there may be.
    pub limits: Limits,
    /// How long all of it may take; then the child is killed.
    pub time_limit: Duration,
}

/// Where a list comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// From the parent, which has the file open: the child can open none.
    Stdin,
    /// From a server.
    Url {
        /// `https`; `http` too if it leads to this host itself, or is allowed.
        url: String,
        /// Headers that only this server may see, such as credentials.
        headers: Vec<(String, String)>,
        /// The `ETag` that came with what is there already.
        etag: Option<String>,
        /// The `Last-Modified` that came with what is there already, word for word.
        last_modified: Option<String>,
        /// Whether `http` is allowed, where everybody on the way can change the list.
        insecure_http: bool,
    },
}

impl std::fmt::Debug for Source {
    /// Without credentials: those are in headers, and in what follows the question mark of a URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("Stdin"),
            Self::Url { url, .. } => f.debug_struct("Url").field("url", &shown(url)).finish_non_exhaustive(),
        }
    }
}

/// How much of a list there may be, and how slow it may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the file, or on the wire.
    pub packed: u64,
    /// Bytes when unpacked.
    pub text: u64,
    /// Until there is a connection, with TLS.
    pub connect: Duration,
    /// Until the server has answered, and then for each piece of the list.
    pub patience: Duration,
    /// Bytes a second that must come at least, on average over `patience`.
    pub least_rate: u64,
    /// For all that a server sends.
    pub transfer: Duration,
}

impl Default for Limits {
    /// The largest public lists have some tens of megabytes. Text of 512 MiB is 128 bytes for each of the four million
    /// entries that a table can hold; half as much on the wire, since what is so large is packed. A line of 1 kB/s that
    /// holds for ten minutes is the slowest that brings a list worth having; what is slower holds a child for nothing.
    fn default() -> Self {
        Self {
            packed: 256 << 20,
            text: 512 << 20,
            connect: Duration::from_secs(15),
            patience: Duration::from_secs(20),
            least_rate: 1000,
            transfer: Duration::from_secs(600),
        }
    }
}

/// How far the child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes read so far, as they come: packed, if they are.
    pub bytes: u64,
    /// How many there will be, if that is known.
    pub total: Option<u64>,
}

/// What the child found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server says that the list is what it was.
    NotModified,
    /// A list.
    Read(Box<List>),
}

/// A list as the child read it, and the parent checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// What is said of it. Texts are fit for a terminal.
    pub summary: Summary,
    /// Its entries, in order, none twice: blocks as of [`block::blocks`](super::block::blocks), each of which decodes.
    pub blocks: Vec<Vec<u8>>,
}

/// What is said of a list beside its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its format.
    pub format: Format,
    /// The server's `ETag`, to ask with next time.
    pub etag: Option<String>,
    /// The server's `Last-Modified`, to ask with next time.
    pub last_modified: Option<String>,
    /// Bytes that were read: packed, if they were.
    pub bytes: u64,
    /// Prefixes in the blocks; the parent has counted them.
    pub prefixes: u64,
    /// Entries as the list has them.
    pub entries: u64,
    /// Entries left out since the same prefix was there.
    pub duplicates: u64,
    /// Prefixes that a wider one of the list covers.
    pub covered: u64,
    /// Entries of kinds that are none of ours.
    pub ignored: u64,
    /// Places that are no entries.
    pub refusals: u64,
    /// The first of these.
    pub refused: Vec<Refused>,
    /// What the list says of itself.
    pub about: About,
}

/// Why there is no list: for whom to blame, and as the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The job itself is not allowed, such as a URL without encryption.
    Refused,
    /// No name, no route, no connection, or one that broke.
    Unreachable,
    /// The server could not prove who it is.
    Tls,
    /// The server answered with a status that is no list.
    Status {
        /// As of HTTP.
        code: u16,
        /// Seconds after which the server wants to be asked again.
        retry_after_s: Option<u64>,
    },
    /// The server led on to where nobody may follow, or nowhere.
    Redirect,
    /// More than the limits allow.
    TooLarge,
    /// Slower than the limits allow.
    TooSlow,
    /// Less than was announced.
    CutShort,
    /// Packed in a way that can't be unpacked.
    Packed,
    /// Nothing that is a list.
    Unreadable,
    /// The parent could not read the file.
    Input,
    /// The child could not be started, or could not give up its privileges.
    Jail,
    /// The child died.
    Died,
    /// The child took too long as a whole.
    TimeLimit,
    /// The child answered what this program would not.
    Distrusted,
}

impl FailureKind {
    /// A word, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Status { .. } => "status",
            Self::Redirect => "redirect",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::CutShort => "cut_short",
            Self::Packed => "packed",
            Self::Unreadable => "unreadable",
            Self::Input => "input",
            Self::Jail => "jail",
            Self::Died => "died",
            Self::TimeLimit => "time_limit",
            Self::Distrusted => "distrusted",
        }
    }
}

/// Why there is no list.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What, why, and what to try; fit for a terminal.
    pub message: String,
}

impl Failure {
    fn new(kind: FailureKind, message: impl std::fmt::Display) -> Self {
        Self { kind, message: clean(&message.to_string(), LONGEST_MESSAGE) }
    }
}

/// Most characters of a message: some lines of a terminal.
const LONGEST_MESSAGE: usize = 1000;

/// A text of a stranger's for a terminal: cut, and without characters that move the cursor or turn the writing around.
fn clean(text: &str, longest: usize) -> String {
    let is_plain = |char: &char| {
        let hides = matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        !char.is_control() && !hides
    };
    text.chars().map(|char| if char == '\n' { ' ' } else { char }).filter(is_plain).take(longest).collect()
}
