//! Frames over a veth pair: they are made, received and handled on one CPU, and what is measured is how many it can do
//! a second.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use filter_tests::flood::pin;
use filter_tests::lab::{Host, eventually, join};

use crate::Extent;
use crate::programs::{self, Environment, SEND, Set, cpu_time_s, frame, program};
use crate::set::Draw;

/// The receiver's device, on which everything comes in.
pub const INGRESS: &str = "in0";
/// The sender's.
const EGRESS: &str = "out0";

/// Frames that fill caches, and tell how many fit into the time.
const WARM_UP: u32 = 1 << 17;

/// Share of a CPU that a run must have had; with less it was disturbed, and is done again. Ending a run takes 25 ms in
/// which nothing is done.
const UNDISTURBED: f64 = 0.9;

/// Times that a disturbed run is done again.
const RETRIES: u32 = 3;

/// Share of the frames that may be lost or decided otherwise: sources outside a set are inside it by chance, see `set`.
const TOLERANCE: f64 = 0.03;

/// A MAC address that is nobody's, as its second bit says. The receiver's stack drops frames to it at once, so that
/// what passes costs as little as possible beyond the filter.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Two hosts and the wire between them.
pub struct Wire {
    pub receiver: Host,
    sender: Host,
}

impl Wire {
    pub fn new() -> Result<Self> {
        let (receiver, sender) = (Host::new("receiver")?, Host::new("sender")?);
        join(&receiver, INGRESS, &sender, EGRESS)?;
        Ok(Self { receiver, sender })
    }

    /// A sender of frames with sources drawn so from a set.
    pub fn lane(&self, set: Set, draw: Draw) -> Result<Lane<'_>> {
        let ifindex: u32 = self.sender.read(&format!("/sys/class/net/{EGRESS}/ifindex"))?.parse()?;
        let globals = vec![("IFINDEX", ifindex.to_ne_bytes().to_vec())];
        let environment = Environment { globals, ..Environment::default() };
        let object = programs::load(SEND, &["send"], set, draw, &environment)?;
        let destination = if draw == Draw::Member { mac(&self.receiver, INGRESS)? } else { NOBODY };
        let frame = frame(set.kind, destination, mac(&self.sender, EGRESS)?);
        Ok(Lane { wire: self, object: Arc::new(object), frame, count: 0, sent: 0 })
    }

    fn statistic(&self, name: &str) -> Result<u64> {
        Ok(self.receiver.read(&format!("/sys/class/net/{INGRESS}/statistics/{name}"))?.parse()?)
    }
}

fn mac(host: &Host, device: &str) -> Result<[u8; 6]> {
    let text = host.read(&format!("/sys/class/net/{device}/address"))?;
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().with_context(|| format!("{text} is no MAC address"))
}

/// Frames of one kind over a wire.
pub struct Lane<'w> {
    wire: &'w Wire,
    object: Arc<Ebpf>,
    frame: Vec<u8>,
    /// Frames in a run, once it is known how many fit into the time.
    count: u32,
    /// Frames sent so far.
    sent: u64,
}

impl Lane<'_> {
    /// Sends for about the time that `extent` says, and returns the million frames a second that were received.
    pub fn run(&mut self, extent: &Extent) -> Result<f64> {
        if self.count == 0 {
            let (took_s, _) = self.send(WARM_UP, extent.cpu)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "some million frames"
            )]
            {
                self.count = (f64::from(WARM_UP) / took_s * extent.flood_s) as u32;
            }
        }
        let mut retries = 0;
        let took_s = loop {
            let (took_s, share) = self.send(self.count, extent.cpu)?;
            if share >= UNDISTURBED || retries == RETRIES {
                break took_s;
            }
            retries += 1;
        };
        let received =
            || self.wire.statistic("rx_packets").map(|received| received as f64 / self.sent as f64);
        eventually("the frames arrived", || received().is_ok_and(|share| share > 1.0 - TOLERANCE))?;
        Ok(f64::from(self.count) / took_s * 1e-6)
    }

    /// Checks what became of all frames that were sent so far: `dropped` tells how many the filter under test has
    /// dropped, which must be all of them, or none. Asked once, at the end: nft takes half a minute to answer.
    pub fn verify(&self, all_dropped: bool, dropped: &dyn Fn(&Wire) -> Result<u64>) -> Result<()> {
        let share = dropped(self.wire)? as f64 / self.sent as f64;
        let expected = if all_dropped { 1.0 } else { 0.0 };
        ensure!(
            (share - expected).abs() <= TOLERANCE,
            "{:.1} % of {} frames were dropped by the filter under test",
            share * 100.0,
            self.sent
        );
        Ok(())
    }

    /// Sends so many frames; returns the seconds that it took, and the share of the CPU that it had.
    fn send(&mut self, count: u32, cpu: usize) -> Result<(f64, f64)> {
        self.sent += u64::from(count);
        let (object, frame) = (Arc::clone(&self.object), self.frame.clone());
        self.wire.sender.run(move || {
            pin(&[cpu])?;
            let (start, cpu_s) = (Instant::now(), cpu_time_s()?);
            programs::send(program(&object, "send")?, &frame, count)?;
            let took_s = start.elapsed().as_secs_f64();
            Ok((took_s, (cpu_time_s()? - cpu_s) / took_s))
        })
    }
}
