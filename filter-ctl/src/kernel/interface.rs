//! One filtered interface: the program that is loaded for it, the link that keeps it attached, and what became
//! of both.

use std::error::Error as _;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::MapInfo;
use aya::programs::links::{FdLink, LinkInfo, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramInfo, Xdp, XdpMode, loaded_programs};
use aya_obj::programs::XdpAttachType;
use filter_common::abi::{self, FRAGS_PROGRAM, INTERFACE_NAME_LENGTH, MapSpec, PROGRAM, TEST_SLOT};
use rustix::io::Errno;

use super::bpffs::remove_pin;
use super::descriptors::told;
use super::filter::Filter;
use super::maps::Maps;
use super::pins::Pins;
use super::program::{Program, effective_capabilities};
use super::refusal::{Attempt, Refusal};
use super::set::Set;
use super::{bpf, errno_of};
use crate::host::devices::{self, Device, Mode};
use crate::host::monotonic_now_s;

/// First kernel with XDP frags (commit f45d5b6ce2e8).
const FRAGS: (u32, u32) = (5, 18);

/// What became of a loaded interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The program runs on a device and uses these maps.
    Attached {
        /// The device's name now, which may differ from the name under which it was loaded.
        device: String,
        /// Its index now.
        ifindex: u32,
        /// The mode that the kernel reports.
        mode: Mode,
        /// Whether it takes frames beyond one page.
        frags: bool,
    },
    /// The program runs on a device, but is another build's: it does not use these maps.
    Stale {
        /// The device's name now.
        device: String,
        /// Its index now.
        ifindex: u32,
    },
    /// The program runs on a device of another network namespace.
    Elsewhere {
        /// The device's index there.
        ifindex: u32,
    },
    /// The device is gone.
    Gone,
}

/// The program, the link and the place where they are pinned.
#[derive(Debug)]
pub struct Loaded {
    /// Name under which it was loaded.
    pub name: String,
    /// The kernel's id of the program behind the link.
    pub program_id: u32,
    /// Where it runs.
    pub state: State,
}

/// Reads the state of the interface that was loaded as `name`, given the devices as they are.
///
/// # Errors
///
/// If its link can't be opened or queried.
pub fn inspect(pins: &Pins, name: &str, devices: &[Device]) -> Result<Loaded> {
    // Open as long as its fdinfo is read.
    let (_link, info) = open_link(pins, name)?;
    let program_id = info.program_id();
    let ifindex = ifindex_of_open_link(info.id())?;
    let device = devices.iter().find(|device| device.ifindex == ifindex && device.runs(program_id));
    let state = match (ifindex, device.and_then(|device| Some((device, device.xdp?.mode)))) {
        (0, _) => State::Gone,
        (_, None) => State::Elsewhere { ifindex },
        (_, Some((device, mode))) => {
            let name_now = device.name.clone();
            match (program_with_these_maps(pins, name, program_id)?, mode) {
                (None, _) => State::Stale { device: name_now, ifindex },
                (Some(program), Some(mode)) => {
                    let frags = program.name_as_str() == Some(FRAGS_PROGRAM);
                    State::Attached { device: name_now, ifindex, mode, frags }
                }
                (Some(_), None) => {
                    bail!("{name_now} runs the filter in a mode that filter-ctl never asks for")
                }
            }
        }
    };
    Ok(Loaded { name: name.to_owned(), program_id, state })
}

/// The link of an interface, and what the kernel says of it.
pub(super) fn open_link(pins: &Pins, name: &str) -> Result<(FdLink, LinkInfo)> {
    let path = pins.link(name);
    let link =
        PinnedLink::from_pin(&path).with_context(|| format!("could not open the link {}", path.display()))?;
    let link = FdLink::from(link);
    let info = link.info().with_context(|| format!("could not query the link {}", path.display()))?;
    Ok((link, info))
}

/// The kernel's id of the program behind the link of an interface; nothing once its device is gone, since then no
/// program can take its place.
///
/// # Errors
///
/// If the link can't be opened or queried.
pub fn program_of(pins: &Pins, name: &str) -> Result<Option<u32>> {
    let (_link, info) = open_link(pins, name)?;
    Ok((ifindex_of_open_link(info.id())? != 0).then_some(info.program_id()))
}

/// Whether a link is attached to a device, pinned or not.
///
/// # Errors
///
/// If it can't be queried.
pub(super) fn is_attached(link: &FdLink) -> Result<bool> {
    let info = link.info().context("could not query a link")?;
    Ok(ifindex_of_open_link(info.id())? != 0)
}

