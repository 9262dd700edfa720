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

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::lists::items::{Items, Said};

    fn blocks(prefixes: impl IntoIterator<Item = String>) -> Vec<Vec<u8>> {
        let mut items = Items::default();
        prefixes
            .into_iter()
            .for_each(|text| items.push(Prefix::parse(&text, true).unwrap(), Said::default()));
        block::blocks(&items.finish()).collect()
    }

    fn some(count: u32) -> Vec<Vec<u8>> {
        blocks((0..count).map(|number| std::net::Ipv4Addr::from(number).to_string()))
    }

    fn summary(prefixes: u64) -> serde_json::Value {
        serde_json::json!({"Read": {
            "format": "plain", "etag": null, "last_modified": null, "bytes": 1, "prefixes": prefixes, "entries": 1,
            "duplicates": 0, "covered": 0, "ignored": 0, "refusals": 1,
            "refused": [{"line": 1, "column": 1, "what": "a\u{1b}[2Jb", "why": "x\u{202e}y"}],
            "about": {"declared": null, "made_s": null, "expires_s": null, "cut": "in\nhere\u{7}"},
        }})
    }

    fn sent(blocks: &[Vec<u8>], end: &serde_json::Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        blocks.iter().for_each(|block| frame::write(&mut bytes, Kind::Block, block).unwrap());
        frame::write(&mut bytes, Kind::End, end.to_string().as_bytes()).unwrap();
        bytes
    }

    fn received(mut bytes: &[u8]) -> Result<Answer, Trouble> {
        receive(&mut bytes, &mut |_| {})
    }

    fn distrusted(bytes: &[u8], why: &str) {
        let Err(Trouble::Failed(failure)) = received(bytes) else { panic!("{why}: {:?}", received(bytes)) };
        assert_eq!(failure.kind, FailureKind::Distrusted);
        assert!(failure.message.contains(why), "{why}: {failure}");
    }

    #[test]
    fn a_list_is_taken_with_texts_fit_for_a_terminal() {
        let blocks = blocks(["192.0.2.0/24".into(), "192.0.2.7".into(), "2001:db8::/32".into()]);
        let Ok(Answer::Read(list)) = received(&sent(&blocks, &summary(3))) else { panic!() };
        assert_eq!(list.blocks, blocks);
        let refused = &list.summary.refused[0];
        assert_eq!((refused.what.as_str(), refused.why.as_str()), ("a[2Jb", "xy"));
        assert_eq!(list.summary.about.cut.as_deref(), Some("in here"));
    }

    #[test]
    fn whatever_is_cut_short_is_no_list() {
        let bytes = sent(&some(5000), &summary(5000));
        assert!(received(&bytes).is_ok());
        for end in (0..bytes.len()).step_by(97).chain(bytes.len() - 9..bytes.len()) {
            assert!(matches!(received(&bytes[..end]), Err(Trouble::Ended)), "{end}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let [full, rest] = <[_; 2]>::try_from(some(5000)).unwrap();
        let (full, rest) = (&full, &rest);
        distrusted(&sent(&[rest.clone(), full.clone()], &summary(5000)), "out of order");
        distrusted(&sent(&[full.clone(), full.clone()], &summary(8192)), "out of order");
        let low = some(5).remove(0);
        distrusted(&sent(&[low, rest.clone()], &summary(909)), "not full");
        distrusted(&sent(&[vec![4, 1, 0]], &summary(1)), "a damaged block");
        distrusted(&sent(slice::from_ref(full), &summary(4095)), "other numbers");
        distrusted(&sent(slice::from_ref(full), &serde_json::json!("NotModified")), "has not changed");
        distrusted(&sent(&[], &serde_json::json!({"Read": {}})), "an end that is none");
        let mut more = sent(slice::from_ref(full), &summary(4096));
        more.extend(sent(&[], &summary(0)));
        distrusted(&more, "more after its end");
        distrusted(&[9, 0, 0, 0, 0], "no known kind");
        distrusted(&[2, 0xff, 0xff, 0xff, 0xff], "too long");
        distrusted(&[3, 1, 0, 16, 0], "too long");
        let mut header = summary(0);
        header["Read"]["etag"] = "a\r\nX: y".into();
        distrusted(&sent(&[], &header), "a header that is none");
        let mut many = summary(0);
        many["Read"]["refusals"] = 0.into();
        distrusted(&sent(&[], &many), "more refused places");
    }

    #[test]
    fn a_failure_of_the_child_is_fit_for_a_terminal() {
        let end = serde_json::json!({"Failed": {"kind": "TooLarge", "message": format!("a\u{1b}[2J{}", "x".repeat(5000))}});
        let Err(Trouble::Failed(failure)) = received(&sent(&[], &end)) else { panic!() };
        assert_eq!(failure.kind, FailureKind::TooLarge);
        assert!(failure.message.starts_with("a[2Jx") && failure.message.len() <= 1000);
    }
}
