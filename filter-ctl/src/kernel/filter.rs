//! The loaded filter, locked: its entries and interfaces, and the changes to them.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use filter_common::abi::{LARGEST_MAX_ENTRIES, entry_state};
use thiserror::Error;

use super::interface::{self, Loaded, State};
use super::maps::{self, Maps};
use super::pins::{Lock, NotLoaded, Pins};
use crate::host::devices::{self, Device, Mode};
use crate::host::monotonic_now_s;
use crate::plan::{self, Change, Effect, Entries, Plan};
use crate::policy::Entry;

/// A change that could neither be finished nor undone.
#[derive(Debug, Error)]
#[error("the change was only partly applied, and the next command tries to finish it: {0}")]
pub struct PartlyApplied(pub String);

/// The filter below a pin root, while nobody else changes it.
pub struct Filter {
    pins: Pins,
    maps: Maps,
    _lock: Lock,
}

/// What loading an interface came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It is filtered now.
    Loaded,
    /// It already was.
    AlreadyLoaded,
}

impl Filter {
    /// Opens the filter, and finishes a change that another process died in.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there is none.
    pub fn open(pins: Pins, lock_wait: Duration) -> Result<Self> {
        let lock = Lock::acquire(&pins, lock_wait)?;
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
        inspect_all(&self.pins)
    }

