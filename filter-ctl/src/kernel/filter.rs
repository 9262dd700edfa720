//! The loaded filter, locked: its entries, and the changes to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter_common::Reason;
use filter_common::abi::entry_state;
use thiserror::Error;

use super::interface::{self, Loaded};
use super::maps::Maps;
use super::pins::{Lock, Pins};
use crate::host::monotonic_now_s;
use crate::plan::{self, Change, Effect, Entries, Plan};
use crate::policy::Entry;

/// A change that could neither be finished nor undone.
#[derive(Debug, Error)]
#[error("the change was only partly applied, and the next command tries to finish it: {0}")]
pub struct PartlyApplied(pub String);

impl PartlyApplied {
    /// Of a change that failed with `error`, and whose undoing failed with `undo`.
    pub fn after(error: &anyhow::Error, undo: &anyhow::Error) -> Self {
        Self(format!("{error:#}; undoing it failed too: {undo:#}"))
    }
}

/// What to report of a change that failed with `error` and was, or was not, undone.
fn failed(error: anyhow::Error, undone: Result<()>) -> anyhow::Error {
    match undone {
        Ok(()) => error.context("nothing was changed"),
        Err(undo) => PartlyApplied::after(&error, &undo).into(),
    }
}

/// The filter below a pin root, while nobody else changes it.
pub struct Filter {
    pins: Pins,
    pub(super) maps: Maps,
    _lock: Arc<Lock>,
}

impl Filter {
    /// Opens the filter, and finishes a change that another process died in.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`](super::pins::NotLoaded) if there is none.
    pub fn open(pins: Pins, lock_wait: Duration) -> Result<Self> {
        let lock = Arc::new(Lock::acquire(&pins, lock_wait)?);
        Self::open_locked(pins, lock)
    }

    /// As [`Filter::open`], by a caller that has the lock.
    pub(super) fn open_locked(pins: Pins, lock: Arc<Lock>) -> Result<Self> {
        let maps = Maps::open(&pins)?;
        let mut filter = Self { pins, maps, _lock: lock };
        filter.recover()?;
        Ok(filter)
    }

    /// The most entries that fit.
    pub fn max_entries(&self) -> u32 {
        self.maps.max_entries()
    }

    /// The maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// All entries.
    ///
    /// # Errors
    ///
    /// If an entry can't be read, or was not written by this program.
    pub fn entries(&self) -> Result<Entries> {
        let mut entries = Entries::default();
        for id in 1..=self.maps.highest_entry()? {
            let slot = self.maps.entry(id)?;
            if slot.state == entry_state::FREE {
                continue;
            }
            let known =
                matches!(slot.state, entry_state::ADDING | entry_state::ACTIVE | entry_state::REMOVING);
            let entry = Entry::from_abi(&slot).filter(|_| known);
            let entry = entry.with_context(|| {
                format!("entry {id} holds something that filter-ctl never writes; `filter-ctl unload --all` and load again")
            })?;
            entries.insert(id, slot.state, entry);
        }
        Ok(entries)
    }

    /// The loaded interfaces, as the kernel has them.
    ///
    /// # Errors
    ///
    /// If a link can't be opened or netlink fails.
    pub fn interfaces(&self) -> Result<Vec<Loaded>> {
        interface::inspect_all(&self.pins)
    }

    /// Sets whether frames with these faults pass all the same, and reads it back. All or nothing.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; [`PartlyApplied`] if it could not be undone.
    pub fn tolerate(&mut self, faults: &[Reason], tolerated: bool) -> Result<()> {
        let before = faults
            .iter()
            .map(|fault| Ok((*fault, self.maps.tolerates(*fault)?)))
            .collect::<Result<Vec<_>>>()?;
        let set = faults.iter().try_for_each(|fault| {
            self.maps.set_tolerated(*fault, tolerated)?;
            let is_set = self.maps.tolerates(*fault)? == tolerated;
            ensure!(is_set, "`{}` reads back differently than it was set", fault.name());
            Ok(())
        });
        let Err(error) = set else { return Ok(()) };
        let undone = before.iter().try_for_each(|(fault, was)| self.maps.set_tolerated(*fault, *was));
        Err(failed(error, undone))
    }

