//! Loading and unloading: several interfaces at once, wholly or not at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use filter_common::abi::{DEFAULT_MAX_V4, DEFAULT_MAX_V6, LOOPBACK_IFINDEX};
use filter_common::prefix::{Family, Geometry};

use super::builds;
use super::filter::{Filter, PartlyApplied};
use super::interface::{self, Loaded, State};
use super::lock::Lock;
use super::maps::{self, Maps};
use super::pins::{NotLoaded, Pins};
use super::{resize, set};
use crate::host::devices::{self, Device, Mode};
use crate::host::monotonic_now_s;

/// What loading an interface came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOutcome {
    /// The interface.
    pub interface: String,
    /// Whether it was filtered before.
    pub already_loaded: bool,
}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Where the filter runs.
    pub mode: Mode,
    /// The most IPv4 entries, if not those of the filter that is there, or the default.
    pub max_v4: Option<u32>,
    /// The most IPv6 entries, likewise.
    pub max_v6: Option<u32>,
    /// How long to wait for the lock.
    pub lock_wait: Duration,
    /// Whether to keep all of the verifier's log.
    pub verbose: bool,
}

/// Loads the filter on `interfaces`. All or nothing: where one fails, those that this call loaded are unloaded
/// again, and so are the maps if it made them.
///
/// # Errors
///
/// A [`Refusal`](super::refusal::Refusal) or what else went wrong, naming the interface; [`PartlyApplied`] if it
/// could not be undone.
pub fn load(
    pins: &Pins,
    interfaces: &[String],
    options: LoadOptions,
) -> Result<(Vec<LoadOutcome>, Geometry)> {
    let targets = targets(interfaces)?;
    // Held until all is done or undone.
    let lock = Arc::new(Lock::create(pins, options.lock_wait)?);
    builds::require_ours(pins)?;
    pins.create_directories()?;
    let was_loaded = !pins.loaded_interfaces()?.is_empty();
    let mut loaded = Vec::new();
    load_locked(pins, &lock, &targets, options, &mut loaded)
        .map_err(|error| undo_load(pins, &loaded, was_loaded, error))
}

fn load_locked(
    pins: &Pins,
    lock: &Arc<Lock>,
    targets: &[Device],
    options: LoadOptions,
    loaded: &mut Vec<String>,
) -> Result<(Vec<LoadOutcome>, Geometry)> {
    // What an interrupted resize left is finished before anybody asks which programs run.
    let opened = match pins.set()? {
        Some(_) => Some(open_or_create(pins, lock, options)?),
        None => None,
    };
    let present = interface::inspect_all(pins)?;
    let to_load: Vec<&Device> = targets
        .iter()
        .filter_map(|device| unless_loaded(device, &present, options.mode))
        .collect::<Result<_>>()?;
    let mut filter = match opened {
        Some(filter) => filter,
        None => open_or_create(pins, lock, options)?,
    };
    for device in &to_load {
        interface::attach(&mut filter, device, options.mode, monotonic_now_s(), options.verbose)?;
        loaded.push(device.name.clone());
    }
    let outcome = |device: &Device| LoadOutcome {
        interface: device.name.clone(),
        already_loaded: !loaded.contains(&device.name),
    };
    Ok((targets.iter().map(outcome).collect(), filter.geometry()))
}

/// The filter that is there, or a new one without entries.
fn open_or_create(pins: &Pins, lock: &Arc<Lock>, options: LoadOptions) -> Result<Filter> {
    maps::check_shared(pins)?;
    let (sets, incomplete) = pins.sets()?;
    for directory in &incomplete {
        set::remove_incomplete(directory)?;
    }
    if sets.is_empty() {
        let geometry = resize::geometry(
            options.max_v4.unwrap_or(DEFAULT_MAX_V4),
            options.max_v6.unwrap_or(DEFAULT_MAX_V6),
        )?;
        resize::create_set(pins, geometry, options.verbose, |_, _| Ok(()))?;
    }
    let filter = Filter::open_locked(pins.clone(), Arc::clone(lock))?;
    let there = filter.geometry();
    for (asked, limit, option) in
        [(options.max_v4, there.capacity_v4, "--max-ipv4"), (options.max_v6, there.capacity_v6, "--max-ipv6")]
    {
        if let Some(asked) = asked.filter(|asked| *asked != limit) {
            bail!(
                "the filter is loaded with {option} {limit}, not {asked}; change that with `filter-ctl resize {option} {asked}`"
            );
        }
    }
    Ok(filter)
}

