//! `status`: which interfaces are filtered, as the kernel says, and how full the tables are.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use comfy_table::Cell;
use filter_common::abi::ABI_VERSION;
use filter_common::prefix::{Family, Geometry};
use serde::Serialize;

use super::{Session, record, room_warning};
use crate::daemon::state::{DaemonState, RecordState};
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::host::monotonic_now_s;
use crate::kernel::filter::Counts;
use crate::kernel::interface::{Loaded, State, slot_of};
use crate::kernel::pins::NotLoaded;
use crate::output::{self, MemoryView};
use crate::plan::Room;
use crate::store::InterfacePolicy;

#[derive(Serialize)]
struct Report {
    version: &'static str,
    abi: u32,
    entries: EntryCounts,
    memory: MemoryView,
    interfaces: Vec<InterfaceReport>,
    /// Devices that are to be filtered and are not.
    waiting: Vec<Waiting>,
    /// What is to be filtered, by name and pattern.
    policy: Vec<InterfacePolicy>,
    /// Seconds for which frames that pass are still recorded; absent if they are not.
    passed_recorded_for_s: Option<u64>,
    /// What the daemon last said of itself; absent where none runs.
    daemon: Option<DaemonState>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Waiting {
    device: String,
    mode: Mode,
}

#[derive(Serialize)]
struct EntryCounts {
    block: usize,
    allow: usize,
    expired: usize,
    limit: u32,
    ipv4: Fill,
    ipv6: Fill,
}

#[derive(Serialize)]
struct Fill {
    used: u32,
    limit: u32,
    near_full: bool,
}

impl Fill {
    fn new(room: Room) -> Self {
        Self { used: room.used, limit: room.limit, near_full: room.is_near_full() }
    }
}

#[derive(Serialize)]
struct InterfaceReport {
    interface: String,
    state: &'static str,
    device: Option<String>,
    mode: Option<Mode>,
    frags: Option<bool>,
    program_id: u32,
    loaded_at: Option<String>,
    loaded_for_s: Option<u32>,
}

pub fn run(session: &Session) -> Result<Exit> {
    let control = session.open()?;
    let filter = control.filter();
    let now_s = monotonic_now_s();
    let geometry = filter.geometry();
    let Counts { block, allow, expired } = filter.count(now_s)?;
    let counts = EntryCounts {
        block,
        allow,
        expired,
        limit: geometry.entries(),
        ipv4: Fill::new(filter.room(Family::V4)),
        ipv6: Fill::new(filter.room(Family::V6)),
    };
    let loaded = filter.interfaces()?;
    let is_none_filtered = loaded.is_empty();
    if is_none_filtered && control.policy().interfaces.is_empty() {
        return Err(NotLoaded(format!(
            "no interface is filtered, though {} block and {} allow entries are kept; `filter-ctl load IFACE` uses them, \
             `filter-ctl unload --all` removes them",
            counts.block, counts.allow
        ))
        .into());
    }
    let slots = filter.maps().interfaces()?;
    let mut interfaces = Vec::new();
    for Loaded { name, program_id, state } in loaded {
        let slot = slot_of(filter.maps(), &name)?.and_then(|slot| slots.get(usize::try_from(slot).ok()?));
        let loaded_for_s = slot.map(|slot| now_s.saturating_sub(slot.loaded_s));
        let (state, device, mode, frags) = match state {
            State::Attached { device, mode, frags, .. } => {
                ("attached", Some(device), Some(mode), Some(frags))
            }
            State::Stale { device, .. } => ("stale", Some(device), None, None),
            State::Elsewhere { .. } => ("elsewhere", None, None, None),
            State::Gone => ("gone", None, None, None),
        };
        let loaded_at = loaded_for_s.and_then(|age_s| {
            let then = SystemTime::now().checked_sub(Duration::from_secs(age_s.into()))?;
            Some(humantime::format_rfc3339_seconds(then).to_string())
        });
        interfaces.push(InterfaceReport {
            interface: name,
            state,
            device,
            mode,
            frags,
            program_id,
            loaded_at,
            loaded_for_s,
        });
    }
    let (waiting, drift) = (control.unfiltered()?, control.drift());
    let waiting: Vec<_> =
        waiting.into_iter().map(|(device, mode)| Waiting { device: device.name, mode }).collect();
    let socket = session.global.socket_path();
    let mut daemon_trouble = None;
    let mut daemon = socket.parent().map_or(Ok(None), DaemonState::read).unwrap_or_else(|error| {
        daemon_trouble = Some(format!("what the daemon says of itself can't be read: {error:#}"));
        None
    });
    if let Some(daemon) = &mut daemon {
        daemon.alarms = daemon.alarms(now_s);
    }
    let all_is_well = interfaces.iter().all(|interface| interface.state == "attached")
        && waiting.is_empty()
        && drift.is_none()
        && control.is_durable()
        && daemon.as_ref().is_none_or(|daemon| daemon.alarms.is_empty());
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        entries: counts,
        memory: MemoryView::new(geometry)?,
        interfaces,
        waiting,
        policy: control.policy().interfaces,
        passed_recorded_for_s: control.recording_passed()?.map(|left| left.as_secs()),
        daemon,
        warnings: control.warnings().into_iter().chain(daemon_trouble).collect(),
    };
    drop(control);
    if session.global.json {
        session.out.json(&report)?
    } else {
        print(session, &report, geometry)?
    }
    Ok(match (is_none_filtered, all_is_well) {
        (true, true) => Exit::NotLoaded,
        (false, true) => Exit::Done,
        (_, false) => Exit::Partly,
    })
}

