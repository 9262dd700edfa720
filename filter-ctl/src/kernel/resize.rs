//! Sets of tables: making one, and making it anew with other sizes.
//!
//! A map can't grow. So a larger set is made and filled beside the one in use, programs that use it are loaded for each
//! interface, and only then it is named as complete, and takes the other's place (`handover`). Whoever dies before
//! leaves an incomplete set, which the next command removes.

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::abi::MAPS;
use filter_common::prefix::{self, Family, Geometry, Seeds, Table};

use super::filter::{Filter, PartlyApplied};
use super::handover::{self, Older, Source};
use super::interface::State;
use super::mapped::MappedCells;
use super::maps;
use super::pins::Pins;
use super::program;
use super::set::Set;
use crate::host::memory_available;

/// How a table may be made anew before it is given up: each try has other seeds, and fails once in 10^9 at full load.
const TRIES: u32 = 3;

/// The sizes of tables for these capacities on this host.
///
/// # Errors
///
/// If it is more than maps can hold, or than memory is free.
pub fn geometry(capacity_v4: u32, capacity_v6: u32) -> Result<Geometry> {
    let cpus = maps::possible_cpus()?;
    let geometry = Geometry { capacity_v4, capacity_v6, cpus };
    ensure!(
        geometry.is_possible(),
        "tables of {capacity_v4} IPv4 and {capacity_v6} IPv6 entries with counters for {cpus} CPUs are more than the kernel's \
         maps can hold; ask for fewer"
    );
    let (needed, available) = (geometry.bytes(), memory_available()?);
    ensure!(
        needed <= available,
        "tables of {capacity_v4} IPv4 and {capacity_v6} IPv6 entries need {} MiB, and {} MiB of memory are available; ask \
         for fewer with --max-ipv4 and --max-ipv6",
        needed >> 20,
        available >> 20
    );
    Ok(geometry)
}

/// Makes a set of tables, with seeds of its own, and has `fill` put into it what else it must have; complete once this
/// returns.
///
/// # Errors
///
/// If the kernel refuses a map or program, or filling fails; then nothing is left of it.
pub fn create_set(
    pins: &Pins,
    geometry: Geometry,
    verbose: bool,
    fill: impl Fn(&Set, &mut Table<MappedCells>) -> Result<()>,
) -> Result<Set> {
    let set = pins.new_set()?;
    let made = (|| {
        let seeds = random_seeds()?;
        program::create_maps(&set, geometry, seeds, verbose)?;
        let cells = MappedCells::open(&set, geometry, &MAPS)?;
        fill(&set, &mut Table::create(cells, geometry, seeds))
    })();
    match made {
        Ok(()) => set.complete(),
        Err(error) => Err(match set.remove() {
            Ok(()) => error,
            Err(undo) => error.context(format!("what was made could not be removed: {undo:#}")),
        }),
    }
}

/// As [`create_set`], with other seeds where a key found no place.
///
/// # Errors
///
/// As [`create_set`].
pub(super) fn create_filled(
    pins: &Pins,
    geometry: Geometry,
    verbose: bool,
    fill: impl Fn(&Set, &mut Table<MappedCells>) -> Result<()>,
) -> Result<Set> {
    let mut tries = 0;
    loop {
        tries += 1;
        match create_set(pins, geometry, verbose, &fill) {
            Err(error) if tries < TRIES && error.downcast_ref() == Some(&prefix::Refused::NoPlace) => {}
            made => return made,
        }
    }
}

fn random_seeds() -> Result<Seeds> {
    let mut bytes = [0; 24];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .context("the kernel gave no random numbers for the tables' seeds")?;
    }
    let word = |position: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * position + byte]));
    // The third multiplies small numbers: odd, so that no bit of them is lost.
    Ok(Seeds([word(0), word(1), word(2) | 1]))
}

/// Makes the tables anew, with these capacities.
///
/// # Errors
///
/// If the entries don't fit, memory is short, or the kernel refuses; then everything is as it was, or
/// [`PartlyApplied`] says that it could not be put back.
pub fn resize(filter: &mut Filter, max_v4: Option<u32>, max_v6: Option<u32>, verbose: bool) -> Result<()> {
    let before = filter.geometry();
    for (asked, family, option) in [(max_v4, Family::V4, "--max-ipv4"), (max_v6, Family::V6, "--max-ipv6")] {
        let used = filter.room(family).used;
        if let Some(asked) = asked.filter(|asked| *asked < used) {
            bail!("{used} entries are in use, so {option} {asked} is too few; nothing was changed");
        }
    }
    for loaded in filter.interfaces()? {
        if let State::Stale { device, .. } = loaded.state {
            bail!(
                "{device} runs the program of another build, which would keep the tables that it has; `filter-ctl unload \
                 {device}` first. Nothing was changed"
            );
        }
    }
    let geometry = geometry(max_v4.unwrap_or(before.capacity_v4), max_v6.unwrap_or(before.capacity_v6))?;
    filter.table.cells().map_all()?;
    let running = handover::running_with(filter.pins(), &filter.set)?;
    let set = create_filled(filter.pins(), geometry, verbose, |set, new| {
        handover::copy(Source::Ours(&filter.table), new)?;
        handover::prepare(set, new, &filter.maps, &running, verbose)
    });
    let set = set.context("nothing was changed")?;
    let table = match maps::open_table(&set) {
        Ok(table) => table,
        Err(error) => {
            return Err(match set.remove() {
                Ok(()) => error.context("nothing was changed"),
                Err(undo) => PartlyApplied::after(&error, &undo).into(),
            });
        }
    };
    let older = std::mem::replace(&mut filter.set, set);
    let older_table = std::mem::replace(&mut filter.table, table);
    handover::adopt(filter, vec![Older::in_use(older, older_table)])
}
