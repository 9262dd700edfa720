//! One filtered interface: the program that is loaded for it, the link that keeps it attached, and what became
//! of both.

use std::error::Error as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use filter_common::abi::{self, Capacity, INTERFACE_NAME_LENGTH, INTERFACE_SLOT_GLOBAL, PROGRAM, TEST_SLOT};
use rustix::io::Errno;

use super::errno_of;
use super::maps::Maps;
use super::pins::Pins;
use super::refusal::{Attempt, Refusal, missing_capabilities};
use crate::host::devices::{self, Device, Mode};

/// The BPF object, built with this program.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-ebpf"));

/// Lines of the verifier's log that are shown: its last words name the instruction and the rule. The rest of
/// what can be megabytes is only counted.
const VERIFIER_LINES: usize = 12;

/// What became of a loaded interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The program runs on a device.
    Attached {
        /// The device's name now, which may differ from the name under which it was loaded.
        device: String,
        /// Its index now.
        ifindex: u32,
        /// The mode that the kernel reports.
        mode: Mode,
    },
    /// No device of this network namespace runs the program: it vanished, or was moved to another namespace.
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
/// If its link can't be opened.
pub fn inspect(pins: &Pins, name: &str, devices: &[Device]) -> Result<Loaded> {
    let path = pins.link(name);
    let link =
        PinnedLink::from_pin(&path).with_context(|| format!("could not open the link {}", path.display()))?;
    let info =
        FdLink::from(link).info().with_context(|| format!("could not query the link {}", path.display()))?;
    let program_id = info.program_id();
    // Each interface has a program of its own, so the program tells the device, whatever its name is now.
    let state = match devices.iter().find(|device| device.runs(program_id)) {
        Some(Device { name: device, ifindex, xdp: Some(xdp), .. }) => match xdp.mode {
            Some(mode) => State::Attached { device: device.clone(), ifindex: *ifindex, mode },
            None => bail!("{device} runs the filter in a mode that this program never asks for"),
        },
        _ => State::Gone,
    };
    Ok(Loaded { name: name.to_owned(), program_id, state })
}

/// Makes and pins the maps that are missing.
///
/// # Errors
///
/// If the kernel refuses.
pub fn create_maps(pins: &Pins, max_entries: u32) -> Result<()> {
    open_object(pins, max_entries, TEST_SLOT, false).map(drop)
}

/// Loads a program that counts in `slot`, with the maps below `pins`.
fn load(pins: &Pins, max_entries: u32, slot: u32, verbose: bool) -> Result<Ebpf> {
    let mut object = open_object(pins, max_entries, slot, verbose)?;
    xdp(&mut object)?.load().map_err(|error| explained(verifier_error(error, verbose)))?;
    Ok(object)
}

/// Opens the object and its pinned maps, making those that are missing.
fn open_object(pins: &Pins, max_entries: u32, slot: u32, verbose: bool) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // No CO-RE relocations in the object, so the kernel's own types need not be parsed.
    loader.btf(None).override_global(INTERFACE_SLOT_GLOBAL, &slot, true);
    if verbose {
        loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
    }
    for spec in &abi::MAPS {
        loader.map_pin_path(spec.name, pins.map(spec));
        if spec.capacity == Capacity::Entries {
            loader.map_max_entries(spec.name, spec.capacity.elements(max_entries));
        }
    }
    loader.load(OBJECT).map_err(|error| explained(anyhow!(error).context("could not create the maps")))
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut(PROGRAM).context("the object holds no filter")?;
    program.try_into().context("the filter is no XDP program")
}

/// The end of the verifier's log in place of all of it.
fn verifier_error(error: ProgramError, verbose: bool) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow::Error::new(error).context("the kernel refused the program");
    };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = if verbose { lines.len() } else { VERIFIER_LINES.min(lines.len()) };
    let omitted = lines.len() - shown;
    let tail = lines[omitted..].join("\n");
    let hint = if omitted > 0 {
        format!("\n({omitted} lines before these; all with --verbose)")
    } else {
        String::new()
    };
    anyhow!(io_error).context(format!("the kernel's verifier refused the program:\n{tail}{hint}"))
}

/// Loads a program for `device`, attaches it by a bpf_link and pins both.
///
/// # Errors
///
/// A [`Refusal`] where the kernel or the driver said no; then nothing is attached or pinned.
pub fn attach(
    pins: &Pins,
    maps: &mut Maps,
    device: &Device,
    mode: Mode,
    now_s: u32,
    verbose: bool,
) -> Result<()> {
    let name = &device.name;
    let slot = take_slot(maps, device, now_s)?;
    let result = (|| {
        let mut object = load(pins, maps.max_entries(), slot, verbose)?;
        let program = xdp(&mut object)?;
        let program_id = program.info().context("could not query the program")?.id();
        // An interrupted load or an interface that vanished may have left pins behind.
        remove_pin(&pins.program(name))?;
        program.pin(pins.program(name)).with_context(|| format!("could not pin the program of {name}"))?;

        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program
            .attach_to_if_index(device.ifindex, flags)
            .map_err(|error| refusal(name, device.ifindex, mode, error))?;
        let link = program.take_link(id).context("the link just made is not there")?;
        // On EINVAL aya attaches by netlink, without a link that could be pinned. Dropping it detaches.
        let link = FdLink::try_from(link)
            .map_err(|_| refusal_for(name, device.ifindex, mode, Errno::INVAL.raw_os_error()))?;
        remove_pin(&pins.link(name))?;
        // The link is attached while its descriptor is open or it is pinned: dying here detaches it.
        let pinned =
            link.pin(pins.link(name)).with_context(|| format!("could not pin the link of {name}"))?;
        let verified =
            devices::devices().and_then(|devices| verify(pins, device, mode, program_id, &devices));
        if verified.is_err() {
            // The pin goes first: afterwards the descriptor is all that holds the link.
            let _ = pinned.unpin();
        }
        verified
    })();
    if result.is_err() {
        let _ = fs::remove_file(pins.program(name));
        release_slot(maps, name)?;
    }
    result
}

