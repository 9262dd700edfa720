//! Why the kernel refused a program: from the errno *and* the state of the device, since with bpf_link the
//! driver's own words are lost. Pure; `interface` gathers the facts.

use std::fmt;

use rustix::io::Errno;

use crate::host::devices::{AttachedXdp, Device, Mode, Offloads};

/// Capabilities that loading and attaching need (Linux 5.8), with their bits in `CapEff`.
const CAPABILITIES: [(&str, u64); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// Stands in for each of them, as it did for all before 5.8.
const CAP_SYS_ADMIN: u64 = 21;

/// First kernel with bpf_link for XDP (commit aa8d3a716b59).
const BPF_LINK_XDP: (u32, u32) = (5, 9);

/// Largest MTU with which a driver takes a program without frags, in bytes, on 4 KiB pages. veth was measured;
/// the others are from the table of drivers in the eBPF documentation, computed for 6.8.
const LARGEST_MTU: &[(&str, u32)] = &[
    ("veth", 3506),
    ("virtio_net", 3506),
    ("ena", 3498),
    ("mlx5_core", 3498),
    ("mlx4_en", 3498),
    ("ixgbe", 3050),
    ("ixgbevf", 3050),
    ("i40e", 3046),
    ("ice", 3046),
    ("igb", 3046),
    ("igc", 1500),
    ("bnxt_en", 3502),
    ("gve", 2032),
    ("hv_netvsc", 3506),
    ("mana", 3506),
    ("vmxnet3", 3494),
];

/// For a driver that is not in [`LARGEST_MTU`]: the smallest common value of those that are.
const USUAL_LARGEST_MTU: u32 = 3046;

/// What is known about a refused attempt.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// The device, unless it is gone.
    pub device: Option<Device>,
    /// Mode that was asked for.
    pub mode: Option<Mode>,
    /// Driver of the device.
    pub driver: Option<String>,
    /// Name of the program that the device already runs.
    pub other_program: Option<String>,
    /// MTU of a veth device's peer, where that is in this network namespace.
    pub peer_mtu: Option<u32>,
    /// Offloads and channels.
    pub offloads: Offloads,
    /// `CapEff` of this process.
    pub capabilities: u64,
    /// The kernel's major and minor version.
    pub kernel: (u32, u32),
}

/// Why an attempt was refused, as far as it can be told, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    interface: String,
    cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Vanished,
    OtherProgram { name: Option<String>, attached: AttachedXdp },
    Capabilities { missing: Vec<&'static str> },
    KernelTooOld { kernel: (u32, u32) },
    Offloads { names: Vec<String> },
    NoNativeMode { driver: Option<String> },
    Mtu { mtu: Option<u32>, largest: u32, of_peer: bool },
    VethQueues { rx_queues: u32 },
    Channels { in_use: u32, most: u32 },
    Unknown { errno: Errno, driver: Option<String>, mtu: u32 },
}

impl Refusal {
    /// Explains `errno`, returned for `attempt` on `interface`.
    pub fn new(interface: &str, errno: i32, attempt: &Attempt) -> Self {
        Self { interface: interface.to_owned(), cause: cause(Errno::from_raw_os_error(errno), attempt) }
    }
}

impl Refusal {
    /// Whether a smaller MTU would help.
    pub fn is_about_the_mtu(&self) -> bool {
        matches!(self.cause, Cause::Mtu { .. })
    }
}

