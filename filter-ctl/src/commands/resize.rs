//! `resize`: room for more entries, or for fewer.

use anyhow::Result;
use serde::Serialize;

use super::{not_filtered, reported};
use crate::cli::{Global, ResizeArgs};
use crate::exit::Exit;
use crate::kernel::resize;
use crate::output::{self, MemoryView};

#[derive(Serialize)]
struct Report {
    max_ipv4: u32,
    max_ipv6: u32,
    memory: MemoryView,
    warnings: Vec<String>,
}

pub fn run(global: &Global, args: &ResizeArgs) -> Result<Exit> {
    let mut filter = global.open()?;
    resize::resize(&mut filter, args.max_ipv4, args.max_ipv6, global.verbose)?;
    let geometry = filter.geometry();
    let warnings = not_filtered(&filter);
    drop(filter);
    let told = || {
        let report = Report {
            max_ipv4: geometry.capacity_v4,
            max_ipv6: geometry.capacity_v6,
            memory: MemoryView::new(geometry)?,
            warnings,
        };
        if global.json {
            return output::json(&report);
        }
        output::warn(&report.warnings);
        output::line(&report.memory.sentence(geometry))
    };
    reported(told(), Exit::Done)
}
