//! A copy of the store beside it, for the day on which the store can't be read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{DATABASE, Store};
use anyhow::{Context as _, Result};

/// Name of the copy in the state directory.
pub(super) const BACKUP: &str = "backup.db";

/// Size up to which a copy is made after every change, in bytes: it takes about a millisecond.
const SMALL: u64 = 1 << 20;

/// How old the copy of a larger store may get before a change makes it anew.
const OLD: Duration = Duration::from_secs(60);

/// Whether the copy is made whatever the size of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Where the store is small or the copy old.
    IfCheap,
    /// Wherever the copy is not of the store's last change.
    Always,
}

/// Makes the copy anew, if it is time.
///
/// # Errors
///
/// If it can't be written; then the one before is still there.
pub fn backup(store: &Store, kept: Kept) -> Result<()> {
    let (path, temporary) = (store.path.with_file_name(BACKUP), store.path.with_file_name("backup.new"));
    let age = || SystemTime::now().duration_since(fs::metadata(&path).ok()?.modified().ok()?).ok();
    let is_small = fs::metadata(&store.path).is_ok_and(|file| file.len() <= SMALL);
    if kept == Kept::IfCheap && !is_small && age().is_some_and(|age| age < OLD) {
        return Ok(());
    }
    let context = || format!("could not keep a copy of the store as {}", path.display());
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(context),
        _ => {}
    }
    // It holds what the store holds, and is made for whoever may read that; SQLite takes a file that is empty.
    File::options().write(true).create_new(true).mode(0o600).open(&temporary).with_context(context)?;
    // By SQLite: a file that is opened and closed beside it loses the locks that it has.
    let name = temporary.to_str().context("the state directory's name is not UTF-8").with_context(context)?;
    store.db.execute("VACUUM INTO ?1", [name]).with_context(context)?;
    File::open(&temporary).and_then(|file| file.sync_all()).with_context(context)?;
    fs::rename(&temporary, &path).with_context(context)?;
    sync_names(path.parent().context("a file has a directory")?).with_context(context)
}

/// Writes the names in a directory through to the disk: until then a power cut may give them back to the files before.
fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Puts the copy in the place of a store that can't be read, which is set aside under another name. Where there is no copy,
/// or it is damaged too, the place is left free. Returns where the damaged one is now, and whether a copy took its place.
///
/// # Errors
///
/// If the files can't be moved.
pub fn restore_backup(directory: &Path) -> Result<(PathBuf, bool)> {
    let path = directory.join(DATABASE);
    let aside = (1u32..)
        .map(|number| directory.join(format!("{DATABASE}.damaged-{number}")))
        .find(|path| !path.exists())
        .context("there are four billion damaged stores")?;
    let context = || format!("could not set {} aside", path.display());
    let beside = |what: &str| {
        let mut name = aside.clone().into_os_string();
        name.push(what);
        PathBuf::from(name)
    };
    // Its journal belongs to it, and would be taken for the copy's.
    let journal = directory.join(format!("{DATABASE}-journal"));
    if journal.exists() {
        fs::rename(&journal, beside("-journal")).with_context(context)?;
    }
    fs::rename(&path, &aside).with_context(context)?;
    let copy = directory.join(BACKUP);
    let is_whole = is_whole(&copy);
    if is_whole {
        let temporary = directory.join("state.new");
        fs::copy(&copy, &temporary).with_context(context)?;
        File::open(&temporary).and_then(|file| file.sync_all()).with_context(context)?;
        fs::rename(&temporary, &path).with_context(context)?;
    } else if copy.exists() {
        fs::rename(&copy, beside("-backup")).with_context(context)?;
    }
    sync_names(directory).with_context(context)?;
    Ok((aside, is_whole))
}

/// Whether the copy is a store like any other.
fn is_whole(path: &Path) -> bool {
    path.exists() && Store::open_at(path).and_then(|store| store.check()).is_ok()
}