fn cause(errno: Errno, attempt: &Attempt) -> Cause {
    let missing = missing_capabilities(attempt.capabilities);
    if matches!(errno, Errno::PERM | Errno::ACCESS) && !missing.is_empty() {
        return Cause::Capabilities { missing };
    }
    let Some(device) = &attempt.device else { return Cause::Vanished };
    let driver = attempt.driver.clone();
    let is_veth = driver.as_deref() == Some("veth");
    let native = attempt.mode == Some(Mode::Native);
    match errno {
        Errno::NODEV => return Cause::Vanished,
        Errno::BUSY | Errno::EXIST if device.xdp.is_some() => {
            let attached = device.xdp.expect("is_some, as just seen");
            return Cause::OtherProgram { name: attempt.other_program.clone(), attached };
        }
        // Before 5.9 the command itself is unknown, whatever the device.
        Errno::INVAL if attempt.kernel < BPF_LINK_XDP => {
            return Cause::KernelTooOld { kernel: attempt.kernel };
        }
        Errno::NOSPC if is_veth => return Cause::VethQueues { rx_queues: device.rx_queues },
        _ => {}
    }
    if native && !attempt.offloads.in_the_way.is_empty() {
        return Cause::Offloads { names: attempt.offloads.in_the_way.clone() };
    }
    let known = driver.as_deref().and_then(|driver| LARGEST_MTU.iter().find(|(name, _)| *name == driver));
    let largest = known.map_or(USUAL_LARGEST_MTU, |(_, mtu)| *mtu);
    // veth looks at the MTU of its peer, since that bounds what arrives.
    let mtu = if is_veth { attempt.peer_mtu } else { Some(device.mtu) };
    let too_large = mtu.is_some_and(|mtu| mtu > largest);
    if native && (too_large || (is_veth && errno == Errno::RANGE)) && errno != Errno::OPNOTSUPP {
        return Cause::Mtu { mtu, largest, of_peer: is_veth };
    }
    match (errno, attempt.offloads.channels) {
        (Errno::OPNOTSUPP, _) => Cause::NoNativeMode { driver },
        (Errno::INVAL | Errno::NOMEM | Errno::NOSPC, Some((in_use, most))) if in_use * 2 > most => {
            Cause::Channels { in_use, most }
        }
        _ => Cause::Unknown { errno, driver, mtu: device.mtu },
    }
}

