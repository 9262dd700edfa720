//! The store on disk: what is wanted, as rows of an SQLite database. The kernel's tables are what is enforced; `control`
//! compares both. Knows nothing of the kernel.
//!
//! A change is one transaction, written through to the disk before the kernel's tables are touched. The database keeps a
//! rollback journal, not a write-ahead log: after any crash one file holds all, and can be read where nothing can be
//! written.
//!
//! Times are seconds of CLOCK_MONOTONIC, like those in the tables, so that a jump of the wall clock moves no deadline. The
//! first to open the store after a reboot moves them all to the new boot's clock, by how far the wall clock went on
//! meanwhile; where that went back, no time is taken to have passed.

mod audit;
mod backup;
mod carried;
pub mod history;
mod holds;
mod lists;
mod merged;
mod policies;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::abi::ABI_VERSION;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use thiserror::Error;

pub use audit::{Actor, Audited, MOST_NAMED, Record, Via};
pub use backup::{Kept, backup, restore_backup};
pub use holds::{Bounds, Intent};
pub use lists::{
    Compared, Found, Generation, ListWrite, Listed, Never, NeverKind, NewGeneration, Side, Trouble,
    Validators,
};
pub use merged::{Holed, InForce, View};
pub use policies::{InterfacePolicy, Policy, is_pattern};

use crate::host::{boot_id, monotonic_now_s};

/// Where the state lies, for the pin root of this name.
pub const STATE_ROOT: &str = "/var/lib";

/// Name of the database in the state directory.
const DATABASE: &str = "state.db";

/// `PRAGMA application_id`: "xdpf", so that another program's database is not taken for ours.
const APPLICATION: i64 = 0x7864_7066;

/// `PRAGMA user_version` of this build's tables.
const VERSION: i64 = 3;

/// How long a transaction waits for a reader, such as `audit`, to finish. Writers wait for the lock on the pins before.
const BUSY: Duration = Duration::from_secs(5);

/// The tables. `state` has one row: what the store is, its last change, the digest of what is to be enforced, and the two
/// clocks when it was last written.
const SCHEMA: &str = "
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 1), store INTEGER NOT NULL, change INTEGER NOT NULL,
    digest INTEGER NOT NULL, digest_abi INTEGER NOT NULL,
    boot TEXT NOT NULL, wall_s INTEGER NOT NULL, monotonic_s INTEGER NOT NULL
) STRICT;
CREATE TABLE holds (
    key BLOB NOT NULL, owner TEXT NOT NULL, reason TEXT NOT NULL, creator TEXT NOT NULL,
    created_s INTEGER NOT NULL, until_s INTEGER NOT NULL, PRIMARY KEY (key, owner)
) STRICT, WITHOUT ROWID;
CREATE TABLE policies (generation INTEGER PRIMARY KEY AUTOINCREMENT, at_s INTEGER NOT NULL, document TEXT NOT NULL) STRICT;
CREATE TRIGGER policies_never_change BEFORE UPDATE ON policies
    BEGIN SELECT RAISE(ABORT, 'a generation of the policy never changes'); END;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_s INTEGER NOT NULL, actor TEXT NOT NULL, command TEXT NOT NULL,
    change TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
    WHEN OLD.id > (SELECT max(id) FROM audit) - 1000000
    BEGIN SELECT RAISE(ABORT, 'the last million lines of the audit log are kept'); END;
";

