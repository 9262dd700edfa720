//! `status`: which interfaces are filtered, as the kernel says, and how full the tables are.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use comfy_table::Cell;
use filter_common::abi::ABI_VERSION;
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::host::monotonic_now_s;
use crate::kernel::interface::{Loaded, State, slot_of};
use crate::kernel::pins::NotLoaded;
use crate::output;
use crate::policy::Action;

#[derive(Serialize)]
struct Report {
    version: &'static str,
    abi: u32,
    entries: EntryCounts,
    interfaces: Vec<InterfaceReport>,
}

#[derive(Serialize)]
struct EntryCounts {
    block: usize,
    allow: usize,
    expired: usize,
    limit: u32,
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

pub fn run(global: &Global) -> Result<Exit> {
    let filter = global.open()?;
    let now_s = monotonic_now_s();
    let entries = filter.entries()?;
    let of_action = |action| {
        let live = entries.wanted().filter(|(_, entry)| !entry.until.has_passed(now_s));
        live.filter(|(_, entry)| entry.key.action == action).count()
    };
    let counts = EntryCounts {
        block: of_action(Action::Block),
        allow: of_action(Action::Allow),
        expired: entries.expired(now_s).len(),
        limit: filter.max_entries(),
    };
    let loaded = filter.interfaces()?;
    if loaded.is_empty() {
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
    let all_are_attached = interfaces.iter().all(|interface| interface.state == "attached");
    let report = Report { version: env!("CARGO_PKG_VERSION"), abi: ABI_VERSION, entries: counts, interfaces };
    if global.json {
        output::json(&report)?
    } else {
        print(&report)?
    }
    Ok(if all_are_attached { Exit::Done } else { Exit::Partly })
}

fn print(report: &Report) -> Result<()> {
    let mut table = output::table(&["interface", "state", "mode", "program", "loaded"], &["program"]);
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
    output::print_table(&table)?;
    let EntryCounts { block, allow, expired, limit } = report.entries;
    let expired = if expired > 0 { format!(", {expired} expired") } else { String::new() };
    output::line(&format!(
        "\n{} block and {} allow entries{expired}, of at most {}",
        output::grouped(block as u64),
        output::grouped(allow as u64),
        output::grouped(limit.into())
    ))?;
    for InterfaceReport { interface, state, .. } in &report.interfaces {
        match *state {
            "gone" => output::note(&format!(
                "{interface}: the device is gone. `filter-ctl load {interface}` filters it again once it is back, \
                 `filter-ctl unload {interface}` forgets it"
            )),
            "elsewhere" => output::note(&format!(
                "{interface}: filtered in another network namespace; ask for its status there"
            )),
            "stale" => output::note(&format!(
                "{interface}: runs the program of another build, which does not know these entries; \
                 `filter-ctl unload {interface}` and load it again"
            )),
            _ => {}
        }
    }
    Ok(())
}
