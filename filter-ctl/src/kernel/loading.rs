//! Loading and unloading: several interfaces at once, wholly or not at all.

use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use filter_common::abi::{DEFAULT_MAX_V4, DEFAULT_MAX_V6, LOOPBACK_IFINDEX};
use filter_common::prefix::Family;

use super::builds;
use super::filter::{Filter, PartlyApplied};
use super::handover::RUN_OUT;
use super::interface::{self, Loaded, State};
use super::lock::Lock;
use super::maps;
use super::pins::{NotLoaded, Pins};
use super::{resize, set};
use crate::host::devices::{Device, Mode};
use crate::host::monotonic_now_s;
use crate::store::is_pattern;

/// What loading an interface came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOutcome {
    /// The interface.
    pub interface: String,
    /// Whether it was filtered before.
    pub already_loaded: bool,
}

/// Sizes of tables that are to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// The most IPv4 entries, if not those of the filter that is there, or the default.
    pub max_v4: Option<u32>,
    /// The most IPv6 entries, likewise.
    pub max_v6: Option<u32>,
}

/// The filter that is there, or a new one without entries, which filters nothing yet.
///
/// # Errors
///
/// If the kernel refuses, or another build's filter is there.
pub(crate) fn open_or_create(pins: &Pins, lock: &Arc<Lock>, sizes: Sizes, verbose: bool) -> Result<Filter> {
    builds::require_ours(pins)?;
    pins.create_directories()?;
    maps::check_shared(pins)?;
    let (sets, incomplete) = pins.sets()?;
    for directory in &incomplete {
        set::remove_incomplete(directory)?;
    }
    if sets.is_empty() {
        let geometry =
            resize::geometry(sizes.max_v4.unwrap_or(DEFAULT_MAX_V4), sizes.max_v6.unwrap_or(DEFAULT_MAX_V6))?;
        resize::create_set(pins, geometry, verbose, |_, _| Ok(()))?;
    }
    Filter::open_locked(pins.clone(), Arc::clone(lock))
}

/// Refuses sizes that are not those of the filter.
///
/// # Errors
///
/// If they are not, with the command that changes them.
pub(crate) fn require_sizes(filter: &Filter, sizes: Sizes) -> Result<()> {
    let there = filter.geometry();
    for (asked, limit, option) in
        [(sizes.max_v4, there.capacity_v4, "--max-ipv4"), (sizes.max_v6, there.capacity_v6, "--max-ipv6")]
    {
        if let Some(asked) = asked.filter(|asked| *asked != limit) {
            bail!(
                "the filter is loaded with {option} {limit}, not {asked}; change that with `filter-ctl resize {option} {asked}`"
            );
        }
    }
    Ok(())
}

/// Filters these devices, too. All or nothing: where one fails, those that this call loaded are unloaded again.
///
/// # Errors
///
/// A [`Refusal`](super::refusal::Refusal) or what else went wrong, naming the interface; [`PartlyApplied`] if it
/// could not be undone.
pub fn load(filter: &mut Filter, targets: &[(Device, Mode)], verbose: bool) -> Result<Vec<LoadOutcome>> {
    let mut loaded = Vec::new();
    let attached = (|| {
        let present = interface::inspect_all(filter.pins())?;
        let to_load: Vec<&(Device, Mode)> = targets
            .iter()
            .filter_map(|target| Some(unless_loaded(&target.0, &present, target.1)?.map(|_| target)))
            .collect::<Result<_>>()?;
        for (device, mode) in to_load {
            interface::attach(filter, device, *mode, monotonic_now_s(), verbose)?;
            loaded.push(device.name.clone());
        }
        Ok(())
    })();
    if let Err(error) = attached {
        let pins = filter.pins().clone();
        let undone = loaded.iter().rev().try_for_each(|name| interface::detach(&pins, name));
        return Err(match undone {
            Ok(()) => error,
            Err(undo) => PartlyApplied::after(&error, &undo).into(),
        });
    }
    let outcome = |(device, _): &(Device, Mode)| LoadOutcome {
        interface: device.name.clone(),
        already_loaded: !loaded.contains(&device.name),
    };
    Ok(targets.iter().map(outcome).collect())
}

/// Puts this build's program with these tables behind each link that has another, in place of it. Returns the interfaces.
///
/// # Errors
///
/// If the kernel refuses; then the other one runs on.
pub fn renew_stale(filter: &mut Filter, verbose: bool) -> Result<Vec<String>> {
    let mut renewed = Vec::new();
    for loaded in filter.interfaces()? {
        if let State::Stale { ifindex, .. } = loaded.state {
            interface::renew(filter, &loaded.name, ifindex, verbose)?;
            renewed.push(loaded.name);
        }
    }
    Ok(renewed)
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

/// The devices of these names, all of which must exist, each once; and those that match patterns, of which there may be
/// none.
///
/// # Errors
///
/// If a name is no device's, or the loopback's, which is never filtered.
pub fn targets(names: &[String], devices: &[Device]) -> Result<Vec<Device>> {
    let mut targets: Vec<Device> = Vec::new();
    for name in names {
        if is_pattern(name) {
            let pattern = glob::Pattern::new(name).with_context(|| format!("`{name}` is no pattern"))?;
            let matching = devices.iter().filter(|device| {
                device.ifindex != LOOPBACK_IFINDEX
                    && pattern.matches(&device.name)
                    && !targets.contains(device)
            });
            let matching: Vec<_> = matching.cloned().collect();
            targets.extend(matching);
            continue;
        }
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

/// Unloads interfaces, by the names under which they are pinned. With the last one everything that is pinned goes, after
/// `on_detached`, which may still read what was counted.
///
/// # Errors
///
/// [`PartlyApplied`] if only some could be unloaded.
pub fn unload(pins: &Pins, _lock: &Lock, names: &[String], on_detached: impl FnOnce()) -> Result<Unloaded> {
    let pins = &builds::in_force(pins)?;
    let present = pins.loaded_interfaces()?;
    let entries = count_entries(pins);
    let mut failures = Vec::new();
    let mut unloaded = Vec::new();
    for name in names {
        // Even where the maps are damaged, detaching must work.
        match interface::detach(pins, name) {
            Ok(()) => unloaded.push(name.clone()),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let everything = unloaded.len() == present.len();
    if !unloaded.is_empty() {
        thread::sleep(RUN_OUT);
    }
    on_detached();
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
///
/// # Errors
///
/// [`NotLoaded`] if one is not filtered; or if a name is ambiguous.
pub fn pinned_names(pins: &Pins, names: &[String]) -> Result<Vec<String>> {
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
pub fn count_entries(pins: &Pins) -> usize {
    let table = pins.set().ok().flatten().and_then(|set| maps::open_table(&set).ok());
    table.map_or(0, |table| (table.used(Family::V4) + table.used(Family::V6)) as usize)
}
