//! What the filter has counted: all of it, to be written down before the maps go, and given back to maps that were made anew.

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use filter_common::abi::{self, COUNTERS, Counter, TEST_SLOT, counter_index};
use filter_common::{Reason, Verdict};

use super::builds;
use super::filter::Filter;
use super::interface::{self, padded, slot_name};
use super::maps::{self, Maps};
use super::pins::Pins;
use crate::host::monotonic_now_s;
use crate::policy::Key;
use crate::stats::InterfaceCounts;

/// All that was counted.
#[derive(Debug)]
pub struct Counted {
    /// Each interface that has a slot.
    pub interfaces: Vec<InterfaceCounts>,
    /// Number of the store that the tables hold the entries of; zero if they were never brought to one.
    pub store: u64,
    /// Each entry that counted something, in the order of keys.
    pub entries: Vec<(Key, Counter)>,
}

/// Reads all that was counted, also by the filter of an older build. The caller has the lock.
///
/// # Errors
///
/// If maps are missing, or not what is expected.
pub fn counted(pins: &Pins) -> Result<Counted> {
    let pins = &builds::in_force(pins)?;
    let interfaces = Maps::open(pins)?.interface_counts()?;
    let Some(set) = pins.set()? else { return Ok(Counted { interfaces, store: 0, entries: Vec::new() }) };
    let is_ours = pins.abi_version() == abi::ABI_VERSION;
    let table = if is_ours { maps::open_table(&set)? } else { maps::open_readable(&set)? };
    table.cells().map_all()?;
    let mut entries: Vec<_> = table
        .entries_by_id()
        .filter_map(|(id, entry)| Some((Key::from_table(&entry.key)?, table.counted(id, &entry))))
        .filter(|(_, counter)| *counter != Counter::default())
        .collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    Ok(Counted { interfaces, store: table.stored().store, entries })
}

impl Filter {
    /// Names of interfaces that have a slot and no link: they were unloaded, or a load died.
    ///
    /// # Errors
    ///
    /// If the pins or the map can't be read.
    pub fn unpinned_interfaces(&self) -> Result<Vec<String>> {
        let loaded = self.pins().loaded_interfaces()?;
        let named = self.maps.interfaces()?.into_iter().filter_map(|slot| slot_name(&slot));
        Ok(named.filter(|name| !loaded.contains(name)).collect())
    }

    /// Frees the slots of these interfaces, with what they count.
    ///
    /// # Errors
    ///
    /// If the map can't be read or written.
    pub fn release_slots(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            if let Some(slot) = interface::slot_of(&self.maps, name)? {
                self.maps.set_interface(slot, &abi::Interface::default())?;
            }
        }
        Ok(())
    }

    /// Gives an interface that has no slot one in which this is counted already. It gets its name last: a slot with a name
    /// never counts less than what was carried.
    ///
    /// # Errors
    ///
    /// If no slot is free, or the kernel refuses.
    pub fn credit_interface(&mut self, name: &str, counts: &[(Reason, Verdict, Counter)]) -> Result<()> {
        let free = (0..).zip(self.maps.interfaces()?).find(|(slot, interface)| {
            *slot != TEST_SLOT && *interface == abi::Interface::default()
        });
        let Some((slot, _)) = free else { bail!("all slots of interfaces are taken") };
        let context = || format!("could not give {name} what it had counted");
        let path = self.pins().map(&COUNTERS);
        let map = MapData::from_pin(&path).and_then(Map::from_map_data).with_context(context)?;
        let mut counters: PerCpuArray<MapData, Counter> = map.try_into().with_context(context)?;
        self.maps.zero_interface(slot)?;
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::Error::new(error).context(what))?;
        for (reason, verdict, counter) in counts {
            let index = counter_index(slot, *reason, *verdict);
            let mut by_cpu = vec![Counter::default(); cpus];
            by_cpu[0] = *counter;
            counters.set(index, PerCpuValues::try_from(by_cpu)?, 0).with_context(context)?;
        }
        let named = abi::Interface { name: padded(name)?, ifindex: 0, loaded_s: monotonic_now_s() };
        self.maps.set_interface(slot, &named)
    }

    /// Makes an entry's count this one, if it is there.
    pub fn credit_entry(&mut self, key: &Key, counted: Counter) {
        if let Some(id) = self.table.lookup(&key.to_table()) {
            let now = self.table.counter(id);
            let base = Counter {
                packets: now.packets.wrapping_sub(counted.packets),
                bytes: now.bytes.wrapping_sub(counted.bytes),
            };
            self.table.set_base(id, base);
        }
    }
}
