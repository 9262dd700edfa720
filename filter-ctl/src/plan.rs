//! From entries as they are and a change to what is to be done. Pure: the kernel side carries it out.

use std::collections::BTreeMap;

use filter_common::prefix::{Family, in_order};
use thiserror::Error;

use crate::policy::{Deadline, Entry, Key};

/// The entries as they are.
pub trait Current {
    /// The entry with this key, and its id. Keys are asked for in their order.
    fn find(&mut self, key: &Key) -> Option<(u32, Entry)>;
    /// Entries of a family that there are, and that there can be.
    fn room(&self, family: Family) -> Room;
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Entries.
    pub used: u32,
    /// Most entries.
    pub limit: u32,
}

impl Room {
    /// Whether it is time to make room: nine tenths are in use.
    pub fn is_near_full(self) -> bool {
        u64::from(self.used) * 10 >= u64::from(self.limit) * 9
    }
}

/// What to do with the entries.
#[derive(Clone, Debug)]
pub enum Change {
    /// Add these, or extend those that exist to the later deadline. A new reason, if not empty, replaces the old.
    Add(Vec<Entry>),
    /// Remove those with these keys; keys without an entry are passed over.
    Remove(Vec<Key>),
}

/// What a change comes to, entry by entry, in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// New entries.
    pub added: Vec<Entry>,
    /// Entries whose deadline or reason changed, as they are now.
    pub changed: Vec<Entry>,
    /// Entries that were already as asked for.
    pub unchanged: Vec<Entry>,
    /// Removed entries.
    pub removed: Vec<Entry>,
}

/// What is to be done: to make what the effect has as added, and to bring the entries with these ids to what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What it comes to.
    pub effect: Effect,
    /// Ids of the entries that change, in the order of [`Effect::changed`].
    pub changed: Vec<u32>,
    /// Ids of the entries that go, in the order of [`Effect::removed`].
    pub removed: Vec<u32>,
}

/// The entries don't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the tables hold at most {} {family} entries, {} are in use and {needed} more are needed; nothing was changed. \
     Remove some, or make room with `filter-ctl resize {option} N`",
    room.limit,
    room.used
)]
pub struct Full {
    /// `IPv4` or `IPv6`.
    family: &'static str,
    /// The option that makes room.
    option: &'static str,
    /// How full it is.
    pub room: Room,
    /// Entries that are to be new.
    pub needed: u32,
}

/// Plans `change` to `current`.
///
/// # Errors
///
/// [`Full`] if the new entries don't fit; then nothing is to be done.
pub fn plan(current: &mut impl Current, change: Change) -> Result<Plan, Full> {
    let mut plan = Plan::default();
    match change {
        Change::Remove(mut keys) => {
            keys.sort_unstable();
            keys.dedup();
            for (id, entry) in keys.iter().filter_map(|key| current.find(key)) {
                plan.effect.removed.push(entry);
                plan.removed.push(id);
            }
        }
        Change::Add(asked) => {
            let mut needed: BTreeMap<Family, u32> = BTreeMap::new();
            let asked = merged(asked);
            plan.effect.added.reserve(asked.len());
            for asked in asked {
                let Some((id, mut held)) = current.find(&asked.key) else {
                    *needed.entry(asked.key.prefix.family()).or_default() += 1;
                    plan.effect.added.push(asked);
                    continue;
                };
                if merge(&mut held, &asked) {
                    plan.effect.changed.push(held);
                    plan.changed.push(id);
                } else {
                    plan.effect.unchanged.push(held);
                }
            }
            for (family, needed) in needed {
                let room = current.room(family);
                if needed > room.limit - room.used {
                    let (family, option) = match family {
                        Family::V4 => ("IPv4", "--max-ipv4"),
                        Family::V6 => ("IPv6", "--max-ipv6"),
                    };
                    return Err(Full { family, option, room, needed });
                }
            }
        }
    }
    Ok(plan)
}

/// The entries in the order of their keys, those with the same key as one.
fn merged(mut asked: Vec<Entry>) -> Vec<Entry> {
    if !asked.is_sorted_by_key(|entry| entry.key) {
        let keys: Vec<_> = asked.iter().map(|entry| entry.key.to_table()).collect();
        let mut entries: Vec<_> = asked.into_iter().map(Some).collect();
        let sorted = in_order(&keys).into_iter().filter_map(|position| entries[position as usize].take());
        asked = sorted.collect();
    }
    asked.dedup_by(|later, kept| {
        let is_same = later.key == kept.key;
        if is_same {
            merge(kept, later);
        }
        is_same
    });
    asked
}