    /// Clears away the entries whose deadline has passed, so that their slots are free, and returns the others. The
    /// program does not wait for this: it compares deadlines with its own clock.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn clear_expired(&mut self) -> Result<Entries> {
        let entries = self.entries()?;
        let expired = entries.expired(monotonic_now_s());
        if expired.is_empty() {
            return Ok(entries);
        }
        self.change(&entries, Change::Remove(expired))?;
        self.entries()
    }

    /// Makes `change` to the entries, which are `current` now, reads it back, and says what it came to. All or
    /// nothing: where the kernel refuses a step, those before it are undone.
    ///
    /// # Errors
    ///
    /// [`plan::Full`] if it does not fit; [`PartlyApplied`] if it failed and could not be undone.
    pub fn change(&mut self, current: &Entries, change: Change) -> Result<Effect> {
        let limit = usize::try_from(self.max_entries()).context("more entries than memory")?;
        let (plan, effect) = plan::plan(current, change, limit)?;
        match self.apply(&plan).and_then(|()| self.read_back(&plan)) {
            Ok(()) => Ok(effect),
            Err(error) => Err(failed(error, self.undo(current, &plan))),
        }
    }

    fn apply(&mut self, plan: &Plan) -> Result<()> {
        for id in &plan.mark_removing {
            self.set_state(*id, entry_state::REMOVING)?;
        }
        let written = plan.write.iter().map(|write| write.id).max().unwrap_or_default();
        if written > self.maps.highest_entry()? {
            self.maps.set_highest_entry(written)?;
        }
        for write in &plan.write {
            if write.is_new {
                self.maps.zero_entry_counter(write.id)?;
            }
            self.maps.set_entry(write.id, &write.entry.to_abi(entry_state::ADDING))?;
        }
        for (key, record) in &plan.set {
            self.maps.set_record(key, *record)?;
        }
        for key in &plan.remove {
            self.maps.remove_record(key)?;
        }
        for id in &plan.activate {
            self.set_state(*id, entry_state::ACTIVE)?;
        }
        for id in &plan.free {
            self.set_state(*id, entry_state::FREE)?;
        }
        if plan.free.is_empty() { Ok(()) } else { self.lower_highest_entry() }
    }

    /// Keeps the next commands from reading what was freed at the end of the map.
    fn lower_highest_entry(&mut self) -> Result<()> {
        let highest = self.maps.highest_entry()?;
        let mut still_used = highest;
        while still_used > 0 && self.maps.entry(still_used)?.state == entry_state::FREE {
            still_used -= 1;
        }
        if still_used < highest { self.maps.set_highest_entry(still_used) } else { Ok(()) }
    }

    /// Looks in the kernel for what was just written: a command never reports what it only meant to do.
    fn read_back(&self, plan: &Plan) -> Result<()> {
        for (key, record) in &plan.set {
            ensure!(
                self.maps.longest_match(key)? == Some(*record),
                "{} {} is not in the kernel's table after it was written",
                key.action.name(),
                key.prefix
            );
        }
        let freed: HashSet<u32> = plan.free.iter().copied().collect();
        for key in &plan.remove {
            // A trie answers with the next wider prefix where there is none of this length.
            let found = self.maps.longest_match(key)?.map(|record| record.entry);
            ensure!(
                found.is_none_or(|id| !freed.contains(&id)),
                "{} {} is still in the kernel's table after it was removed",
                key.action.name(),
                key.prefix
            );
        }
        for write in &plan.write {
            let slot = self.maps.entry(write.id)?;
            ensure!(
                slot == write.entry.to_abi(entry_state::ACTIVE),
                "entry {} ({}) reads back differently than it was written",
                write.id,
                write.entry.key.prefix
            );
        }
        Ok(())
    }

    /// Puts the entries back to `before`, after some of the steps of `plan`.
    fn undo(&mut self, before: &Entries, plan: &Plan) -> Result<()> {
        for write in plan.write.iter().filter(|write| write.is_new) {
            if self.maps.entry(write.id)?.state != entry_state::FREE {
                self.set_state(write.id, entry_state::REMOVING)?;
            }
        }
        for (id, entry) in before.wanted() {
            let as_before = entry.to_abi(entry_state::ACTIVE);
            if self.maps.entry(id)? != as_before {
                self.maps.set_entry(id, &entry.to_abi(entry_state::ADDING))?;
            }
        }
        self.recover()
    }

    /// Finishes a change that was interrupted, and frees the slots of interfaces whose loading was.
    fn recover(&mut self) -> Result<()> {
        interface::release_unpinned_slots(&self.pins, &mut self.maps)?;
        let entries = self.entries()?;
        if !entries.is_interrupted() {
            return Ok(());
        }
        let plan = plan::recover(&entries);
        self.apply(&plan).context("could not finish an interrupted change")?;
        self.read_back(&plan)
    }

    fn set_state(&mut self, id: u32, state: u32) -> Result<()> {
        let slot = self.maps.entry(id)?;
        self.maps.set_entry(id, &filter_common::abi::Entry { state, ..slot })
    }
}