fn print(session: &Session, report: &Report, geometry: Geometry) -> Result<()> {
    let mut table = session.out.table(&["interface", "state", "mode", "program", "loaded"], &["program"]);
    for interface in &report.interfaces {
        let renamed = interface.device.as_ref().filter(|device| **device != interface.interface);
        let name = match renamed {
            Some(device) => format!("{} (now {device})", interface.interface),
            None => interface.interface.clone(),
        };
        table.add_row([
            output::foreign(&name),
            output::coloured(interface.state),
            Cell::new(match (interface.mode, interface.frags) {
                (Some(mode), Some(true)) => format!("{}, frags", mode.name()),
                (mode, _) => mode.map_or("-", Mode::name).to_owned(),
            }),
            Cell::new(interface.program_id),
            Cell::new(
                interface.loaded_for_s.map_or("-".into(), |age_s| format!("{} ago", output::span(age_s))),
            ),
        ]);
    }
    session.out.print_table(&table)?;
    let EntryCounts { block, allow, expired, ipv4, ipv6, .. } = &report.entries;
    let expired = if *expired > 0 { format!(", {expired} expired") } else { String::new() };
    session.out.line(&format!(
        "\n{} block and {} allow entries{expired}: {} of {} IPv4, {} of {} IPv6",
        output::grouped(*block as u64),
        output::grouped(*allow as u64),
        output::grouped(ipv4.used.into()),
        output::grouped(ipv4.limit.into()),
        output::grouped(ipv6.used.into()),
        output::grouped(ipv6.limit.into()),
    ))?;
    session.out.line(&report.memory.sentence(geometry))?;
    session.out.line(&daemon_sentence(report.daemon.as_ref(), monotonic_now_s()))?;
    if let Some(seconds) = report.passed_recorded_for_s {
        session.out.line(&record::passed_sentence(Some(Duration::from_secs(seconds))))?;
    }
    for alarm in report.daemon.iter().flat_map(|daemon| &daemon.alarms) {
        session.out.note(&format!("alarm: {alarm}"));
    }
    for (fill, family, option) in [(ipv4, "IPv4", "--max-ipv4"), (ipv6, "IPv6", "--max-ipv6")] {
        if fill.near_full {
            session.out.note(&room_warning(family, option, Room { used: fill.used, limit: fill.limit }));
        }
    }
    session.out.warn(&report.warnings);
    for Waiting { device, mode } in &report.waiting {
        session.out.note(&format!(
            "{device}: is to be filtered in {} mode and is not; `filter-ctl repair` tries it, and says why not",
            mode.name()
        ));
    }
    for InterfaceReport { interface, state, .. } in &report.interfaces {
        match *state {
            "gone" => session.out.note(&format!(
                "{interface}: the device is gone. `filter-ctl load {interface}` filters it again once it is back, \
                 `filter-ctl unload {interface}` forgets it"
            )),
            "elsewhere" => session.out.note(&format!(
                "{interface}: filtered in another network namespace; ask for its status there"
            )),
            "stale" => session.out.note(&format!(
                "{interface}: runs another program than the one that is pinned for it, which may not know these entries; \
                 `filter-ctl repair`"
            )),
            _ => {}
        }
    }
    Ok(())
}

/// What is known of the daemon, in words.
fn daemon_sentence(daemon: Option<&DaemonState>, now_s: u32) -> String {
    let Some(daemon) = daemon else {
        return "no daemon runs: nothing proves the filter, follows interfaces or records the history".into();
    };
    let proven = daemon.proven_s.map_or("nothing proven yet".into(), |proven_s| {
        format!("proven {} ago", output::span(now_s.saturating_sub(proven_s)))
    });
    let drifts = match daemon.drifts {
        0 => String::new(),
        drifts => format!(", {} since it started", output::counted_u64(drifts, "drift", "drifts")),
    };
    let record = match daemon.record.as_ref() {
        Some(RecordState { trouble: Some(trouble), .. }) => {
            format!("; recorded frames can't be kept: {trouble}")
        }
        Some(RecordState { lost, .. }) if *lost > 0 => {
            format!("; {} lost", output::counted_u64(*lost, "recorded frame", "recorded frames"))
        }
        _ => String::new(),
    };
    format!("daemon: process {}, {proven}{drifts}{record}", daemon.pid)
}