/// Asks the kernel whether what was asked for is what is there.
fn verify(pins: &Pins, device: &Device, mode: Mode, program_id: u32, devices: &[Device]) -> Result<()> {
    let loaded = inspect(pins, &device.name, devices)?;
    ensure!(
        loaded.program_id == program_id,
        "{}: the link runs program {} in place of {program_id}, which was just attached",
        device.name,
        loaded.program_id
    );
    match loaded.state {
        State::Attached { ifindex, mode: true_mode, .. }
            if ifindex == device.ifindex && true_mode == mode =>
        {
            Ok(())
        }
        State::Attached { mode: true_mode, .. } => {
            bail!(
                "{}: {} mode was asked for, and the kernel chose {} mode",
                device.name,
                mode.name(),
                true_mode.name()
            )
        }
        State::Gone => bail!("{}: the interface vanished while the filter was being loaded", device.name),
    }
}

/// Detaches and forgets the interface that was loaded as `name`.
///
/// # Errors
///
/// If a pin can't be removed, or the device still runs the program.
pub fn detach(pins: &Pins, maps: Option<&mut Maps>, name: &str) -> Result<()> {
    // Removing the last reference to a link detaches it, whether or not its device still exists. The kernel
    // does so at once only when that reference is a descriptor; after a pin it comes some time later.
    let path = pins.link(name);
    let link =
        PinnedLink::from_pin(&path).with_context(|| format!("could not open the link {}", path.display()))?;
    let link = link.unpin().with_context(|| format!("could not remove the pin {}", path.display()))?;
    let program_id = link.info().with_context(|| format!("could not query the link of {name}"))?.program_id();
    drop(link);
    if let Some(device) = devices::devices()?.iter().find(|device| device.runs(program_id)) {
        bail!("{} still runs the filter: another process holds its link open; end it", device.name);
    }
    remove_pin(&pins.program(name))?;
    maps.map_or(Ok(()), |maps| release_slot(maps, name))
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

/// Finds a slot for `device`: the one it had, with its counts, or a free one, zeroed.
fn take_slot(maps: &mut Maps, device: &Device, now_s: u32) -> Result<u32> {
    let interface = abi::Interface { name: padded(&device.name)?, ifindex: device.ifindex, loaded_s: now_s };
    let slot = match slot_of(maps, &device.name)? {
        Some(slot) => slot,
        None => {
            let slots = maps.interfaces()?;
            let free =
                (0..).zip(slots).find(|(slot, interface)| *slot != TEST_SLOT && interface.name == [0; 16]);
            let Some((slot, _)) = free else {
                bail!(
                    "{}: all {} interface slots are taken; unload another interface first",
                    device.name,
                    abi::INTERFACE_SLOTS - 1
                );
            };
            maps.zero_interface(slot)?;
            slot
        }
    };
    maps.set_interface(slot, &interface)?;
    Ok(slot)
}

/// Frees the slots of interfaces that have no link: what a load that died left behind. Needs the lock, since a
/// load takes its slot before it has a link.
///
/// # Errors
///
/// If the map or the pins can't be read.
pub fn release_unpinned_slots(pins: &Pins, maps: &mut Maps) -> Result<()> {
    let loaded = pins.loaded_interfaces()?;
    for (slot, interface) in (0..).zip(maps.interfaces()?) {
        let is_loaded = || loaded.iter().any(|name| padded(name).is_ok_and(|name| name == interface.name));
        if interface != abi::Interface::default() && !is_loaded() {
            maps.set_interface(slot, &abi::Interface::default())?;
        }
    }
    Ok(())
}

fn release_slot(maps: &mut Maps, name: &str) -> Result<()> {
    match slot_of(maps, name)? {
        Some(slot) => maps.set_interface(slot, &abi::Interface::default()),
        None => Ok(()),
    }
}

fn padded(name: &str) -> Result<[u8; INTERFACE_NAME_LENGTH]> {
    let mut padded = [0; INTERFACE_NAME_LENGTH];
    ensure!(
        !name.is_empty() && name.len() < INTERFACE_NAME_LENGTH,
        "`{name}` can't be the name of an interface"
    );
    padded[..name.len()].copy_from_slice(name.as_bytes());
    Ok(padded)
}

/// Removes a pin; does nothing where there is none.
fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove the pin {}", path.display()))
        }
        _ => Ok(()),
    }
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

/// Names the missing capabilities where the kernel refused for want of one.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let denied =
        matches!(errno_of(error.as_ref()).map(Errno::from_raw_os_error), Some(Errno::PERM | Errno::ACCESS));
    match effective_capabilities().map(missing_capabilities) {
        Some(missing) if denied && !missing.is_empty() => {
            error.context(format!("this process lacks {}; run it as root or grant these", missing.join(", ")))
        }
        _ => error,
    }
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    Some(program.name_as_str()?.to_owned())
}

fn effective_capabilities() -> Option<u64> {
    Some(procfs::process::Process::myself().ok()?.status().ok()?.capeff)
}

fn kernel_version() -> Option<(u32, u32)> {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().ok()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
