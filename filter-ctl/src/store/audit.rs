//! The audit log: who changed what, when, by which command. Only ever appended to; triggers see to that.

use std::fmt;

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::{Store, wall_now_s};

/// Prefixes of a change that are written down one by one; of more the rest is counted.
pub const MOST_NAMED: usize = 100;

/// Lines that are kept, as the trigger in the schema has it: some 300 MB at most, years of an operator's changes.
const KEPT: i64 = 1_000_000;

/// How a change came to filter-ctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// A command that did it itself.
    Command,
    /// The daemon's socket.
    Socket,
    /// The daemon, of its own accord.
    Daemon,
}

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Effective user id.
    pub uid: u32,
    /// Its name, if the host knows one.
    pub user: Option<String>,
    /// Name or number of the user who logged in, before any sudo: `/proc/PID/loginuid`.
    pub login: Option<String>,
    /// Process id.
    pub pid: u32,
    /// How it came here.
    pub via: Via,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.clone().unwrap_or_else(|| self.uid.to_string());
        match &self.login {
            Some(login) if *login != user => write!(f, "{user} (logged in as {login})"),
            _ => write!(f, "{user}"),
        }
    }
}

/// A line to be written.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who.
    pub actor: Actor,
    /// The command line, or what the daemon did.
    pub command: String,
    /// What changed, as JSON.
    pub change: serde_json::Value,
}

/// A line as it was written.
#[derive(Clone, Debug, Serialize)]
pub struct Audited {
    /// Number, from 1.
    pub id: i64,
    /// When, in seconds since 1970.
    pub at_s: i64,
    /// Who.
    pub actor: Actor,
    /// The command line.
    pub command: String,
    /// What changed.
    pub change: serde_json::Value,
}

/// Appends a line.
pub(super) fn append(db: &Connection, record: &Record) -> Result<()> {
    let actor = serde_json::to_string(&record.actor).context("could not write the actor as JSON")?;
    db.prepare_cached("INSERT INTO audit (at_s, actor, command, change) VALUES (?1, ?2, ?3, ?4)")?
        .execute((wall_now_s(), actor, &record.command, record.change.to_string()))?;
    db.prepare_cached("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?1")?.execute([KEPT])?;
    Ok(())
}

impl Store {
    /// The last lines, the newest last.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn audit(&self, last: u32) -> Result<Vec<Audited>> {
        let mut statement = self.db.prepare(
            "SELECT id, at_s, actor, command, change FROM (SELECT * FROM audit ORDER BY id DESC LIMIT ?1) ORDER BY id",
        )?;
        let rows = statement.query_map([last], |row| {
            let text = |column| row.get::<_, String>(column);
            Ok((row.get(0)?, row.get(1)?, text(2)?, text(3)?, text(4)?))
        })?;
        rows.map(|row| {
            let (id, at_s, actor, command, change) = row?;
            let damaged =
                |error: serde_json::Error| super::Damaged(format!("line {id} of the audit log: {error}"));
            let (actor, change) = (
                serde_json::from_str(&actor).map_err(damaged)?,
                serde_json::from_str(&change).map_err(damaged)?,
            );
            Ok(Audited { id, at_s, actor, command, change })
        })
        .collect()
    }
}
