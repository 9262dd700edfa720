//! Raw frames to and from a device (AF_PACKET).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, channel, interfaces};

/// Shortest frame that a packet socket sends: an Ethernet header.
pub const SHORTEST: usize = 14;

/// Marks the end of what a test sent: an EtherType for experiments (IEEE 802, local experimental 1).
const MARKER_ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// How long a frame may take over a veth pair on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A device that frames are sent from and received on.
pub struct Port {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    markers: u32,
}

impl Port {
    /// Length in bytes of the frame that [`Port::send_and_see`] sends after the one it was given.
    pub const MARKER_LENGTH: usize = 64;

    /// Opens a device of the host on which this runs.
    ///
    /// # Errors
    ///
    /// If there is no such device, or without root.
    pub fn open(device: &str) -> Result<Self> {
        let interface = interfaces().into_iter().find(|interface| interface.name == device);
        let interface = interface.with_context(|| format!("no device {device}"))?;
        let config = Config { read_timeout: Some(PATIENCE), promiscuous: false, ..Config::default() };
        match channel(&interface, config).with_context(|| format!("could not open {device}"))? {
            Channel::Ethernet(sender, receiver) => Ok(Self { sender, receiver, markers: 0 }),
            _ => bail!("{device} is not Ethernet"),
        }
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.sender.send_to(frame, None).context("not sent")?.context("could not send a frame")
    }

    /// Sends a frame and a marker, and returns how many frames came in at `receiver` before the marker.
    ///
    /// # Errors
    ///
    /// If the marker does not arrive.
    pub fn send_and_see(&mut self, receiver: &mut Self, frame: &[u8]) -> Result<usize> {
        self.markers += 1;
        let mut marker = [0; Self::MARKER_LENGTH];
        marker[12..14].copy_from_slice(&MARKER_ETHER_TYPE);
        marker[14..18].copy_from_slice(&self.markers.to_be_bytes());
        self.send(frame)?;
        self.send(&marker)?;
        let deadline = Instant::now() + PATIENCE;
        let mut before = 0;
        loop {
            ensure!(Instant::now() < deadline, "the marker behind a frame did not arrive");
            if receiver.receiver.next().context("nothing arrived")? == marker {
                return Ok(before);
            }
            before += 1;
        }
    }
}
