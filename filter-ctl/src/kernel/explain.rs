//! Asks the kernel what it would do with a frame: runs the pinned program that decides without effect.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use filter_common::{Decision, abi};

use super::builds;
use super::pins::{NotLoaded, Pins};

/// Lengths of frames that the kernel takes in a test-run without frags: an Ethernet header, and what is left of a
/// page of 4 KiB beside headroom (256) and `skb_shared_info` (320).
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=3520;

/// The pinned program, opened.
pub struct Explainer(Xdp);

impl Explainer {
    /// Opens the program.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there is no filter.
    pub fn open(pins: &Pins) -> Result<Self> {
        builds::require_ours(pins)?;
        let Some(path) = pins.set()?.map(|set| set.explain()).filter(|path| path.exists()) else {
            let missing = format!(
                "there is no program below {}; `filter-ctl load IFACE`, or use --offline",
                pins.abi().display()
            );
            return Err(NotLoaded(missing).into());
        };
        let program = Xdp::from_pin(&path, XdpAttachType::Interface);
        Ok(Self(program.with_context(|| format!("could not open the program {}", path.display()))?))
    }

    /// The decision of the loaded filter about `frame`. Nothing is counted.
    ///
    /// # Errors
    ///
    /// If the kernel takes no frame of this length.
    pub fn decide(&self, frame: &[u8]) -> Result<Decision> {
        if !LENGTHS.contains(&frame.len()) {
            bail!(
                "the frame is {} bytes long, and the kernel takes test frames of {} to {}; use --offline",
                frame.len(),
                LENGTHS.start(),
                LENGTHS.end()
            );
        }
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let result = self.0.test_run(options).context("the kernel did not run the program on this frame")?;
        abi::decision_of(result.return_value)
            .with_context(|| format!("the program answered {:#x}, which means nothing", result.return_value))
    }
}

/// A frame with no other property than its source: an IP packet without payload, of a protocol that means nothing
/// (253, for experiments, RFC 3692; no next header).
pub fn frame_from(source: IpAddr) -> Vec<u8> {
    let mut frame = vec![0; 12];
    match source.to_canonical() {
        IpAddr::V4(source) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0]);
            frame.extend(source.octets());
            frame.extend([0; 4]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64]);
            frame.extend(source.octets());
            frame.extend([0; 16]);
        }
    }
    frame
}
