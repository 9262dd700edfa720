//! Changes to entries: who holds what, written down, then enforced.

use anyhow::{Context as _, Result};
use filter_common::prefix::Stored;
use serde_json::{Value, json};

use super::Control;
use super::kept::{self, KeptByList};
use super::lists::holes_of;
use super::reconcile::adopted;
use crate::holds::{self, Change, Effect, Hold, enforced, longest};
use crate::host::monotonic_now_s;
use crate::kernel::filter::{PartlyApplied, digest};
use crate::plan::{Plan, Target};
use crate::policy::{Entry, Key};
use crate::store::{Bounds, Intent, ListWrite, MOST_NAMED, Policy, Record, Store, View};

/// Keys of a change up to which each is looked up in the store; for more it is quicker to go over what lies between the
/// first and the last.
const FEW: usize = 256;

/// The holds of some keys before and after a change, in the order of keys.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) before: Vec<(Key, Vec<Hold>)>,
    pub(super) after: Vec<(Key, Vec<Hold>)>,
    pub(super) targets: Vec<Target>,
    pub(super) digest: u64,
}

impl Draft {
    /// Adds a key whose holds change.
    pub fn add(&mut self, key: Key, before: Vec<Hold>, after: Vec<Hold>) {
        let (was, is) = (enforced(key, &before), enforced(key, &after));
        let sum = |entry: &Option<Entry>| entry.as_ref().map_or(0, digest);
        self.digest = self.digest.wrapping_add(sum(&is)).wrapping_sub(sum(&was));
        self.targets.push(is.map_or(Target::Gone(key), Target::There));
        self.before.push((key, before));
        self.after.push((key, after));
    }

    /// The intent with this draft in it.
    pub fn intent<'c>(&'c self, intent: &Intent<'c>) -> Intent<'c> {
        Intent { before: &self.before, holds: &self.after, digest: self.digest, ..*intent }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }

    /// Keys that change.
    pub fn len(&self) -> usize {
        self.after.len()
    }
}

impl Control {
    /// Makes a change to who holds what, and says what it came to. All or nothing.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::plan::Full) if it does not fit, and what else the kernel refuses; then nothing is changed. Where the
    /// store can't be used the change is made all the same, and [`Control::is_durable`] says so.
    pub fn change(&mut self, change: Change) -> Result<Effect> {
        let now_s = self.expire()?;
        let change = change.sorted();
        let (mut draft, mut effect) = (Draft::default(), Effect::default());
        self.each_held(change.keys(), |key, before| {
            let mut after = before.clone();
            if holds::change(key, &mut after, &change, now_s, &mut effect) {
                draft.add(key, before, after);
            }
        })?;
        let record = self.author.record(described(&effect));
        let forgotten = outlasted(&change, &draft.after);
        self.commit(draft, &Intent { cleared_s: Some(now_s), ..Intent::of(&record) })?;
        if !self.is_durable() {
            self.warn_of_forgotten(&change, forgotten);
        }
        Ok(effect)
    }

    /// Says what the tables, which name one holder of each entry, can't keep until the store can be written.
    fn warn_of_forgotten(&mut self, change: &Change, forgotten: usize) {
        let owner = change.keys().iter().find_map(|key| change.asked(*key)).map(|asked| asked.owner.clone());
        let Some(owner) = owner else {
            if self.store.is_err() {
                self.warnings.push("whether others hold the same can't be told without the store".into());
            }
            return;
        };
        if forgotten > 0 {
            let what = format!(
                "others hold {forgotten} of these prefixes longer, and that {} holds them, too, can't be kept until the \
                 store can be written: say so again then",
                owner.as_str()
            );
            self.warnings.push(what);
        }
    }

