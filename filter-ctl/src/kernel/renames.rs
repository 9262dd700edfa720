//! Interfaces that got another name after they were loaded.

use anyhow::{Context as _, Result};
use filter_common::abi;

use super::bpffs::{link_pin, remove_pin};
use super::filter::Filter;
use super::interface::{self, Loaded, State, open_link, padded};
use super::pins::Pins;
use crate::host::devices;

/// Gives pins and counters of loaded interfaces the names that their devices have now. Where another loaded interface
/// has that name's pins, they stay as they are. Returns the old and new names. The caller holds the lock, as whoever
/// has a [`Filter`] does.
///
/// # Errors
///
/// If netlink fails, or a pin or slot can't be changed; then the next call finishes it.
pub fn follow_renames(filter: &mut Filter) -> Result<Vec<(String, String)>> {
    let pins = filter.pins().clone();
    let mut renamed = Vec::new();
    // One that takes the name which another gives up comes after that.
    while let Some((from, to)) = next_rename(&pins)? {
        rename(&pins, filter, &from, &to).with_context(|| format!("{from} is named {to} now"))?;
        renamed.push((from, to));
    }
    Ok(renamed)
}

/// An interface whose device has another name, which no other has been loaded as.
fn next_rename(pins: &Pins) -> Result<Option<(String, String)>> {
    let devices = devices::devices()?;
    for name in pins.loaded_interfaces()? {
        let Loaded { state, .. } = interface::inspect(pins, &name, &devices)?;
        if let State::Attached { device, .. } | State::Stale { device, .. } = state
            && device != name
            && is_free_for(pins, &name, &device)?
        {
            return Ok(Some((name, device)));
        }
    }
    Ok(None)
}

/// Whether `to` is no loaded interface's name; or this one's already, where renaming it was interrupted.
fn is_free_for(pins: &Pins, from: &str, to: &str) -> Result<bool> {
    if !pins.link(to).exists() {
        return Ok(true);
    }
    let ((_, one), (_, other)) = (open_link(pins, from)?, open_link(pins, to)?);
    Ok(one.id() == other.id())
}

/// The link has both names until the rest has the new one, so that whoever comes in between takes neither the counters
/// nor the program for those of an interface that is not loaded.
fn rename(pins: &Pins, filter: &mut Filter, from: &str, to: &str) -> Result<()> {
    let (old, new) = (filter.set.program(from), filter.set.program(to));
    if old.exists() {
        remove_pin(&new)?;
        link_pin(&old, &new)?;
    }
    link_pin(&pins.link(from), &pins.link(to))?;
    if let Some(slot) = interface::slot_of(&filter.maps, from)? {
        let interfaces = filter.maps.interfaces()?;
        let named = (0..).zip(interfaces).find(|(position, _)| *position == slot);
        let (_, interface) = named.context("the slot just found is gone")?;
        filter.maps.set_interface(slot, &abi::Interface { name: padded(to)?, ..interface })?;
    }
    remove_pin(&old)?;
    remove_pin(&pins.link(from))
}
