//! Brings the store and the kernel's tables together where they are apart.

use anyhow::Result;
use filter_common::Reason;
use filter_common::prefix::Stored;

use super::Control;
use super::change::Draft;
use crate::holds::{Hold, enforced};
use crate::host::monotonic_now_s;
use crate::plan::{Full, Target};
use crate::policy::{Entry, Key};
use crate::store::{Bounds, Intent, Policy, Record, State, View};

/// Which side knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// They agree.
    Same,
    /// The tables lack the store's last change.
    TablesBehind,
    /// The store lacks what the tables hold.
    StoreBehind,
    /// Each may have what the other lacks.
    Apart,
}

impl Relation {
    fn of(tables: Stored, store: State) -> Self {
        match tables {
            // Made anew, or taken over from another build.
            Stored { store: 0, .. } => Self::Apart,
            Stored { store: number, .. } if number != store.store => match store.change {
                // The store is new: the one before is gone.
                0 => Self::StoreBehind,
                // It is another's, or one from long ago.
                _ => Self::Apart,
            },
            Stored { change, unstored, .. } if change < store.change => {
                if unstored {
                    Self::Apart
                } else {
                    Self::TablesBehind
                }
            }
            Stored { change, unstored, .. } if change > store.change || unstored => Self::StoreBehind,
            _ => Self::Same,
        }
    }
}

impl Control {
    /// Compares both, in constant time, and does what is to be done.
    pub(super) fn reconcile(&mut self) -> Result<()> {
        let Ok(store) = &self.store else { return Ok(()) };
        let state = store.state();
        let done = match Relation::of(self.filter.table().stored(), state) {
            Relation::Same => {
                // What is read of another boot may be a second beside what was read of it before.
                if self.unwritable.is_none() && self.filter.table().digest() != state.digest {
                    self.drift = Some(
                        "the kernel's tables hold other entries than the store: somebody else changed them, or the \
                         store; `filter-ctl verify` tells which, and `filter-ctl repair` enforces what the store says"
                            .into(),
                    );
                }
                return Ok(());
            }
            Relation::TablesBehind => self.push(),
            Relation::StoreBehind => self.adopt(),
            Relation::Apart => self.unite(),
        };
        if let Err(error) = done {
            // New tables that are too small must never be put in force without what does not fit.
            if error.is::<Full>() {
                return Err(error);
            }
            // What the store can't be brought to is left for the next command; what is enforced stays as it is.
            self.lose_store(&error);
        }
        Ok(())
    }

    /// Brings the tables to what the store says.
    ///
    /// # Errors
    ///
    /// If the store can't be read, or the kernel refuses.
    pub fn push(&mut self) -> Result<()> {
        self.bring_to_store()?;
        self.mark();
        Ok(())
    }

    /// As [`Control::push`], without the mark.
    fn bring_to_store(&mut self) -> Result<()> {
        let Ok(store) = &self.store else { return Ok(()) };
        let wanted = store.wanted()?;
        let policy = store.policy()?;
        let is_wanted = |key: &Key| wanted.binary_search_by_key(key, |entry| entry.key).is_ok();
        let there = self.filter.entries()?;
        let unwanted = there.iter().map(|(_, entry)| entry.key).filter(|key| !is_wanted(key));
        let unwanted: Vec<Target> = unwanted.map(Target::Gone).collect();
        // What goes makes room first.
        self.filter.bring(unwanted)?;
        self.filter.bring(wanted.into_iter().map(Target::There).collect())?;
        let faults = Reason::ALL.iter().copied().filter(|reason| reason.is_malformed());
        let (pass, drop): (Vec<Reason>, Vec<Reason>) = faults.partition(|fault| policy.tolerates(*fault));
        self.filter.tolerate(&pass, true)?;
        self.filter.tolerate(&drop, false)?;
        self.drift = None;
        Ok(())
    }

    /// Brings the store to what is enforced.
    fn adopt(&mut self) -> Result<()> {
        let enforced = self.filter.entries()?.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>();
        let mut draft = Draft::default();
        let (view, now_s) = (self.view(), monotonic_now_s());
        self.join(&enforced, |key, held, entry| {
            let after = adopted(&view, &held, entry, now_s);
            if after != held {
                draft.add(key, held, after);
            }
        })?;
        let (policy, record) =
            self.enforced_policy(draft.len(), "the store was brought to what is enforced", true)?;
        // With it, what lists held until then counts no more: it may have been cleared away in the tables alone.
        let intent = Intent { policy: Some(&policy), cleared_s: Some(now_s), ..Intent::of(&record) };
        self.commit(draft, &intent)?;
        // What lists hold can't be brought to what is enforced: that is brought to what they hold.
        if self.is_durable() && !view.lists.is_empty() { self.push() } else { Ok(()) }
    }

