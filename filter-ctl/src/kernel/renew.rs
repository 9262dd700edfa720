//! This build's programs in the place of another's that has the same ABI: with the same tables, and so without anything
//! to carry over.
//!
//! The new programs are pinned beside the running ones before any is behind a link, and take their names once all are.
//! Whoever dies in between leaves links that run a program which is pinned under one name or the other: [`settle`] makes
//! it that of the interface.

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use filter_common::abi::{DEBUG_PROGRAM, EXPLAIN_PROGRAM, PROGRAM, TEST_SLOT};
use rustix::io::Errno;

use super::bpf;
use super::bpffs::rename_pin;
use super::errno_of;
use super::filter::{Filter, PartlyApplied};
use super::handover::{Running, running_with};
use super::interface;
use super::pins::Pins;
use super::program::Program;
use super::set::Set;

/// Replaces the programs that differ from this build's. Returns the interfaces for which that was so. All or nothing.
///
/// # Errors
///
/// What the kernel refused; [`PartlyApplied`] if it could not be taken back.
pub(super) fn renew(filter: &Filter, verbose: bool) -> Result<Vec<String>> {
    put_in_place(filter, verbose, |running| ordinary(&running.program).to_owned())
}

/// The program that filters as this one does, and nothing else.
pub(super) fn ordinary(program: &str) -> &str {
    if program == DEBUG_PROGRAM { PROGRAM } else { program }
}

/// Puts the program of this name in the place of each that differs from it. Returns the interfaces for which that was so.
/// All or nothing.
///
/// # Errors
///
/// As [`renew`].
pub(super) fn put_in_place(
    filter: &Filter,
    verbose: bool,
    wanted: impl Fn(&Running) -> String,
) -> Result<Vec<String>> {
    let Filter { set, table, maps, .. } = filter;
    let (geometry, shape) = (table.geometry(), table.shape());
    let mut different = Vec::new();
    let loaded = (|| {
        set.create_next()?;
        for running in running_with(filter.pins(), set)? {
            let slot = interface::counted_slot(maps, &running.interface)?;
            let program = Program { set, geometry, shape, slot, verbose };
            let mut program = program.load_named(&wanted(&running))?;
            if !is_same(&pinned(&running)?, &program.info()?)? {
                program.pin(&set.next(&running.interface))?;
                different.push(running.interface);
            }
        }
        let mut explain =
            Program { set, geometry, shape, slot: TEST_SLOT, verbose }.load_named(EXPLAIN_PROGRAM)?;
        let is_current = ProgramInfo::from_pin(set.explain())
            .is_ok_and(|there| explain.info().and_then(|info| is_same(&there, &info)).unwrap_or(false));
        if is_current { Ok(()) } else { explain.pin(&set.next_explain()) }
    })();
    let switched = loaded.and_then(|()| {
        different.iter().try_for_each(|interface| {
            interface::switch_to(filter.pins(), interface, &set.next(interface))?;
            let runs = interface::program_of(filter.pins(), interface)?;
            ensure!(
                runs.is_none_or(
                    |id| ProgramInfo::from_pin(set.next(interface)).is_ok_and(|next| next.id() == id)
                ),
                "{interface} runs another program than the one just put in place"
            );
            Ok(())
        })
    });
    if let Err(error) = switched {
        let undone = take_back(filter.pins(), set);
        return Err(match undone {
            Ok(()) => error.context("the programs are as they were"),
            Err(undo) => PartlyApplied::after(&error, &undo).into(),
        });
    }
    let named = take_names(set);
    named.map_err(|error| {
        PartlyApplied(format!("the new programs run, and their pins are not in order: {error:#}"))
    })?;
    Ok(different)
}

/// Gives the new programs, which all run, the names of those before.
fn take_names(set: &Set) -> Result<()> {
    if set.next_explain().exists() {
        rename_pin(&set.next_explain(), &set.explain())?;
    }
    settle(set)
}

/// Puts the programs that were there before behind the links again.
fn take_back(pins: &Pins, set: &Set) -> Result<()> {
    for Running { interface, pin, .. } in running_with(pins, set)? {
        if pin == set.next(&interface) {
            interface::switch_to(pins, &interface, &set.program(&interface))?;
        }
    }
    set.remove_next()
}

/// Finishes what an upgrade left: a new program that is behind its link takes the name of the one before, and the others
/// go.
///
/// # Errors
///
/// If a link can't be queried, or a pin not be changed.
pub(super) fn settle(set: &Set) -> Result<()> {
    for Running { interface, pin, .. } in running_with_next(set)? {
        rename_pin(&pin, &set.program(&interface))?;
    }
    set.remove_next()
}

fn running_with_next(set: &Set) -> Result<Vec<Running>> {
    if set.next_interfaces()?.is_empty() {
        return Ok(Vec::new());
    }
    let running = running_with(set.pins(), set)?;
    Ok(running.into_iter().filter(|Running { interface, pin, .. }| *pin == set.next(interface)).collect())
}

fn pinned(running: &Running) -> Result<ProgramInfo> {
    ProgramInfo::from_pin(&running.pin)
        .with_context(|| format!("could not query the program {}", running.pin.display()))
}

/// Whether two programs that use the same tables do the same: their instructions, of which the kernel keeps a digest
/// that leaves out which maps they use, and their read-only data.
fn is_same(one: &ProgramInfo, other: &ProgramInfo) -> Result<bool> {
    if (one.tag(), one.name()) != (other.tag(), other.name()) {
        return Ok(false);
    }
    // Who may not open programs and maps by id (CAP_SYS_ADMIN) goes by the instructions: the data is that of the same tables.
    let maps = |program: &ProgramInfo| match program.map_ids() {
        Err(error) if errno_of(&error) == Some(Errno::PERM.raw_os_error()) => Ok(None),
        ids => ids.context("could not query the maps of a program").map(Option::unwrap_or_default).map(Some),
    };
    let (Some(one), Some(other)) = (maps(one)?, maps(other)?) else { return Ok(true) };
    if one.len() != other.len() {
        return Ok(false);
    }
    for (one, other) in one.into_iter().zip(other) {
        if one != other && data(one)? != data(other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What lies in a map that only its program knows: an array of one value.
fn data(id: u32) -> Result<Vec<u8>> {
    let map = MapInfo::from_id(id).context("could not query the read-only data of a program")?;
    let descriptor = map.fd().context("could not open the read-only data of a program")?;
    bpf::read_array(&descriptor, map.value_size()).context("could not read the read-only data of a program")
}
