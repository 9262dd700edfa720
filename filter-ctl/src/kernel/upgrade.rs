//! From another build's filter to this build's, while packets flow.
//!
//! Where both have the same ABI, only programs are replaced (`renew`). Otherwise this ABI's tables are made and filled
//! beside the others, and take their place as those of a resize do (`handover`). The maps that no set of tables has to
//! itself are the same ones under both ABIs: what they count is nowhere carried from one to the other while both count.
//!
//! Whoever dies before a link was switched leaves tables that nobody uses, and the next upgrade starts afresh. Whoever dies
//! after that leaves both, and the next upgrade goes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use filter_common::abi::{MAPS, OLDEST_READABLE};

use super::bpffs::link_pin;
use super::builds::{self, OtherBuild};
use super::filter::{Filter, PartlyApplied};
use super::handover::{self, Older, Running, running_with};
use super::interface::{self, Loaded, State};
use super::lock::Lock;
use super::maps::{self, Maps};
use super::pins::Pins;
use super::set::Set;
use super::{renew, resize};

/// What an upgrade came to for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs this build's program since before.
    Current,
    /// It runs this build's program now.
    Upgraded,
    /// Its device is gone, and so nothing runs.
    Gone,
}

/// What an upgrade came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The other build's ABI, if it was another one.
    pub from_abi: Option<u32>,
    /// Each loaded interface.
    pub interfaces: Vec<(String, Outcome)>,
    /// Entries that are in force.
    pub entries: usize,
}

/// Puts this build's programs in the place of another build's, with its entries and counters.
///
/// # Errors
///
/// [`NotLoaded`](super::pins::NotLoaded) if there is no filter, [`OtherBuild`] if its ABI is unknown to this one. Otherwise what the kernel
/// refused; then the other build's filter goes on, unless [`PartlyApplied`] says that it could not be put back.
pub fn upgrade(pins: &Pins, lock_wait: Duration, verbose: bool) -> Result<Upgraded> {
    let lock = Arc::new(Lock::acquire(pins, lock_wait)?);
    builds::require_no_newer(pins)?;
    let older = builds::older(pins)?;
    if let Some(unknown) = pins.others()?.pop()
        && older.is_none()
        && pins.set()?.is_none()
    {
        return Err(OtherBuild(format!(
            "the filter that is there has ABI {}, and this build can take over ABI {OLDEST_READABLE} at the oldest: \
             `filter-ctl unload --all` and load again, or upgrade with a build in between first",
            unknown.abi_version()
        ))
        .into());
    }
    let (filter, upgraded) = match &older {
        Some(older) => migrate(pins, &lock, older, verbose)?,
        None => {
            let filter = Filter::open_ours(pins.clone(), lock)?;
            require_known(&filter)?;
            let upgraded = renew::renew(&filter, verbose)?;
            (filter, upgraded)
        }
    };
    let interfaces = outcomes(&filter, &upgraded).map_err(|error| {
        PartlyApplied(format!("the upgrade was made, and what came of it can't be told: {error:#}"))
    })?;
    Ok(Upgraded { from_abi: older.map(|older| older.abi_version()), interfaces, entries: filter.len() })
}

/// What it came to for each loaded interface, of which these were upgraded.
fn outcomes(filter: &Filter, upgraded: &[String]) -> Result<Vec<(String, Outcome)>> {
    let outcome = |loaded: Loaded| {
        let outcome = match loaded.state {
            State::Gone => Outcome::Gone,
            _ if upgraded.contains(&loaded.name) => Outcome::Upgraded,
            _ => Outcome::Current,
        };
        (loaded.name, outcome)
    };
    Ok(filter.interfaces()?.into_iter().map(outcome).collect())
}

/// Refuses where a link runs a program that is pinned nowhere: what it does is unknown.
fn require_known(filter: &Filter) -> Result<()> {
    for loaded in filter.interfaces()? {
        if let State::Stale { device, .. } = loaded.state {
            bail!("{}; nothing was changed", unknown(&device));
        }
    }
    Ok(())
}

