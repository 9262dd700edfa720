//! What an operator says of a list: where it comes from, what it does, how it is kept up to date and within what bounds.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::format::{Format, Options};
use super::guards::Bounds;
use crate::policy::{Action, Owner, OwnerError};

/// Shortest time between two scheduled fetches: what publishers of daily lists tolerate at most (Spamhaus bans who fetches
/// more often than hourly; CrowdSec and Cymru allow minutes).
pub const SHORTEST_REFRESH: Duration = Duration::from_secs(60);

/// A list's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What its entries do.
    pub action: Action,
    /// Where it comes from.
    pub source: Source,
    /// The format, if it is named; otherwise it is recognised each time.
    pub format: Option<Format>,
    /// The column of a CSV file.
    pub column: Option<String>,
    /// Whether host bits are cleared.
    pub mask: bool,
    /// Seconds between two scheduled fetches by the daemon; never, if none.
    pub refresh_s: Option<u64>,
    /// What a new generation must keep to.
    pub bounds: Bounds,
}

/// Where a list comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A file of this host.
    File(PathBuf),
    /// A server.
    Url {
        /// The address, which may hold a secret in its query: only the store has it.
        url: String,
        /// File with lines of headers, such as `Authorization: Bearer …`, which the store does not have.
        headers: Option<PathBuf>,
    },
}

impl Settings {
    /// How the list is to be read.
    pub fn options(&self) -> Options {
        Options { format: self.format, mask: self.mask, column: self.column.clone() }
    }
}

/// The owner of what a list of this name holds.
///
/// # Errors
///
/// If it can't be a list's name: too long, or with other characters than owners have.
pub fn owner_of(name: &str) -> Result<Owner, OwnerError> {
    let is_name = !name.is_empty() && !name.contains([':', '/', '@']);
    let owner = if is_name { format!("{}{name}", Owner::LIST) } else { String::new() };
    Owner::parse(&owner).map_err(|_| OwnerError::of_list(name))
}