/// What version 2 has beside: lists, of which each generation is written once and never changed, but for the clock by which
/// its times are counted.
const LISTS: &str = "
ALTER TABLE state ADD COLUMN cleared_s INTEGER NOT NULL DEFAULT 0;
CREATE TABLE lists (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, action INTEGER NOT NULL, settings TEXT NOT NULL,
    generation INTEGER, generations INTEGER NOT NULL DEFAULT 0, is_held INTEGER NOT NULL DEFAULT 0,
    etag TEXT, last_modified TEXT, checked_s INTEGER, trouble TEXT, troubles INTEGER NOT NULL DEFAULT 0,
    retired_packets INTEGER NOT NULL DEFAULT 0, retired_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE generations (
    list INTEGER NOT NULL, generation INTEGER NOT NULL, at_s INTEGER NOT NULL, base_s INTEGER NOT NULL,
    entries INTEGER NOT NULL, found TEXT NOT NULL, PRIMARY KEY (list, generation)
) STRICT;
CREATE TABLE blocks (
    list INTEGER NOT NULL, generation INTEGER NOT NULL, first BLOB NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (list, generation, first)
) STRICT;
CREATE TRIGGER generations_never_change BEFORE UPDATE OF list, generation, at_s, entries, found ON generations
    BEGIN SELECT RAISE(ABORT, 'a generation of a list never changes'); END;
CREATE TRIGGER blocks_never_change BEFORE UPDATE ON blocks
    BEGIN SELECT RAISE(ABORT, 'a generation of a list never changes'); END;
CREATE TABLE never (
    prefix BLOB PRIMARY KEY, kind INTEGER NOT NULL, reason TEXT NOT NULL, until_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// The store can't be used.
#[derive(Debug, Error)]
#[error("the store {} can't be used: {cause}", path.display())]
pub struct Unusable {
    /// The database.
    pub path: PathBuf,
    /// Why, and what to do.
    pub cause: String,
    /// Whether what is there is damaged, so that only a backup or the kernel's tables know more.
    pub damaged: bool,
}

impl Unusable {
    /// There is no store in this directory, and none was made.
    pub fn missing(directory: &Path) -> Self {
        Self { path: directory.join(DATABASE), cause: "there is none".into(), damaged: false }
    }

    fn new(path: &Path, error: &anyhow::Error) -> Self {
        let code = error.chain().find_map(|cause| match cause.downcast_ref::<rusqlite::Error>()? {
            rusqlite::Error::SqliteFailure(failure, _) => Some(failure.code),
            _ => None,
        });
        let damaged = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            || error.chain().any(|cause| cause.is::<Damaged>());
        let next = match code {
            Some(ErrorCode::DiskFull) => "; make room on its file system",
            Some(ErrorCode::ReadOnly) => "; make its file system writable",
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "; see who may write there, and that there is room"
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "; another program has it open",
            _ if damaged => "; `filter-ctl repair` makes it anew from the backup and the kernel's tables",
            _ => "",
        };
        // SQLite's own words say what its error number says again.
        let causes = error.chain().filter(|cause| !cause.is::<rusqlite::ffi::Error>());
        let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self { path: path.to_owned(), cause: format!("{cause}{next}"), damaged }
    }
}

/// What a store holds is nothing that this program writes.
#[derive(Debug, Error)]
#[error("it is damaged: {0}")]
struct Damaged(String);

/// The one row of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Number of the store, made by chance.
    pub store: u64,
    /// Its last change.
    pub change: u64,
    /// Sum of the digests of all entries that are to be enforced.
    pub digest: u64,
}

/// The store, opened.
pub struct Store {
    path: PathBuf,
    db: Connection,
    state: State,
    view: View,
    /// Seconds by which times are moved in reading, where they are of another boot and can't be written.
    shift_s: i64,
    /// Why it can only be read.
    unwritable: Option<String>,
}

impl Store {
    /// Opens the store in `directory`, and makes both where they are missing.
    ///
    /// # Errors
    ///
    /// [`Unusable`], with the cause and what to do.
    pub fn open(directory: &Path) -> Result<Self, Unusable> {
        let path = directory.join(DATABASE);
        Self::open_at(&path).map_err(|error| Unusable::new(&path, &error))
    }

    fn open_at(path: &Path) -> Result<Self> {
        let directory = path.parent().context("a file lies in a directory")?;
        prepare(directory, path)?;
        // Where a part of the path is a link, as /var may be: the file itself must not be one.
        let directory = &fs::canonicalize(directory).context("could not find the directory")?;
        let path = &directory.join(path.file_name().context("a file has a name")?);
        let mut db = connect(path)?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let application: i64 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        if version == 0 && application == 0 {
            // SQLite takes any file of under 512 bytes for an empty database.
            let length = fs::metadata(path).map_or(0, |file| file.len());
            let was_more = length > 0 || directory.join(backup::BACKUP).exists();
            ensure!(!was_more, Damaged("it was cut to nothing".into()));
            create(&mut db)?;
        } else {
            ensure!(application == APPLICATION, Damaged("it is another program's database".into()));
            ensure!(
                version <= VERSION,
                "it is of version {version}, from a newer filter-ctl, and this one knows {VERSION}; use the newer, or \
                 another --state-dir"
            );
            ensure!(version >= 1, Damaged(format!("its version is {version}")));
            if version < VERSION {
                migrate(&mut db)?;
            }
        }
        let state = read_state(&db)?;
        let view = View::default();
        let mut store = Self { path: path.clone(), db, state, view, shift_s: 0, unwritable: None };
        store.enter_boot()?;
        store.view = View::read(&store.db, store.shift_s)?;
        Ok(store)
    }

    /// Whether there is a store in this directory, or at least its copy.
    pub fn is_in(directory: &Path) -> bool {
        [DATABASE, backup::BACKUP].iter().any(|name| directory.join(name).exists())
    }

    /// What it is and holds.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it can only be read, if that is so.
    pub fn unwritable(&self) -> Option<Unusable> {
        let cause = self.unwritable.clone()?;
        Some(Unusable { path: self.path.clone(), cause, damaged: false })
    }

    /// An error of this store, as [`Unusable`].
    pub fn unusable(&self, error: &anyhow::Error) -> Unusable {
        Unusable::new(&self.path, error)
    }

    /// Moves all times to this boot's clock, where they are of another; and sums up the digest anew, where another build's
    /// is there. Where that can't be written, times are moved in reading.
    fn enter_boot(&mut self) -> Result<()> {
        let this = boot_id()?;
        let clocks = Clocks::read(&self.db)?;
        if clocks.boot == this && clocks.digest_abi == ABI_VERSION {
            return Ok(());
        }
        if let Err(error) = self.move_times(&this) {
            let unusable = self.unusable(&error);
            if unusable.damaged {
                return Err(error);
            }
            self.shift_s = if clocks.boot == this { 0 } else { clocks.shift_s() };
            self.unwritable = Some(unusable.cause);
            self.state.digest = merged::digest(&self.db, &View::read(&self.db, self.shift_s)?)?;
            return Ok(());
        }
        self.state = read_state(&self.db)?;
        Ok(())
    }

    /// In one transaction, since several may be the first after a reboot.
    fn move_times(&mut self, this: &str) -> Result<()> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let clocks = Clocks::read(&transaction)?;
        if clocks.boot != this {
            let (shift_s, now_s) = (clocks.shift_s(), i64::from(monotonic_now_s()));
            transaction.execute(
                "DELETE FROM holds WHERE until_s < 4294967295 AND until_s + ?1 <= ?2",
                [shift_s, now_s],
            )?;
            transaction.execute("UPDATE holds SET created_s = created_s + ?1", [shift_s])?;
            transaction
                .execute("UPDATE holds SET until_s = until_s + ?1 WHERE until_s < 4294967295", [shift_s])?;
            lists::move_times(&transaction, shift_s, now_s)?;
            transaction.execute(
                "UPDATE state SET boot = ?1, wall_s = max(wall_s, ?2), monotonic_s = ?3",
                (this, wall_now_s(), now_s),
            )?;
        }
        let digest = merged::digest(&transaction, &View::read(&transaction, 0)?)?;
        transaction
            .execute("UPDATE state SET digest = ?1, digest_abi = ?2", (to_sql(digest), ABI_VERSION))?;
        Ok(transaction.commit()?)
    }

    /// Writes down what both clocks show, so that the next boot knows how much time passed.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn note_time(&self) -> Result<()> {
        self.db.execute(
            "UPDATE state SET wall_s = max(wall_s, ?1), monotonic_s = ?2 WHERE boot = ?3",
            (wall_now_s(), i64::from(monotonic_now_s()), boot_id()?),
        )?;
        Ok(())
    }

    /// Reads everything once, and compares it with its own sums.
    ///
    /// # Errors
    ///
    /// What is damaged.
    pub fn check(&self) -> Result<()> {
        let said: String = self.db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        ensure!(said == "ok", Damaged(said));
        let sum = merged::digest(&self.db, &self.view)?;
        ensure!(sum == self.state.digest, Damaged("its entries are not those that were written".into()));
        self.policy()?;
        Ok(())
    }
}

