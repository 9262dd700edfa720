//! The history's file: what tells it from others, and what becomes of those.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, ErrorCode};

/// The file's name in the state directory.
pub(super) const FILE: &str = "history.db";
/// What is appended to the name of a file that is set aside. One is kept: the next takes its place.
const SET_ASIDE: &str = ".set-aside";
/// `application_id` of the file ("fctl"), which tells it from a database of another program.
const APPLICATION: i32 = 0x6663_746c;
/// `user_version` of the file. A file of another version is set aside, since nothing in it is worth converting.
const VERSION: i32 = 1;
/// How long a write waits for another process that writes, which only happens by mistake.
pub(super) const BUSY: Duration = Duration::from_secs(1);
/// Bytes in a page, SQLite's default, on which [`MAX_BYTES`] is counted.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Bytes in SQLite's smallest page. It takes a shorter file for an empty one, and would write over it.
const SMALLEST_BYTES: u64 = 512;

/// Most bytes of the file, which SQLite itself enforces: twice what 3 × [`super::MAX_COUNTS`] rows with large counts
/// take (86 MiB, tried), for pages that are half empty, names of series and steps. Beside the file lies its log, a few MB.
pub const MAX_BYTES: u64 = 192 << 20;

const SCHEMA: &str = "
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        interface TEXT NOT NULL, reason TEXT NOT NULL, verdict TEXT NOT NULL,
        UNIQUE (interface, reason, verdict)
    ) STRICT;
    CREATE TABLE step (
        resolution INTEGER NOT NULL, number INTEGER NOT NULL,
        wall_s INTEGER NOT NULL, interval_us INTEGER NOT NULL,
        counts INTEGER NOT NULL, -- rows in `count`
        upto INTEGER NOT NULL,   -- number of the last finer step in it
        PRIMARY KEY (resolution, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE count (
        resolution INTEGER NOT NULL, number INTEGER NOT NULL, series INTEGER NOT NULL,
        packets INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (resolution, number, series)
    ) STRICT, WITHOUT ROWID;";

/// A file that could not be used as a history, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is.
    pub path: PathBuf,
    /// Why, as a clause.
    pub why: String,
}

/// Opens the history's file in this directory, or makes one. A file that is something else is set aside.
pub(super) fn open(directory: &Path) -> Result<(Connection, Option<SetAside>)> {
    let path = directory.join(FILE);
    let named = || format!("could not open the history {}", path.display());
    let why = match prepare(&path) {
        Ok(Ok(connection)) => return Ok((connection, None)),
        Ok(Err(why)) => why,
        Err(error) if is_damage(&error) => error.to_string(),
        Err(error) => return Err(error).with_context(named),
    };
    let aside = with_suffix(&path, SET_ASIDE);
    fs::rename(&path, &aside).with_context(|| format!("could not set {} aside", path.display()))?;
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(with_suffix(&path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("could not remove {}{suffix}", path.display()));
            }
            _ => {}
        }
    }
    let connection = prepare(&path).with_context(named)?.map_err(anyhow::Error::msg).with_context(named)?;
    Ok((connection, Some(SetAside { path: aside, why })))
}

/// Opens the file and makes its tables where it is new; `Ok(Err)` says why it is not a sound history.
fn prepare(path: &Path) -> rusqlite::Result<Result<Connection, String>> {
    if fs::metadata(path).is_ok_and(|file| (1..SMALLEST_BYTES).contains(&file.len())) {
        return Ok(Err("it is too short for a database".into()));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 {
        if let Some(why) = foreign(&connection)? {
            return Ok(Err(why));
        }
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Ok(Err(check));
        }
    }
    // With the log, readers never wait for the writer nor it for them, and NORMAL waits for the disk only when the
    // log is copied back, every few minutes: a power cut loses what came since, and damages nothing. OFF would
    // save that one wait and could cost the file.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(
        None,
        "max_page_count",
        i64::try_from(MAX_BYTES / PAGE_BYTES).unwrap_or(i64::MAX),
    )?;
    if tables == 0 {
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(Ok(connection))
}

/// Why a database is none of ours, if so.
pub(super) fn foreign(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(match (number("application_id")?, number("user_version")?) {
        (APPLICATION, VERSION) => None,
        (APPLICATION, other) => Some(format!("it has version {other}, and this program reads {VERSION}")),
        _ => Some("it is the database of another program".into()),
    })
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