/// As [`inspect`], for all interfaces that are loaded.
///
/// # Errors
///
/// If a link can't be opened or queried, or netlink fails.
pub fn inspect_all(pins: &Pins) -> Result<Vec<Loaded>> {
    let devices = devices::devices()?;
    pins.loaded_interfaces()?.iter().map(|name| inspect(pins, name, &devices)).collect()
}

/// The index of the device to which a link that this process has open is attached; zero once the device is gone.
/// The kernel tells it in the descriptor's fdinfo (since 5.9, as the link itself).
fn ifindex_of_open_link(link_id: u32) -> Result<u32> {
    let files = fs::read_dir("/proc/self/fdinfo").context("could not list /proc/self/fdinfo")?;
    let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    texts
        .filter(|text| told(text, "link_id") == Some(link_id))
        .find_map(|text| told(&text, "ifindex"))
        .with_context(|| format!("the kernel does not say where link {link_id} is attached"))
}

/// The program behind the link, if it is the one pinned for this ABI, with the maps that are pinned beside it.
fn program_with_these_maps(pins: &Pins, name: &str, program_id: u32) -> Result<Option<ProgramInfo>> {
    let Some(set) = pins.set()? else { return Ok(None) };
    let path = set.program(name);
    if !path.exists() {
        return Ok(None);
    }
    let context = || format!("could not query the program {}", path.display());
    let pinned = Xdp::from_pin(&path, XdpAttachType::Interface).with_context(context)?;
    let used = bpf::used_maps(pinned.fd().with_context(context)?.as_fd()).with_context(context)?;
    let program = pinned.info().with_context(context)?;
    let is_used = |spec: &MapSpec| MapInfo::from_pin(set.map(spec)).is_ok_and(|map| used.contains(&map.id()));
    let is_ours = program.id() == program_id && abi::PROGRAM_MAPS.iter().all(is_used);
    Ok(is_ours.then_some(program))
}

/// Puts a pinned program behind the link of an interface, in place of the one that is there, in one step.
///
/// # Errors
///
/// If there is no such program, or the kernel refuses; then the other one runs on.
pub(super) fn switch_to(pins: &Pins, interface: &str, program: &Path) -> Result<()> {
    let mut program = Xdp::from_pin(program, XdpAttachType::Interface)
        .with_context(|| format!("could not open the program {}", program.display()))?;
    let (link, _) = open_link(pins, interface)?;
    let link = XdpLink::try_from(link).context("it is no XDP link")?;
    program
        .attach_to_link(link)
        .map(drop)
        .with_context(|| format!("{interface}: the kernel did not put the new program in place"))
}

/// Loads a program for `device`, attaches it by a bpf_link and pins both, in place of what may be pinned for a
/// device of this name that is gone.
///
/// # Errors
///
/// A [`Refusal`] where the kernel or the driver said no; then everything is as it was.
pub fn attach(filter: &mut Filter, device: &Device, mode: Mode, now_s: u32, verbose: bool) -> Result<()> {
    let (slot, before) = find_slot(filter, &device.name)?;
    let Filter { set, table, maps, .. } = filter;
    let pins = &set.pins().clone();
    let program = Program { set, geometry: table.geometry(), shape: table.shape(), slot, verbose };
    let mut loaded = program.load_named(PROGRAM)?;
    let link = match attach_link(loaded.xdp()?, device, mode) {
        // Frames beyond a page need the other program. It asks more of the driver, and is slower to read headers: so
        // only where the MTU is what stands in the way.
        Err(refused)
            if is_about_the_mtu(&refused) && kernel_version().is_some_and(|kernel| kernel >= FRAGS) =>
        {
            loaded = program
                .load_named(FRAGS_PROGRAM)
                .map_err(|error| error.context(format!("{refused:#}; with frags")))?;
            // Where frags are refused as well, the MTU is still the cause that can be mended.
            attach_link(loaded.xdp()?, device, mode)
                .map_err(|error| if error.is::<Refusal>() { refused } else { error })?
        }
        attached => attached?,
    };
    let program_id = loaded.info()?.id();
    let program = loaded.xdp()?;

    // Attached while this process lives; from the moment its link is pinned, for good. The slot is taken before.
    let taken = abi::Interface { name: padded(&device.name)?, ifindex: device.ifindex, loaded_s: now_s };
    maps.set_interface(slot, &taken)?;
    let pinned = pin(set, program, link, &device.name);
    let verified = pinned.and_then(|()| verify(pins, device, mode, program_id));
    if let Err(error) = verified {
        let undone = unpin_link(&pins.link(&device.name))
            .and_then(|()| remove_pin(&set.program(&device.name)))
            .and_then(|()| maps.set_interface(slot, &before));
        return Err(match undone {
            Ok(()) => error,
            Err(undo) => error.context(format!("{}: undoing the load failed: {undo:#}", device.name)),
        });
    }
    Ok(())
}

