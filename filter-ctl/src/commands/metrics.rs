//! `metrics`: figures for Prometheus, in its text format; for a textfile collector, or whoever asks by a command.

use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use filter_common::prefix::Family as AddressFamily;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Session;
use crate::control::Control;
use crate::daemon::state::DaemonState;
use crate::exit::Exit;
use crate::kernel::interface::State;
use crate::lists::settings::owner_of;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decided {
    device: String,
    reason: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDevice {
    device: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFamily {
    family: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfEvent {
    event: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfList {
    list: String,
}

type Counters<L> = Family<L, Counter<u64, AtomicU64>>;

pub fn run(session: &Session) -> Result<Exit> {
    let control = session.open()?;
    let mut registry = Registry::with_prefix("filter");
    let (packets, bytes) = (Counters::<Decided>::default(), Counters::<Decided>::default());
    for interface in control.filter().maps().interface_counts()? {
        for (reason, verdict, counter) in
            interface.by_reason.iter().filter(|(.., counter)| counter.packets > 0)
        {
            let label =
                Decided { device: interface.name.clone(), reason: reason.name(), verdict: verdict.name() };
            packets.get_or_create(&label).inc_by(counter.packets);
            bytes.get_or_create(&label).inc_by(counter.bytes);
        }
    }
    registry.register("packets", "Frames, by what was decided", packets);
    registry.register_with_unit("size", "Lengths of these frames", Unit::Bytes, bytes);

    let (entries, room) = (Family::<OfFamily, Gauge>::default(), Family::<OfFamily, Gauge>::default());
    for (family, name) in [(AddressFamily::V4, "ipv4"), (AddressFamily::V6, "ipv6")] {
        let of = control.filter().room(family);
        entries.get_or_create(&OfFamily { family: name }).set(of.used.into());
        room.get_or_create(&OfFamily { family: name }).set(of.limit.into());
    }
    registry.register("entries", "Entries in the kernel's tables", entries);
    registry.register("entries_limit", "Most entries that fit", room);

    let attached = Family::<OfDevice, Gauge>::default();
    for loaded in control.filter().interfaces()? {
        let is_attached = matches!(loaded.state, State::Attached { .. });
        attached.get_or_create(&OfDevice { device: loaded.name }).set(is_attached.into());
    }
    for (device, _) in control.unfiltered()? {
        attached.get_or_create(&OfDevice { device: device.name }).set(0);
    }
    registry.register("attached", "Whether an interface that is to be filtered is", attached);
    gauge(&mut registry, "store_usable", "Whether the store can be used", control.is_durable().into());
    gauge(
        &mut registry,
        "drifted",
        "Whether the kernel's tables differ from the store",
        control.drift().is_some().into(),
    );
    lists(&mut registry, &control)?;
    drop(control);

    let socket = session.global.socket_path();
    let daemon = socket.parent().map_or(Ok(None), DaemonState::read)?;
    gauge(&mut registry, "daemon_running", "Whether the daemon runs", daemon.is_some().into());
    if let Some(daemon) = daemon {
        let alarms = i64::try_from(daemon.alarms.len()).unwrap_or(i64::MAX);
        gauge(&mut registry, "alarms", "What is wrong now, as the daemon found it", alarms);
        counter(
            &mut registry,
            "proofs",
            "Proofs that the programs work, since the daemon started",
            daemon.proofs,
        );
        counter(
            &mut registry,
            "drifts",
            "Times that something was not as it should be, since the daemon started",
            daemon.drifts,
        );
        if let Some(crowdsec) = daemon.crowdsec {
            let help = "Questions to CrowdSec, since the daemon started";
            counter(&mut registry, "crowdsec_questions", help, crowdsec.asked);
            let help = "Of these, those that failed, or whose answer could not be enforced";
            counter(&mut registry, "crowdsec_failures", help, crowdsec.failed);
            let answered = Gauge::<i64>::default();
            answered.set(crowdsec.answered_at_s.unwrap_or_default());
            let help = "When an answer of CrowdSec's was last enforced, since 1970; zero before the first";
            registry.register_with_unit("crowdsec_answered_timestamp", help, Unit::Seconds, answered);
        }
        let events = Counters::<OfEvent>::default();
        for (event, number) in daemon.events {
            events.get_or_create(&OfEvent { event }).inc_by(number);
        }
        registry.register("events", "Events, since the daemon started", events);
    }
    let mut text = String::new();
    encode(&mut text, &registry).context("could not write the figures as text")?;
    session.out.raw_line(text.trim_end())?;
    Ok(Exit::Done)
}

/// What lists hold, did, and how old they are.
fn lists(registry: &mut Registry, control: &Control) -> Result<()> {
    let Ok(store) = control.store() else { return Ok(()) };
    let listed = store.lists()?;
    if listed.is_empty() {
        return Ok(());
    }
    let [entries, generation, checked] = [(); 3].map(|()| Family::<OfList, Gauge>::default());
    let [packets, bytes, failures] = [(); 3].map(|()| Counters::<OfList>::default());
    let hits = control.list_hits(0)?;
    for list in &listed {
        let label = OfList { list: list.name.clone() };
        let generations = store.generations(list)?;
        let in_force = generations.iter().find(|kept| Some(kept.number) == list.generation);
        let number = in_force.map_or(0, |kept| i64::try_from(kept.entries).unwrap_or(i64::MAX));
        entries.get_or_create(&label).set(number);
        generation.get_or_create(&label).set(list.generation.unwrap_or(0));
        checked.get_or_create(&label).set(list.checked_s.unwrap_or(0));
        failures.get_or_create(&label).inc_by(list.troubles);
        let owner = owner_of(&list.name)?;
        if let Some((_, hits)) = hits.iter().find(|(of, _)| *of == owner) {
            packets.get_or_create(&label).inc_by(hits.packets);
            bytes.get_or_create(&label).inc_by(hits.bytes);
        }
    }
    registry.register("list_entries", "Prefixes of the generation in force", entries);
    registry.register("list_generation", "The generation in force; zero if none is", generation);
    let help = "When the list was last found up to date, in seconds since 1970";
    registry.register("list_last_success_timestamp_seconds", help, checked);
    let help = "Times that the list could not be fetched or read, or was out of bounds";
    registry.register("list_failures", help, failures);
    registry.register(
        "list_packets",
        "Frames from addresses that the list holds, decided by entries",
        packets,
    );
    registry.register_with_unit("list_size", "Lengths of these frames", Unit::Bytes, bytes);
    Ok(())
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter<u64, AtomicU64> = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