fn unknown(interface: &str) -> String {
    format!(
        "{interface} runs a program that neither this build nor the one before has pinned; `filter-ctl unload {interface}` \
         first"
    )
}

/// Makes this ABI's tables, or goes on with those that an interrupted upgrade left, and puts them in the place of the
/// other's. Returns the filter, and the interfaces that were switched.
fn migrate(pins: &Pins, lock: &Arc<Lock>, other: &Pins, verbose: bool) -> Result<(Filter, Vec<String>)> {
    maps::check_shared(other)?;
    let (sets, _) = other.sets()?;
    let mut older: Vec<Older> = sets.into_iter().map(Older::of_other_abi).collect::<Result<_>>()?;
    handover::credit_along(&mut older);
    let waiting = waiting(pins, &older)?;
    let switched = match pins.set()? {
        Some(set) => running_with(pins, &set)?,
        None => Vec::new(),
    };
    for interface in pins.loaded_interfaces()? {
        let is_known = waiting.iter().chain(&switched).any(|running| running.interface == interface);
        if !is_known && interface::program_of(pins, &interface)?.is_some() {
            bail!("{}; nothing was changed", unknown(&interface));
        }
    }
    if switched.is_empty() {
        // What an interrupted upgrade made may be older than the other build's last change.
        pins.remove_abi()?;
        create(pins, other, &older, &waiting, verbose).map_err(|error| remove_new(pins, error))?;
    }
    let opened = Filter::open_ours(pins.clone(), Arc::clone(lock));
    let mut filter =
        opened.map_err(|error| if switched.is_empty() { remove_new(pins, error) } else { error })?;
    if !switched.is_empty()
        && let Err(error) = update(&mut filter, &older, &waiting, verbose)
    {
        return Err(handover::go_back(&mut filter, older, error));
    }
    handover::adopt(&mut filter, older)?;
    if !switched.is_empty() {
        // Those that were switched before may run the programs of the build that was interrupted.
        renew::renew(&filter, verbose).map_err(|error| {
            PartlyApplied(format!(
                "the tables were taken over, and not all programs are this build's: {error:#}"
            ))
        })?;
    }
    Ok((filter, waiting.into_iter().chain(switched).map(|running| running.interface).collect()))
}

/// Removes what was made and nobody uses, after `error`, and returns what to report.
fn remove_new(pins: &Pins, error: anyhow::Error) -> anyhow::Error {
    match pins.remove_abi() {
        Ok(()) => error.context("nothing was changed"),
        Err(undo) => PartlyApplied::after(&error, &undo).into(),
    }
}

/// The interfaces that run a program of these sets.
fn waiting(pins: &Pins, older: &[Older]) -> Result<Vec<Running>> {
    let of_each = older.iter().map(|older| running_with(pins, &older.set));
    Ok(of_each.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Makes this ABI's maps, with what the other's hold, and loads the programs.
fn create(pins: &Pins, other: &Pins, older: &[Older], waiting: &[Running], verbose: bool) -> Result<Set> {
    let newest = older.last().context("no set of tables is complete")?;
    let there = newest.table.geometry();
    let geometry = resize::geometry(there.capacity_v4, there.capacity_v6)?;
    pins.create_directories()?;
    // Those that the other ABI lacks are made with the tables.
    for spec in MAPS.iter().filter(|spec| spec.capacity.is_shared() && other.map(spec).exists()) {
        link_pin(&other.map(spec), &pins.map(spec))?;
    }
    resize::create_filled(pins, geometry, verbose, |set, new| {
        handover::copy(newest.source(), new)?;
        handover::prepare(set, new, &Maps::open(pins)?, waiting, verbose)
    })
}

/// Brings tables that are partly in force already to what the other build has changed since they were made.
fn update(filter: &mut Filter, older: &[Older], waiting: &[Running], verbose: bool) -> Result<()> {
    let newest = older.last().context("no set of tables is complete")?;
    handover::copy(newest.source(), &mut filter.table)?;
    handover::prepare(&filter.set, &filter.table, &filter.maps, waiting, verbose)
}
