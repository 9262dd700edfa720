//! Who holds a prefix, and until when: several owners may, each with a deadline and a reason of its own. Pure.
//!
//! What is enforced follows: an entry lasts as long as its last holder wants, and is gone when the last lets go.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::policy::{Deadline, Entry, Key, Owner, ReasonText};

/// Seconds by which two deadlines differ that are the same one: whoever tells times that are left rounds them, and takes a
/// moment to tell them.
const SAME_S: u32 = 2;

/// One owner's wish that an entry be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who wishes it.
    pub owner: Owner,
    /// Why.
    pub reason: ReasonText,
    /// Who typed it or sent it; empty where that is not known any more.
    pub creator: Arc<str>,
    /// When, in seconds of CLOCK_MONOTONIC; negative for what is older than this boot.
    pub created_s: i64,
    /// When the owner lets go by itself.
    pub until: Deadline,
}

impl Hold {
    /// The hold that an entry of the kernel's tables stands for, where nothing else is known.
    pub fn of_entry(entry: &Entry) -> Self {
        Self {
            owner: entry.owner.clone(),
            reason: entry.reason.clone(),
            creator: "".into(),
            created_s: entry.created_s,
            until: entry.until,
        }
    }

    /// The entry that this hold alone makes.
    pub fn entry(&self, key: Key) -> Entry {
        Entry {
            key,
            until: self.until,
            created_s: self.created_s,
            owner: self.owner.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// What is enforced for `key` while these hold it: nothing if nobody does. The one who holds it longest lends its name
/// and reason.
pub fn enforced(key: Key, holds: &[Hold]) -> Option<Entry> {
    let longest = longest(holds)?;
    let created_s = holds.iter().map(|hold| hold.created_s).min()?;
    Some(Entry { created_s, ..longest.entry(key) })
}

/// The hold that lasts longest, whose name the kernel's tables have; of several, the first by name.
pub fn longest(holds: &[Hold]) -> Option<&Hold> {
    holds.iter().min_by_key(|hold| (std::cmp::Reverse(hold.until), &hold.owner))
}

/// A change to who holds what.
#[derive(Clone, Debug)]
pub enum Change {
    /// These keys are held, too, as the hold says. An owner who holds a key already extends to the later deadline; a new
    /// reason, if not empty, replaces the old.
    Hold {
        /// What is to be held.
        keys: Vec<Key>,
        /// By whom, how long and why.
        hold: Hold,
    },
    /// These keys are let go.
    Release {
        /// What is let go.
        keys: Vec<Key>,
        /// By whom.
        whose: Whose,
    },
    /// One owner says of many keys, each apart, how it holds them or that it doesn't.
    Set(Wishes),
}

impl Change {
    /// The keys that it concerns, in their order.
    pub fn keys(&self) -> &[Key] {
        match self {
            Self::Hold { keys, .. } | Self::Release { keys, .. } => keys,
            Self::Set(wishes) => &wishes.keys,
        }
    }

    /// The hold of `key` that is asked for.
    pub fn asked(&self, key: Key) -> Option<&Hold> {
        match self {
            Self::Hold { hold, .. } => Some(hold),
            Self::Release { .. } => None,
            Self::Set(wishes) => wishes.of(key),
        }
    }

    /// Puts its keys in order, each once.
    pub fn sorted(mut self) -> Self {
        match &mut self {
            Self::Hold { keys, .. } | Self::Release { keys, .. } => {
                keys.sort_unstable();
                keys.dedup();
            }
            // In order since it was made.
            Self::Set(_) => {}
        }
        self
    }
}

/// What one owner wishes of each of many keys: one hold of it, or none.
#[derive(Clone, Debug)]
pub struct Wishes {
    owner: Owner,
    keys: Vec<Key>,
    /// Of the same keys.
    holds: Vec<Option<Hold>>,
    /// Whether a hold that is there is only ever made longer.
    is_extending: bool,
}

impl Wishes {
    /// Those of `owner`, whose name all holds get.
    pub fn new(owner: &Owner, wishes: BTreeMap<Key, Option<Hold>>) -> Self {
        let named = |hold: Hold| Hold { owner: owner.clone(), ..hold };
        let (keys, holds) = wishes.into_iter().map(|(key, hold)| (key, hold.map(named))).unzip();
        Self { owner: owner.clone(), keys, holds, is_extending: false }
    }

    /// The same, but for holds that are there: these are extended, as by [`Change::Hold`].
    pub fn extending(owner: &Owner, holds: BTreeMap<Key, Hold>) -> Self {
        let holds = holds.into_iter().map(|(key, hold)| (key, Some(hold))).collect();
        Self { is_extending: true, ..Self::new(owner, holds) }
    }

    fn of(&self, key: Key) -> Option<&Hold> {
        self.holds.get(self.keys.binary_search(&key).ok()?)?.as_ref()
    }
}

/// Whose holds are let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of one owner.
    Of(Owner),
    /// Everybody's but those of lists, which hold what they hold until they are changed.
    All,
}

impl Whose {
    fn includes(&self, owner: &Owner) -> bool {
        match self {
            Self::Of(one) => one == owner,
            Self::All => !owner.is_list(),
        }
    }
}

/// What a change comes to, hold by hold, in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// New holds.
    pub added: Vec<Entry>,
    /// Holds whose deadline or reason changed, as they are now.
    pub changed: Vec<Entry>,
    /// Holds that were already as asked for.
    pub unchanged: Vec<Entry>,
    /// Holds that were let go.
    pub removed: Vec<Entry>,
    /// Holds of others on the same keys, which stay.
    pub others: Vec<Entry>,
}

/// The holds of one key after a change, and what changed about it is added to `effect`. Holds that have ended by second
/// `now_s` are gone. Returns whether the holds differ from those before.
pub fn change(key: Key, holds: &mut Vec<Hold>, change: &Change, now_s: u32, effect: &mut Effect) -> bool {
    let before = holds.len();
    holds.retain(|hold| !hold.until.has_passed(now_s));
    let mut is_changed = holds.len() != before;
    match change {
        Change::Hold { hold: asked, .. } => is_changed |= hold(key, holds, asked, extend, effect),
        Change::Release { whose, .. } => is_changed |= release(key, holds, whose, effect),
        Change::Set(wishes) => match wishes.of(key) {
            None => is_changed |= release(key, holds, &Whose::Of(wishes.owner.clone()), effect),
            Some(asked) => {
                let alter = if wishes.is_extending { extend } else { set };
                is_changed |= hold(key, holds, asked, alter, effect);
            }
        },
    }
    is_changed
}

/// Holds a key as asked. Where its owner holds it already, `alter` makes that hold what it is to be, and says whether that
/// changed it. Returns whether anything changed.
fn hold(
    key: Key,
    holds: &mut Vec<Hold>,
    asked: &Hold,
    alter: fn(&mut Hold, &Hold) -> bool,
    effect: &mut Effect,
) -> bool {
    let others = holds.iter().filter(|hold| hold.owner != asked.owner);
    effect.others.extend(others.map(|hold| hold.entry(key)));
    let Some(held) = holds.iter_mut().find(|hold| hold.owner == asked.owner) else {
        holds.push(asked.clone());
        effect.added.push(asked.entry(key));
        return true;
    };
    let is_altered = alter(held, asked);
    let told = if is_altered { &mut effect.changed } else { &mut effect.unchanged };
    told.push(held.entry(key));
    is_altered
}

/// Lets go of what is `whose`. Returns whether there was such a hold.
fn release(key: Key, holds: &mut Vec<Hold>, whose: &Whose, effect: &mut Effect) -> bool {
    let before = holds.len();
    holds.retain(|hold| {
        let goes = whose.includes(&hold.owner);
        let told = if goes { &mut effect.removed } else { &mut effect.others };
        told.push(hold.entry(key));
        !goes
    });
    holds.len() != before
}

/// Makes a hold what was asked, sooner or later. Returns whether that changed it: a deadline that is told again comes out
/// [`SAME_S`] earlier or later.
fn set(held: &mut Hold, asked: &Hold) -> bool {
    if held.until.0.abs_diff(asked.until.0) <= SAME_S && held.reason == asked.reason {
        return false;
    }
    *held = Hold { created_s: held.created_s, ..asked.clone() };
    true
}

/// Extends a hold by what was asked. Returns whether that changed it.
fn extend(held: &mut Hold, asked: &Hold) -> bool {
    let mut changed = asked.until > held.until;
    held.until = Deadline::max(held.until, asked.until);
    if !asked.reason.as_str().is_empty() && asked.reason != held.reason {
        held.reason = asked.reason.clone();
        changed = true;
    }
    if changed {
        held.creator.clone_from(&asked.creator);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Prefix};

    const NOW_S: u32 = 10;

    fn key() -> Key {
        Key { action: Action::Block, prefix: Prefix::parse("192.0.2.0/24", false).unwrap() }
    }

    fn by(owner: &str, until_s: u32, reason: &str) -> Hold {
        Hold {
            owner: Owner::parse(owner).unwrap(),
            reason: ReasonText::parse(reason).unwrap(),
            creator: "root".into(),
            created_s: NOW_S.into(),
            until: Deadline(until_s),
        }
    }

    fn holding(holds: &mut Vec<Hold>, hold: Hold) -> Effect {
        let mut effect = Effect::default();
        change(key(), holds, &Change::Hold { keys: vec![key()], hold }, NOW_S, &mut effect);
        effect
    }

    fn releasing(holds: &mut Vec<Hold>, whose: Whose) -> Effect {
        let mut effect = Effect::default();
        change(key(), holds, &Change::Release { keys: vec![key()], whose }, NOW_S, &mut effect);
        effect
    }

    #[test]
    fn an_entry_lasts_as_long_as_its_last_holder_wants() {
        let mut holds = Vec::new();
        assert_eq!(enforced(key(), &holds), None);
        holding(&mut holds, by("manual", 50, "flood"));
        let effect = holding(&mut holds, by("fail2ban", 90, "sshd"));
        assert_eq!((effect.added.len(), effect.others.len()), (1, 1));
        let entry = enforced(key(), &holds).unwrap();
        assert_eq!(
            (entry.until, entry.owner.as_str(), entry.reason.as_str()),
            (Deadline(90), "fail2ban", "sshd")
        );

        let effect = releasing(&mut holds, Whose::Of(Owner::parse("fail2ban").unwrap()));
        assert_eq!((effect.removed.len(), effect.others.len()), (1, 1));
        assert_eq!(enforced(key(), &holds).unwrap().until, Deadline(50));
        releasing(&mut holds, Whose::All);
        assert_eq!(enforced(key(), &holds), None);
    }

    #[test]
    fn holding_again_extends_and_never_shortens() {
        let mut holds = Vec::new();
        holding(&mut holds, by("manual", 50, "scan"));
        assert_eq!(holding(&mut holds, by("manual", 90, "")).changed[0].until, Deadline(90));
        let unchanged = holding(&mut holds, by("manual", 60, ""));
        assert_eq!(
            (unchanged.unchanged[0].until, unchanged.unchanged[0].reason.as_str()),
            (Deadline(90), "scan")
        );
        assert_eq!(holding(&mut holds, by("manual", 60, "flood")).changed[0].reason.as_str(), "flood");
        assert_eq!(holds.len(), 1);
    }

    #[test]
    fn what_has_ended_holds_nothing() {
        let mut holds = vec![by("fail2ban", NOW_S, "over"), by("manual", NOW_S + 1, "")];
        let effect = releasing(&mut holds, Whose::Of(Owner::parse("fail2ban").unwrap()));
        assert_eq!((effect.removed.len(), holds.len()), (0, 1));
        let added = holding(&mut holds, by("fail2ban", NOW_S + 5, "again"));
        assert_eq!(added.added[0].reason.as_str(), "again");
    }

    #[test]
    fn letting_go_of_what_one_does_not_hold_changes_nothing() {
        let mut holds = vec![by("fail2ban", 90, "")];
        let mut effect = Effect::default();
        let release = Change::Release { keys: vec![key()], whose: Whose::Of(Owner::manual()) };
        assert!(!change(key(), &mut holds, &release, NOW_S, &mut effect));
        assert_eq!((effect.removed.len(), effect.others[0].owner.as_str()), (0, "fail2ban"));
    }

    fn setting(holds: &mut Vec<Hold>, wish: Option<Hold>) -> (bool, Effect) {
        let mut effect = Effect::default();
        let wishes = Wishes::new(&Owner::parse("crowdsec").unwrap(), BTreeMap::from([(key(), wish)]));
        let is_changed = change(key(), holds, &Change::Set(wishes), NOW_S, &mut effect);
        (is_changed, effect)
    }

    #[test]
    fn what_is_set_replaces_the_owners_hold_and_no_others() {
        let mut holds = vec![by("manual", 50, "")];
        // Whatever name the hold had.
        let (is_changed, effect) = setting(&mut holds, Some(by("none", 90, "ssh-bf")));
        assert_eq!((is_changed, effect.added[0].owner.as_str(), effect.others.len()), (true, "crowdsec", 1));
        let (is_changed, effect) = setting(&mut holds, Some(by("none", 40, "http-probing")));
        assert_eq!((is_changed, effect.changed[0].until), (true, Deadline(40)));
        assert_eq!(enforced(key(), &holds).unwrap().owner.as_str(), "manual");
        let (is_changed, effect) = setting(&mut holds, None);
        assert_eq!((is_changed, effect.removed.len(), effect.others.len()), (true, 1, 1));
        let (is_changed, effect) = setting(&mut holds, None);
        assert_eq!((is_changed, effect.removed.len(), holds.len()), (false, 0, 1));
    }

    #[test]
    fn wishes_that_extend_shorten_nothing() {
        let owner = Owner::manual();
        let mut holds = vec![by("manual", 50, "scan")];
        for (until_s, then_s) in [(40, 50), (90, 90)] {
            let wishes = Wishes::extending(&owner, BTreeMap::from([(key(), by("none", until_s, ""))]));
            change(key(), &mut holds, &Change::Set(wishes), NOW_S, &mut Effect::default());
            assert_eq!(
                (holds[0].until, holds[0].reason.as_str(), holds.len()),
                (Deadline(then_s), "scan", 1)
            );
        }
    }

    #[test]
    fn a_deadline_that_is_told_again_changes_nothing() {
        let mut holds = Vec::new();
        setting(&mut holds, Some(by("none", 90, "ssh-bf")));
        for until_s in [88, 89, 90, 91, 92] {
            let (is_changed, effect) = setting(&mut holds, Some(by("none", until_s, "ssh-bf")));
            assert_eq!((is_changed, effect.unchanged[0].until), (false, Deadline(90)), "{until_s}");
        }
        assert!(setting(&mut holds, Some(by("none", 93, "ssh-bf"))).0);
        assert!(setting(&mut holds, Some(by("none", 93, "other"))).0);
        assert!(setting(&mut holds, Some(by("none", Deadline::NEVER.0, "other"))).0);
    }
}