    /// Brings both to what either has: where both hold a key, as long as the longer.
    fn unite(&mut self) -> Result<()> {
        let there = self.filter.entries()?.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>();
        let mut draft = Draft::default();
        let view = self.view();
        self.join(&there, |key, held, entry| {
            // What a list holds is for its generation to say.
            let Some(entry) = entry.filter(|entry| view.list(&entry.owner).is_none()) else { return };
            if enforced(key, &held).is_none_or(|stored| stored.until < entry.until) {
                let after = as_enforced(&held, entry);
                draft.add(key, held, after);
            }
        })?;
        let (policy, record) =
            self.enforced_policy(draft.len(), "the store and what is enforced were brought together", false)?;
        if !draft.is_empty() || policy != self.policy() {
            self.write_down(&draft.intent(&Intent { policy: Some(&policy), ..Intent::of(&record) }));
        }
        self.bring_to_store()?;
        self.credit_entries()?;
        self.forget_what_lists_lack()?;
        // Only then are the tables marked: whoever dies before leaves them as they were, and this is done again.
        self.mark();
        Ok(())
    }

    /// What the store has beside rows; nothing where it can't be read.
    pub(super) fn view(&self) -> View {
        self.store.as_ref().map_or_else(|_| View::default(), |store| store.view().clone())
    }

    /// The policy with what is enforced of it: all that is loaded, and the faults that pass; only these, where the tables
    /// know more than the store.
    fn enforced_policy(&self, entries: usize, what: &str, is_exact: bool) -> Result<(Policy, Record)> {
        let mut policy = self.policy();
        if is_exact {
            policy.tolerated.clear();
        }
        for fault in Reason::ALL.iter().filter(|reason| reason.is_malformed()) {
            if self.filter.maps().tolerates(*fault)? && !policy.tolerates(*fault) {
                policy.tolerated.push(fault.name().to_owned());
            }
        }
        policy.tolerated.sort();
        self.include_loaded(&mut policy)?;
        Ok((policy, self.record(what, entries)))
    }

    /// Goes over the holds of the store and these entries, in the order of keys.
    fn join(&self, entries: &[Entry], mut on_key: impl FnMut(Key, Vec<Hold>, Option<&Entry>)) -> Result<()> {
        let Ok(store) = &self.store else { return Ok(()) };
        let mut entries = entries.iter().peekable();
        store.each_key(Bounds::All, |key, holds| {
            while let Some(entry) = entries.next_if(|entry| entry.key < key) {
                on_key(entry.key, Vec::new(), Some(entry));
            }
            let entry = entries.next_if(|entry| entry.key == key);
            on_key(key, holds, entry);
            Ok(())
        })?;
        entries.for_each(|entry| on_key(entry.key, Vec::new(), Some(entry)));
        Ok(())
    }
}

/// The holds of a key for which this is enforced. What a list holds is for its generation to say, which can't be changed
/// here: it stays, unless it has ended by second `now_s`.
pub(super) fn adopted(view: &View, held: &[Hold], entry: Option<&Entry>, now_s: u32) -> Vec<Hold> {
    let is_list = |hold: &&Hold| view.list(&hold.owner).is_some();
    let rows: Vec<Hold> = held.iter().filter(|hold| !is_list(hold)).cloned().collect();
    let mut holds = match entry {
        None => Vec::new(),
        Some(entry) if view.list(&entry.owner).is_some() => {
            rows.into_iter().filter(|hold| hold.until <= entry.until).collect()
        }
        Some(entry) => as_enforced(&rows, entry),
    };
    holds.extend(held.iter().filter(is_list).filter(|hold| !hold.until.has_passed(now_s)).cloned());
    holds.sort_by(|one, next| one.owner.cmp(&next.owner));
    holds
}

/// The holds of a key that make this entry and keep as much of what is known of each holder as can be.
pub(super) fn as_enforced(held: &[Hold], entry: &Entry) -> Vec<Hold> {
    let of_entry = Hold::of_entry(entry);
    let mut holds: Vec<Hold> = held.iter().filter(|hold| hold.until <= entry.until).cloned().collect();
    match holds.iter_mut().find(|hold| hold.owner == entry.owner) {
        Some(hold) if hold.until == entry.until => {}
        Some(hold) => (hold.until, hold.reason) = (of_entry.until, of_entry.reason),
        None => holds.push(of_entry),
    }
    holds.sort_by(|one, next| one.owner.cmp(&next.owner));
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_more_follows_from_two_numbers() {
        let store = State { store: 7, change: 5, digest: 0 };
        let tables = |store, change, unstored| Stored { store, change, unstored };
        for (tables, relation) in [
            (tables(7, 5, false), Relation::Same),
            (tables(7, 4, false), Relation::TablesBehind),
            (tables(7, 5, true), Relation::StoreBehind),
            (tables(7, 6, false), Relation::StoreBehind),
            (tables(7, 4, true), Relation::Apart),
            (tables(0, 0, false), Relation::Apart),
            (tables(0, 0, true), Relation::Apart),
            (tables(9, 5, false), Relation::Apart),
        ] {
            assert_eq!(Relation::of(tables, store), relation, "{tables:?}");
        }
        let new = State { change: 0, ..store };
        assert_eq!(Relation::of(tables(9, 5, false), new), Relation::StoreBehind);
    }
}
