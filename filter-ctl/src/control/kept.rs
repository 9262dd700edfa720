//! What lists have counted stays counted. A list's figure is what is counted by entries that it holds or covers; so where a
//! change takes entries from a list, or from the tables, the list keeps what these have counted, and what entries had counted
//! before they come to it is taken from it. All of it is what they have counted just before the change is written down: what they
//! count until it is enforced is in their own counters alone.

use std::collections::HashSet;
use std::iter::Peekable;
use std::vec;

use anyhow::Result;
use filter_common::abi::Counter;

use super::change::Draft;
use super::hits::{OTHERS, Open, holders};
use crate::feeds::MOST_LISTS;
use crate::holds::Hold;
use crate::kernel::Filter;
use crate::kernel::counted::Counting;
use crate::policy::{Action, Key, Prefix};
use crate::store::{Bounds, ListWrite, Store, View};

/// Entries up to which those who hold what covers each are looked up; for more it is quicker to go over all keys.
const FEW: usize = 256;

/// Packets and bytes that are added to a figure, or taken from it.
pub(super) type Kept = [i64; 2];

fn add(kept: &mut Kept, Counter { packets, bytes }: Counter) {
    kept[0] = kept[0].saturating_add_unsigned(packets);
    kept[1] = kept[1].saturating_add_unsigned(bytes);
}

fn take(kept: &mut Kept, Counter { packets, bytes }: Counter) {
    kept[0] = kept[0].saturating_sub_unsigned(packets);
    kept[1] = kept[1].saturating_sub_unsigned(bytes);
}

/// What each of some lists keeps, by name.
#[derive(Debug, Default)]
pub(super) struct KeptByList(Vec<(String, Kept)>);

impl KeptByList {
    /// What the lists of `view` keep of what each entry has counted, by who holds or covers it before and after.
    fn of(view: &View, counted: impl Iterator<Item = (Counter, [u64; 2])>) -> Self {
        let mut kept = vec![Kept::default(); view.lists.len()];
        for (counter, [was, is]) in counted {
            for (place, kept) in kept.iter_mut().enumerate().take(MOST_LISTS) {
                match (was >> place & 1, is >> place & 1) {
                    (1, 0) => add(kept, counter),
                    (0, 1) => take(kept, counter),
                    _ => {}
                }
            }
        }
        let mut by_list = Self::default();
        for (list, kept) in view.lists.iter().zip(kept) {
            by_list.add(list.owner.list_name().unwrap_or_default(), kept);
        }
        by_list
    }

    /// Adds what another list keeps.
    pub fn add(&mut self, name: &str, kept: Kept) {
        if kept != Kept::default() {
            self.0.push((name.to_owned(), kept));
        }
    }

    /// As changes to lists.
    pub fn writes(&self) -> impl Iterator<Item = ListWrite<'_>> {
        self.0.iter().map(|(name, kept)| ListWrite::Keep { name, counted: *kept })
    }

    /// As changes that take the others back.
    pub fn undone(&self) -> impl Iterator<Item = ListWrite<'_>> {
        self.0.iter().map(|(name, kept)| ListWrite::Keep { name, counted: kept.map(|part| -part) })
    }
}

/// What lists keep where holds change as in `draft`, after which the lists are as in `after`.
///
/// # Errors
///
/// If holds or entries can't be read.
pub(super) fn of_draft(filter: &Filter, store: &Store, draft: &Draft, after: &View) -> Result<KeptByList> {
    let before = store.view();
    let is_gone = |key: &Key| {
        let place = draft.after.binary_search_by_key(key, |(key, _)| *key);
        place.is_ok_and(|place| draft.after[place].1.is_empty())
    };
    let (mut counted, mut counting) = (Vec::<(Key, Counter)>::new(), filter.counting());
    for ((key, was), (_, is)) in draft.before.iter().zip(&draft.after) {
        if (holders(before, was) ^ holders(after, is)) & !OTHERS != 0 {
            counted.extend(counting.within(&key.prefix).filter(|(within, _)| within.action == key.action));
        } else if is.is_empty() {
            counted.extend(counting.with(key));
        }
    }
    if counted.is_empty() {
        return Ok(KeptByList::default());
    }
    counted.sort_unstable_by_key(|(key, _)| *key);
    counted.dedup_by_key(|(key, _)| *key);
    let keys: Vec<Key> = counted.iter().map(|(key, _)| *key).collect();
    let held = |draft: &[(Key, Vec<Hold>)]| {
        draft.iter().filter(|(_, holds)| !holds.is_empty()).map(|(key, _)| *key).collect()
    };
    let was = covering(filter, store, before, &held(&draft.before), &keys)?;
    let is = covering(filter, store, after, &held(&draft.after), &keys)?;
    let counted = counted.into_iter().zip(was.into_iter().zip(is));
    let counted =
        counted.map(|((key, counter), (was, is))| (counter, [was, if is_gone(&key) { 0 } else { is }]));
    Ok(KeptByList::of(before, counted))
}

