//! From entries as they are and a change to the steps that make it so. Pure: the kernel side carries plans out.
//!
//! # Records
//!
//! The tries answer with the longest prefix only. So that the end of an entry never uncovers an address that a
//! wider entry still covers, the record of each prefix holds the *latest* end of all entries that cover it
//! ([`records`]). A change of one entry can therefore change the records of those inside it.
//!
//! # Order
//!
//! Entries to go are marked, new ones are written down, records are set, records are removed, and only then are
//! entries called active or free. Each record is replaced atomically by the kernel, and for any one address
//! only one record of each action decides, so during a change a packet's verdict changes at most once; and a
//! process that dies anywhere in between leaves marks from which [`Entries::is_interrupted`] and [`recover`]
//! finish the work.

use std::collections::BTreeMap;

use filter_common::abi::{Record, entry_state};
use thiserror::Error;

use crate::policy::{Deadline, Entry, Key};

/// The entries of a filter by id, with the state each is in (`filter_common::abi::entry_state`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    slots: BTreeMap<u32, (u32, Entry)>,
}

impl Entries {
    /// Adds what was read from slot `id`.
    pub fn insert(&mut self, id: u32, state: u32, entry: Entry) {
        self.slots.insert(id, (state, entry));
    }

    /// All that are wanted, in the order of their ids.
    pub fn wanted(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.slots
            .iter()
            .filter(|(_, (state, _))| *state != entry_state::REMOVING)
            .map(|(id, (_, entry))| (*id, entry))
    }

    /// Whether a change was begun and not finished.
    pub fn is_interrupted(&self) -> bool {
        self.slots.values().any(|(state, _)| *state != entry_state::ACTIVE)
    }

    /// The keys of all whose deadline has passed by `now_s`.
    pub fn expired(&self, now_s: u32) -> Vec<Key> {
        self.wanted().filter(|(_, entry)| entry.until.has_passed(now_s)).map(|(_, entry)| entry.key).collect()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
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

/// What a change comes to, entry by entry.
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

/// Steps for the kernel, in the order in which they are carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Mark these slots as [`REMOVING`](entry_state::REMOVING).
    pub mark_removing: Vec<u32>,
    /// Write these slots as [`ADDING`](entry_state::ADDING); counters of new ids are zeroed before.
    pub write: Vec<SlotWrite>,
    /// Set these records, wider prefixes first.
    pub set: Vec<(Key, Record)>,
    /// Remove these records, narrower prefixes first.
    pub remove: Vec<Key>,
    /// Mark these slots as [`ACTIVE`](entry_state::ACTIVE).
    pub activate: Vec<u32>,
    /// Mark these slots as [`FREE`](entry_state::FREE).
    pub free: Vec<u32>,
}

/// One slot to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWrite {
    /// Slot.
    pub id: u32,
    /// Its entry.
    pub entry: Entry,
    /// Whether the slot was free, so that its counters are somebody else's.
    pub is_new: bool,
}

/// The entries don't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the table `entries` holds at most {limit} entries, {used} are in use and {needed} more are needed; nothing was changed. \
     Remove some; a larger --max-entries needs loading anew"
)]
pub struct Full {
    /// Capacity.
    pub limit: usize,
    /// Slots in use.
    pub used: usize,
    /// Slots that it needs.
    pub needed: usize,
}

