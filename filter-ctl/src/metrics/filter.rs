//! The figures of the filter itself: packets, tables, interfaces, store.

use std::collections::BTreeMap;

use anyhow::Result;
use filter_common::Verdict;
use filter_common::abi::{ENTRIES, INTERFACE_SLOTS, INTERFACES, NOTES};
use filter_common::prefix::{self, Family};

use super::{Figures, Labels, alone, label};
use crate::control::{Control, wanted};
use crate::kernel::filter::Counts;
use crate::kernel::interface::State;
use crate::kernel::recorder::Recorder;
use crate::kernel::{Pins, maps};
use crate::record::Head;
use crate::stats::InterfaceCounts;
use crate::store::Policy;

/// What a filter that is loaded has.
pub fn loaded(figures: &mut Figures, control: &Control, counted: Counts) -> Result<()> {
    let filter = control.filter();
    is_loaded(figures, true);
    let counts = filter.maps().interface_counts()?;
    packets(figures, &counts);
    recorded(figures, filter.pins())?;
    attached(figures, attachments(control)?);

    let families = [(Family::V4, "ipv4"), (Family::V6, "ipv6")];
    let rooms = families.map(|(family, name)| (vec![label("family", name)], filter.room(family)));
    let used = rooms.clone().map(|(labels, room)| (labels, room.used.into()));
    figures.gauges("entries", "Entries in the kernel's tables", used);
    let limits = rooms.map(|(labels, room)| (labels, room.limit.into()));
    figures.gauges("max_entries", "Most entries that fit in the kernel's tables", limits);
    let help =
        "Entries that are enforced: without those that have ended, and those with which the daemon proves";
    let in_force = [("block", counted.block), ("allow", counted.allow)];
    let in_force = in_force.map(|(action, number)| (vec![label("action", action)], whole(number)));
    figures.gauges("entries_in_force", help, in_force);

    // The maps that fill up. All others have as many elements as these entries need, and always hold all of them.
    let fill = [
        (ENTRIES.name, whole(filter.len()), filter.geometry().entries()),
        (NOTES.name, filter.table().notes_in_use().into(), prefix::NOTES - 1),
        (INTERFACES.name, whole(counts.len()), INTERFACE_SLOTS - 1),
    ];
    let of_map = |name| vec![label("map", name)];
    let used = fill.map(|(name, used, _)| (of_map(name), used));
    figures.gauges("map_entries", "Elements in use, of maps that fill up", used);
    let limits = fill.map(|(name, _, most)| (of_map(name), most.into()));
    figures.gauges("map_max_entries", "Elements that can be used, of maps that fill up", limits);
    let memory = maps::memory(filter.set())?;
    let memory = memory.into_iter().map(|(name, bytes)| (of_map(name), whole(bytes)));
    figures.gauges("map_memory_bytes", "Memory of the map, as the kernel accounts for it (memlock)", memory);

    drift(figures, control.drift().is_some());
    Ok(())
}

/// What is to be said where nothing is loaded, and this policy is in the store.
pub fn not_loaded(figures: &mut Figures, policy: &Policy) -> Result<()> {
    is_loaded(figures, false);
    let wanted = wanted(policy)?;
    attached(figures, wanted.into_iter().map(|(device, mode)| ((device.name, mode.name()), false)).collect());
    drift(figures, false);
    Ok(())
}

/// Whether the store can be used.
pub fn store(figures: &mut Figures, is_usable: bool) {
    let help = "Whether the store can be read and written; if not, a reboot forgets what was changed since";
    figures.gauges("store_usable", help, alone(is_usable.into()));
}

fn is_loaded(figures: &mut Figures, is_loaded: bool) {
    let help = "Whether the filter's tables are in the kernel";
    figures.gauges("loaded", help, alone(is_loaded.into()));
}

fn drift(figures: &mut Figures, has_drifted: bool) {
    let help = "Whether the kernel's tables hold other entries than the store";
    figures.gauges("drift", help, alone(has_drifted.into()));
}

/// Each reason from the start, so that its first packet is an increase; and that a tolerated fault passed, once it did.
fn packets(figures: &mut Figures, counts: &[InterfaceCounts]) {
    let counted = counts.iter().flat_map(|interface| {
        let counted = interface.by_reason.iter().map(move |row| (interface, row));
        counted.filter(|(_, (reason, verdict, counter))| counter.packets > 0 || *verdict == reason.verdict())
    });
    let rows = counted.map(|(interface, (reason, verdict, counter))| {
        let labels: Labels = vec![
            label("device", &interface.name),
            label("action", verdict.name()),
            label("reason", reason.name()),
        ];
        (labels, counter)
    });
    let rows: Vec<_> = rows.collect();
    let packets = rows.iter().map(|(labels, counter)| (labels.clone(), counter.packets));
    figures.counters("packets", "Frames, by what was decided", packets);
    let bytes = rows.iter().map(|(labels, counter)| (labels.clone(), counter.bytes));
    figures.counters("bytes", "Lengths of these frames, without their check sequences", bytes);
}

/// Whether a device, by its name, is filtered in a mode.
type Attachments = BTreeMap<(String, &'static str), bool>;

fn attached(figures: &mut Figures, attachments: Attachments) {
    let rows = attachments.into_iter().map(|((device, mode), is_attached)| {
        (vec![label("device", &device), label("mode", mode)], is_attached.into())
    });
    figures.gauges("attached", "Whether a device that is to be filtered in this mode is", rows);
}

/// The devices that are filtered, in the modes that the kernel tells, and those that are to be, in those that are wanted.
fn attachments(control: &Control) -> Result<Attachments> {
    let policy = control.policy();
    let mut attachments = Attachments::new();
    for loaded in control.filter().interfaces()? {
        if let Some(mode) = policy.mode_of(&loaded.name) {
            attachments.insert((loaded.name.clone(), mode.name()), false);
        }
        if let State::Attached { mode, .. } = loaded.state {
            attachments.insert((loaded.name, mode.name()), true);
        }
    }
    for (device, mode) in control.unfiltered()? {
        attachments.insert((device.name, mode.name()), false);
    }
    Ok(attachments)
}

/// A number as a gauge has it.
pub fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// What the recorder saw of what is dropped, and took samples of; of what passes it sees only what is asked for.
fn recorded(figures: &mut Figures, pins: &Pins) -> Result<()> {
    let heads = Recorder::open(pins)?.heads();
    let is_dropped =
        |head: &&Head| head.stream.reason().is_none_or(|reason| reason.verdict() == Verdict::Drop);
    let sum = |of: fn(&Head) -> u64| alone(heads.iter().filter(is_dropped).map(of).sum());
    let help = "Frames that the recorder chose its samples from: those that are dropped, or would be but for tolerated faults";
    figures.counters("recorder_frames", help, sum(|head| head.seen));
    figures.counters("recorder_samples_taken", "Samples taken of these", sum(|head| head.taken));
    Ok(())
}