    /// Clears away what has ended, in the store and in the tables. Returns by which second.
    ///
    /// # Errors
    ///
    /// As [`Control::change`].
    pub fn expire(&mut self) -> Result<u32> {
        let now_s = monotonic_now_s();
        let ended = self.filter.ended(now_s);
        if ended.is_empty() {
            return Ok(now_s);
        }
        let mut draft = Draft::default();
        self.each_held(&ended, |key, before| {
            let mut after = before.clone();
            after.retain(|hold| !hold.until.has_passed(now_s));
            draft.add(key, before, after);
        })?;
        let record = self.record("what ended was cleared away", ended.len());
        self.commit(draft, &Intent { cleared_s: Some(now_s), ..Intent::of(&record) })?;
        Ok(now_s)
    }

    /// Hands over the holds of each of these keys, which are in order: from the store, or where that can't be read, as the
    /// kernel's tables tell them. Where the tables were changed without the store, they know better.
    fn each_held(&mut self, keys: &[Key], mut on_key: impl FnMut(Key, Vec<Hold>)) -> Result<()> {
        let (is_behind, now_s) = (self.filter.table().stored().unstored, monotonic_now_s());
        if let Ok(store) = &self.store {
            match held_in(store, store.view(), keys) {
                Ok(held) => {
                    for (key, holds) in keys.iter().zip(held) {
                        let holds = match is_behind.then(|| self.filter.entry(key)).transpose()? {
                            None => holds,
                            Some(Some(entry))
                                if enforced(*key, &holds).is_some_and(|it| it.until == entry.until) =>
                            {
                                holds
                            }
                            Some(entry) => adopted(store.view(), &holds, entry.as_ref(), now_s),
                        };
                        on_key(*key, holds);
                    }
                    return Ok(());
                }
                Err(error) => self.lose_store(&error),
            }
        }
        for key in keys {
            on_key(*key, self.filter.entry(key)?.iter().map(Hold::of_entry).collect());
        }
        Ok(())
    }

    /// Writes a draft down, enforces it, and marks it as enforced. What else the intent says goes with it; a new policy the
    /// caller enforces before or after.
    pub(super) fn commit(&mut self, draft: Draft, intent: &Intent<'_>) -> Result<()> {
        self.commit_or(draft, intent, &[])
    }