/// Loads a program for an interface whose link is there, and puts it behind the link in place of the one that runs.
///
/// # Errors
///
/// If the kernel refuses; then that one runs on.
pub fn renew(filter: &mut Filter, name: &str, ifindex: u32, verbose: bool) -> Result<()> {
    let (slot, _) = find_slot(filter, name)?;
    let taken = abi::Interface { name: padded(name)?, ifindex, loaded_s: monotonic_now_s() };
    filter.maps.set_interface(slot, &taken)?;
    let Filter { set, table, .. } = filter;
    let program = Program { set, geometry: table.geometry(), shape: table.shape(), slot, verbose };
    let pin = set.program(name);
    let put = |kind| program.prepare(kind, &pin).and_then(|()| switch_to(set.pins(), name, &pin));
    // Where the device takes frames beyond a page, the kernel refuses a program that does not.
    put(PROGRAM).or_else(|refused| put(FRAGS_PROGRAM).map_err(|_| refused))
}

fn is_about_the_mtu(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(Refusal::is_about_the_mtu)
}

/// Attaches the program by a bpf_link, which lives as long as somebody holds it.
fn attach_link(program: &mut Xdp, device: &Device, mode: Mode) -> Result<FdLink> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let id = program
        .attach_to_if_index(device.ifindex, flags)
        .map_err(|error| refusal(&device.name, device.ifindex, mode, error))?;
    let link = program.take_link(id).context("the link just made is not there")?;
    FdLink::try_from(link).or_else(|_| {
        // On EINVAL aya attaches by netlink: nothing could be pinned, and it would stay without an owner. aya
        // forgets such a link without detaching it.
        let program = program.fd().context("the program just loaded has no descriptor")?;
        devices::detach_xdp(device.ifindex, mode, program.as_fd())
            .with_context(|| format!("{}: the program stayed attached without a link", device.name))?;
        Err(refusal_for(&device.name, device.ifindex, mode, Errno::INVAL.raw_os_error()).into())
    })
}

fn pin(set: &Set, program: &mut Xdp, link: FdLink, name: &str) -> Result<()> {
    let pins = set.pins();
    remove_pin(&set.program(name))?;
    program.pin(set.program(name)).with_context(|| format!("could not pin the program of {name}"))?;
    remove_pin(&pins.link(name))?;
    link.pin(pins.link(name)).with_context(|| format!("could not pin the link of {name}"))?;
    Ok(())
}

/// Asks the kernel whether what was asked for is what is there.
fn verify(pins: &Pins, device: &Device, mode: Mode, program_id: u32) -> Result<()> {
    let loaded = inspect(pins, &device.name, &devices::devices()?)?;
    let name = &device.name;
    ensure!(
        loaded.program_id == program_id,
        "{name}: the link runs program {} in place of {program_id}, which was just attached",
        loaded.program_id
    );
    match loaded.state {
        State::Attached { ifindex, mode: true_mode, .. } if ifindex == device.ifindex => ensure!(
            true_mode == mode,
            "{name}: {} mode was asked for, and the kernel chose {} mode",
            mode.name(),
            true_mode.name()
        ),
        State::Gone => bail!("{name}: the interface vanished while the filter was being loaded"),
        state => bail!("{name}: the filter was attached and is not where it should be: {state:?}"),
    }
    Ok(())
}

/// Detaches the interface that was loaded as `name`. What it counted stays in its slot, until that is released.
///
/// # Errors
///
/// If a pin can't be removed, or the device still runs the program.
pub fn detach(pins: &Pins, name: &str) -> Result<()> {
    let (_, info) = open_link(pins, name)?;
    unpin_link(&pins.link(name))?;
    if let Some(device) = devices::devices()?.iter().find(|device| device.runs(info.program_id())) {
        bail!("{} still runs the filter, though its link was detached", device.name);
    }
    if let Some(set) = pins.set()? {
        remove_pin(&set.program(name))?;
    }
    Ok(())
}

