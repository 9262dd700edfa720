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
    /// Packets from its addresses that were decided, while it held them, by entries which it held, or which lay in one that
    /// it held.
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

/// The bit of all who are no lists; lists have those below it.
pub(super) const OTHERS: u64 = 1 << MOST_LISTS;

const _: () = assert!(MOST_LISTS < u64::BITS as usize);

/// Who holds what covers a key, as keys come in their order.
#[derive(Default)]
pub(super) struct Open {
    /// Of each action: the prefixes that are open, the widest first, and who holds one of them.
    prefixes: [Vec<(Prefix, u64)>; 2],
}

impl Open {
    /// Who holds what covers this key, of all that has begun.
    pub fn over(&mut self, key: &Key) -> u64 {
        let open = &mut self.prefixes[usize::from(key.action == Action::Block)];
        while open.pop_if(|(wider, _)| !wider.covers(&key.prefix)).is_some() {}
        open.last().map_or(0, |(_, holders)| *holders)
    }

    /// Goes on to a key, which these hold. Returns them, with those who hold what covers it.
    pub fn begin(&mut self, key: Key, holders: u64) -> u64 {
        let holders = self.over(&key) | holders;
        self.prefixes[usize::from(key.action == Action::Block)].push((key.prefix, holders));
        holders
    }
}

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
        let mut counted = self.filter.counting().all()?.peekable();
        let mut open = Open::default();
        store.each_key(Bounds::All, |key, holds| {
            let holders = open.begin(key, holders(view, &holds));
            while counted.next_if(|(other, _)| *other < key).is_some() {}
            if let Some((_, counter)) = counted.next_if(|(other, _)| *other == key) {
                count(&mut hits, key, holders, counter, top);
            }
            Ok(())
        })?;
        let listed = store.lists()?;
        let kept = |owner: &Owner| {
            let list = listed.iter().find(|list| owner.list_name() == Some(&list.name));
            list.map_or([0, 0], |list| list.kept)
        };
        Ok(view
            .lists
            .iter()
            .zip(hits)
            .map(|(list, hits)| (list.owner.clone(), hits.finish(kept(&list.owner))))
            .collect())
    }
}

/// A bit for each list, in the order of the view, and one for all others.
pub(super) fn holders(view: &View, holds: &[Hold]) -> u64 {
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
    fn finish(self, kept: [i64; 2]) -> ListHits {
        let mut top: Vec<EntryHits> = self.top.into_iter().map(|Reverse(entry)| entry).collect();
        top.sort_by(|one, next| next.packets.cmp(&one.packets).then(one.prefix.cmp(&next.prefix)));
        ListHits {
            packets: self.packets.saturating_add_signed(kept[0]),
            bytes: self.bytes.saturating_add_signed(kept[1]),
            packets_alone: self.alone,
            bytes_alone: self.bytes_alone,
            top,
        }
    }
}