    /// As [`Control::commit`]; `undo` is what takes back what the intent says of lists.
    pub(super) fn commit_or(
        &mut self,
        mut draft: Draft,
        intent: &Intent<'_>,
        undo: &[ListWrite<'_>],
    ) -> Result<()> {
        if draft.is_empty() && intent.policy.is_none() && intent.lists.is_empty() {
            return Ok(());
        }
        // What does not fit is refused before anything is written.
        let plan = self.filter.plan(std::mem::take(&mut draft.targets))?;
        let kept = self.kept(&draft, intent);
        let lists: Vec<_> = intent.lists.iter().copied().chain(kept.writes()).collect();
        self.write_down(&draft.intent(&Intent { lists: &lists, ..*intent }));
        if !intent.lists.is_empty() {
            // What is said of lists is nowhere else.
            self.durable_store()?;
        }
        if let Err(error) = self.enforce(&plan) {
            let undo: Vec<_> = undo.iter().copied().chain(kept.undone()).collect();
            let undone = self.take_back(&draft, intent.record, &undo);
            return Err(undone.err().map_or(error, |undo| PartlyApplied(format!("{undo:#}")).into()));
        }
        self.mark();
        self.back_up();
        Ok(())
    }

    /// What lists keep of what they have counted, where this is made of it.
    fn kept(&mut self, draft: &Draft, intent: &Intent<'_>) -> KeptByList {
        let (None, Ok(store)) = (&self.unwritable, &self.store) else { return KeptByList::default() };
        if store.view().lists.is_empty() {
            return KeptByList::default();
        }
        let holes = intent.lists.iter().find_map(|write| match write {
            ListWrite::Never(never) => Some(holes_of(never)),
            _ => None,
        });
        let mut after = store.view().cleared(intent.cleared_s.unwrap_or(0));
        if let Some(holes) = holes {
            after = after.with_holes(holes);
        }
        kept::of_draft(&self.filter, store, draft, &after).unwrap_or_else(|error| {
            // No reason not to enforce what was asked for.
            self.warnings.push(format!("lists may show fewer packets than they have counted: {error:#}"));
            KeptByList::default()
        })
    }

    fn enforce(&mut self, plan: &Plan) -> Result<()> {
        if plan.is_empty() { Ok(()) } else { self.filter.carry_out(plan) }
    }

    /// Writes an intent into the store. Where that fails, the store is given up.
    pub(super) fn write_down(&mut self, intent: &Intent<'_>) {
        if self.unwritable.is_none()
            && let Ok(store) = &mut self.store
            && let Err(error) = store.intend(intent)
        {
            self.stop_writing(&error);
        }
        if !self.is_durable() {
            let stored = self.filter.table().stored();
            self.filter.table().set_stored(Stored { unstored: true, ..stored });
        }
    }

    /// Takes an intent back that the kernel refused.
    pub(super) fn take_back(&mut self, draft: &Draft, record: &Record, undo: &[ListWrite<'_>]) -> Result<()> {
        let (None, Ok(store)) = (&self.unwritable, &mut self.store) else { return Ok(()) };
        let record = Record {
            command: format!("{} (refused by the kernel, taken back)", record.command),
            ..record.clone()
        };
        let intent = Intent {
            before: &draft.after,
            holds: &draft.before,
            digest: draft.digest.wrapping_neg(),
            lists: undo,
            ..Intent::of(&record)
        };
        store
            .intend(&intent)
            .context("the kernel refused the change, and the store could not take it back")?;
        self.mark();
        Ok(())
    }

    /// Marks the tables as holding the store's last change, unless they hold more than that.
    pub(super) fn mark(&self) {
        if self.unwritable.is_none()
            && let Ok(store) = &self.store
        {
            let state = store.state();
            self.filter.table().set_stored(Stored {
                store: state.store,
                change: state.change,
                unstored: false,
            });
        }
    }

    /// Writes a policy down, which the caller then enforces and marks as enforced.
    pub(super) fn write_policy(&mut self, policy: &Policy, record: &Record) {
        self.write_down(&Intent { policy: Some(policy), ..Intent::of(record) });
        self.back_up();
    }
}

/// Keys that are to be held, and that others hold longer.
fn outlasted(change: &Change, after: &[(Key, Vec<Hold>)]) -> usize {
    let is_outlasted = |(key, holds): &&(Key, Vec<Hold>)| {
        let asked = change.asked(*key);
        asked.is_some_and(|asked| longest(holds).is_some_and(|longest| longest.owner != asked.owner))
    };
    after.iter().filter(is_outlasted).count()
}

/// The holds of each of these keys, which are in order.
pub(super) fn held_in(store: &Store, view: &View, keys: &[Key]) -> Result<Vec<Vec<Hold>>> {
    if keys.len() <= FEW {
        return keys.iter().map(|key| store.holds_in(view, key)).collect();
    }
    let mut held = vec![Vec::new(); keys.len()];
    let mut position = 0;
    store.each_key_in(view, Bounds::Within(keys[0], keys[keys.len() - 1]), |key, holds| {
        while keys.get(position).is_some_and(|asked| *asked < key) {
            position += 1;
        }
        if keys.get(position) == Some(&key) {
            held[position] = holds;
        }
        Ok(())
    })?;
    Ok(held)
}

/// A change as the audit log keeps it: numbers, and the first prefixes by name.
fn described(effect: &Effect) -> Value {
    let named = |entries: &[Entry]| -> Value {
        let named = entries.iter().take(MOST_NAMED).map(|entry| {
            let until_s = (entry.until != crate::policy::Deadline::NEVER).then_some(entry.until.0);
            json!({
                "action": entry.key.action.name(), "prefix": entry.key.prefix.to_string(),
                "owner": entry.owner.as_str(), "reason": entry.reason.as_str(), "until_s": until_s,
            })
        });
        json!({ "number": entries.len(), "first": named.collect::<Vec<_>>() })
    };
    let parts = [("added", &effect.added), ("changed", &effect.changed), ("removed", &effect.removed)];
    let parts = parts.into_iter().filter(|(_, entries)| !entries.is_empty());
    Value::Object(parts.map(|(name, entries)| (name.to_owned(), named(entries))).collect())
}
