//! Opens the pinned maps, after comparing each with what this build expects: aya trusts the object's own
//! definitions, and a map of another size would make the kernel write past the end of a buffer.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues};
use filter_common::abi::{
    self, COUNTERS, Counter, ENTRIES, ENTRY_COUNTERS, HEADER, INTERFACE_SLOTS, INTERFACES, Interface,
    MapSpec, NOTES, SLOT_COUNTERS, SWITCH, TEST_SLOT, TOLERATED, counter_index,
};
use filter_common::prefix::{Geometry, Seeds, Switch, Table, header};
use filter_common::{Reason, Verdict};

use super::descriptors::told;
use super::interface::slot_name;
use super::mapped::MappedCells;
use super::pins::{NotLoaded, Pins};
use super::set::Set;
use crate::stats::InterfaceCounts;

/// What two maps must have in common to be the same map to this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    elements: u32,
    flags: u32,
}

impl Shape {
    fn of_pin(path: &Path) -> Result<Self> {
        let info =
            MapInfo::from_pin(path).with_context(|| format!("could not open the map {}", path.display()))?;
        Ok(Self {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            elements: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    fn wanted(spec: &MapSpec, geometry: Geometry) -> Self {
        Self {
            kind: spec.kind as u32,
            key_size: spec.key_size,
            value_size: spec.value_size,
            elements: spec.capacity.elements(geometry),
            flags: spec.flags,
        }
    }
}

/// A geometry for maps whose size does not depend on it.
const ANY: Geometry = Geometry { capacity_v4: 0, capacity_v6: 0, cpus: 0 };

/// CPUs that there may be on this host, which is what the kernel sizes its own by.
///
/// # Errors
///
/// If the kernel does not say.
pub fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::Error::new(error).context(what))?;
    u32::try_from(cpus).context("more CPUs than can be counted")
}

fn check(path: &Path, spec: &MapSpec, geometry: Geometry) -> Result<()> {
    let (shape, wanted) = (Shape::of_pin(path)?, Shape::wanted(spec, geometry));
    ensure!(
        shape == wanted,
        "{} is not a map of this program: it is {shape:?}, and {wanted:?} is expected. It is left alone; find out who \
         made it, then remove it or use another --pin-root",
        path.display()
    );
    Ok(())
}

/// Compares the maps that all sets share, as far as they are there, with what this build expects.
///
/// # Errors
///
/// If one is not as expected.
pub fn check_shared(pins: &Pins) -> Result<()> {
    let geometry = Geometry { cpus: possible_cpus()?, ..ANY };
    let shared = abi::MAPS.iter().filter(|spec| spec.capacity.is_shared());
    shared
        .map(|spec| (pins.map(spec), spec))
        .filter(|(path, _)| path.exists())
        .try_for_each(|(path, spec)| check(&path, spec, geometry))
}

/// Opens the tables of a set, after comparing its maps with what this build expects.
///
/// # Errors
///
/// If a map is missing, or not as expected.
pub fn open_table(set: &Set) -> Result<Table<MappedCells>> {
    for spec in &abi::MAPS {
        let path = set.map(spec);
        ensure!(
            path.exists(),
            "the map {} is missing while others are there: run `filter-ctl unload --all` and load again",
            path.display()
        );
    }
    check(&set.map(&HEADER), &HEADER, ANY)?;
    let (geometry, seeds) = read_header(set)?;
    for spec in &abi::MAPS {
        check(&set.map(spec), spec, geometry)?;
    }
    let table = Table::open(MappedCells::open(set, geometry, &abi::MAPS)?, geometry, seeds);
    table.check_header().with_context(|| {
        format!(
            "{} holds what filter-ctl never writes; `filter-ctl unload --all` and load again",
            set.map(&HEADER).display()
        )
    })?;
    Ok(table)
}

/// The maps of a set that another ABI's sets have in the same layout, from [`OLDEST_READABLE`](abi::OLDEST_READABLE) on.
const READABLE: [MapSpec; 4] = [HEADER, ENTRIES, NOTES, ENTRY_COUNTERS];

/// Opens the tables of another ABI's set: entries, notes and counters alone.
///
/// # Errors
///
/// As [`open_table`].
pub fn open_readable(set: &Set) -> Result<Table<MappedCells>> {
    check(&set.map(&HEADER), &HEADER, ANY)?;
    let (geometry, seeds) = read_header(set)?;
    for spec in &READABLE {
        check(&set.map(spec), spec, geometry)?;
    }
    Ok(Table::open(MappedCells::open(set, geometry, &READABLE)?, geometry, seeds))
}

/// Bytes of memory that each map of a set takes, by name, as the kernel tells it: `memlock` in the descriptor's fdinfo
/// (since 4.10; what the kernel keeps beside the elements is in it since 6.3).
///
/// # Errors
///
/// If a map can't be opened, or the kernel does not tell.
pub fn memory(set: &Set) -> Result<Vec<(&'static str, u64)>> {
    let bytes = |spec: &MapSpec| {
        let path = set.map(spec);
        let context = || format!("could not read how much memory the map {} takes", path.display());
        let map = MapData::from_pin(&path).with_context(context)?;
        let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let bytes = told(&fs::read_to_string(fdinfo).with_context(context)?, "memlock");
        Ok((spec.name, bytes.with_context(context)?))
    };
    abi::MAPS.iter().map(bytes).collect()
}

/// Sizes and seeds from the header of a set.
fn read_header(set: &Set) -> Result<(Geometry, Seeds)> {
    let words: Array<MapData, [u64; header::WORDS as usize]> = open(&set.map(&HEADER))?;
    let words = words.get(&0, 0).context("could not read the map `header`")?;
    let number = |position: usize| u32::try_from(words[position]).ok();
    let geometry = (|| {
        Some(Geometry {
            capacity_v4: number(header::CAPACITY_V4)?,
            capacity_v6: number(header::CAPACITY_V6)?,
            cpus: number(header::CPUS)?,
        })
    })();
    let geometry = geometry.filter(|geometry| geometry.is_possible()).with_context(|| {
        format!(
            "{} does not hold what filter-ctl writes there; `filter-ctl unload --all` and load again",
            set.map(&HEADER).display()
        )
    })?;
    Ok((geometry, Seeds(std::array::from_fn(|position| words[header::SEEDS + position]))))
}

/// The pinned maps that all sets share, opened.
pub struct Maps {
    switch: Array<MapData, u64>,
    tolerated: Array<MapData, u32>,
    counters: PerCpuArray<MapData, Counter>,
    interfaces: Array<MapData, Interface>,
}

impl Maps {
    /// Opens all shared maps below `pins`.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there are none; otherwise if one is missing or not what is expected.
    pub fn open(pins: &Pins) -> Result<Self> {
        // An older build's filter has these, and not all others.
        require(pins, &[SWITCH, TOLERATED, COUNTERS, INTERFACES])?;
        check_shared(pins)?;
        Ok(Self {
            switch: open(&pins.map(&SWITCH))?,
            tolerated: open(&pins.map(&TOLERATED))?,
            counters: open(&pins.map(&COUNTERS))?,
            interfaces: open(&pins.map(&INTERFACES))?,
        })
    }

