//! Samples as a pcapng file, for tcpdump, tshark and Wireshark: verdict, queue, what is missing, and in a comment why and by
//! which entry. Makes blocks in memory; whoever has a file writes them.
//!
//! The format is draft-ietf-opsawg-pcapng; what it says of `epb_verdict` is what xdpdump writes.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bytes::buf::Writer;
use bytes::{BufMut as _, Bytes, BytesMut};
use filter_common::Verdict;
use filter_common::sample::SNAP_LENGTH;
use pcap_file::pcapng::blocks::ENHANCED_PACKET_BLOCK;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriter, RawBlock};
use pcap_file::{DataLink, Endianness};

use super::entries::{Fate, Story};
use super::{Head, Sample, Stream};
use crate::host::{WallClock, machine_and_kernel};

/// Options of a packet.
mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const DROP_COUNT: u16 = 4;
    pub const PACKET_ID: u16 = 5;
    pub const QUEUE: u16 = 6;
    pub const VERDICT: u16 = 7;
}

/// `epb_flags`: came in. Of the other bits nothing is known.
const INBOUND: u32 = 1;

/// The first byte of `epb_verdict`: what follows is what an XDP program returned, in eight bytes.
const BY_XDP: u8 = 2;

/// Bytes of a block around its body: type, and twice its length.
const BLOCK_FRAME: u32 = 12;

/// `if_tsresol`: times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Characters that are kept of why an entry was made: lists may say anything, and an option has 64 KiB at most.
const LONGEST_WHY: usize = 256;

/// Which frame of each ring was written last, so that the next one can tell how many are missing in between.
#[derive(Clone, Debug, Default)]
pub struct Positions(HashMap<Stream, u64>);

impl Positions {
    /// As if all frames so far had been written: for whoever starts now.
    pub fn of(heads: &[Head]) -> Self {
        Self(heads.iter().map(|head| (head.stream, head.seen)).collect())
    }

    /// Goes past a sample that is in another file.
    pub fn pass(&mut self, sample: &Sample) {
        self.0.insert(sample.stream, sample.number);
    }

    /// Goes to a sample. Returns how many frames of its ring lie between it and the one before it.
    fn go_to(&mut self, sample: &Sample) -> u64 {
        let before = self.0.insert(sample.stream, sample.number).unwrap_or_default();
        sample.number.saturating_sub(before).saturating_sub(1)
    }
}

/// A file in the making.
pub struct Section {
    writer: PcapNgWriter<Writer<BytesMut>>,
    /// Index and name of each interface that is described, in the order of their numbers.
    interfaces: Vec<(u32, Option<String>)>,
    packets: u64,
}

impl Section {
    /// Begins a file: makes its header.
    ///
    /// # Errors
    ///
    /// None that writing to memory can cause; the crate's type has them.
    pub fn begin() -> Result<Self> {
        let (hardware, os) = machine_and_kernel();
        let application = concat!("filter-ctl ", env!("CARGO_PKG_VERSION"));
        let header = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![
                SectionHeaderOption::Hardware(hardware.into()),
                SectionHeaderOption::OS(os.into()),
                SectionHeaderOption::UserApplication(application.into()),
            ],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(BytesMut::new().writer(), header);
        let writer = writer.context("could not make the header of a pcapng file")?;
        Ok(Self { writer, interfaces: Vec::new(), packets: 0 })
    }

    /// Adds a sample, and describes its interface before the first of it.
    ///
    /// # Errors
    ///
    /// As [`Section::begin`].
    pub fn add(
        &mut self,
        sample: &Sample,
        positions: &mut Positions,
        clock: WallClock,
        story: Option<&Story>,
    ) -> Result<()> {
        let interface_id = self.described(sample)?;
        let id = self.packets;
        self.packets += 1;
        let missing = positions.go_to(sample);
        let body = packet(sample, interface_id, id, missing, clock, &comment(sample, story));
        let length = u32::try_from(body.len())? + BLOCK_FRAME;
        let block = RawBlock {
            type_: ENHANCED_PACKET_BLOCK,
            initial_len: length,
            body: Cow::Borrowed(&body),
            trailer_len: length,
        };
        self.writer.write_raw_block(&block).context("could not make a block of a pcapng file")?;
        Ok(())
    }

