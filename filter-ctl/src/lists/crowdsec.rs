//! What CrowdSec's answers come to: which prefixes its owner holds, and until when. Pure.
//!
//! The server tells of each value the longest decision that is in force, and that a value is free once none is: so what is
//! new replaces what was held, also where it ends sooner, and in one answer what was deleted comes before what is new. What
//! an answer does not name stays until its deadline, whatever else the answer holds: a server that fails in the middle sends
//! a short one, and says that all is well.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use filter_common::prefix::{Family, REASON_LENGTH};

use super::format::crowdsec::{Decision, Stream};
use crate::holds::{Hold, Wishes};
use crate::host::whole_seconds;
use crate::policy::{Action, Deadline, Key, Owner, Prefix, ReasonText};

/// Who holds what CrowdSec decides.
pub const OWNER: &str = "crowdsec";

/// Shortest prefixes that are taken: the largest blocks that are given to anybody. What is wider is a mistake.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// Different reasons that are kept apart: far more than there are scenarios, and few of those that the tables have room for.
const MOST_REASONS: usize = 1000;

/// The reason of those that are too many.
const OTHER: &str = "more scenarios than are kept apart";

/// What is remembered between two answers.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Decisions that would cut somebody off, and are asked about again each time: whoever tries passwords is connected by
    /// SSH just then.
    put_off: BTreeMap<Prefix, (Hold, String)>,
    reasons: HashSet<ReasonText>,
}

/// What an answer comes to.
#[derive(Debug)]
pub struct Applied {
    /// What the owner wishes now.
    pub wishes: Wishes,
    /// Why decisions are put off that were not before.
    pub put_off: Vec<String>,
}

impl Decisions {
    /// What is to become of the owner's holds. `harms` says for which of some prefixes a block would do harm, and what.
    pub fn answer(
        &mut self,
        stream: &Stream,
        now: Duration,
        harms: impl FnOnce(&[Prefix]) -> Vec<(Prefix, String)>,
    ) -> Applied {
        let now_s = whole_seconds(now);
        let mut wishes: BTreeMap<Prefix, Option<Hold>> = BTreeMap::new();
        let before = std::mem::take(&mut self.put_off);
        let still = before.iter().filter(|(_, (hold, _))| !hold.until.has_passed(now_s));
        wishes.extend(still.map(|(prefix, (hold, _))| (*prefix, Some(hold.clone()))));
        wishes.extend(stream.deleted.iter().map(|prefix| (*prefix, None)));
        let mut new: BTreeMap<Prefix, Option<Hold>> = BTreeMap::new();
        for decision in &stream.new {
            let hold = self.hold(decision, now);
            let longest = new.entry(decision.prefix).or_default();
            let until = |hold: &Option<Hold>| hold.as_ref().map(|hold| hold.until);
            if until(&hold) > until(longest) {
                *longest = hold;
            }
        }
        wishes.extend(new);

        let held: Vec<Prefix> =
            wishes.iter().filter(|(_, hold)| hold.is_some()).map(|(prefix, _)| *prefix).collect();
        let too_wide = held.iter().filter(|prefix| is_too_wide(prefix));
        let too_wide = too_wide.map(|prefix| (*prefix, format!("{prefix} is too wide to be meant")));
        let harmful: BTreeMap<Prefix, String> = harms(&held).into_iter().chain(too_wide).collect();
        let mut put_off = Vec::new();
        for (prefix, harm) in harmful {
            let Some(Some(hold)) = wishes.remove(&prefix) else { continue };
            if before.get(&prefix).is_none_or(|(_, told)| *told != harm) {
                put_off.push(harm.clone());
            }
            self.put_off.insert(prefix, (hold, harm));
        }
        let key = |prefix| Key { action: Action::Block, prefix };
        let wishes = wishes.into_iter().map(|(prefix, hold)| (key(prefix), hold)).collect();
        Applied { wishes: Wishes::new(&owner(), wishes), put_off }
    }

