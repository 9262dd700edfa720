//! Which interfaces are to be filtered: written down as policy, then attached or detached.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::{Author, Control, Place};
use crate::host::devices::{self, Device, Mode};
use crate::kernel::filter::PartlyApplied;
use crate::kernel::interface::State;
use crate::kernel::loading::{self, LoadOutcome, Sizes, Unloaded};
use crate::kernel::pins::NotLoaded;
use crate::kernel::{Lock, Pins};
use crate::store::{Intent, Policy, Store, is_pattern, restore_backup};

/// How often a device that is waited for is looked for: the kernel makes devices within milliseconds of their driver.
const LOOK: Duration = Duration::from_millis(50);

/// What to load, and how.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// Names and patterns.
    pub names: &'a [String],
    /// Where the filter runs.
    pub mode: Mode,
    /// Sizes of the tables, if they are to be made.
    pub sizes: Sizes,
    /// Whether to keep all of the verifier's log.
    pub verbose: bool,
}

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

impl Control {
    /// Filters interfaces, too, with all entries of the store in place before the first is attached. All or nothing.
    ///
    /// # Errors
    ///
    /// If an interface can't be filtered: then everything is as it was.
    pub fn load(place: &Place, author: Author, loading: Loading<'_>) -> Result<(Self, Vec<LoadOutcome>)> {
        let targets = loading::targets(loading.names, &devices::devices()?)?;
        let targets: Vec<_> = targets.into_iter().map(|device| (device, loading.mode)).collect();
        let lock = Arc::new(Lock::create(&place.pins, place.lock_wait)?);
        let was_loaded = !place.pins.loaded_interfaces()?.is_empty();
        let store = Store::open(&place.state);
        let is_kept = store.is_ok();
        let loaded = Self::create(place, &lock, store, author, loading.sizes, loading.verbose).and_then(
            |mut control| {
                let outcomes = control.load_targets(loading, &targets)?;
                Ok((control, outcomes))
            },
        );
        loaded.map_err(|error| match undo_create(&place.pins, was_loaded, is_kept) {
            Ok(()) => error,
            Err(undo) => PartlyApplied::after(&error, &undo).into(),
        })
    }

    /// The filter that is there, or a new one with the entries of the store, which filters no interface yet.
    pub(super) fn create(
        place: &Place,
        lock: &Arc<Lock>,
        store: Result<Store, crate::store::Unusable>,
        author: Author,
        asked: Sizes,
        verbose: bool,
    ) -> Result<Self> {
        let policy = store.as_ref().ok().and_then(|store| store.policy().ok()).unwrap_or_default();
        let sizes =
            Sizes { max_v4: asked.max_v4.or(policy.max_ipv4), max_v6: asked.max_v6.or(policy.max_ipv6) };
        let filter = loading::open_or_create(&place.pins, lock, sizes, verbose)?;
        loading::require_sizes(&filter, asked)?;
        Self::with(filter, store, author)
    }

    fn load_targets(&mut self, loading: Loading<'_>, targets: &[(Device, Mode)]) -> Result<Vec<LoadOutcome>> {
        let before = self.policy();
        let mut policy = before.clone();
        policy.include(loading.names, loading.mode);
        self.note_sizes(&mut policy);
        let record = self.author.record(json!({ "load": loading.names, "mode": loading.mode }));
        if policy != before {
            self.write_policy(&policy, &record);
        }
        self.filter.pins().forget_unloaded(loading.names)?;
        let loaded = loading::load(&mut self.filter, targets, loading.verbose);
        if loaded.is_err() && policy != before {
            let refused = self.author.tidying("refused, taken back").record(record.change);
            self.write_policy(&before, &refused);
        }
        self.mark();
        loaded
    }

    /// The policy of the store; an empty one where it can't be read.
    pub fn policy(&self) -> Policy {
        let mut policy = self.store.as_ref().ok().and_then(|store| store.policy().ok()).unwrap_or_default();
        // What was unloaded while that could not be written down.
        self.filter.pins().unloaded().unwrap_or_default().iter().for_each(|name| policy.exclude(name));
        policy
    }

    fn note_sizes(&self, policy: &mut Policy) {
        let geometry = self.filter.geometry();
        policy.max_ipv4 = Some(geometry.capacity_v4);
        policy.max_ipv6 = Some(geometry.capacity_v6);
    }

    /// Adds to a policy what is loaded and not in it.
    pub(super) fn include_loaded(&self, policy: &mut Policy) -> Result<()> {
        for loaded in self.filter.interfaces()? {
            if let State::Attached { mode, .. } = loaded.state
                && policy.mode_of(&loaded.name).is_none()
            {
                policy.include(&[loaded.name], mode);
            }
        }
        Ok(())
    }