    /// Which policy is in force.
    pub fn switch(&self) -> Result<Switch> {
        self.switch.get(&0, 0).map(Switch).context("could not read the map `switch`")
    }

    /// Whether frames with this fault pass all the same.
    pub fn tolerates(&self, fault: Reason) -> Result<bool> {
        let value = self.tolerated.get(&fault.index(), 0);
        Ok(value.with_context(|| format!("could not read whether `{}` is tolerated", fault.name()))? != 0)
    }

    /// Sets whether frames with this fault pass all the same.
    pub fn set_tolerated(&mut self, fault: Reason, tolerated: bool) -> Result<()> {
        self.tolerated
            .set(fault.index(), u32::from(tolerated), 0)
            .with_context(|| format!("could not set whether `{}` is tolerated", fault.name()))
    }

    /// What an interface slot has counted for a reason and verdict, over all CPUs.
    pub fn counter(&self, slot: u32, reason: Reason, verdict: Verdict) -> Result<Counter> {
        read_counter(&self.counters, counter_index(slot, reason, verdict)).with_context(|| {
            format!("could not read the counter `{}` of interface slot {slot}", reason.name())
        })
    }

    /// What all loaded interfaces have counted, by name.
    ///
    /// # Errors
    ///
    /// If a map can't be read.
    pub fn interface_counts(&self) -> Result<Vec<InterfaceCounts>> {
        let mut interfaces = Vec::new();
        for (slot, interface) in (0..).zip(self.interfaces()?) {
            let Some(name) = slot_name(&interface).filter(|_| slot != TEST_SLOT) else { continue };
            let counted = Reason::ALL
                .iter()
                .flat_map(|reason| reason.verdicts().map(move |verdict| (*reason, verdict)));
            let by_reason = counted
                .map(|(reason, verdict)| Ok((reason, verdict, self.counter(slot, reason, verdict)?)))
                .collect::<Result<_>>()?;
            interfaces.push(InterfaceCounts { name, loaded_s: interface.loaded_s, by_reason });
        }
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(interfaces)
    }

