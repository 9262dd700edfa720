//! Opens the pinned maps, after comparing each with what this build expects: aya trusts the object's own
//! definitions, and a map of another size would make the kernel write past the end of a buffer.

use anyhow::{Context as _, Result, bail, ensure};
use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues};
use filter_common::abi::{
    self, COUNTERS, Counter, ENTRIES, ENTRY_COUNTERS, Entry, HEADER, Header, INTERFACE_SLOTS, INTERFACES,
    Interface, MapSpec, Record, SLOT_COUNTERS, TOLERATED, counter_index,
};
use filter_common::{Reason, Verdict};

use super::pins::{NotLoaded, Pins};
use crate::policy::{self, Action, Network};

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
    fn of_pin(pins: &Pins, spec: &MapSpec) -> Result<Self, aya::maps::MapError> {
        let info = MapInfo::from_pin(pins.map(spec))?;
        Ok(Self {
            kind: info.map_type()? as u32,
            key_size: info.key_size(),
            value_size: info.value_size(),
            elements: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    fn wanted(spec: &MapSpec, max_entries: u32) -> Self {
        Self {
            kind: spec.kind as u32,
            key_size: spec.key_size,
            value_size: spec.value_size,
            elements: spec.capacity.elements(max_entries),
            flags: spec.flags,
        }
    }
}

/// The number of entries for which the maps below `pins` were made, or `None` if there are no maps. With
/// `partly` maps may be missing, as a load that was interrupted leaves them.
///
/// # Errors
///
/// If a map is missing (unless `partly`), can't be opened, or does not have the expected shape.
pub fn existing_max_entries(pins: &Pins, partly: bool) -> Result<Option<u32>> {
    let (present, missing): (Vec<&MapSpec>, Vec<&MapSpec>) =
        abi::MAPS.iter().partition(|spec: &&MapSpec| pins.map(spec).exists());
    if let (Some(spec), false, false) = (missing.first(), present.is_empty(), partly) {
        bail!(
            "the map {} is missing while others are there: run `filter-ctl unload --all` and load again",
            pins.map(spec).display()
        );
    }
    let mut max_entries = None;
    for spec in present {
        let path = pins.map(spec);
        let shape = Shape::of_pin(pins, spec)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        if spec.capacity == abi::Capacity::Entries && max_entries.is_none() {
            max_entries = Some(shape.elements.saturating_sub(1));
        }
        let wanted = Shape::wanted(spec, max_entries.unwrap_or_default());
        ensure!(
            shape == wanted,
            "{} is not a map of this program: it is {shape:?}, and {wanted:?} is expected. It is left alone; find out who \
             made it, then remove it or use another --pin-root",
            path.display()
        );
    }
    Ok(max_entries)
}

/// The pinned maps, opened.
pub struct Maps {
    max_entries: u32,
    allow_v4: LpmTrie<MapData, [u8; 4], Record>,
    allow_v6: LpmTrie<MapData, [u8; 16], Record>,
    block_v4: LpmTrie<MapData, [u8; 4], Record>,
    block_v6: LpmTrie<MapData, [u8; 16], Record>,
    tolerated: Array<MapData, u32>,
    header: Array<MapData, Header>,
    entries: Array<MapData, Entry>,
    entry_counters: PerCpuArray<MapData, Counter>,
    counters: PerCpuArray<MapData, Counter>,
    interfaces: Array<MapData, Interface>,
}

impl Maps {
    /// Opens all maps below `pins`.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there are none; otherwise if one is missing or not what is expected.
    pub fn open(pins: &Pins) -> Result<Self> {
        if pins.loaded_interfaces()?.is_empty() && abi::MAPS.iter().any(|spec| !pins.map(spec).exists()) {
            let interrupted = "a load was interrupted; `filter-ctl load IFACE` takes it up again";
            return Err(NotLoaded(interrupted.into()).into());
        }
        let Some(max_entries) = existing_max_entries(pins, false)? else {
            return Err(NotLoaded(format!(
                "{} holds no maps of ABI {}; start with `filter-ctl load IFACE`",
                pins.root().display(),
                abi::ABI_VERSION
            ))
            .into());
        };
        Ok(Self {
            max_entries,
            allow_v4: open(pins, &abi::ALLOW_V4)?,
            allow_v6: open(pins, &abi::ALLOW_V6)?,
            block_v4: open(pins, &abi::BLOCK_V4)?,
            block_v6: open(pins, &abi::BLOCK_V6)?,
            tolerated: open(pins, &TOLERATED)?,
            header: open(pins, &HEADER)?,
            entries: open(pins, &ENTRIES)?,
            entry_counters: open(pins, &ENTRY_COUNTERS)?,
            counters: open(pins, &COUNTERS)?,
            interfaces: open(pins, &INTERFACES)?,
        })
    }

    /// The most entries that fit.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
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

    /// An id above which none is in use.
    pub fn highest_entry(&self) -> Result<u32> {
        let header = self.header.get(&0, 0).context("could not read the map `header`")?;
        Ok(header.highest_entry.min(self.max_entries))
    }

    /// Notes that no id above `id` is in use.
    pub fn set_highest_entry(&mut self, id: u32) -> Result<()> {
        self.header.set(0, Header { highest_entry: id }, 0).context("could not write the map `header`")
    }

    /// Reads the slot of an entry.
    pub fn entry(&self, id: u32) -> Result<Entry> {
        self.entries.get(&id, 0).with_context(|| format!("could not read entry {id}"))
    }

    /// Writes the slot of an entry: one system call, so that it happens wholly or not at all.
    pub fn set_entry(&mut self, id: u32, entry: &Entry) -> Result<()> {
        self.entries.set(id, entry, 0).with_context(|| format!("could not write entry {id}"))
    }

    /// What an entry has counted, over all CPUs.
    pub fn entry_counter(&self, id: u32) -> Result<Counter> {
        read_counter(&self.entry_counters, id)
            .with_context(|| format!("could not read the counters of entry {id}"))
    }

    /// Zeroes what an entry has counted.
    pub fn zero_entry_counter(&mut self, id: u32) -> Result<()> {
        zero_counter(&mut self.entry_counters, id)
            .with_context(|| format!("could not zero the counters of entry {id}"))
    }

    /// What an interface slot has counted for a reason and verdict, over all CPUs.
    pub fn counter(&self, slot: u32, reason: Reason, verdict: Verdict) -> Result<Counter> {
        read_counter(&self.counters, counter_index(slot, reason, verdict)).with_context(|| {
            format!("could not read the counter `{}` of interface slot {slot}", reason.name())
        })
    }

    /// Zeroes all counters of an interface slot, those of reasons yet unknown included.
    pub fn zero_interface(&mut self, slot: u32) -> Result<()> {
        for index in slot * SLOT_COUNTERS..(slot + 1) * SLOT_COUNTERS {
            zero_counter(&mut self.counters, index)
                .with_context(|| format!("could not zero the counters of interface slot {slot}"))?;
        }
        Ok(())
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

    /// The record of this prefix or, if it has none, of the longest that covers it.
    pub fn longest_match(&self, key: &policy::Key) -> Result<Option<Record>> {
        let found = match (key.action, Network::from(key.prefix)) {
            (Action::Allow, Network::V4(address, length)) => self.allow_v4.get(&Key::new(length, address), 0),
            (Action::Allow, Network::V6(address, length)) => self.allow_v6.get(&Key::new(length, address), 0),
            (Action::Block, Network::V4(address, length)) => self.block_v4.get(&Key::new(length, address), 0),
            (Action::Block, Network::V6(address, length)) => self.block_v6.get(&Key::new(length, address), 0),
        };
        match found {
            Ok(record) => Ok(Some(record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("could not look up {} {}", key.action.name(), key.prefix))
            }
        }
    }

    /// Sets the record of a prefix.
    pub fn set_record(&mut self, key: &policy::Key, record: Record) -> Result<()> {
        match (key.action, Network::from(key.prefix)) {
            (Action::Allow, Network::V4(address, length)) => {
                self.allow_v4.insert(&Key::new(length, address), record, 0)
            }
            (Action::Allow, Network::V6(address, length)) => {
                self.allow_v6.insert(&Key::new(length, address), record, 0)
            }
            (Action::Block, Network::V4(address, length)) => {
                self.block_v4.insert(&Key::new(length, address), record, 0)
            }
            (Action::Block, Network::V6(address, length)) => {
                self.block_v6.insert(&Key::new(length, address), record, 0)
            }
        }
        .with_context(|| format!("the kernel refused {} {}", key.action.name(), key.prefix))
    }

    /// Removes the record of a prefix; does nothing where there is none.
    pub fn remove_record(&mut self, key: &policy::Key) -> Result<()> {
        let removed = match (key.action, Network::from(key.prefix)) {
            (Action::Allow, Network::V4(address, length)) => self.allow_v4.remove(&Key::new(length, address)),
            (Action::Allow, Network::V6(address, length)) => self.allow_v6.remove(&Key::new(length, address)),
            (Action::Block, Network::V4(address, length)) => self.block_v4.remove(&Key::new(length, address)),
            (Action::Block, Network::V6(address, length)) => self.block_v6.remove(&Key::new(length, address)),
        };
        match removed {
            Err(error) if super::errno_of(&error) != Some(rustix::io::Errno::NOENT.raw_os_error()) => {
                Err(error).with_context(|| format!("could not remove {} {}", key.action.name(), key.prefix))
            }
            _ => Ok(()),
        }
    }
}

/// Opens one map as the typed wrapper that the caller wants.
fn open<M>(pins: &Pins, spec: &MapSpec) -> Result<M>
where
    M: TryFrom<Map, Error = MapError>,
{
    let path = pins.map(spec);
    let map = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(M::try_from);
    map.with_context(|| format!("could not open the map {}", path.display()))
}

fn read_counter(map: &PerCpuArray<MapData, Counter>, index: u32) -> Result<Counter> {
    let by_cpu = map.get(&index, 0)?;
    Ok(by_cpu.iter().fold(Counter::default(), |sum, cpu| Counter {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    }))
}

fn zero_counter<T: Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::Error::new(error).context(what))?;
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus])?;
    Ok(map.set(index, zeros, 0)?)
}