    /// Clears away the entries whose deadline has passed, so that their slots are free. The program does not
    /// wait for this: it compares deadlines with its own clock.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn clear_expired(&mut self) -> Result<Vec<Entry>> {
        let entries = self.entries()?;
        let expired = entries.expired(monotonic_now_s());
        if expired.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.change(&entries, Change::Remove(expired))?.removed)
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
            Err(error) => {
                let undone = self.undo(current, &plan);
                match undone {
                    Ok(()) => Err(error.context("nothing was changed")),
                    Err(undo) => {
                        Err(anyhow!(PartlyApplied(format!("{error:#}; undoing it failed too: {undo:#}"))))
                    }
                }
            }
        }
    }

    fn apply(&mut self, plan: &Plan) -> Result<()> {
        for id in &plan.mark_removing {
            self.set_state(*id, entry_state::REMOVING)?;
        }
        if let Some(highest) = plan.write.iter().map(|write| write.id).max() {
            self.maps.raise_highest_entry(highest)?;
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
        Ok(())
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
        for key in &plan.remove {
            // A trie answers with the next wider prefix where there is none of this length.
            let found = self.maps.longest_match(key)?.map(|record| record.entry);
            ensure!(
                found.is_none_or(|id| !plan.free.contains(&id)),
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

/// Loads the filter on `interfaces`. All or nothing: where one fails, those that this call loaded are unloaded
/// again, and so are the maps if it made them.
///
/// # Errors
///
/// A [`Refusal`](super::refusal::Refusal) or what else went wrong, naming the interface.
pub fn load(
    pins: &Pins,
    interfaces: &[String],
    mode: Mode,
    max_entries: Option<u32>,
    lock_wait: Duration,
    verbose: bool,
) -> Result<Vec<LoadOutcome>> {
    let targets = targets(interfaces)?;
    let lock = Lock::create(pins, lock_wait)?;
    let existing = maps::existing_max_entries(pins, true)?;
    let had_links = !pins.loaded_interfaces()?.is_empty();
    let max_entries = match (existing, max_entries) {
        (Some(existing), Some(asked)) if existing != asked => bail!(
            "the filter is loaded for at most {existing} entries, not {asked}; unload it to change that"
        ),
        (existing, asked) => existing.or(asked).unwrap_or(filter_common::abi::DEFAULT_MAX_ENTRIES),
    };
    ensure!(
        (1..=LARGEST_MAX_ENTRIES).contains(&max_entries),
        "--max-entries must be from 1 to {LARGEST_MAX_ENTRIES}"
    );

    let mut loaded = Vec::new();
    let result = load_locked(pins, lock, &targets, mode, max_entries, verbose, &mut loaded);
    if result.is_err() {
        // Newest first; what can't be undone is left for `unload`, and the first error is the one to tell.
        let mut maps = Maps::open(pins).ok();
        for name in loaded.iter().rev() {
            let _ = interface::detach(pins, maps.as_mut(), name);
        }
        if existing.is_none() && !had_links {
            let _ = pins.remove();
        }
    }
    result
}

fn load_locked(
    pins: &Pins,
    lock: Lock,
    targets: &[Device],
    mode: Mode,
    max_entries: u32,
    verbose: bool,
    loaded: &mut Vec<String>,
) -> Result<Vec<LoadOutcome>> {
    interface::create_maps(pins, max_entries)?;
    let mut filter = Filter { pins: pins.clone(), maps: Maps::open(pins)?, _lock: lock };
    filter.recover()?;
    let present = filter.interfaces()?;
    let mut outcomes = Vec::new();
    for device in targets {
        let running = present.iter().find_map(|loaded| match &loaded.state {
            State::Attached { ifindex, mode, .. } if *ifindex == device.ifindex => Some(*mode),
            _ => None,
        });
        match running {
            Some(running) if running == mode => outcomes.push(LoadOutcome::AlreadyLoaded),
            Some(running) => bail!(
                "{0} is already filtered in {1} mode; `filter-ctl unload {0}` first to load it in {2} mode",
                device.name,
                running.name(),
                mode.name()
            ),
            None => {
                refuse_taken_name(&present, device)?;
                interface::attach(pins, &mut filter.maps, device, mode, monotonic_now_s(), verbose)?;
                loaded.push(device.name.clone());
                outcomes.push(LoadOutcome::Loaded);
            }
        }
    }
    Ok(outcomes)
}

/// Refuses a device whose name is that under which another, renamed since, was loaded: its pins would be replaced,
/// and the other device would silently no longer be filtered.
fn refuse_taken_name(present: &[Loaded], device: &Device) -> Result<()> {
    match present.iter().find(|loaded| loaded.name == device.name).map(|loaded| &loaded.state) {
        Some(State::Attached { device: other, .. }) => bail!(
            "{}: {other} was loaded under this name and renamed since; `filter-ctl unload {other}` and load it again first",
            device.name
        ),
        _ => Ok(()),
    }
}

/// The devices to load, all of which must exist.
fn targets(interfaces: &[String]) -> Result<Vec<Device>> {
    let devices = devices::devices()?;
    let mut targets: Vec<Device> = Vec::new();
    for name in interfaces {
        let Some(device) = devices.iter().find(|device| device.name == *name) else {
            let names = devices.iter().map(|device| device.name.as_str()).filter(|name| *name != "lo");
            let names = names.collect::<Vec<_>>().join(", ");
            let there =
                if names.is_empty() { "there is none but lo".into() } else { format!("there are {names}") };
            bail!("{name}: no such interface; {there}");
        };
        ensure!(
            device.ifindex != filter_common::abi::LOOPBACK_IFINDEX,
            "{name}: the loopback device is never filtered; name the interface on which the traffic comes in"
        );
        if !targets.contains(device) {
            targets.push(device.clone());
        }
    }
    Ok(targets)
}

/// What unloading took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unloaded {
    /// Interfaces that are no longer filtered.
    pub interfaces: Vec<String>,
    /// Whether these were the last, so that maps and entries are gone.
    pub everything: bool,
    /// Entries that are gone with the maps.
    pub entries: usize,
}

/// Unloads the named interfaces, or all. With the last one everything that is pinned goes.
///
/// # Errors
///
/// [`NotLoaded`] if a named interface, or for all the filter, is not loaded; then nothing is unloaded.
pub fn unload(pins: &Pins, interfaces: Option<&[String]>, lock_wait: Duration) -> Result<Unloaded> {
    let _lock = Lock::acquire(pins, lock_wait)?;
    let present = pins.loaded_interfaces()?;
    let names = match interfaces {
        None => present.clone(),
        Some(names) => pinned_names(pins, names, &present)?,
    };
    // Even where the maps are damaged, detaching must work.
    let mut maps = Maps::open(pins).ok();
    let entries = maps.as_ref().map_or(0, count_entries);
    for name in &names {
        interface::detach(pins, maps.as_mut(), name)?;
    }
    let everything = names.len() == present.len();
    if everything {
        drop(maps);
        pins.remove()?;
    }
    Ok(Unloaded { interfaces: names, everything, entries: if everything { entries } else { 0 } })
}

/// Names under which interfaces were loaded, for names that may be those they have now.
fn pinned_names(pins: &Pins, names: &[String], present: &[String]) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let pinned = if present.contains(name) {
            Some(name.clone())
        } else {
            let now_called =
                |loaded: &Loaded| matches!(&loaded.state, State::Attached { device, .. } if device == name);
            inspect_all(pins)?.into_iter().find(now_called).map(|loaded| loaded.name)
        };
        let Some(pinned) = pinned else {
            let present = if present.is_empty() { "none is".into() } else { present.join(", ") };
            return Err(NotLoaded(format!("{name} is not filtered; loaded: {present}")).into());
        };
        if !found.contains(&pinned) {
            found.push(pinned);
        }
    }
    Ok(found)
}

fn inspect_all(pins: &Pins) -> Result<Vec<Loaded>> {
    let devices = devices::devices()?;
    pins.loaded_interfaces()?.iter().map(|name| interface::inspect(pins, name, &devices)).collect()
}

fn count_entries(maps: &Maps) -> usize {
    let highest = maps.highest_entry().unwrap_or_default();
    (1..=highest).filter(|id| maps.entry(*id).is_ok_and(|entry| entry.state != entry_state::FREE)).count()
}
