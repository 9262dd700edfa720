//! The child's answer, received and checked by the parent. Whatever the child sends, what comes out of here is a list that
//! this program could have made, or an error. Pure.

use std::io::{self, Read};

use filter_common::abi::LARGEST_MAX;
use filter_common::prefix::Family;

use super::frame::{self, End, Kind};
use super::{Answer, Failure, FailureKind, List, Progress, Summary, clean};
use crate::lists::block;
use crate::lists::reading::{MOST_REFUSED, Refused};
use crate::policy::Prefix;

/// Most bytes of all blocks: as many IPv4 as IPv6 entries as tables hold, with lives, and all comments that are kept.
const MOST_BYTES: usize = 256 << 20;

/// Most characters of a text about a refused place, and of an `ETag`.
const LONGEST_TEXT: usize = 1000;

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The child told of it, or told nonsense.
    Failed(Failure),
    /// The child ended without an answer.
    Ended,
    /// Its time was over.
    TimedOut,
}

/// Receives an answer to its end.
///
/// # Errors
///
/// [`Trouble`], of which a failure names what is wrong.
pub fn receive(from: &mut dyn Read, on_progress: &mut dyn FnMut(Progress)) -> Result<Answer, Trouble> {
    let mut blocks = Blocks::default();
    loop {
        let Some((kind, payload)) = frame::read(from).map_err(trouble)? else { return Err(Trouble::Ended) };
        match kind {
            Kind::Progress => {
                on_progress(serde_json::from_slice(&payload).map_err(|_| distrust("progress that is none"))?);
            }
            Kind::Block => blocks.take(payload).map_err(distrust)?,
            Kind::End => {
                let end = serde_json::from_slice(&payload).map_err(|_| distrust("an end that is none"))?;
                if frame::read(from).map_err(trouble)?.is_some() {
                    return Err(distrust("more after its end"));
                }
                return answer(end, blocks);
            }
        }
    }
}

fn answer(end: End, blocks: Blocks) -> Result<Answer, Trouble> {
    let count = blocks.count[0] + blocks.count[1];
    match end {
        End::Failed(failure) => Err(Trouble::Failed(Failure::new(failure.kind, failure.message))),
        End::NotModified if count == 0 => Ok(Answer::NotModified),
        End::NotModified => Err(distrust("entries of a list that has not changed")),
        End::Read(summary) => {
            let summary = checked(summary, count).map_err(distrust)?;
            Ok(Answer::Read(Box::new(List { summary, blocks: blocks.bytes })))
        }
    }
}

/// The summary, with texts fit for a terminal and for a header.
fn checked(mut summary: Summary, prefixes: u64) -> Result<Summary, &'static str> {
    if summary.prefixes != prefixes || summary.covered > prefixes {
        return Err("other numbers of entries than it sent");
    }
    if summary.refused.len() > MOST_REFUSED || summary.refused.len() as u64 > summary.refusals {
        return Err("more refused places than there can be");
    }
    for Refused { what, why, .. } in &mut summary.refused {
        *what = clean(what, LONGEST_TEXT);
        *why = clean(why, LONGEST_TEXT);
    }
    summary.about.cut = summary.about.cut.map(|cut| clean(&cut, LONGEST_TEXT));
    let is_header =
        |text: &String| text.len() <= LONGEST_TEXT && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if ![&summary.etag, &summary.last_modified].into_iter().flatten().all(is_header) {
        return Err("a header that is none");
    }
    Ok(summary)
}

/// Blocks that are in order and full.
#[derive(Default)]
struct Blocks {
    bytes: Vec<Vec<u8>>,
    length: usize,
    /// Of IPv4 and of IPv6.
    count: [u64; 2],
    last: Option<Prefix>,
    /// The family of the last block, if it was not full: then another may follow, but no more of this one.
    ended: Option<Family>,
}

impl Blocks {
    fn take(&mut self, mut bytes: Vec<u8>) -> Result<(), &'static str> {
        let block = block::decode(&bytes).map_err(|_| "a damaged block")?;
        let (Some(first), Some(last)) = (block.items.first(), block.items.last()) else {
            return Err("an empty block");
        };
        if self.last.is_some_and(|before| before >= first.prefix) {
            return Err("blocks that are out of order");
        }
        let family = first.prefix.family();
        if self.ended == Some(family) {
            return Err("blocks that are not full");
        }
        self.ended = (block.items.len() < block::ENTRIES).then_some(family);
        let count = &mut self.count[usize::from(family == Family::V6)];
        *count += block.items.len() as u64;
        self.length += bytes.len();
        if *count > u64::from(LARGEST_MAX) || self.length > MOST_BYTES {
            return Err("more entries than there can be");
        }
        self.last = Some(last.prefix);
        bytes.shrink_to_fit();
        self.bytes.push(bytes);
        Ok(())
    }
}

fn trouble(error: io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::TimedOut => Trouble::TimedOut,
        io::ErrorKind::InvalidData => distrust(&error.to_string()),
        _ => Trouble::Ended,
    }
}

fn distrust(what: &str) -> Trouble {
    let message =
        format!("the process that reads lists sent {what}, so nothing of it is used; please report this");
    Trouble::Failed(Failure::new(FailureKind::Distrusted, message))
}
