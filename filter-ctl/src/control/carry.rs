//! What was counted outlives the maps that count it: it is carried in the store from unloading to loading.
//!
//! Who dies on the way leaves one of these, and the next command goes on:
//!
//! - A slot with a name and no link. What it counts is written down again, in place of what was, and the slot is freed.
//! - Tables, and counts of entries in the store. Tables that were brought to the store know as much; others are given it as
//!   they are brought to it. From the first interface on they go on counting, and what is carried is forgotten.
//! - A loaded interface, and counts of it in the store, which its slot was given before it was attached: these are forgotten.

use anyhow::{Result, bail};
use filter_common::abi::Counter;

use super::Control;
use crate::host::devices::{Device, Mode};
use crate::kernel::Pins;
use crate::kernel::counted::{Counted, counted, release_slots};
use crate::kernel::interface::slot_of;
use crate::kernel::loading::{self, LoadOutcome};
use crate::kernel::pins::NotLoaded;
use crate::store::{Store, Unusable};

/// Writes down what interfaces have counted that have no link any more; and where none has one, what entries have.
///
/// # Errors
///
/// Why it could not be, where these counts go with the maps; as long as others are loaded, they stay in their slots.
pub(super) fn carry(pins: &Pins, store: &mut Result<Store, Unusable>) -> Result<()> {
    let loaded = pins.loaded_interfaces()?;
    let Counted { mut interfaces, store: number, entries } = match counted(pins) {
        Err(error) if error.is::<NotLoaded>() => return Ok(()),
        counted => counted?,
    };
    interfaces.retain(|interface| !loaded.contains(&interface.name));
    let mut counters = interfaces.iter().flat_map(|interface| interface.by_reason.iter().map(|(.., of)| of));
    let is_any = !entries.is_empty() || counters.any(|counter| *counter != Counter::default());
    let store = match store {
        Ok(store) => store,
        Err(_) if !loaded.is_empty() || !is_any => return Ok(()),
        Err(unusable) => bail!("{unusable}"),
    };
    // Tables that were not brought to the store were not given what it carries either.
    let is_whole = loaded.is_empty() && number == store.state().store;
    store.carry(&interfaces, is_whole.then_some(&entries))?;
    // Where only some of the maps go, what is left of them must not be taken for what was counted.
    release_slots(pins, interfaces.iter().map(|interface| &interface.name))
}

impl Control {
    /// Filters these devices, too, which go on counting where they were when they were unloaded.
    pub(super) fn attach(&mut self, targets: &[(Device, Mode)], verbose: bool) -> Result<Vec<LoadOutcome>> {
        for (device, _) in targets {
            if let Err(error) = self.credit_interface(&device.name) {
                self.warnings.push(format!(
                    "{}: what it had counted can't be told, and it begins at zero: {error:#}",
                    device.name
                ));
            }
        }
        let loaded = loading::load(&mut self.filter, targets, verbose);
        self.settle_counts()?;
        loaded
    }

    fn credit_interface(&mut self, name: &str) -> Result<()> {
        if slot_of(self.filter.maps(), name)?.is_some() {
            return Ok(());
        }
        let store = match &self.store {
            Ok(store) => store,
            Err(unusable) => bail!("{unusable}"),
        };
        match store.carried(name)? {
            Some(counts) => self.filter.credit_interface(name, &counts),
            None => Ok(()),
        }
    }

    /// Gives tables that were made anew, and by which nothing is filtered yet, what their entries had counted.
    pub(super) fn credit_entries(&mut self) -> Result<()> {
        let is_new =
            self.filter.table().stored().store == 0 && self.filter.pins().loaded_interfaces()?.is_empty();
        let Ok(store) = &self.store else { return Ok(()) };
        if !is_new {
            return Ok(());
        }
        let filter = &mut self.filter;
        if let Err(error) = store.each_carried_entry(|key, counter| filter.credit_entry(&key, counter)) {
            self.warnings
                .push(format!("what entries had counted can't be told, and they begin at zero: {error:#}"));
        }
        Ok(())
    }

    /// What entries had counted before they came to a list is taken from its figure; where they have counted nothing, because
    /// that was lost with their tables, there is nothing to be taken from.
    pub(super) fn forget_what_lists_lack(&mut self) -> Result<()> {
        if !self.is_durable() || self.filter.counting().all()?.next().is_some() {
            return Ok(());
        }
        let Ok(store) = &self.store else { return Ok(()) };
        if let Err(error) = store.forget_what_lists_lack() {
            self.stop_writing(&error);
        }
        Ok(())
    }

    /// Writes down what is counted by interfaces that were unloaded, and forgets what is carried for those that are loaded.
    /// Where the store can't be written, both stay as they are.
    pub(super) fn settle_counts(&mut self) -> Result<()> {
        if !self.is_durable() {
            return Ok(());
        }
        let unpinned = self.filter.unpinned_interfaces()?;
        let loaded = self.filter.pins().loaded_interfaces()?;
        let mut counts = Vec::new();
        if !unpinned.is_empty() {
            counts = self.filter.maps().interface_counts()?;
            counts.retain(|interface| unpinned.contains(&interface.name));
        }
        let Ok(store) = &mut self.store else { return Ok(()) };
        let is_of_store = self.filter.table().stored().store == store.state().store;
        let carried = if counts.is_empty() { Ok(()) } else { store.carry(&counts, None) };
        let settled = carried.and_then(|()| store.forget_carried(&loaded, !loaded.is_empty() && is_of_store));
        match settled {
            Ok(()) if unpinned.is_empty() => Ok(()),
            Ok(()) => release_slots(self.filter.pins(), &unpinned),
            Err(error) => {
                self.stop_writing(&error);
                Ok(())
            }
        }
    }
}