    /// The hold that a decision stands for; none if it has ended.
    fn hold(&mut self, decision: &Decision, now: Duration) -> Option<Hold> {
        let ttl = Duration::from_secs(decision.ttl_s?.into());
        Some(Hold {
            owner: owner(),
            reason: self.reason(&decision.scenario),
            creator: Arc::from("CrowdSec"),
            created_s: whole_seconds(now).into(),
            // What is too long for a deadline is for ever.
            until: Deadline::after(Some(ttl), now).unwrap_or(Deadline::NEVER),
        })
    }

    /// A scenario as a reason: cut, and without what would not be printed.
    fn reason(&mut self, scenario: &str) -> ReasonText {
        let text: String = scenario.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = &text[..text.floor_char_boundary(REASON_LENGTH)];
        let reason = ReasonText::parse(text).unwrap_or_default();
        if self.reasons.len() >= MOST_REASONS && !self.reasons.contains(&reason) {
            return ReasonText::parse(OTHER).unwrap_or_default();
        }
        self.reasons.insert(reason.clone());
        reason
    }
}

/// The owner of all that CrowdSec decides.
pub fn owner() -> Owner {
    Owner::parse(OWNER).expect("it is short, of letters")
}

fn is_too_wide(prefix: &Prefix) -> bool {
    let widest = match prefix.family() {
        Family::V4 => WIDEST_V4,
        Family::V6 => WIDEST_V6,
    };
    prefix.prefix_len() < widest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holds::{self, Change, Effect};

    const NOW: Duration = Duration::from_secs(1000);

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text, false).unwrap()
    }

    fn decision(text: &str, ttl_s: Option<u32>, scenario: &str) -> Decision {
        Decision { prefix: prefix(text), ttl_s, scenario: scenario.into() }
    }

    fn stream(new: Vec<Decision>, deleted: &[&str]) -> Stream {
        Stream { new, deleted: deleted.iter().map(|text| prefix(text)).collect(), ..Stream::default() }
    }

    /// What is held, by prefix: the end and the reason.
    type Held = BTreeMap<Key, Vec<Hold>>;

    fn apply(held: &mut Held, applied: Applied, now: Duration) -> usize {
        let change = Change::Set(applied.wishes);
        let mut changed = 0;
        for key in change.keys() {
            let mut effect = Effect::default();
            let holds = held.entry(*key).or_default();
            changed += usize::from(holds::change(*key, holds, &change, whole_seconds(now), &mut effect));
        }
        held.retain(|_, holds| !holds.is_empty());
        changed
    }

    fn shown(held: &Held) -> Vec<(String, u32, String)> {
        let of = |(key, holds): (&Key, &Vec<Hold>)| {
            (key.prefix.to_string(), holds[0].until.0, holds[0].reason.as_str().to_owned())
        };
        held.iter().map(of).collect()
    }

    fn harmless(_: &[Prefix]) -> Vec<(Prefix, String)> {
        Vec::new()
    }

    #[test]
    fn what_is_new_replaces_what_was_and_what_is_not_named_stays() {
        let (mut decisions, mut held) = (Decisions::default(), Held::new());
        let first = stream(
            vec![decision("192.0.2.1", Some(100), "ssh-bf"), decision("2001:db8::/48", Some(50), "x")],
            &[],
        );
        let applied = decisions.answer(&first, NOW, harmless);
        assert_eq!(apply(&mut held, applied, NOW), 2);
        // Told again a second later, as the overlap of two answers does, rounded: nothing changes.
        let later = NOW + Duration::from_secs(1);
        let applied = decisions.answer(&first, later, harmless);
        assert_eq!(apply(&mut held, applied, later), 0);
        // The longer one was deleted; the other is what remains.
        let second = stream(vec![decision("192.0.2.1", Some(20), "http-probing")], &[]);
        let applied = decisions.answer(&second, NOW, harmless);
        assert_eq!(apply(&mut held, applied, NOW), 1);
        assert_eq!(
            shown(&held),
            [
                ("192.0.2.1/32".into(), 1020, "http-probing".into()),
                ("2001:db8::/48".into(), 1050, "x".into())
            ]
        );
        for empty in [Stream::default(), stream(Vec::new(), &["198.51.100.1"])] {
            let applied = decisions.answer(&empty, NOW, harmless);
            assert_eq!(apply(&mut held, applied, NOW), 0);
        }
        assert_eq!(held.len(), 2);
    }

    #[test]
    fn deleted_comes_before_new_and_what_has_ended_is_deleted() {
        let (mut decisions, mut held) = (Decisions::default(), Held::new());
        let answer = stream(vec![decision("192.0.2.1", Some(100), "a")], &["192.0.2.1"]);
        for _ in 0..2 {
            let applied = decisions.answer(&answer, NOW, harmless);
            apply(&mut held, applied, NOW);
            assert_eq!(held.len(), 1);
        }
        let applied = decisions.answer(&stream(vec![decision("192.0.2.1", None, "a")], &[]), NOW, harmless);
        apply(&mut held, applied, NOW);
        assert!(held.is_empty());
        // Of several the longest, in whichever order.
        let mut all = vec![
            decision("192.0.2.1", None, "over"),
            decision("192.0.2.1", Some(100), "long"),
            decision("192.0.2.1", Some(10), "short"),
        ];
        for _ in 0..3 {
            all.rotate_left(1);
            let applied = Decisions::default().answer(&stream(all.clone(), &[]), NOW, harmless);
            let mut held = Held::new();
            apply(&mut held, applied, NOW);
            assert_eq!(shown(&held), [("192.0.2.1/32".into(), 1100, "long".into())]);
        }
    }

    #[test]
    fn what_would_do_harm_waits_until_it_does_not() {
        let (mut decisions, mut held) = (Decisions::default(), Held::new());
        let peer = prefix("192.0.2.1");
        let harm = |prefixes: &[Prefix]| {
            let harmful = prefixes.iter().filter(|prefix| prefix.covers(&peer));
            harmful.map(|prefix| (*prefix, format!("{prefix} covers a peer"))).collect()
        };
        let answer = stream(
            vec![
                decision("192.0.2.1", Some(100), "ssh-bf"),
                decision("192.0.2.0/24", Some(10), "x"),
                decision("0.0.0.0/1", Some(100), "x"),
                decision("198.51.100.1", Some(100), "x"),
            ],
            &[],
        );
        let applied = decisions.answer(&answer, NOW, harm);
        assert_eq!(
            applied.put_off,
            ["0.0.0.0/1 is too wide to be meant", "192.0.2.0/24 covers a peer", "192.0.2.1/32 covers a peer"]
        );
        apply(&mut held, applied, NOW);
        assert_eq!(held.len(), 1);
        // Told once, and made when the harm is gone: but for what has ended meanwhile.
        let applied = decisions.answer(&Stream::default(), NOW, harm);
        assert_eq!((applied.put_off.len(), apply(&mut held, applied, NOW)), (0, 0));
        let later = NOW + Duration::from_secs(20);
        let applied = decisions.answer(&Stream::default(), later, harmless);
        apply(&mut held, applied, later);
        assert_eq!(shown(&held)[0], ("192.0.2.1/32".into(), 1100, "ssh-bf".into()));
        assert_eq!(held.len(), 2);
        // And deleted where it is only put off.
        let mut decisions = Decisions::default();
        decisions.answer(&answer, NOW, harm);
        decisions.answer(&stream(Vec::new(), &["192.0.2.1"]), NOW, harm);
        assert!(!decisions.put_off.contains_key(&peer));
    }

    #[test]
    fn any_scenario_is_a_reason() {
        let mut decisions = Decisions::default();
        assert_eq!(decisions.reason("a\n\u{1b}[2J").as_str(), "a  [2J");
        assert_eq!(decisions.reason(&"\u{e9}".repeat(200)).as_str().len(), REASON_LENGTH);
        for number in 0..2 * MOST_REASONS {
            decisions.reason(&number.to_string());
        }
        assert_eq!((decisions.reason("0").as_str(), decisions.reason("new").as_str()), ("0", OTHER));
        let endless = decision("192.0.2.1", Some(u32::MAX), "x");
        assert_eq!(decisions.hold(&endless, NOW).unwrap().until, Deadline::NEVER);
    }
}