/// The device, if it is to be loaded; nothing if it is already filtered as asked for; an error if its name or the
/// device is taken.
fn unless_loaded<'d>(device: &'d Device, present: &[Loaded], mode: Mode) -> Option<Result<&'d Device>> {
    let name = &device.name;
    for loaded in present {
        match &loaded.state {
            State::Attached { ifindex, mode: running, .. } if *ifindex == device.ifindex => {
                return (*running != mode).then(|| {
                    Err(anyhow!(
                        "{name} is already filtered in {} mode; `filter-ctl unload {name}` first to load it in {} mode (unloading \
                         the last interface forgets all entries)",
                        running.name(),
                        mode.name()
                    ))
                });
            }
            State::Stale { ifindex, .. } if *ifindex == device.ifindex => {
                return Some(Err(anyhow!(
                    "{name} is filtered by another build of filter-ctl, or its maps were tampered with; \
                     `filter-ctl unload {name}` first"
                )));
            }
            // Its pins would be replaced, and the other device silently no longer be filtered.
            State::Attached { device: other, .. } | State::Stale { device: other, .. }
                if loaded.name == *name =>
            {
                return Some(Err(anyhow!(
                    "{name}: {other} was loaded under this name and renamed since; `filter-ctl unload {other}` and load \
                     it again first"
                )));
            }
            State::Elsewhere { ifindex } if loaded.name == *name => {
                return Some(Err(anyhow!(
                    "{name}: a device of this name, index {ifindex}, is filtered in another network namespace; \
                     `filter-ctl unload {name}` ends that, or give each namespace its own --pin-root"
                )));
            }
            _ => {}
        }
    }
    Some(Ok(device))
}

/// Takes back what a failed load has done, and returns the error to report.
fn undo_load(pins: &Pins, loaded: &[String], was_loaded: bool, error: anyhow::Error) -> anyhow::Error {
    let mut maps = Maps::open(pins).ok();
    let detached = loaded.iter().rev().try_for_each(|name| interface::detach(pins, maps.as_mut(), name));
    drop(maps);
    let undone = detached.and_then(|()| {
        // Entries that an interrupted load or a vanished interface left are kept.
        let holds_entries = count_entries(pins) > 0;
        if was_loaded || holds_entries { Ok(()) } else { pins.remove() }
    });
    match undone {
        Ok(()) => error,
        Err(undo) => PartlyApplied::after(&error, &undo).into(),
    }
}

/// The devices to load, all of which must exist; each once.
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
        if device.ifindex == LOOPBACK_IFINDEX {
            bail!(
                "{name}: the loopback device is never filtered; name the interface on which the traffic comes in"
            );
        }
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
/// [`PartlyApplied`] if only some could be unloaded.
pub fn unload(pins: &Pins, interfaces: Option<&[String]>, lock_wait: Duration) -> Result<Unloaded> {
    let _lock = Lock::acquire(pins, lock_wait)?;
    let pins = &builds::in_force(pins)?;
    let present = pins.loaded_interfaces()?;
    let names = match interfaces {
        None => present.clone(),
        Some(names) => pinned_names(pins, names)?,
    };
    // Even where the maps are damaged, detaching must work.
    let mut maps = Maps::open(pins).ok();
    let entries = count_entries(pins);
    let mut failures = Vec::new();
    let mut unloaded = Vec::new();
    for name in names {
        match interface::detach(pins, maps.as_mut(), &name) {
            Ok(()) => unloaded.push(name),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    drop(maps);
    let everything = unloaded.len() == present.len();
    if everything && let Err(error) = pins.remove() {
        failures.push(format!("{error:#}"));
    }
    match (failures.is_empty(), unloaded.is_empty()) {
        (true, _) => {
            Ok(Unloaded { interfaces: unloaded, everything, entries: if everything { entries } else { 0 } })
        }
        (false, true) => bail!("{}", failures.join("; ")),
        (false, false) => {
            bail!(PartlyApplied(format!(
                "no longer filtered: {}; but {}",
                unloaded.join(", "),
                failures.join("; ")
            )))
        }
    }
}

/// Names under which interfaces were loaded, for names that may be those they have now.
fn pinned_names(pins: &Pins, names: &[String]) -> Result<Vec<String>> {
    let all = interface::inspect_all(pins)?;
    let name_now = |loaded: &Loaded| match &loaded.state {
        State::Attached { device, .. } | State::Stale { device, .. } => Some(device.clone()),
        State::Elsewhere { .. } | State::Gone => None,
    };
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let bears_it = all.iter().find(|loaded| name_now(loaded).as_ref() == Some(name));
        let was_loaded_as = all.iter().find(|loaded| loaded.name == *name);
        let pinned = match (bears_it, was_loaded_as) {
            (Some(now), Some(then)) if now.name != then.name => bail!(
                "{name} is ambiguous: the device of this name was loaded as {}, and what was loaded as {name} is now {}; \
                 use these names",
                now.name,
                name_now(then).unwrap_or_else(|| "gone".into())
            ),
            (Some(loaded), _) | (None, Some(loaded)) => &loaded.name,
            (None, None) => {
                let others: Vec<_> = all.iter().map(|loaded| loaded.name.as_str()).collect();
                let others = if others.is_empty() { "nothing".into() } else { others.join(", ") };
                return Err(NotLoaded(format!(
                    "{name} is not filtered, and nothing was unloaded; {others} is filtered"
                ))
                .into());
            }
        };
        if !found.contains(pinned) {
            found.push(pinned.clone());
        }
    }
    Ok(found)
}

/// Entries in the tables; none where they can't be opened.
fn count_entries(pins: &Pins) -> usize {
    let table = pins.set().ok().flatten().and_then(|set| maps::open_table(&set).ok());
    table.map_or(0, |table| (table.used(Family::V4) + table.used(Family::V6)) as usize)
}
