//! Floods by live frames: a BPF program makes frames with random sources from one template and redirects them
//! out of a device of the lab. It needs Linux 5.18, and at the receiver native XDP or `ethtool -K DEV gro on`:
//! a veth takes redirected frames only through NAPI.
//!
//! What was observed (6.18, two CPUs): a batch of 64 frames is put into the peer's ring of 256 slots with
//! softirqs off, and the peer's NAPI empties the ring on the same CPU before the next batch. So nothing is lost:
//! of 26 million frames in one run all were counted, by prefix. It is different while another CPU sends over the
//! same pair: NAPI may then run there, next to the flood, and what the ring can't hold is dropped, as by a NIC.
//! One CPU makes, receives and drops 2.4 to 3.6 million frames a second; where the stack answers SYNs, 250,000.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, PerCpuArray};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use filter_ctl::policy::Prefix;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Host, eventually};

/// Frames that the program makes before they are flushed to the peer: NAPI's budget, and the kernel's own
/// choice. Beyond the 256 slots of the ring they would not fit.
const BATCH: u32 = 64;

/// Frames in one call of the kernel, after which a flood looks whether it is to stop: some tenths of a second
/// at most. Ending a call takes 25 ms, in which the kernel waits for the last frames (observed on 6.18), so
/// that much smaller chunks halve the rate.
const CHUNK: u32 = 1 << 16;

/// Length of the shortest Ethernet frame without its check sequence.
const SHORTEST_FRAME: usize = 60;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP connection requests: 60 bytes a frame over IPv4, 74 over IPv6.
    Syn,
    /// Empty UDP datagrams: 60 bytes a frame over IPv4, 62 over IPv6.
    Udp,
}

impl Kind {
    const fn protocol(self) -> u8 {
        match self {
            Self::Syn => 6,
            Self::Udp => 17,
        }
    }

    /// The header, with ports, and a checksum of zero at the returned offset.
    fn header(self, port: u16) -> (Vec<u8>, usize) {
        let ports = [[0x04, 0x00], port.to_be_bytes()].concat(); // the program replaces the first
        match self {
            Self::Syn => {
                ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16)
            }
            Self::Udp => ([&ports[..], &[0, 8, 0, 0]].concat(), 6),
        }
    }
}

/// A part of a flood: one kind of frame from prefixes of one family.
#[derive(Clone, Debug)]
pub struct Wave {
    /// What is sent.
    pub kind: Kind,
    /// Where to.
    pub target: SocketAddr,
    /// Where from, at most 16 prefixes of the target's family: a random host, in at most the last 32 bits,
    /// and a random port.
    pub sources: Vec<Prefix>,
}

/// Sends floods from one end of a veth pair.
pub struct Flood<'h> {
    from: (&'h Host, String),
    to: (&'h Host, String),
    senders: Arc<Vec<Sender>>,
}

impl<'h> Flood<'h> {
    /// Makes a flood of these waves, that goes out of a device of one host to its peer on another.
    ///
    /// # Errors
    ///
    /// If there are no waves, the device is no veth, a wave mixes families, or the kernel refuses the program.
    pub fn new(from: (&'h Host, &str), to: (&'h Host, &str), waves: &[Wave]) -> Result<Self> {
        ensure!(!waves.is_empty(), "a flood without waves");
        let (host, device) = from;
        let kind = host.ip(&format!("-d -o link show dev {device}"))?;
        ensure!(
            kind.split_whitespace().any(|word| word == "veth"),
            "{device}: floods are for veth pairs only"
        );
        let macs = [mac(to)?, mac(from)?].concat();
        let ifindex = host.read(&format!("/sys/class/net/{device}/ifindex"))?.parse()?;
        let senders = waves.iter().map(|wave| Sender::new(wave, &macs, ifindex)).collect::<Result<_>>()?;
        let (from, to) = ((host, device.to_owned()), (to.0, to.1.to_owned()));
        Ok(Self { from, to, senders: Arc::new(senders) })
    }

    /// Sends `count` frames, in equal parts from all waves, and returns when the peer has taken them all.
    ///
    /// # Errors
    ///
    /// If a frame was lost since the peer's ring was full: when others send over the same pair meanwhile. If none
    /// arrive since the peer takes no redirected frames.
    pub fn send(&self, count: u32) -> Result<()> {
        let (lost, arrived) = (self.lost()?, self.arrived()?);
        let senders = Arc::clone(&self.senders);
        let waves = u32::try_from(senders.len())?;
        let work = move || {
            pin(&[sched_getcpu()?])?;
            (0..).zip(senders.iter()).try_for_each(|(position, sender): (u32, _)| {
                sender.send(count / waves + u32::from(position < count % waves))
            })
        };
        let thread = self.from.0.run(|| thread::spawn(work));
        thread.join().expect("the sender does not panic")?;
        let lost = self.lost()? - lost;
        ensure!(lost == 0, "{lost} of {count} frames were lost: the ring of {} was full", self.to.1);
        let goal = arrived + u64::from(count);
        eventually("the frames arrived (does the peer have native XDP or GRO on?)", || {
            self.arrived().is_ok_and(|arrived| arrived >= goal)
        })
    }

    /// Sends as much as the CPU `cpu` can, all waves at once, until stopped and at most for `limit`.
    pub fn start(&self, cpu: usize, limit: Duration) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let deadline = Instant::now() + limit;
        // A thread a wave: while one waits for the kernel to tear a run down, the other has the CPU.
        let threads = (0..self.senders.len()).map(|position| {
            let (senders, stop) = (Arc::clone(&self.senders), Arc::clone(&stop));
            let work = move || {
                pin(&[cpu])?;
                while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                    senders[position].run(CHUNK)?;
                }
                Ok(())
            };
            self.from.0.run(|| thread::spawn(work))
        });
        Running { threads: threads.collect(), stop }
    }

    /// Frames sent so far from each prefix, lost ones included.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn sent(&self) -> Result<Vec<(Prefix, u64)>> {
        let sent: Vec<_> = self.senders.iter().map(Sender::sent).collect::<Result<_>>()?;
        Ok(sent.concat())
    }

    /// Frames lost so far, by anybody who sends from the device, since the peer's ring was full.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn lost(&self) -> Result<u64> {
        statistic(&self.from, "tx_dropped")
    }

    /// Frames that the peer received so far, from anybody.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn arrived(&self) -> Result<u64> {
        statistic(&self.to, "rx_packets")
    }
}