/// Plans `change` to `current`, which must not be interrupted, in a table of `limit` entries.
///
/// # Errors
///
/// [`Full`] if the new entries don't fit; then nothing is to be done.
pub fn plan(current: &Entries, change: Change, limit: usize) -> Result<(Plan, Effect), Full> {
    let mut effect = Effect::default();
    let mut plan = Plan::default();
    let mut desired = current.clone();
    let ids: BTreeMap<Key, u32> = current.wanted().map(|(id, entry)| (entry.key, id)).collect();

    match change {
        Change::Remove(keys) => {
            for id in keys.iter().filter_map(|key| ids.get(key)) {
                // A key given twice is found once.
                if let Some((_, entry)) = desired.slots.remove(id) {
                    plan.mark_removing.push(*id);
                    effect.removed.push(entry);
                }
            }
            plan.free.clone_from(&plan.mark_removing);
        }
        Change::Add(asked) => {
            let mut new: BTreeMap<Key, Entry> = BTreeMap::new();
            let mut existing: BTreeMap<u32, bool> = BTreeMap::new();
            for entry in asked {
                if let Some(id) = ids.get(&entry.key) {
                    let (_, held) = desired.slots.get_mut(id).expect("ids are of desired's slots");
                    *existing.entry(*id).or_default() |= merge(held, &entry);
                } else {
                    merge(new.entry(entry.key).or_insert_with(|| entry.clone()), &entry);
                }
            }
            for (id, changed) in existing {
                let entry = desired.slots[&id].1.clone();
                if changed {
                    plan.write.push(SlotWrite { id, entry: entry.clone(), is_new: false });
                    effect.changed.push(entry);
                } else {
                    effect.unchanged.push(entry);
                }
            }
            let (used, needed) = (current.len(), new.len());
            if used + needed > limit {
                return Err(Full { limit, used, needed });
            }
            let free = (1..=u32::MAX).filter(|id| !current.slots.contains_key(id));
            for (entry, id) in new.into_values().zip(free) {
                plan.write.push(SlotWrite { id, entry: entry.clone(), is_new: true });
                desired.insert(id, entry_state::ACTIVE, entry.clone());
                effect.added.push(entry);
            }
            plan.activate = plan.write.iter().map(|write| write.id).collect();
        }
    }

    let (before, after) = (records(current), records(&desired));
    plan.set = in_order(after.iter().filter(|(key, record)| before.get(key) != Some(record)));
    plan.remove = in_reverse(before.into_keys().filter(|key| !after.contains_key(key)));
    Ok((plan, effect))
}

/// Plans the end of an interrupted change: what was being added is there afterwards, what was being removed
/// is not, and every record is set anew, since nobody knows how far the change had come.
pub fn recover(interrupted: &Entries) -> Plan {
    let unfinished = |wanted: u32| {
        let slots = interrupted.slots.iter();
        slots.filter(move |(_, (state, _))| *state == wanted).map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let records = records(interrupted);
    let removing = interrupted.slots.values().filter(|(state, _)| *state == entry_state::REMOVING);
    Plan {
        set: in_order(records.iter()),
        remove: in_reverse(removing.map(|(_, entry)| entry.key).filter(|key| !records.contains_key(key))),
        activate: unfinished(entry_state::ADDING),
        free: unfinished(entry_state::REMOVING),
        ..Plan::default()
    }
}

/// The records that the tries must hold for the wanted entries.
pub fn records(entries: &Entries) -> BTreeMap<Key, Record> {
    let mut records: BTreeMap<Key, Record> = entries
        .wanted()
        .map(|(id, entry)| (entry.key, Record { entry: id, until_s: entry.until.0 }))
        .collect();
    // In the order of keys a prefix comes directly before those it covers, so that a stack of the prefixes
    // that are open at this point holds all covering ones.
    let mut open: Vec<(Key, u32)> = Vec::new();
    for (key, record) in &mut records {
        while open
            .pop_if(|(outer, _)| outer.action != key.action || !outer.prefix.covers(&key.prefix))
            .is_some()
        {}
        let inherited = open.last().map_or(0, |(_, until_s)| *until_s);
        record.until_s = record.until_s.max(inherited);
        open.push((*key, record.until_s));
    }
    records
}

/// Extends `existing` by what `asked` says. Returns whether that changed it.
fn merge(existing: &mut Entry, asked: &Entry) -> bool {
    let before = (existing.until, existing.reason.clone());
    existing.until = Deadline::max(existing.until, asked.until);
    if !asked.reason.as_str().is_empty() {
        existing.reason = asked.reason.clone();
    }
    before != (existing.until, existing.reason.clone())
}

fn in_order<'r>(records: impl Iterator<Item = (&'r Key, &'r Record)>) -> Vec<(Key, Record)> {
    let mut records: Vec<_> = records.map(|(key, record)| (*key, *record)).collect();
    records.sort_by_key(|(key, _)| key.prefix.prefix_len());
    records
}