    /// Devices that are to be filtered and are not, with their modes.
    ///
    /// # Errors
    ///
    /// If a link can't be opened or netlink fails.
    pub fn unfiltered(&self) -> Result<Vec<(Device, Mode)>> {
        let policy = self.policy();
        let loaded = self.filter.interfaces()?;
        let is_filtered = |device: &Device| {
            loaded.iter().any(|loaded| match &loaded.state {
                State::Attached { ifindex, .. } | State::Stale { ifindex, .. } => *ifindex == device.ifindex,
                State::Elsewhere { .. } => loaded.name == device.name,
                State::Gone => false,
            })
        };
        let devices = devices::devices()?
            .into_iter()
            .filter(|device| device.ifindex != filter_common::abi::LOOPBACK_IFINDEX && !is_filtered(device));
        Ok(devices.filter_map(|device| policy.mode_of(&device.name).map(|mode| (device, mode))).collect())
    }

    /// Filters each device that is to be filtered and is not, one by one. Returns those that are now, and why others could
    /// not be.
    ///
    /// # Errors
    ///
    /// If it can't be told which are.
    pub fn filter_missing(&mut self, verbose: bool) -> Result<(Vec<LoadOutcome>, Vec<String>)> {
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for target in self.unfiltered()? {
            match loading::load(&mut self.filter, &[target], verbose) {
                Ok(outcomes) => done.extend(outcomes),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        Ok((done, failures))
    }

    /// Makes the tables anew, with these capacities.
    ///
    /// # Errors
    ///
    /// As [`resize`](crate::kernel::resize::resize).
    pub fn resize(&mut self, max_v4: Option<u32>, max_v6: Option<u32>, verbose: bool) -> Result<()> {
        self.expire()?;
        crate::kernel::resize::resize(&mut self.filter, max_v4, max_v6, verbose)?;
        let mut policy = self.policy();
        self.note_sizes(&mut policy);
        let record = self.author.record(json!({ "max_ipv4": policy.max_ipv4, "max_ipv6": policy.max_ipv6 }));
        self.write_policy(&policy, &record);
        self.mark();
        Ok(())
    }

    /// Sets whether frames with these faults pass.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; then nothing is changed.
    pub fn tolerate(&mut self, faults: &[filter_common::Reason], tolerated: bool) -> Result<()> {
        let before = self.policy();
        let mut policy = before.clone();
        let names = || faults.iter().map(|fault| fault.name().to_owned());
        policy.tolerated.retain(|name| !names().any(|fault| fault == *name));
        if tolerated {
            policy.tolerated.extend(names());
            policy.tolerated.sort();
            policy.tolerated.dedup();
        }
        let change = json!({ if tolerated { "pass" } else { "drop" }: names().collect::<Vec<_>>() });
        let record = self.author.record(change.clone());
        self.write_policy(&policy, &record);
        let set = self.filter.tolerate(faults, tolerated);
        if set.is_err() {
            let refused = self.author.tidying("refused, taken back").record(change);
            self.write_policy(&before, &refused);
        }
        self.mark();
        set
    }
}

/// Takes back what a load that failed has made, unless something was filtered before, or entries lie there and nowhere else.
fn undo_create(pins: &Pins, was_loaded: bool, is_kept: bool) -> Result<()> {
    if was_loaded || (!is_kept && loading::count_entries(pins) > 0) { Ok(()) } else { pins.remove() }
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
    let store = open_checked(&place.state, &mut restored)?;
    let mut store = store;
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
    let intent = Intent { before: &[], holds: &[], digest: 0, policy: Some(&policy), record: &record };
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

/// What unloading came to.
#[derive(Debug, Default)]
pub struct Unloading {
    /// What was taken away.
    pub unloaded: Unloaded,
    /// Names that were only to be filtered, and are not any more.
    pub forgotten: Vec<String>,
    /// Entries that the store keeps.
    pub kept: usize,
    /// Why the store could not be told: it still says that they are to be filtered.
    pub undurable: Option<String>,
}

/// Stops filtering the named interfaces, or all, and writes down that they are not to be.
///
/// # Errors
///
/// As [`loading::unload`].
pub fn unload(place: &Place, author: &Author, names: Option<&[String]>) -> Result<Unloading> {
    let (lock, missing) = match Lock::acquire(&place.pins, place.lock_wait) {
        Ok(lock) => (Some(Arc::new(lock)), None),
        Err(error) if error.is::<NotLoaded>() => (None, Some(error)),
        Err(error) => return Err(unload_without_the_lock(place, names, error)),
    };
    // What is enforced and not written down yet is written down first: the tables go. Where they are damaged, detaching
    // must work all the same.
    let control = lock.as_ref().and_then(|lock| Control::open_locked(place, lock, author.clone()).ok());
    let mut store = match control {
        Some(control) => control.store,
        None if lock.is_none() && !place.state.exists() => Err(crate::store::Unusable::missing(&place.state)),
        None => Store::open(&place.state),
    };
    let before = store.as_ref().ok().and_then(|store| store.policy().ok()).unwrap_or_default();
    let mut policy = before.clone();
    let pinned = match names {
        None => {
            (policy.interfaces, policy.except) = (Vec::new(), Vec::new());
            place.pins.loaded_interfaces()?
        }
        Some(names) => match exclude(&place.pins, &mut policy, names) {
            Err(error) if error.is::<NotLoaded>() => return Err(missing.unwrap_or(error)),
            excluded => excluded?,
        },
    };
    let forgotten = before.interfaces.iter().map(|interface| interface.name.clone());
    let forgotten: Vec<String> = forgotten
        .filter(|name| {
            !policy.interfaces.iter().any(|interface| interface.name == *name) && !pinned.contains(name)
        })
        .collect();
    if let Some(missing) = missing.filter(|_| forgotten.is_empty()) {
        return Err(missing);
    }
    let mut unloading = Unloading { forgotten, ..Unloading::default() };
    let record = author
        .record(json!({ "unload": names.map_or_else(|| vec!["--all".to_owned()], <[String]>::to_vec) }));
    if policy != before
        && let Ok(open) = &mut store
        && let Err(error) = open.intend(&Intent {
            before: &[],
            holds: &[],
            digest: 0,
            policy: Some(&policy),
            record: &record,
        })
    {
        store = Err(open.unusable(&error));
    }
    if store.is_ok() {
        place.pins.forget_unloaded(&place.pins.unloaded()?)?;
    }
    match &store {
        // Nothing of the store may keep an interface filtered.
        Ok(store) => {
            unloading.kept = store.count_keys().ok().and_then(|keys| keys.try_into().ok()).unwrap_or(0)
        }
        Err(unusable) => unloading.undurable = Some(unusable.to_string()),
    }
    if let Some(lock) = &lock {
        if unloading.undurable.is_some() {
            // Beside the tables, until it can be written down; a reboot forgets it.
            let all = pinned.iter().chain(&unloading.forgotten).cloned().collect::<Vec<_>>();
            place.pins.note_unloaded(&all)?;
        }
        unloading.unloaded = loading::unload(&place.pins, lock, &pinned)?;
        if !unloading.unloaded.everything
            && let Ok(control) = Control::open_locked(place, lock, author.clone())
        {
            control.mark();
        }
    }
    Ok(unloading)
}

/// Takes the filter off where another process keeps the lock, as one that is stopped may: nothing may lock the operator out.
/// Returns the error to report in any case.
fn unload_without_the_lock(place: &Place, names: Option<&[String]>, error: anyhow::Error) -> anyhow::Error {
    let detached = (|| {
        let pinned = match names {
            None => place.pins.loaded_interfaces()?,
            Some(names) => loading::pinned_names(&place.pins, names)?,
        };
        pinned.iter().try_for_each(|name| crate::kernel::interface::detach(&place.pins, None, name))?;
        Ok::<_, anyhow::Error>(pinned)
    })();
    match detached {
        Ok(pinned) => PartlyApplied(format!(
            "{} no longer filtered, and nothing else of it was done: {error:#}. Say `unload` again then, or it is filtered \
             again at the next boot, or by the daemon",
            pinned.join(", ")
        ))
        .into(),
        Err(undone) => error.context(format!("{undone:#}")),
    }
}

/// Takes names and patterns out of a policy. Returns the names under which the interfaces are pinned that are not to be
/// filtered any more.
fn exclude(pins: &Pins, policy: &mut Policy, names: &[String]) -> Result<Vec<String>> {
    let mut pinned = Vec::new();
    for name in names {
        let is_named = policy.interfaces.iter().any(|interface| interface.name == *name);
        if is_pattern(name) {
            if !is_named {
                bail!(
                    "`{name}` is no pattern by which interfaces are filtered; `filter-ctl status` has them"
                );
            }
            let matched: Vec<String> = pins
                .loaded_interfaces()?
                .into_iter()
                .filter(|loaded| policy.mode_of(loaded).is_some())
                .collect();
            policy.exclude(name);
            pinned.extend(matched.into_iter().filter(|loaded| policy.mode_of(loaded).is_none()));
            continue;
        }
        match loading::pinned_names(pins, std::slice::from_ref(name)) {
            Ok(found) => {
                found.iter().for_each(|found| policy.exclude(found));
                pinned.extend(found);
            }
            Err(error) if error.is::<NotLoaded>() && is_named => {}
            Err(error) => return Err(error),
        }
        policy.exclude(name);
    }
    pinned.sort();
    pinned.dedup();
    Ok(pinned)
}
