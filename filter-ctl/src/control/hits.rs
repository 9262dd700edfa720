//! What each list did: the packets that entries counted whose prefix a list holds, or covers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::Result;
use filter_common::abi::Counter;
use serde::Serialize;

use super::Control;
use crate::feeds::MOST_LISTS;
use crate::holds::Hold;
use crate::policy::{Action, Key, Owner, Prefix};
use crate::store::{Bounds, View};

/// What a list did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListHits {
    /// Packets from its addresses that were decided by entries which it holds, or which lie in one that it holds; with
    /// those that entries counted before they left it.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Packets from addresses that nobody else holds: what would not have been dropped, or passed, without this list.
    pub packets_alone: u64,
    /// Bytes of these.
    pub bytes_alone: u64,
    /// The entries with most packets, the busiest first.
    pub top: Vec<EntryHits>,
}

/// What an entry of a list counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EntryHits {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// The entry.
    pub prefix: Prefix,
}

/// The bit of all who are no lists.
const OTHERS: u64 = 1 << 63;

impl Control {
    /// What each of these lists did, with the `top` busiest entries of each. Goes over all entries once, in the order of
    /// keys, with those that cover the current one.
    ///
    /// # Errors
    ///
    /// If entries or holds can't be read.
    pub fn list_hits(&self, top: usize) -> Result<Vec<(Owner, ListHits)>> {
        let Ok(store) = self.store() else { return Ok(Vec::new()) };
        let view = store.view();
        let mut hits: Vec<Hits> = view.lists.iter().map(|_| Hits::default()).collect();
        let mut counted = self.filter.each_counted()?.peekable();
        // Of each action: the prefixes that are open, and who holds one of them.
        let mut open: [Vec<(Prefix, u64)>; 2] = [Vec::new(), Vec::new()];
        store.each_key(Bounds::All, |key, holds| {
            let of_action = &mut open[usize::from(key.action == Action::Block)];
            while of_action.pop_if(|(wider, _)| !wider.covers(&key.prefix)).is_some() {}
            let wider = of_action.last().map_or(0, |(_, holders)| *holders);
            let holders = wider | holders(view, &holds);
            of_action.push((key.prefix, holders));
            while counted.next_if(|(other, _)| *other < key).is_some() {}
            if let Some((_, counter)) = counted.next_if(|(other, _)| *other == key)
                && counter.packets > 0
            {
                count(&mut hits, key, holders, counter, top);
            }
            Ok(())
        })?;
        let listed = store.lists()?;
        let retired = |owner: &Owner| {
            let list =
                listed.iter().find(|list| owner.as_str().strip_prefix(Owner::LIST) == Some(&list.name));
            list.map_or([0, 0], |list| list.retired)
        };
        Ok(view
            .lists
            .iter()
            .zip(hits)
            .map(|(list, hits)| {
                let [packets, bytes] = retired(&list.owner);
                (list.owner.clone(), hits.finish(packets, bytes))
            })
            .collect())
    }
}

/// A bit for each list, in the order of the view, and one for all others.
fn holders(view: &View, holds: &[Hold]) -> u64 {
    let bit = |hold: &Hold| {
        let place = view.lists.iter().position(|list| list.owner == hold.owner);
        place.filter(|place| *place < MOST_LISTS).map_or(OTHERS, |place| 1 << place)
    };
    holds.iter().map(bit).fold(0, |holders, bit| holders | bit)
}

fn count(hits: &mut [Hits], key: Key, holders: u64, counter: Counter, top: usize) {
    let Counter { packets, bytes } = counter;
    for (place, hits) in
        hits.iter_mut().enumerate().filter(|(place, _)| *place < MOST_LISTS && holders >> place & 1 == 1)
    {
        hits.packets = hits.packets.saturating_add(packets);
        hits.bytes = hits.bytes.saturating_add(bytes);
        if holders == 1 << place {
            hits.alone = hits.alone.saturating_add(packets);
            hits.bytes_alone = hits.bytes_alone.saturating_add(bytes);
        }
        hits.top.push(Reverse(EntryHits { packets, bytes, prefix: key.prefix }));
        if hits.top.len() > top {
            hits.top.pop();
        }
    }
}

#[derive(Default)]
struct Hits {
    packets: u64,
    bytes: u64,
    alone: u64,
    bytes_alone: u64,
    top: BinaryHeap<Reverse<EntryHits>>,
}

impl Hits {
    fn finish(self, packets: u64, bytes: u64) -> ListHits {
        let mut top: Vec<EntryHits> = self.top.into_iter().map(|Reverse(entry)| entry).collect();
        top.sort_by(|one, next| next.packets.cmp(&one.packets).then(one.prefix.cmp(&next.prefix)));
        ListHits {
            packets: self.packets.saturating_add(packets),
            bytes: self.bytes.saturating_add(bytes),
            packets_alone: self.alone,
            bytes_alone: self.bytes_alone,
            top,
        }
    }
}
