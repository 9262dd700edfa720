//! The filter as it last was, from the store or its copy: after a boot, and where somebody took it away.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{Author, Control, Place};
use crate::host::devices;
use crate::kernel::loading::{LoadOutcome, Sizes};
use crate::kernel::{Lock, Pins};
use crate::store::{Intent, Policy, Store, is_pattern, restore_backup};

/// How often a device that is waited for is looked for: the kernel makes devices within milliseconds of their driver.
const LOOK: Duration = Duration::from_millis(50);

/// What bringing the filter up from the store came to.
#[derive(Debug, Default)]
pub struct Restored {
    /// Whether anything is to be filtered.
    pub is_any: bool,
    /// Interfaces that are filtered now and were not.
    pub interfaces: Vec<LoadOutcome>,
    /// What could not be brought up, and why.
    pub failures: Vec<String>,
    /// Whether neither the store nor its copy could be read, so that what was to be filtered is not known any more.
    pub is_lost: bool,
    /// Where the damaged store was set aside, and whether its copy could be used.
    pub damaged: Option<String>,
    /// Entries that are enforced.
    pub entries: usize,
}

/// Brings the filter up from the store, without network or clock; does nothing where it is up. Waits at most `wait` for
/// devices that are named.
///
/// # Errors
///
/// If the store can't be used, nor its copy, or the kernel refuses the tables.
pub fn restore(place: &Place, author: Author, wait: Duration, verbose: bool) -> Result<Restored> {
    let mut restored = Restored::default();
    if !Store::is_in(&place.state) {
        return Ok(restored);
    }
    // Without the lock, only for the names of devices to wait for: what is wrong with the store is found below.
    if let Ok(store) = Store::open(&place.state) {
        await_devices(&store.policy().unwrap_or_default(), wait)?;
    }
    let lock = Arc::new(Lock::create(&place.pins, place.lock_wait)?);
    let mut store = open_checked(&place.state, &mut restored)?;
    let policy = without_unloaded(&place.pins, &mut store, &author)?;
    if policy.interfaces.is_empty() {
        if place.pins.set()?.is_none()
            && place.pins.loaded_interfaces()?.is_empty()
            && place.pins.unloaded()?.is_empty()
        {
            place.pins.remove()?;
        }
        return Ok(restored);
    }
    restored.is_any = true;
    let mut control = Control::create(place, &lock, Ok(store), author, Sizes::default(), verbose)?;
    control.renew_stale(verbose)?;
    (restored.interfaces, restored.failures) = control.filter_missing(verbose)?;
    let devices = devices::devices()?;
    for missing in policy.interfaces.iter().filter(|interface| !is_pattern(&interface.name)) {
        if !devices.iter().any(|device| device.name == missing.name) {
            restored.failures.push(format!(
                "{}: no such interface yet; the daemon filters it once it is there",
                missing.name
            ));
        }
    }
    restored.entries = control.filter.len();
    restored.failures.extend(control.warnings());
    Ok(restored)
}

/// The policy, without what was unloaded while that could not be written down. Now it is, if it can be.
fn without_unloaded(pins: &Pins, store: &mut Store, author: &Author) -> Result<Policy> {
    let mut policy = store.policy()?;
    let unloaded = pins.unloaded()?;
    unloaded.iter().for_each(|name| policy.exclude(name));
    let record = author.tidying("what was unloaded").record(json!({ "unload": unloaded }));
    let intent = Intent { policy: Some(&policy), ..Intent::of(&record) };
    if !unloaded.is_empty() && store.intend(&intent).is_ok() {
        pins.forget_unloaded(&unloaded)?;
    }
    Ok(policy)
}

/// The store, read from end to end; where it is damaged, its copy.
pub(super) fn open_checked(state: &Path, restored: &mut Restored) -> Result<Store> {
    let opened = Store::open(state).and_then(|store| match store.check() {
        Ok(()) => Ok(store),
        Err(error) => Err(store.unusable(&error)),
    });
    let unusable = match opened {
        Ok(store) => return Ok(store),
        Err(unusable) if unusable.damaged => unusable,
        Err(unusable) => return Err(unusable.into()),
    };
    let (aside, has_copy) = restore_backup(state)?;
    restored.is_lost = !has_copy;
    let what = if has_copy {
        "its copy took its place"
    } else {
        "there is no whole copy of it, and it is begun anew"
    };
    restored.damaged = Some(format!("{unusable}. It was set aside as {}, and {what}", aside.display()));
    Ok(Store::open(state)?)
}

/// Waits until all devices that the policy names are there.
fn await_devices(policy: &Policy, wait: Duration) -> Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        let devices = devices::devices()?;
        let is_there = |name: &str| devices.iter().any(|device| device.name == name);
        let mut named = policy.interfaces.iter().filter(|interface| !is_pattern(&interface.name));
        if named.all(|interface| is_there(&interface.name)) || Instant::now() >= deadline {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}