fn statistic((host, device): &(&Host, String), name: &str) -> Result<u64> {
    Ok(host.read(&format!("/sys/class/net/{device}/statistics/{name}"))?.parse()?)
}

/// A flood that is on, until this is dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Running {
    /// Ends the flood.
    ///
    /// # Errors
    ///
    /// If it ended by itself since the kernel refused to send.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.drain(..).map(|thread| thread.join().expect("a sender does not panic"));
        // All are waited for, whatever the first says.
        ends.collect::<Vec<_>>().into_iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}

/// Keeps this thread, and those it starts, on these CPUs.
///
/// # Errors
///
/// If there is no such CPU.
pub fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("could not move to the CPUs {cpus:?}"))
}

/// The program with the template and the sources of a wave.
struct Sender {
    program: Ebpf,
    frame: Vec<u8>,
    sources: Vec<Prefix>,
}

impl Sender {
    fn new(wave: &Wave, macs: &[u8], ifindex: u32) -> Result<Self> {
        let first = wave.sources.first().context("a wave without sources")?.address();
        let one_family = wave.sources.iter().all(|source| source.address().is_ipv4() == first.is_ipv4());
        ensure!(one_family, "a wave to {} mixes families", wave.target);
        let frame = frame(macs, first, wave)?;
        let count = u32::try_from(wave.sources.len())?;
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood-ebpf"));
        let mut program = EbpfLoader::new()
            .override_global("IFINDEX", &ifindex, true)
            .override_global("SOURCE_COUNT", &count, true)
            .load(object)?;
        let mut sources =
            Array::<_, [u16; 10]>::try_from(program.map_mut("sources").context("no map `sources`")?)?;
        for (index, prefix) in (0..).zip(&wave.sources) {
            sources.set(index, source_words(prefix), 0)?;
        }
        let flood: &mut Xdp = program.program_mut("flood").context("no program `flood`")?.try_into()?;
        flood.load()?;
        Ok(Self { program, frame, sources: wave.sources.clone() })
    }

    /// Sends exactly this many frames.
    fn send(&self, count: u32) -> Result<()> {
        let total = || self.sent().map(|sent| sent.iter().map(|(_, sent)| sent).sum::<u64>());
        let goal = total()? + u64::from(count);
        loop {
            match u32::try_from(goal - total()?)? {
                0 => return Ok(()),
                left => self.run(left)?,
            }
        }
    }

    /// Sends this many frames; fewer, if a signal comes in between.
    fn run(&self, count: u32) -> Result<()> {
        let flood: &Xdp = self.program.program("flood").context("no program `flood`")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        match flood.test_run(options) {
            Ok(_) => Ok(()),
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::Interrupted =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("the kernel does not send live frames (it needs Linux 5.18)"),
        }
    }

