//! Files that follow one another in a directory: each of bounded size and age, all together of bounded size. Each can be read
//! at any time, since whole blocks are written at once.
//!
//! Their names begin with a number that only rises, since the clock that is in them may be set back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};

/// How large and old files get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a file.
    pub size: u64,
    /// How long it is written to.
    pub age: Duration,
    /// Bytes of all.
    pub total: u64,
}

/// Files that are kept at most, however small they are: so that the directory can be gone over.
const MOST: usize = 10_000;

/// The end of all names.
const SUFFIX: &str = ".pcapng";

/// The directory.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    bounds: Bounds,
    current: Option<Current>,
}

/// The file that is written to.
#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    /// Bytes of whole blocks.
    length: u64,
    opened: Instant,
}

impl Files {
    /// Files in `directory`, of which nothing is made yet.
    pub fn new(directory: PathBuf, bounds: Bounds) -> Self {
        Self { directory, bounds, current: None }
    }

    /// Whether what is written next goes behind what was written last, and this many bytes more fit; if not, it goes into a
    /// new file, which begins as files do.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.current.as_ref().is_some_and(|current| {
            let length = current.length + bytes as u64;
            length <= self.bounds.size
                && current.opened.elapsed() < self.bounds.age
                && current.is_at_its_path()
        })
    }

    /// What is written next goes into a new file.
    pub fn close(&mut self) {
        self.current = None;
    }

    /// Writes whole blocks, all or none of them.
    ///
    /// # Errors
    ///
    /// If the directory or a file can't be made or written; then the next goes into a new one.
    pub fn write(&mut self, blocks: &[u8]) -> Result<()> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.next()?,
        };
        let written = current.file.write_all(blocks);
        let context = || format!("could not write {}", current.path.display());
        if let Err(error) = written {
            // What there is of the block is no block. Where even that can't be mended, readers stop in front of it.
            let _ = current.file.set_len(current.length);
            if current.length == 0 {
                let _ = fs::remove_file(&current.path);
            }
            return Err(error).with_context(context);
        }
        current.length += blocks.len() as u64;
        self.current = Some(current);
        Ok(())
    }

    /// When a file was last written to; nothing if there is none.
    pub fn last_written(&self) -> Option<SystemTime> {
        let (_, path, _) = self.list().ok()?.pop()?;
        fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
    }

    /// Makes the next file, and room for it.
    fn next(&self) -> Result<Current> {
        let context = || format!("could not make a file in {}", self.directory.display());
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(context);
            }
            _ => {}
        }
        let files = self.list().with_context(context)?;
        let number = files.last().map_or(0, |(number, ..)| *number) + 1;
        self.make_room(&files)?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let now: String = now.chars().filter(char::is_ascii_alphanumeric).collect();
        let path = self.directory.join(format!("{number:06}-{now}{SUFFIX}"));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("could not make {}", path.display()))?;
        Ok(Current { file, path, length: 0, opened: Instant::now() })
    }

    /// Removes the oldest until a whole file more fits.
    fn make_room(&self, files: &[(u64, PathBuf, u64)]) -> Result<()> {
        let mut total: u64 = files.iter().map(|(.., length)| length).sum();
        for (position, (_, path, length)) in files.iter().enumerate() {
            let is_room = total + self.bounds.size <= self.bounds.total && files.len() - position < MOST;
            if is_room {
                break;
            }
            fs::remove_file(path).with_context(|| format!("could not remove {}", path.display()))?;
            total -= length;
        }
        Ok(())
    }

    /// Number, path and length of each file, the oldest first. What has another name is somebody else's.
    fn list(&self) -> io::Result<Vec<(u64, PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some(number) = number_of(&entry.path()) {
                files.push((number, entry.path(), entry.metadata()?.len()));
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Current {
    /// Whether its name still leads to it: nobody removed it, nor mounted or unmounted something there.
    fn is_at_its_path(&self) -> bool {
        let (Ok(open), Ok(there)) = (self.file.metadata(), fs::symlink_metadata(&self.path)) else {
            return false;
        };
        (open.dev(), open.ino()) == (there.dev(), there.ino())
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    name.split_once('-')?.0.parse().ok()
}
