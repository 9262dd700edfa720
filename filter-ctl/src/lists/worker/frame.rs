//! Frames, in which the child answers: a byte for the kind, four for the length, the lowest first, and the payload. Any
//! number of [`Kind::Progress`], the blocks in order, and one [`Kind::End`], after which nothing comes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::{Failure, Summary};
use crate::lists::block;

/// Most bytes of the end: a thousand refused places with all that is shown of them.
pub const LARGEST_END: usize = 1 << 20;

/// Most bytes of a progress: two numbers with their names.
const LARGEST_PROGRESS: usize = 256;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Progress`](super::Progress) as JSON.
    Progress = 1,
    /// A block of entries.
    Block = 2,
    /// An [`End`] as JSON.
    End = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Progress, Self::Block, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }

    fn largest(self) -> usize {
        match self {
            Self::Progress => LARGEST_PROGRESS,
            Self::Block => block::LARGEST,
            Self::End => LARGEST_END,
        }
    }
}

/// How the child ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum End {
    /// Without a list.
    Failed(Failure),
    /// The list is what it was.
    NotModified,
    /// With a list.
    Read(Summary),
}

/// Writes a frame.
///
/// # Errors
///
/// If the other side is gone, or the payload is over what the other side takes.
pub fn write(to: &mut dyn Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= kind.largest());
    let length = length.ok_or_else(|| io::Error::other("a frame is too large"))?;
    to.write_all(&[kind as u8])?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(payload)
}

/// Reads a frame. `None` at the end; an error of kind `InvalidData` for what is no frame.
///
/// # Errors
///
/// If it can't be read, is cut short, of no known kind or too long.
pub fn read(from: &mut dyn Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut kind = [0];
    if from.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = Kind::of(kind[0]).ok_or_else(|| wrong("a frame of no known kind"))?;
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > kind.largest() {
        return Err(wrong("a frame that is too long"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}