fn in_reverse(keys: impl Iterator<Item = Key>) -> Vec<Key> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by_key(|key| std::cmp::Reverse(key.prefix.prefix_len()));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Prefix, ReasonText};
    use filter_common::FOREVER;
    use proptest::prelude::*;

    const LIMIT: usize = 64;

    fn key(action: Action, prefix: &str) -> Key {
        Key { action, prefix: Prefix::parse(prefix, true).unwrap() }
    }

    fn block(prefix: &str, until_s: u32) -> Entry {
        Entry {
            key: key(Action::Block, prefix),
            until: Deadline(until_s),
            created_s: 1,
            reason: ReasonText::default(),
        }
    }

    /// The kernel's side, as plain maps: carries out a plan, or only its first steps.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Kernel {
        entries: Entries,
        tries: BTreeMap<Key, Record>,
    }

    impl Kernel {
        fn change(&mut self, change: Change) -> Effect {
            let (plan, effect) = plan(&self.entries, change, LIMIT).unwrap();
            self.apply(&plan, usize::MAX);
            effect
        }

        fn apply(&mut self, plan: &Plan, steps: usize) {
            type Step<'p> = Box<dyn Fn(&mut Kernel) + 'p>;
            let mut all: Vec<Step<'_>> = Vec::new();
            let state = |id: u32, state: u32| -> Step<'_> {
                Box::new(move |kernel| kernel.entries.slots.get_mut(&id).unwrap().0 = state)
            };
            all.extend(plan.mark_removing.iter().map(|id| state(*id, entry_state::REMOVING)));
            for write in &plan.write {
                all.push(Box::new(|kernel| {
                    let old =
                        kernel.entries.slots.insert(write.id, (entry_state::ADDING, write.entry.clone()));
                    assert_eq!(old.is_none(), write.is_new);
                }));
            }
            for (key, record) in &plan.set {
                all.push(Box::new(|kernel| {
                    let _ = kernel.tries.insert(*key, *record);
                }));
            }
            for key in &plan.remove {
                all.push(Box::new(|kernel| {
                    let _ = kernel.tries.remove(key);
                }));
            }
            all.extend(plan.activate.iter().map(|id| state(*id, entry_state::ACTIVE)));
            for id in &plan.free {
                all.push(Box::new(|kernel| drop(kernel.entries.slots.remove(id))));
            }
            all.into_iter().take(steps).for_each(|step| step(self));
        }

        fn is_consistent(&self) -> bool {
            self.tries == records(&self.entries) && !self.entries.is_interrupted()
        }

        /// The end of what blocks the one address of `prefix`, as the program would find it: longest match.
        fn blocked_until(&self, prefix: &str) -> Option<u32> {
            let address = key(Action::Block, prefix);
            let covering = self
                .tries
                .iter()
                .filter(|(key, _)| key.action == address.action && key.prefix.covers(&address.prefix));
            covering.max_by_key(|(key, _)| key.prefix.prefix_len()).map(|(_, record)| record.until_s)
        }
    }

    #[test]
    fn a_nested_deadline_never_uncovers_the_wider_entry() {
        let mut kernel = Kernel::default();
        kernel.change(Change::Add(vec![block("10.1.2.0/24", 50)]));
        assert_eq!(kernel.blocked_until("10.1.2.3"), Some(50));
        kernel.change(Change::Add(vec![block("10.1.0.0/16", FOREVER)]));
        assert_eq!(kernel.blocked_until("10.1.2.3"), Some(FOREVER));
        kernel.change(Change::Remove(vec![key(Action::Block, "10.1.0.0/16")]));
        assert_eq!(kernel.blocked_until("10.1.2.3"), Some(50));
        assert_eq!(kernel.blocked_until("10.1.3.3"), None);
    }

    #[test]
    fn adding_again_extends_and_never_shortens() {
        let mut kernel = Kernel::default();
        kernel.change(Change::Add(vec![block("192.0.2.0/24", 50)]));
        let effect = kernel.change(Change::Add(vec![block("192.0.2.0/24", 90)]));
        assert_eq!((effect.changed.len(), effect.changed[0].until), (1, Deadline(90)));
        let effect = kernel.change(Change::Add(vec![block("192.0.2.0/24", 60)]));
        assert_eq!((effect.unchanged.len(), effect.unchanged[0].until), (1, Deadline(90)));
        assert_eq!(kernel.entries.len(), 1);
    }

    #[test]
    fn a_new_reason_replaces_the_old_and_none_keeps_it() {
        let mut kernel = Kernel::default();
        let with =
            |reason: &str| Entry { reason: ReasonText::parse(reason).unwrap(), ..block("192.0.2.0/24", 50) };
        kernel.change(Change::Add(vec![with("scan")]));
        kernel.change(Change::Add(vec![with("")]));
        assert_eq!(kernel.entries.wanted().next().unwrap().1.reason.as_str(), "scan");
        let effect = kernel.change(Change::Add(vec![with("flood")]));
        assert_eq!(effect.changed[0].reason.as_str(), "flood");
    }

    #[test]
    fn one_call_may_name_a_prefix_twice() {
        let mut kernel = Kernel::default();
        let effect = kernel.change(Change::Add(vec![block("192.0.2.0/24", 50), block("192.0.2.0/24", 90)]));
        assert_eq!((effect.added.len(), effect.added[0].until), (1, Deadline(90)));
        let twice = vec![key(Action::Block, "192.0.2.0/24"); 2];
        assert_eq!(kernel.change(Change::Remove(twice)).removed.len(), 1);
        assert!(kernel.entries.is_empty() && kernel.is_consistent());
    }

    #[test]
    fn full_is_refused_before_anything_changes() {
        let mut kernel = Kernel::default();
        kernel.change(Change::Add((0..60).map(|host| block(&format!("192.0.2.{host}"), FOREVER)).collect()));
        let more: Vec<_> = (58..66).map(|host| block(&format!("192.0.2.{host}"), 7)).collect();
        let full = plan(&kernel.entries, Change::Add(more), LIMIT).unwrap_err();
        assert_eq!(full, Full { limit: LIMIT, used: 60, needed: 6 });
        let just = (60..64).map(|host| block(&format!("192.0.2.{host}"), FOREVER)).collect();
        assert_eq!(kernel.change(Change::Add(just)).added.len(), 4);
    }

    #[test]
    fn records_are_set_wide_to_narrow_and_removed_narrow_to_wide() {
        let mut kernel = Kernel::default();
        let prefixes = ["10.1.1.1", "10.0.0.0/8", "10.1.0.0/16"];
        let add = Change::Add(prefixes.iter().map(|prefix| block(prefix, FOREVER)).collect());
        let (added, _) = plan(&kernel.entries, add, LIMIT).unwrap();
        let lengths: Vec<_> = added.set.iter().map(|(key, _)| key.prefix.prefix_len()).collect();
        assert_eq!(lengths, [8, 16, 32]);
        kernel.apply(&added, usize::MAX);
        let remove = Change::Remove(prefixes.iter().map(|prefix| key(Action::Block, prefix)).collect());
        let (removed, _) = plan(&kernel.entries, remove, LIMIT).unwrap();
        let lengths: Vec<_> = removed.remove.iter().map(|key| key.prefix.prefix_len()).collect();
        assert_eq!(lengths, [32, 16, 8]);
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        // Few networks and lengths, so that entries nest and repeat.
        let prefix = (0u8..4, 0u8..4, prop_oneof![Just(0u8), 6..=9u8, 14..=17u8, Just(32u8)]);
        (prefix, any::<bool>(), prop_oneof![Just(FOREVER), 1..100u32]).prop_map(
            |((a, b, length), allow, until_s)| {
                let action = if allow { Action::Allow } else { Action::Block };
                Entry { key: key(action, &format!("{a}.{b}.0.1/{length}")), ..block("0.0.0.0/0", until_s) }
            },
        )
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            prop::collection::vec(any_entry(), 0..6).prop_map(Change::Add),
            prop::collection::vec(any_entry().prop_map(|entry| entry.key), 0..6).prop_map(Change::Remove),
        ]
    }

    proptest! {
        #[test]
        fn tries_follow_the_entries(changes in prop::collection::vec(any_change(), 0..12)) {
            let mut kernel = Kernel::default();
            for change in changes {
                kernel.change(change);
                prop_assert!(kernel.is_consistent());
                // The naive model of a record: the latest end among all covering entries.
                for (key, record) in &kernel.tries {
                    let covering = kernel.entries.wanted().filter(|(_, entry)| {
                        entry.key.action == key.action && entry.key.prefix.covers(&key.prefix)
                    });
                    prop_assert_eq!(Some(record.until_s), covering.map(|(_, entry)| entry.until.0).max());
                }
            }
        }

        #[test]
        fn doing_nothing_is_an_empty_plan(change in any_change()) {
            let mut kernel = Kernel::default();
            kernel.change(change);
            let same = kernel.entries.wanted().map(|(_, entry)| entry.clone()).collect();
            prop_assert_eq!(plan(&kernel.entries, Change::Add(same), LIMIT).unwrap().0, Plan::default());
        }

        #[test]
        fn a_process_that_dies_at_any_step_leaves_what_recovery_finishes(
            first in any_change(), second in any_change(), third in any_change(), died_after in 0usize..40,
        ) {
            let mut kernel = Kernel::default();
            kernel.change(first);
            kernel.change(second);
            let mut whole = kernel.clone();
            whole.change(third.clone());
            let before = kernel.clone();

            let (plan, _) = plan(&kernel.entries, third, LIMIT).unwrap();
            kernel.apply(&plan, died_after);
            kernel.apply(&recover(&kernel.entries.clone()), usize::MAX);
            prop_assert!(kernel.is_consistent());
            // Every entry is as it was before the change or as it is after it.
            for (id, (_, entry)) in &kernel.entries.slots {
                let (old, new) = (before.entries.slots.get(id), whole.entries.slots.get(id));
                prop_assert!([old, new].into_iter().flatten().any(|(_, e)| e == entry));
            }
            for (id, (_, entry)) in &before.entries.slots {
                let kept = whole.entries.slots.get(id).is_some_and(|(_, e)| e == entry);
                prop_assert!(!kept || kernel.entries.slots.contains_key(id));
            }
        }

        #[test]
        fn a_packets_verdict_changes_at_most_once(first in any_change(), second in any_change(), now_s in 0u32..100) {
            let mut kernel = Kernel::default();
            kernel.change(first);
            let (plan, _) = plan(&kernel.entries, second, LIMIT).unwrap();
            for address in ["0.0.0.1", "1.1.0.1", "2.3.0.1", "3.2.9.9", "1.200.0.0"] {
                let mut verdicts: Vec<bool> = (0..60)
                    .map(|steps| {
                        let mut kernel = kernel.clone();
                        kernel.apply(&plan, steps);
                        kernel.blocked_until(address).is_some_and(|until_s| until_s == FOREVER || now_s < until_s)
                    })
                    .collect();
                verdicts.dedup();
                prop_assert!(verdicts.len() <= 2, "{} {:?}", address, verdicts);
            }
        }
    }
}