    /// Zeroes all counters of an interface slot, those of reasons yet unknown included.
    pub fn zero_interface(&mut self, slot: u32) -> Result<()> {
        for index in slot * SLOT_COUNTERS..(slot + 1) * SLOT_COUNTERS {
            write_counter(&mut self.counters, index, Counter::default())
                .with_context(|| format!("could not zero the counters of interface slot {slot}"))?;
        }
        Ok(())
    }

    /// Makes what an interface slot has counted for a reason and verdict this. Nothing may count there meanwhile.
    pub fn set_counter(
        &mut self,
        slot: u32,
        reason: Reason,
        verdict: Verdict,
        counter: Counter,
    ) -> Result<()> {
        write_counter(&mut self.counters, counter_index(slot, reason, verdict), counter).with_context(|| {
            format!("could not write the counter `{}` of interface slot {slot}", reason.name())
        })
    }

    /// Reads all interface slots.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        (0..INTERFACE_SLOTS)
            .map(|slot| self.interfaces.get(&slot, 0))
            .collect::<Result<_, _>>()
            .context("could not read the map `interfaces`")
    }

    /// Writes an interface slot.
    pub fn set_interface(&mut self, slot: u32, interface: &Interface) -> Result<()> {
        self.interfaces
            .set(slot, interface, 0)
            .with_context(|| format!("could not write interface slot {slot}"))
    }
}

/// Refuses where one of these shared maps is missing.
pub(super) fn require(pins: &Pins, specs: &[MapSpec]) -> Result<()> {
    let Some(missing) = specs.iter().find(|spec| !pins.map(spec).exists()) else { return Ok(()) };
    let mut shared = abi::MAPS.iter().filter(|spec| spec.capacity.is_shared());
    if !shared.any(|spec| pins.map(spec).exists()) && pins.set()?.is_none() {
        return Err(NotLoaded(format!(
            "{} holds no maps of ABI {}; start with `filter-ctl load IFACE`",
            pins.root().display(),
            abi::ABI_VERSION
        ))
        .into());
    }
    bail!(
        "the map {} is missing while others are there: run `filter-ctl unload --all` and load again",
        pins.map(missing).display()
    )
}

/// Opens one map as the typed wrapper that the caller wants.
fn open<M>(path: &Path) -> Result<M>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = MapData::from_pin(path).and_then(Map::from_map_data).and_then(M::try_from);
    map.with_context(|| format!("could not open the map {}", path.display()))
}

fn read_counter(map: &PerCpuArray<MapData, Counter>, index: u32) -> Result<Counter> {
    let by_cpu = map.get(&index, 0)?;
    Ok(by_cpu.iter().fold(Counter::default(), |sum, cpu| sum.plus(*cpu)))
}

/// Makes what all CPUs counted this, on the first of them.
fn write_counter(map: &mut PerCpuArray<MapData, Counter>, index: u32, counter: Counter) -> Result<()> {
    let mut by_cpu = vec![Counter::default(); possible_cpus()? as usize];
    by_cpu[0] = counter;
    Ok(map.set(index, PerCpuValues::try_from(by_cpu)?, 0)?)
}