    /// The number of a sample's interface.
    fn described(&mut self, sample: &Sample) -> Result<u32> {
        let known = self
            .interfaces
            .iter()
            .position(|(ifindex, name)| (*ifindex, name) == (sample.ifindex, &sample.interface));
        if let Some(known) = known {
            return Ok(u32::try_from(known)?);
        }
        let name = interface_name(sample);
        let description = format!("{name}, interface {}, as its XDP program saw it", sample.ifindex);
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: u32::try_from(SNAP_LENGTH)?,
            options: vec![
                InterfaceDescriptionOption::IfName(name.into()),
                InterfaceDescriptionOption::IfDescription(description.into()),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer.write_pcapng_block(interface).context("could not make a block of a pcapng file")?;
        self.interfaces.push((sample.ifindex, sample.interface.clone()));
        Ok(u32::try_from(self.interfaces.len() - 1)?)
    }

    /// Bytes that were made and not taken yet.
    pub fn pending(&self) -> usize {
        self.writer.get_ref().get_ref().len()
    }

    /// Packets that it has, with those that were not taken yet.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Takes what was made since the last time: whole blocks, which go behind those of the last time.
    pub fn take(&mut self) -> Bytes {
        self.writer.get_mut().get_mut().split().freeze()
    }
}

/// The body of a packet's block. By hand, since the crate (2.0) does not let anybody make the options that it lacks.
fn packet(
    sample: &Sample,
    interface_id: u32,
    id: u64,
    missing: u64,
    clock: WallClock,
    comment: &str,
) -> BytesMut {
    let mut body = BytesMut::with_capacity(512);
    #[expect(clippy::cast_possible_truncation, reason = "2^64 nanoseconds are the year 2554")]
    let time = clock.since_1970(sample.time).as_nanos() as u64;
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    let halves = [(time >> 32) as u32, time as u32];
    #[expect(clippy::cast_possible_truncation, reason = "128 bytes at most")]
    let captured = sample.frame.len() as u32;
    for word in [interface_id, halves[0], halves[1], captured, sample.length] {
        body.put_u32_ne(word);
    }
    put_padded(&mut body, &sample.frame);
    // XDP_DROP is 1, XDP_PASS 2 (linux/bpf.h).
    let action: u64 = match sample.verdict {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
    };
    let mut put = |code: u16, value: &[u8]| {
        body.put_u16_ne(code);
        #[expect(clippy::cast_possible_truncation, reason = "a comment is some kilobytes at most")]
        body.put_u16_ne(value.len() as u16);
        put_padded(&mut body, value);
    };
    put(option::FLAGS, &INBOUND.to_ne_bytes());
    put(option::DROP_COUNT, &missing.to_ne_bytes());
    put(option::PACKET_ID, &id.to_ne_bytes());
    put(option::QUEUE, &sample.queue.to_ne_bytes());
    put(option::VERDICT, &[&[BY_XDP][..], &action.to_ne_bytes()].concat());
    put(option::COMMENT, comment.as_bytes());
    put(option::END, &[]);
    body
}

/// Puts bytes, and zeros up to whole words.
fn put_padded(to: &mut BytesMut, bytes: &[u8]) {
    to.put_slice(bytes);
    to.put_bytes(0, bytes.len().next_multiple_of(4) - bytes.len());
}

/// The name of a sample's interface, or what stands for it where that is not known any more.
pub fn interface_name(sample: &Sample) -> String {
    sample.interface.clone().unwrap_or_else(|| format!("if{}", sample.ifindex))
}

/// Why the frame got its verdict, as `name=value`.
fn comment(sample: &Sample, story: Option<&Story>) -> String {
    let mut comment = format!("reason={}", sample.reason.name());
    let Some(story) = story else { return comment };
    let mut add = |name: &str, value: &str| {
        comment.extend([" ", name, "=", value]);
    };
    add("entry", &story.prefix.to_string());
    match story.fate {
        Fate::Present => {}
        Fate::Removed => add("entry_is", "removed"),
        Fate::Unknown => add("entry_is", "unknown"),
    }
    story.owner.iter().for_each(|owner| add("owner", owner));
    story.lists.iter().for_each(|list| add("list", list));
    if let Some(why) = &story.why {
        add("why", &format!("{:?}", why.chars().take(LONGEST_WHY).collect::<String>()));
    }
    comment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Prefix};
    use crate::record::tests::sample;
    use pcap_parser::traits::PcapNGPacketBlock as _;
    use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};
    use std::time::Duration;

    fn story(fate: Fate) -> Story {
        Story {
            prefix: Prefix::parse("198.51.100.0/24", false).expect("a prefix"),
            action: Action::Block,
            fate,
            owner: Some("list:spamhaus".into()),
            why: Some("says \"so\"\n".into()),
            lists: vec!["spamhaus".into()],
        }
    }

    /// Options by code.
    type Options = Vec<(u16, Vec<u8>)>;

    /// A packet's interface, time, bytes and options.
    type Packet = (u32, u64, Vec<u8>, Options);

    fn read(file: &[u8]) -> (Vec<Options>, Vec<Packet>) {
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        let options = |options: &[pcap_parser::PcapNGOption<'_>]| -> Options {
            options.iter().map(|option| (option.code.0, option.value[..].to_vec())).collect()
        };
        let mut reader = create_reader(1 << 16, file).expect("a pcapng file");
        loop {
            match reader.next() {
                Ok((offset, block)) => {
                    match &block {
                        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                            assert_eq!((interface.snaplen, interface.if_tsresol), (128, 9));
                            interfaces.push(options(&interface.options));
                        }
                        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => packets.push((
                            packet.if_id,
                            u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                            packet.packet_data().to_vec(),
                            options(&packet.options),
                        )),
                        _ => {}
                    }
                    reader.consume(offset);
                }
                Err(PcapError::Eof) => return (interfaces, packets),
                Err(PcapError::Incomplete(_)) => reader.refill().expect("in memory"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn option(options: &Options, code: u16) -> Vec<u8> {
        let found = options.iter().find(|(known, _)| *known == code);
        found.unwrap_or_else(|| panic!("no option {code} in {options:?}")).1.clone()
    }

    #[test]
    fn packets_have_all_that_is_known_of_them() {
        let mut section = Section::begin().expect("in memory");
        let mut positions = Positions::default();
        let clock = WallClock::now();
        let mut add = |section: &mut Section, number, length, verdict, story: Option<&Story>| {
            let time = Duration::from_nanos(1_234_567_891_234_567);
            let frame = Bytes::from(vec![7; length]);
            let sample = Sample { number, verdict, queue: 3, length: 1500, frame, ..sample(1, 65, time) };
            section.add(&sample, &mut positions, clock, story).expect("in memory");
            sample
        };
        let first = add(&mut section, 5, 42, Verdict::Drop, Some(&story(Fate::Present)));
        // Taken in two parts, they are one file.
        let mut file = section.take().to_vec();
        assert_eq!(section.pending(), 0);
        add(&mut section, 6, 128, Verdict::Pass, None);
        add(&mut section, 1006, 0, Verdict::Drop, Some(&story(Fate::Removed)));
        file.extend(section.take());
        assert_eq!((file.len() % 4, section.packets()), (0, 3));

        let (interfaces, packets) = read(&file);
        assert_eq!((interfaces.len(), option(&interfaces[0], 2)), (1, b"eth0".to_vec()));
        let comments = [
            r#"reason=blocked entry=198.51.100.0/24 owner=list:spamhaus list=spamhaus why="says \"so\"\n""#,
            "reason=blocked",
            r#"reason=blocked entry=198.51.100.0/24 entry_is=removed owner=list:spamhaus list=spamhaus why="says \"so\"\n""#,
        ];
        let expected = [(42, 1u64, 4u64), (128, 2, 0), (0, 1, 999)];
        for (id, ((packet, comment), (length, action, missing))) in
            (0u64..).zip(packets.iter().zip(comments).zip(expected))
        {
            let (interface, time, bytes, options) = packet;
            assert_eq!((*interface, bytes), (0, &vec![7; length]));
            assert_eq!(u128::from(*time), clock.since_1970(first.time).as_nanos());
            let numbers = [(2, 1u32.to_ne_bytes().to_vec()), (6, 3u32.to_ne_bytes().to_vec())];
            for (code, value) in numbers {
                assert_eq!(option(options, code)[..4], value);
            }
            assert_eq!(option(options, 4)[..8], missing.to_ne_bytes());
            assert_eq!(option(options, 5)[..8], id.to_ne_bytes());
            let verdict = option(options, 7);
            assert_eq!((verdict[0], &verdict[1..9]), (2, &action.to_ne_bytes()[..]));
            let said = option(options, 1);
            assert_eq!(String::from_utf8_lossy(&said[..comment.len()]), comment);
        }
    }

    #[test]
    fn frames_are_missing_since_the_one_before_in_their_ring() {
        let at = |cpu, number| Sample { number, ..sample(cpu, 65, Duration::ZERO) };
        let head = |cpu, seen| Head { stream: at(cpu, 0).stream, seen, taken: 1 };
        let mut positions = Positions::of(&[head(0, 100)]);
        assert_eq!(positions.go_to(&at(0, 101)), 0);
        assert_eq!(positions.go_to(&at(1, 11)), 10, "another ring");
        assert_eq!(positions.go_to(&at(0, 104)), 2);
        positions.pass(&at(0, 110));
        assert_eq!(positions.go_to(&at(0, 111)), 0);
    }
}