/// What the lists of `view` keep where these entries go.
///
/// # Errors
///
/// If holds or entries can't be read.
pub(super) fn of_gone(
    filter: &Filter,
    store: &Store,
    view: &View,
    gone: &[(Key, Counter)],
) -> Result<KeptByList> {
    if view.lists.is_empty() {
        return Ok(KeptByList::default());
    }
    let keys: Vec<Key> = gone.iter().map(|(key, _)| *key).collect();
    let was = covering(filter, store, view, &HashSet::new(), &keys)?;
    Ok(KeptByList::of(view, gone.iter().zip(was).map(|((_, counter), was)| (*counter, [was, 0]))))
}

/// Which lists hold or cover each of these keys, which are in order. What is held is in the tables, or among `besides`.
fn covering(
    filter: &Filter,
    store: &Store,
    view: &View,
    besides: &HashSet<Key>,
    keys: &[Key],
) -> Result<Vec<u64>> {
    if keys.len() <= FEW {
        return keys
            .iter()
            .map(|key| {
                let there = filter.covering(key)?.into_iter().map(|(_, entry)| entry.key);
                let wider = (0..=key.prefix.prefix_len()).filter_map(|length| key.prefix.widened(length));
                let besides = wider.map(|prefix| Key { prefix, ..*key }).filter(|key| besides.contains(key));
                let candidates: HashSet<Key> = there.chain(besides).collect();
                candidates
                    .iter()
                    .filter(|wider| wider.action == key.action)
                    .try_fold(0, |lists, wider| Ok(lists | holders(view, &store.holds_in(view, wider)?)))
            })
            .collect();
    }
    let (mut lists, mut open) = (Vec::with_capacity(keys.len()), Open::default());
    store.each_key_in(view, Bounds::All, |key, holds| {
        while let Some(asked) = keys.get(lists.len()).filter(|asked| **asked < key) {
            lists.push(open.over(asked));
        }
        open.begin(key, holders(view, &holds));
        Ok(())
    })?;
    while let Some(asked) = keys.get(lists.len()) {
        lists.push(open.over(asked));
    }
    Ok(lists)
}

/// Follows a change of one list, key by key in their order, and what entries have counted that come to it or go.
pub(super) struct Followed<'f> {
    counting: Counting<'f>,
    /// Before and after, by action: the widest prefix of the list that is not passed yet.
    open: [[Option<Prefix>; 2]; 2],
    /// What the list holds differently; in there, entries that have counted and were not looked at yet.
    region: Option<Prefix>,
    counted: Peekable<vec::IntoIter<(Key, Counter)>>,
    kept: Kept,
    gone: Vec<(Key, Counter)>,
}

impl<'f> Followed<'f> {
    pub fn new(filter: &'f Filter) -> Self {
        Self {
            counting: filter.counting(),
            open: [[None; 2]; 2],
            region: None,
            counted: Vec::new().into_iter().peekable(),
            kept: Kept::default(),
            gone: Vec::new(),
        }
    }

    /// The next key that the list held before the change, or holds after it, and whether its entry goes.
    pub fn key(&mut self, key: &Key, held: [bool; 2], goes: bool) {
        if held[0] != held[1] && !self.region.is_some_and(|region| region.covers(&key.prefix)) {
            self.rest();
            self.region = Some(key.prefix);
            let counted: Vec<_> = self.counting.within(&key.prefix).collect();
            self.counted = counted.into_iter().peekable();
        }
        while let Some((before, counter)) = self.counted.next_if(|(before, _)| before < key) {
            self.entry(&before, counter, false);
        }
        for (open, held) in self.open.iter_mut().zip(held) {
            let open = &mut open[usize::from(key.action == Action::Block)];
            if held && !open.is_some_and(|open| open.covers(&key.prefix)) {
                *open = Some(key.prefix);
            }
        }
        if let Some((key, counter)) = self.counted.next_if(|(same, _)| same == key) {
            self.entry(&key, counter, goes);
        }
    }

    /// What the list keeps, and the entries that go and have counted anything.
    pub fn end(mut self) -> (Kept, Vec<(Key, Counter)>) {
        self.rest();
        (self.kept, self.gone)
    }

    /// Looks at the entries that are left.
    fn rest(&mut self) {
        while let Some((key, counter)) = self.counted.next() {
            self.entry(&key, counter, false);
        }
    }

    fn entry(&mut self, key: &Key, counter: Counter, goes: bool) {
        let covers = |open: &[Option<Prefix>; 2]| {
            open[usize::from(key.action == Action::Block)].is_some_and(|open| open.covers(&key.prefix))
        };
        match (covers(&self.open[0]), covers(&self.open[1]) && !goes) {
            (true, false) => add(&mut self.kept, counter),
            (false, true) => take(&mut self.kept, counter),
            _ => {}
        }
        if goes {
            self.gone.push((*key, counter));
        }
    }
}