/// What the clocks showed when the store was last written.
struct Clocks {
    boot: String,
    wall_s: i64,
    monotonic_s: i64,
    digest_abi: u32,
}

/// A wall clock that shows less was never set: the beginning of 2025, before the first version of this program.
const SET_S: i64 = 1_735_689_600;

/// Seconds of any clock that are believed: what is beyond is nothing that this program writes.
const BELIEVED_S: std::ops::Range<i64> = -(1 << 40)..1 << 40;

impl Clocks {
    fn read(db: &Connection) -> Result<Self> {
        let clocks = db.query_row("SELECT boot, wall_s, monotonic_s, digest_abi FROM state", [], |row| {
            Ok(Self {
                boot: row.get(0)?,
                wall_s: row.get(1)?,
                monotonic_s: row.get(2)?,
                digest_abi: row.get(3)?,
            })
        })?;
        let is_believed = BELIEVED_S.contains(&clocks.wall_s) && BELIEVED_S.contains(&clocks.monotonic_s);
        ensure!(is_believed, Damaged("its clocks show what none shows".into()));
        Ok(clocks)
    }

    /// How far times are to be moved to be of this boot's clock. Where the wall clock went back, or was not set, no time
    /// is taken to have passed: what blocks may block longer, and not end early.
    fn shift_s(&self) -> i64 {
        let passed_s = if self.wall_s < SET_S { 0 } else { (wall_now_s() - self.wall_s).max(0) };
        i64::from(monotonic_now_s()) - self.monotonic_s - passed_s
    }
}