/// Extends `existing` by what `asked` says. Returns whether that changed it.
fn merge(existing: &mut Entry, asked: &Entry) -> bool {
    let mut changed = asked.until > existing.until;
    existing.until = Deadline::max(existing.until, asked.until);
    if !asked.reason.as_str().is_empty() && asked.reason != existing.reason {
        existing.reason = asked.reason.clone();
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Owner, Prefix, ReasonText};
    use filter_common::FOREVER;

    const LIMIT: u32 = 64;

    fn key(prefix: &str) -> Key {
        Key { action: Action::Block, prefix: Prefix::parse(prefix, true).unwrap() }
    }

    fn block(prefix: &str, until_s: u32) -> Entry {
        Entry {
            key: key(prefix),
            until: Deadline(until_s),
            created_s: 1,
            owner: Owner::manual(),
            reason: ReasonText::default(),
        }
    }

    /// Entries by id, as plain as can be.
    #[derive(Default)]
    struct Held(BTreeMap<u32, Entry>);

    impl Current for Held {
        fn find(&mut self, key: &Key) -> Option<(u32, Entry)> {
            self.0.iter().find(|(_, entry)| entry.key == *key).map(|(id, entry)| (*id, entry.clone()))
        }

        fn room(&self, family: Family) -> Room {
            let used = self.0.values().filter(|entry| entry.key.prefix.family() == family).count();
            Room { used: u32::try_from(used).unwrap(), limit: LIMIT }
        }
    }

    impl Held {
        fn change(&mut self, change: Change) -> Effect {
            let Plan { effect, changed, removed } = plan(self, change).unwrap();
            for entry in &effect.added {
                let id = self.0.keys().max().map_or(1, |id| id + 1);
                self.0.insert(id, entry.clone());
            }
            assert_eq!((changed.len(), removed.len()), (effect.changed.len(), effect.removed.len()));
            for (id, entry) in changed.into_iter().zip(&effect.changed) {
                assert_eq!(self.0.insert(id, entry.clone()).unwrap().key, entry.key);
            }
            for (id, entry) in removed.iter().zip(&effect.removed) {
                assert_eq!(self.0.remove(id).as_ref(), Some(entry));
            }
            effect
        }
    }

    #[test]
    fn adding_again_extends_and_never_shortens() {
        let mut held = Held::default();
        held.change(Change::Add(vec![block("192.0.2.0/24", 50)]));
        let effect = held.change(Change::Add(vec![block("192.0.2.0/24", 90)]));
        assert_eq!((effect.changed.len(), effect.changed[0].until), (1, Deadline(90)));
        let effect = held.change(Change::Add(vec![block("192.0.2.0/24", 60)]));
        assert_eq!((effect.unchanged.len(), effect.unchanged[0].until), (1, Deadline(90)));
        assert_eq!(held.0.len(), 1);
    }

    #[test]
    fn a_new_reason_replaces_the_old_and_none_keeps_it() {
        let mut held = Held::default();
        let with =
            |reason: &str| Entry { reason: ReasonText::parse(reason).unwrap(), ..block("192.0.2.0/24", 50) };
        held.change(Change::Add(vec![with("scan")]));
        assert_eq!(held.change(Change::Add(vec![with("")])).unchanged[0].reason.as_str(), "scan");
        let effect = held.change(Change::Add(vec![with("flood")]));
        assert_eq!(effect.changed[0].reason.as_str(), "flood");
    }

    #[test]
    fn one_call_may_name_a_prefix_twice() {
        let mut held = Held::default();
        let effect = held.change(Change::Add(vec![block("192.0.2.0/24", 50), block("192.0.2.0/24", 90)]));
        assert_eq!((effect.added.len(), effect.added[0].until), (1, Deadline(90)));
        let twice = vec![key("192.0.2.0/24"); 2];
        assert_eq!(held.change(Change::Remove(twice)).removed.len(), 1);
        assert!(held.0.is_empty());
    }

    #[test]
    fn doing_nothing_has_no_effect() {
        let mut held = Held::default();
        let entries = vec![block("192.0.2.0/24", 50), block("2001:db8::/32", FOREVER)];
        held.change(Change::Add(entries.clone()));
        let unchanged = Effect { unchanged: entries.clone(), ..Effect::default() };
        let nothing = Plan { effect: unchanged, ..Plan::default() };
        assert_eq!(plan(&mut held, Change::Add(entries)), Ok(nothing));
        assert_eq!(plan(&mut held, Change::Remove(vec![key("192.0.2.0/25")])), Ok(Plan::default()));
    }

    #[test]
    fn what_is_asked_for_in_any_order_comes_out_in_that_of_keys() {
        let mut held = Held::default();
        let texts =
            ["2001:db8::/32", "192.0.2.0/25", "10.0.0.0/8", "192.0.2.0/24", "2001:db8::1", "192.0.2.0/25"];
        let effect = held.change(Change::Add(texts.map(|text| block(text, 50)).to_vec()));
        let added: Vec<_> = effect.added.iter().map(|entry| entry.key).collect();
        let sorted = ["10.0.0.0/8", "192.0.2.0/24", "192.0.2.0/25", "2001:db8::/32", "2001:db8::1"];
        assert_eq!(added, sorted.map(key));
    }

    #[test]
    fn full_is_refused_before_anything_changes() {
        let mut held = Held::default();
        held.change(Change::Add((0..60).map(|host| block(&format!("192.0.2.{host}"), FOREVER)).collect()));
        let more: Vec<_> = (58..66).map(|host| block(&format!("192.0.2.{host}"), 7)).collect();
        let full = plan(&mut held, Change::Add(more)).unwrap_err();
        assert_eq!((full.room, full.needed), (Room { used: 60, limit: LIMIT }, 6));
        assert!(
            full.to_string().contains("IPv4") && full.to_string().contains("resize --max-ipv4"),
            "{full}"
        );
        let just = (60..64).map(|host| block(&format!("192.0.2.{host}"), FOREVER)).collect();
        assert_eq!(held.change(Change::Add(just)).added.len(), 4);
        assert_eq!(held.change(Change::Add(vec![block("2001:db8::/32", 7)])).added.len(), 1);
    }
}