/// Names of the capabilities that are not in `effective`, a process's `CapEff`.
pub fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u64| effective >> bit & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    CAPABILITIES.iter().filter(|(_, bit)| !has(*bit)).map(|(name, _)| *name).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interface = &self.interface;
        let driver = |driver: &Option<String>| {
            driver.as_deref().map_or("the driver".into(), |name| format!("the driver {name}"))
        };
        write!(f, "{interface}: ")?;
        match &self.cause {
            Cause::Vanished => write!(f, "the interface vanished while the filter was being loaded"),
            Cause::OtherProgram { name, attached } => {
                let name = name.as_deref().unwrap_or("of unknown name");
                write!(f, "another XDP program is attached: {name}")?;
                if let Some(id) = attached.program_id {
                    write!(f, ", id {id}")?;
                }
                if let Some(mode) = attached.mode {
                    write!(f, ", {} mode", mode.name())?;
                }
                if name == "xdp_dispatcher" {
                    write!(f, "; it belongs to xdp-loader: `xdp-loader unload {interface} --all` removes it")
                } else {
                    write!(
                        f,
                        "; stop the tool that attached it, or `ip link set dev {interface} xdp off` if no bpf_link holds it"
                    )
                }
            }
            Cause::Capabilities { missing } => {
                write!(f, "this process lacks {}; run it as root or grant these", missing.join(", "))
            }
            Cause::KernelTooOld { kernel: (major, minor) } => write!(
                f,
                "this kernel, {major}.{minor}, has no bpf_link for XDP, which came with {}.{}; the filter needs it so that it outlives its processes",
                BPF_LINK_XDP.0, BPF_LINK_XDP.1
            ),
            Cause::Offloads { names } => {
                // The short names are the ones that ethtool takes on every version.
                let short: Vec<_> =
                    names.iter().map(|name| if name == "rx-lro" { "lro" } else { name }).collect();
                write!(
                    f,
                    "the driver refused native mode while {} is on; turn it off with `ethtool -K {interface} {} off`",
                    short.join(" and "),
                    short.join(" off ")
                )
            }
            Cause::NoNativeMode { driver: name } => write!(
                f,
                "{} has no native XDP; load it on the device below, or accept a slower filter with --mode generic",
                driver(name)
            ),
            Cause::Mtu { mtu, largest, of_peer } => {
                let whose = if *of_peer { "the peer's MTU" } else { "the MTU" };
                match mtu {
                    Some(mtu) => write!(
                        f,
                        "{whose} of {mtu} is over {largest}, the largest for native mode; lower it"
                    )?,
                    None => write!(f, "{whose} is over {largest}, the largest for native mode; lower it")?,
                }
                if !of_peer {
                    write!(f, " with `ip link set dev {interface} mtu {largest}`")?;
                }
                write!(f, ", or accept a slower filter with --mode generic")
            }
            Cause::VethQueues { rx_queues } => write!(
                f,
                "veth takes native XDP only with at least as many receive queues as its peer has transmit queues, and {interface} \
                 has {rx_queues}; raise them with `ethtool -L {interface} rx N`, or accept a slower filter with --mode generic"
            ),
            Cause::Channels { in_use, most } => write!(
                f,
                "the driver refused the program with {in_use} of {most} channels in use; many need the other half for XDP: \
                 `ethtool -L {interface} combined {}`",
                (most / 2).max(1)
            ),
            Cause::Unknown { errno, driver: name, mtu } => write!(
                f,
                "{} refused the program: {errno} (MTU {mtu}); see `dmesg | tail`, or accept a slower filter with --mode generic",
                driver(name)
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(driver: &str, mtu: u32) -> Attempt {
        Attempt {
            device: Some(Device { name: "eth0".into(), ifindex: 2, mtu, rx_queues: 1, ..Device::default() }),
            mode: Some(Mode::Native),
            driver: Some(driver.into()),
            capabilities: u64::MAX,
            kernel: (6, 1),
            ..Attempt::default()
        }
    }

    fn explained(errno: Errno, attempt: &Attempt) -> String {
        Refusal::new("eth0", errno.raw_os_error(), attempt).to_string()
    }

    #[test]
    fn another_program_is_named() {
        let mut busy = attempt("ixgbe", 1500);
        let attached = AttachedXdp { mode: Some(Mode::Native), program_id: Some(42) };
        busy.device.as_mut().unwrap().xdp = Some(attached);
        busy.other_program = Some("suricata".into());
        let text = explained(Errno::BUSY, &busy);
        assert!(text.contains("suricata, id 42, native mode"), "{text}");
        busy.other_program = Some("xdp_dispatcher".into());
        assert!(explained(Errno::EXIST, &busy).contains("xdp-loader unload eth0"));
    }

    #[test]
    fn the_largest_mtu_is_the_drivers() {
        for (driver, largest) in [("ixgbe", 3050), ("ena", 3498), ("igc", 1500), ("unheard_of", 3046)] {
            let text = explained(Errno::INVAL, &attempt(driver, 9000));
            assert!(
                text.contains(&format!("9000 is over {largest}"))
                    && text.contains(&format!("mtu {largest}`")),
                "{text}"
            );
        }
        let veth = Attempt { peer_mtu: Some(9000), ..attempt("veth", 1500) };
        assert!(explained(Errno::RANGE, &veth).contains("the peer's MTU of 9000 is over 3506"));
        let peer_elsewhere = attempt("veth", 1500);
        assert!(explained(Errno::RANGE, &peer_elsewhere).contains("the peer's MTU is over 3506"));
    }

    #[test]
    fn offloads_in_the_way_are_named_with_the_command() {
        let mut lro = attempt("virtio_net", 1500);
        lro.offloads.in_the_way = vec!["rx-lro".into(), "rx-gro-hw".into()];
        assert!(explained(Errno::OPNOTSUPP, &lro).contains("ethtool -K eth0 lro off rx-gro-hw off"));
    }

    #[test]
    fn queues_are_counted() {
        let mut ena = attempt("ena", 1500);
        ena.offloads.channels = Some((8, 8));
        assert!(explained(Errno::INVAL, &ena).contains("ethtool -L eth0 combined 4"));
        assert!(explained(Errno::NOSPC, &attempt("veth", 1500)).contains("eth0 has 1"));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let weak = Attempt { capabilities: 1 << 39, ..attempt("ixgbe", 1500) };
        let text = explained(Errno::PERM, &weak);
        assert!(text.contains("lacks CAP_NET_ADMIN, CAP_PERFMON;"), "{text}");
        let old_style = Attempt { capabilities: 1 << 21, ..attempt("ixgbe", 1500) };
        assert!(!explained(Errno::PERM, &old_style).contains("lacks"));
    }

    #[test]
    fn an_old_kernel_and_a_driver_without_xdp_are_said() {
        let old = Attempt { kernel: (5, 8), ..attempt("ixgbe", 1500) };
        assert!(explained(Errno::INVAL, &old).contains("this kernel, 5.8"));
        let text = explained(Errno::OPNOTSUPP, &attempt("e1000e", 9000));
        assert!(text.contains("e1000e has no native XDP") && text.contains("--mode generic"), "{text}");
    }

    #[test]
    fn what_is_unknown_is_said_with_its_errno() {
        let text = explained(Errno::IO, &attempt("ixgbe", 1500));
        assert!(text.contains("ixgbe refused the program") && text.contains("os error 5"), "{text}");
        assert!(
            explained(Errno::INVAL, &Attempt { capabilities: u64::MAX, ..Attempt::default() })
                .contains("vanished")
        );
    }
}