    fn sent(&self) -> Result<Vec<(Prefix, u64)>> {
        let sent = PerCpuArray::<_, u64>::try_from(self.program.map("sent").context("no map `sent`")?)?;
        let counts =
            (0..).zip(&self.sources).map(|(index, prefix)| Ok((*prefix, sent.get(&index, 0)?.iter().sum())));
        counts.collect()
    }
}

fn mac((host, device): (&Host, &str)) -> Result<Vec<u8>> {
    let text = host.read(&format!("/sys/class/net/{device}/address"))?;
    text.split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
}

/// A prefix as the program has it: 128 bits of address, an IPv4 address in the last 32, and 32 of host bits,
/// in the order of the wire.
fn source_words(prefix: &Prefix) -> [u16; 10] {
    let (address, bits) = match prefix.address() {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let host = u32::MAX.checked_shl(u32::from(bits - prefix.prefix_len())).map_or(u32::MAX, |mask| !mask);
    let octets = [&address.to_be_bytes()[..], &host.to_be_bytes()].concat();
    let mut words = octets.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    std::array::from_fn(|_| words.next().expect("10 words are 20 bytes"))
}

/// The template: a frame from `source` whose checksums are right.
fn frame(macs: &[u8], source: IpAddr, wave: &Wave) -> Result<Vec<u8>> {
    let (mut header, checksum_at) = wave.kind.header(wave.target.port());
    let length = u8::try_from(header.len())?;
    let protocol = wave.kind.protocol();
    let (ether_type, mut ip, addresses) = match (source, wave.target.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let fields = [0x45, 0, 0, 20 + length, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            ([0x08, 0x00], fields.to_vec(), [source.octets(), target.octets()].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let fields = [0x60, 0, 0, 0, 0, length, protocol, 64];
            ([0x86, 0xdd], fields.to_vec(), [source.octets(), target.octets()].concat())
        }
        _ => anyhow::bail!("a wave from {source} to {} mixes families", wave.target),
    };
    ip.extend(&addresses);
    if source.is_ipv4() {
        let checksum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&checksum);
    }
    let checksum = internet_checksum(&[&addresses[..], &[0, protocol, 0, length], &header].concat());
    header[checksum_at..checksum_at + 2].copy_from_slice(&checksum);
    let mut frame = [macs, &ether_type, &ip, &header].concat();
    frame.resize(frame.len().max(SHORTEST_FRAME), 0);
    Ok(frame)
}

/// RFC 1071, over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!folded).to_be_bytes()[2..].try_into().expect("two bytes of four")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text, false).unwrap()
    }

    #[test]
    fn templates_have_right_checksums_and_lengths() {
        for (kind, target, source, start, length) in [
            (Kind::Syn, "192.0.2.1:80", "203.0.113.0/24", 26, 60),
            (Kind::Udp, "192.0.2.1:53", "203.0.113.0/24", 26, 60),
            (Kind::Syn, "[2001:db8::1]:80", "2001:db8:bad::/48", 22, 74),
            (Kind::Udp, "[2001:db8::1]:53", "2001:db8:bad::/48", 22, 62),
        ] {
            let wave = Wave { kind, target: target.parse().unwrap(), sources: vec![prefix(source)] };
            let frame = frame(&[2; 12], wave.sources[0].address(), &wave).unwrap();
            assert_eq!(frame.len(), length, "{wave:?}");
            // Over addresses, segment and the rest of the pseudo-header, with the checksum in place, it is zero.
            let segment = if kind == Kind::Syn { 20 } else { 8 };
            let end = if wave.target.is_ipv4() { 34 } else { 54 } + segment;
            let pseudo =
                [&[0, kind.protocol(), 0, u8::try_from(segment).unwrap()], &frame[start..end]].concat();
            assert_eq!(internet_checksum(&pseudo), [0, 0], "{wave:?}");
            if wave.target.is_ipv4() {
                assert_eq!(internet_checksum(&frame[14..34]), [0, 0], "{wave:?}");
            }
        }
    }

    #[test]
    fn host_bits_are_at_most_the_last_32() {
        let bits = |text| {
            source_words(&prefix(text))[8..].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>()
        };
        assert_eq!(bits("0.0.0.0/0"), [0xff; 4]);
        assert_eq!(bits("198.18.66.0/23"), [0, 0, 1, 0xff]);
        assert_eq!(bits("192.0.2.7"), [0; 4]);
        assert_eq!(bits("2001:db8::/48"), [0xff; 4]);
        assert_eq!(bits("2001:db8::/127"), [0, 0, 0, 1]);
    }
}