/// Makes the directory and the file, for root alone, and refuses what others could have prepared.
fn prepare(directory: &Path, path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("could not create {}", directory.display()));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(directory)
        .with_context(|| format!("could not query {}", directory.display()))?;
    ensure!(metadata.is_dir(), "{} is no directory", directory.display());
    ensure!(
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0,
        "{} belongs to user {} with mode {:o}: whoever can write there could change what is enforced; `chown root` and \
         `chmod 700` it",
        directory.display(),
        metadata.uid(),
        metadata.mode() & 0o7777
    );
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("could not create {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Opens a database that may have been tampered with: nothing in its schema is run that SQLite does not trust.
fn connect(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;",
    )?;
    Ok(db)
}

fn create(db: &mut Connection) -> Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(LISTS)?;
    transaction.execute_batch(carried::CARRIED)?;
    transaction.execute(
        "INSERT INTO state VALUES (1, ?1, 0, 0, ?2, ?3, ?4, ?5, 0)",
        (random_number()?, ABI_VERSION, boot_id()?, wall_now_s(), i64::from(monotonic_now_s())),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// Brings a store of an older version to this one. Several may try at once: one does it.
fn migrate(db: &mut Connection) -> Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (older, added) in [(1, LISTS), (2, carried::CARRIED)] {
        if version <= older {
            transaction.execute_batch(added)?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

fn read_state(db: &Connection) -> Result<State> {
    let state = db.query_row("SELECT store, change, digest FROM state", [], |row| {
        Ok(State {
            store: from_sql(row.get(0)?),
            change: from_sql(row.get(1)?),
            digest: from_sql(row.get(2)?),
        })
    });
    match state {
        Err(rusqlite::Error::QueryReturnedNoRows) => bail!(Damaged("it says nothing of itself".into())),
        state => Ok(state?),
    }
}

/// A number that is not zero, by chance.
fn random_number() -> Result<i64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gave no random number for the store")?;
    Ok(i64::from_ne_bytes(bytes) | 1)
}

/// The wall clock in seconds since 1970, negative before.
pub fn wall_now_s() -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}

/// SQLite's integers are signed: the same 64 bits.
const fn to_sql(number: u64) -> i64 {
    number.cast_signed()
}

const fn from_sql(number: i64) -> u64 {
    number.cast_unsigned()
}
