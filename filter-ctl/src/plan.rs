//! From entries as they are and as they are to be to what is to be done. Pure: the kernel side carries it out.

use std::collections::BTreeMap;

use filter_common::prefix::Family;
use thiserror::Error;

use crate::policy::{Entry, Key};

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

/// How the entry with one key is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// As this says; when it was made is not compared.
    There(Entry),
    /// Not there.
    Gone(Key),
}

impl Target {
    /// The key.
    pub fn key(&self) -> &Key {
        match self {
            Self::There(entry) => &entry.key,
            Self::Gone(key) => key,
        }
    }
}

/// What is to be done with the entries that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries to be made, in the order of keys.
    pub added: Vec<Entry>,
    /// Entries to be changed, by id, as they are to be.
    pub changed: Vec<(u32, Entry)>,
    /// Entries to go, by id, as they are.
    pub removed: Vec<(u32, Entry)>,
}

impl Plan {
    /// Changes to entries.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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

/// What brings `current` to the targets, which are in the order of their keys, each once.
///
/// # Errors
///
/// [`Full`] if the new entries don't fit; then nothing is to be done.
pub fn plan(current: &mut impl Current, targets: Vec<Target>) -> Result<Plan, Full> {
    debug_assert!(targets.is_sorted_by(|one, next| one.key() < next.key()));
    let mut plan = Plan::default();
    let mut needed: BTreeMap<Family, u32> = BTreeMap::new();
    for target in targets {
        match (current.find(target.key()), target) {
            (None, Target::There(wanted)) => {
                *needed.entry(wanted.key.prefix.family()).or_default() += 1;
                plan.added.push(wanted);
            }
            (Some((id, held)), Target::There(wanted)) => {
                let said = |entry: &Entry| (entry.until, entry.owner.clone(), entry.reason.clone());
                if said(&held) != said(&wanted) {
                    plan.changed.push((id, wanted));
                }
            }
            (Some((id, held)), Target::Gone(_)) => plan.removed.push((id, held)),
            (None, Target::Gone(_)) => {}
        }
    }
    for (family, needed) in needed {
        fits(family, current.room(family), needed)?;
    }
    Ok(plan)
}

/// Whether there is room for so many new entries. What goes makes no room for what comes in the same change: ids rest before
/// they are used again.
///
/// # Errors
///
/// [`Full`] if there is not.
pub fn fits(family: Family, room: Room, needed: u32) -> Result<(), Full> {
    if needed <= room.limit - room.used {
        return Ok(());
    }
    let (family, option) = match family {
        Family::V4 => ("IPv4", "--max-ipv4"),
        Family::V6 => ("IPv6", "--max-ipv6"),
    };
    Err(Full { family, option, room, needed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Deadline, Owner, Prefix, ReasonText};
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
        fn bring(&mut self, mut targets: Vec<Target>) -> Plan {
            targets.sort_by_key(|target| *target.key());
            let plan = plan(self, targets).unwrap();
            for entry in &plan.added {
                let id = self.0.keys().max().map_or(1, |id| id + 1);
                self.0.insert(id, entry.clone());
            }
            for (id, entry) in &plan.changed {
                assert_eq!(self.0.insert(*id, entry.clone()).unwrap().key, entry.key);
            }
            for (id, entry) in &plan.removed {
                assert_eq!(self.0.remove(id).as_ref(), Some(entry));
            }
            plan
        }
    }

    #[test]
    fn targets_are_reached_whether_later_or_earlier() {
        let mut held = Held::default();
        assert_eq!(held.bring(vec![Target::There(block("192.0.2.0/24", 90))]).added.len(), 1);
        let sooner = held.bring(vec![Target::There(block("192.0.2.0/24", 50))]);
        assert_eq!((sooner.changed.len(), sooner.changed[0].1.until), (1, Deadline(50)));
        assert_eq!(held.bring(vec![Target::There(block("192.0.2.0/24", 50))]), Plan::default());
        assert_eq!(held.bring(vec![Target::Gone(key("192.0.2.0/24"))]).removed.len(), 1);
        assert_eq!(held.bring(vec![Target::Gone(key("192.0.2.0/24"))]), Plan::default());
    }

    #[test]
    fn another_owner_or_reason_is_a_change() {
        let mut held = Held::default();
        let with = |reason: &str, owner: &str| Entry {
            reason: ReasonText::parse(reason).unwrap(),
            owner: Owner::parse(owner).unwrap(),
            ..block("192.0.2.0/24", 50)
        };
        held.bring(vec![Target::There(with("scan", "manual"))]);
        assert_eq!(held.bring(vec![Target::There(with("flood", "manual"))]).changed.len(), 1);
        assert_eq!(held.bring(vec![Target::There(with("flood", "fail2ban"))]).changed.len(), 1);
    }

    #[test]
    fn full_is_refused_before_anything_changes() {
        let mut held = Held::default();
        let there = |texts: &mut dyn Iterator<Item = String>| {
            texts.map(|text| Target::There(block(&text, FOREVER))).collect::<Vec<_>>()
        };
        held.bring(there(&mut (0..60).map(|host| format!("192.0.2.{host}"))));
        let mut more = there(&mut (58..66).map(|host| format!("192.0.2.{host}")));
        more.sort_by_key(|target| *target.key());
        let full = plan(&mut held, more).unwrap_err();
        assert_eq!((full.room, full.needed), (Room { used: 60, limit: LIMIT }, 6));
        assert!(
            full.to_string().contains("IPv4") && full.to_string().contains("resize --max-ipv4"),
            "{full}"
        );
        assert_eq!(held.bring(there(&mut (60..64).map(|host| format!("192.0.2.{host}")))).added.len(), 4);
        assert_eq!(held.bring(vec![Target::There(block("2001:db8::/32", 7))]).added.len(), 1);
    }
}
