//! What a command and the daemon say to each other, a line of JSON each:
//!
//! 1. The command sends [`Request`], and behind it as many bytes of its standard input as that says.
//! 2. The daemon answers [`Answer::Ready`], or why it won't.
//! 3. The command sends [`GO`]. Only then is anything done. So whoever waits in vain for a daemon that hangs can go away and
//!    do it without, and the daemon, once it goes on, does not do it a second time.
//! 4. The daemon answers [`Answer::Done`].

use std::io::{BufRead, Read as _, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::output::Style;

/// The word that sets the daemon going.
pub const GO: &str = "go\n";

/// Longest line, in bytes: a command line of a million prefixes goes as standard input, and answers are cut by who makes
/// them.
pub const LONGEST_LINE: u64 = 256 << 20;

/// A command for the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Whose request it is: only the same build means the same by it.
    pub build: String,
    /// Where its user means the filter to be.
    pub place: Named,
    /// The command line, without the program's name.
    pub arguments: Vec<String>,
    /// What its output may look like.
    pub style: Style,
    /// Other ends of SSH sessions as the command sees them: a confined daemon may not look into other processes, and then
    /// knows only those on port 22. Heeded from root alone.
    pub ssh_peers: Vec<IpAddr>,
    /// Bytes of standard input that follow, if it takes any.
    pub input: Option<u64>,
}

/// What names a filter: two processes may see different things under the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The pin root.
    pub pin_root: PathBuf,
    /// The directory of the store.
    pub state: PathBuf,
    /// The network namespace and the pin root's file, as numbers; absent for who may not look.
    pub numbers: Option<[u64; 3]>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It waits for [`GO`].
    Ready,
    /// It is not for this daemon: the command does it without.
    NotMine(String),
    /// The user may not.
    Forbidden(String),
    /// It was done.
    Done {
        /// Standard output.
        out: String,
        /// Standard error.
        err: String,
        /// Exit code.
        exit: u8,
    },
}

/// Writes a message as a line.
///
/// # Errors
///
/// If it can't be written.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message).context("could not make JSON")?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}

/// Reads a message.
///
/// # Errors
///
/// If the other side is gone, or what comes is none.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead, longest: u64) -> Result<T> {
    let mut line = Vec::new();
    from.take(longest).read_until(b'\n', &mut line)?;
    ensure!(line.last() == Some(&b'\n'), "the other side went away, or said too much");
    serde_json::from_slice(&line).context("the other side said what means nothing")
}