/// The interface slot that `name` counts in.
///
/// # Errors
///
/// If the map can't be read.
pub fn slot_of(maps: &Maps, name: &str) -> Result<Option<u32>> {
    let padded = padded(name)?;
    let slots = maps.interfaces()?;
    Ok((0..).zip(slots).find(|(_, slot)| slot.name == padded).map(|(slot, _)| slot))
}

/// As [`slot_of`], of an interface that has a program.
///
/// # Errors
///
/// If it has no slot, or the map can't be read.
pub(super) fn counted_slot(maps: &Maps, name: &str) -> Result<u32> {
    slot_of(maps, name)?.with_context(|| format!("{name} has a program and no counters"))
}

/// Finds a slot for `name`, and what it holds: the one it had, with its counts, or a free one, zeroed. Where none is free, that
/// of an interface that was unloaded while what it counted could not be written down.
fn find_slot(filter: &mut Filter, name: &str) -> Result<(u32, abi::Interface)> {
    let slots = filter.maps.interfaces()?;
    let had = padded(name)?;
    let numbered = || (0..).zip(slots.iter().copied());
    if let Some(slot) = numbered().find(|(_, interface)| interface.name == had) {
        return Ok(slot);
    }
    let mut free = free_slot(&slots).map(|slot| (slot, abi::Interface::default()));
    if free.is_none() {
        let unpinned = filter.unpinned_interfaces()?;
        free = numbered().find(|(_, slot)| slot_name(slot).is_some_and(|name| unpinned.contains(&name)));
    }
    let Some((slot, interface)) = free else {
        bail!(
            "{name}: all {} interface slots are taken; unload another interface first",
            abi::INTERFACE_SLOTS - 1
        );
    };
    filter.maps.zero_interface(slot)?;
    Ok((slot, interface))
}

/// The first slot that is no interface's, and not that of test-runs.
pub(super) fn free_slot(slots: &[abi::Interface]) -> Option<u32> {
    let mut numbered = (0..).zip(slots);
    numbered
        .find(|(slot, held)| *slot != TEST_SLOT && **held == abi::Interface::default())
        .map(|(slot, _)| slot)
}

/// The name in an interface slot; nothing where it is free.
pub(super) fn slot_name(slot: &abi::Interface) -> Option<String> {
    let name = slot.name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
    Some(String::from_utf8_lossy(name).into_owned())
}

pub(super) fn padded(name: &str) -> Result<[u8; INTERFACE_NAME_LENGTH]> {
    let mut padded = [0; INTERFACE_NAME_LENGTH];
    ensure!(
        !name.is_empty() && name.len() < INTERFACE_NAME_LENGTH,
        "`{name}` can't be the name of an interface"
    );
    padded[..name.len()].copy_from_slice(name.as_bytes());
    Ok(padded)
}

/// Detaches a link, whether or not its device still exists, and removes its pin. Does nothing where there is none.
fn unpin_link(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let link = bpf::open(path).with_context(|| format!("could not open the link {}", path.display()))?;
    // Removing the last reference would detach it as well; but another process may have one, and after a pin the kernel
    // does it some time later.
    bpf::detach(&link).with_context(|| format!("could not detach the link {}", path.display()))?;
    remove_pin(path)
}

fn refusal(name: &str, ifindex: u32, mode: Mode, error: ProgramError) -> anyhow::Error {
    match errno_of(&error) {
        Some(errno) => refusal_for(name, ifindex, mode, errno).into(),
        None => {
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            anyhow!("{name}: the program could not be attached: {error} {source}")
        }
    }
}

/// Gathers what may explain the refusal. What can't be learned is left out.
fn refusal_for(name: &str, ifindex: u32, mode: Mode, errno: i32) -> Refusal {
    let devices = devices::devices().unwrap_or_default();
    let device = devices.iter().find(|device| device.ifindex == ifindex).cloned();
    let other = device.as_ref().and_then(|device| device.xdp).and_then(|xdp| xdp.program_id);
    let peer = device.as_ref().and_then(|device| device.link);
    let attempt = Attempt {
        driver: device.as_ref().and_then(Device::driver),
        other_program: other.and_then(program_name),
        peer_mtu: peer
            .and_then(|peer| devices.iter().find(|device| device.ifindex == peer))
            .map(|peer| peer.mtu),
        offloads: devices::offloads(name),
        capabilities: effective_capabilities().unwrap_or(u64::MAX),
        kernel: kernel_version().unwrap_or((u32::MAX, 0)),
        mode: Some(mode),
        device,
    };
    Refusal::new(name, errno, &attempt)
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    Some(program.name_as_str()?.to_owned())
}

fn kernel_version() -> Option<(u32, u32)> {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().ok()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
