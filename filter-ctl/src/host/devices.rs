//! Network devices of this network namespace, and which XDP program each runs: by netlink, since only the
//! kernel knows the true mode.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached};
use serde::{Deserialize, Serialize};

use super::block_on;

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In the driver, before the kernel spends anything on the frame.
    Native,
    /// In the network stack, for drivers without XDP: works everywhere, and is several times slower.
    Generic,
}

impl Mode {
    /// `native` or `generic`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// How; `None` for what this program never does (hardware offload, several at once).
    pub mode: Option<Mode>,
    /// The kernel's id of the program, where there is exactly one.
    pub program_id: Option<u32>,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Kind of virtual device, such as `veth`.
    pub kind: Option<String>,
    /// Receive queues.
    pub rx_queues: u32,
    /// Index of the peer or lower device, where it is in this network namespace.
    pub link: Option<u32>,
    /// The XDP program it runs.
    pub xdp: Option<AttachedXdp>,
}

/// All devices of this network namespace.
///
/// # Errors
///
/// If netlink can't be used.
pub fn devices() -> Result<Vec<Device>> {
    block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("could not open a netlink socket")?;
        tokio::spawn(connection);
        let messages: Vec<LinkMessage> = handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("could not list the network devices")?;
        Ok(messages.into_iter().map(device).collect())
    })
}

/// Detaches `program` from a device, to which it was attached without a link; does nothing if another is there.
///
/// # Errors
///
/// If the kernel refuses.
pub fn detach_xdp(ifindex: u32, mode: Mode, program: BorrowedFd<'_>) -> Result<()> {
    const NO_PROGRAM: i32 = -1;
    /// `XDP_FLAGS_REPLACE` of linux/if_link.h (5.7): only if the expected program is attached.
    const REPLACE: u32 = 1 << 4;
    let flags = match mode {
        Mode::Native => 1 << 2,
        Mode::Generic => 1 << 1,
    };
    let expected = u32::try_from(program.as_raw_fd()).context("a descriptor is not negative")?;
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::Xdp(vec![
        LinkXdp::Fd(NO_PROGRAM),
        LinkXdp::Flags(flags | REPLACE),
        LinkXdp::ExpectedFd(expected),
    ]));
    block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("could not open a netlink socket")?;
        tokio::spawn(connection);
        handle.link().set(message).execute().await.context("could not detach the program")
    })
}

fn device(message: LinkMessage) -> Device {
    let mut device = Device { ifindex: message.header.index, ..Device::default() };
    let mut peer_is_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::NumRxQueues(queues) => device.rx_queues = queues,
            LinkAttribute::Link(index) => device.link = Some(index),
            LinkAttribute::LinkNetNsId(_) => peer_is_elsewhere = true,
            LinkAttribute::Xdp(xdp) => device.xdp = attached(&xdp),
            LinkAttribute::LinkInfo(infos) => device.kind = infos.into_iter().find_map(kind),
            _ => {}
        }
    }
    if peer_is_elsewhere {
        device.link = None;
    }
    device
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn attached(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let how = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(how) => Some(how),
        _ => None,
    })?;
    let mode = match how {
        XdpAttached::None => return None,
        XdpAttached::Driver => Some(Mode::Native),
        XdpAttached::SocketBuffer => Some(Mode::Generic),
        _ => None,
    };
    let program_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    Some(AttachedXdp { mode, program_id })
}

impl Device {
    /// Whether it runs the XDP program with this id.
    pub fn runs(&self, program_id: u32) -> bool {
        self.xdp.is_some_and(|xdp| xdp.program_id == Some(program_id))
    }

    /// Name of the driver, as far as it can be known.
    pub fn driver(&self) -> Option<String> {
        self.kind.clone().or_else(|| {
            let link = fs::read_link(format!("/sys/class/net/{}/device/driver", self.name)).ok()?;
            Some(link.file_name()?.to_string_lossy().into_owned())
        })
    }
}

/// What `ethtool` says of a device and that may be why it refuses a program. What can't be read is left out:
/// this only ever explains an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Features that are on and in the way of XDP, by their ethtool names.
    pub in_the_way: Vec<String>,
    /// Channels in use and the most there can be.
    pub channels: Option<(u32, u32)>,
}

/// Reads [`Offloads`] of a device.
pub fn offloads(device: &str) -> Offloads {
    block_on(async {
        let (connection, mut handle, _) = ethtool::new_connection()?;
        tokio::spawn(connection);
        let mut offloads = Offloads::default();
        if let Ok(messages) = handle.feature().get(Some(device)).execute().await {
            let messages: Vec<_> = messages.try_collect().await.unwrap_or_default();
            for attribute in messages.into_iter().flat_map(|message| message.payload.nlas) {
                if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
                    let active = bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name);
                    offloads.in_the_way =
                        active.filter(|name| matches!(name.as_str(), "rx-lro" | "rx-gro-hw")).collect();
                }
            }
        }
        if let Ok(messages) = handle.channel().get(Some(device)).execute().await {
            let messages: Vec<_> = messages.try_collect().await.unwrap_or_default();
            let (mut in_use, mut most) = (0, 0);
            for attribute in messages.into_iter().flat_map(|message| message.payload.nlas) {
                match attribute {
                    EthtoolAttr::Channel(
                        EthtoolChannelAttr::CombinedCount(count) | EthtoolChannelAttr::RxCount(count),
                    ) => {
                        in_use = count.max(in_use);
                    }
                    EthtoolAttr::Channel(
                        EthtoolChannelAttr::CombinedMax(count) | EthtoolChannelAttr::RxMax(count),
                    ) => {
                        most = count.max(most);
                    }
                    _ => {}
                }
            }
            offloads.channels = (most > 0).then_some((in_use, most));
        }
        Ok(offloads)
    })
    .unwrap_or_default()
}
