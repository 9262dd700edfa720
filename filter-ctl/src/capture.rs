//! Frames from capture files: pcap and pcapng, read by pcap-parser. The files may be anybody's.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// Bytes that are read at a time, and the largest record that is taken: four times the largest snap length in use.
const BUFFER: usize = 1 << 20;

/// An Ethernet header for captures without one: no addresses, and the EtherType of the packet's IP version.
fn ethernet_header(packet: &[u8]) -> [u8; 14] {
    let mut header = [0; 14];
    let ether_type: u16 = if packet.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd } else { 0x0800 };
    header[12..].copy_from_slice(&ether_type.to_be_bytes());
    header
}

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its number in the file, from 1.
    pub number: u64,
    /// As much of the frame as was captured.
    pub frame: Vec<u8>,
    /// Length of the frame on the wire, in bytes; more than was captured where the capture had a snap length.
    pub original_length: usize,
}

/// The packet as a frame, if the capture's link type is one that can be one.
fn captured(number: u64, link: Linktype, data: &[u8], original_length: u32) -> Option<Captured> {
    let original_length = usize::try_from(original_length).unwrap_or(usize::MAX);
    // The high bits of the field in the file's header may tell of a frame check sequence.
    match Linktype(link.0 & 0xffff) {
        Linktype::ETHERNET => Some(Captured { number, frame: data.to_vec(), original_length }),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => {
            let header = ethernet_header(data);
            let original_length = original_length.saturating_add(header.len());
            Some(Captured { number, frame: [&header, data].concat(), original_length })
        }
        _ => None,
    }
}

/// Calls `each` with every packet in a capture until it says to stop. Packets of other links than Ethernet and plain IP
/// are numbered and passed over; what follows the point at which a file was cut off is not there.
///
/// # Errors
///
/// If the file can't be read or is no capture.
pub fn for_each(path: &Path, mut each: impl FnMut(Captured) -> bool) -> Result<()> {
    let context = || format!("could not read the capture {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut reader = create_reader(BUFFER, file)
        .map_err(|error| anyhow::anyhow!("{} is no pcap or pcapng file: {error:?}", path.display()))?;
    let mut links: Vec<Linktype> = Vec::new();
    let mut number = 0;
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                let packet = match &block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        links = vec![header.network];
                        None
                    }
                    PcapBlockOwned::Legacy(record) => {
                        Some((links.first().copied(), record.data, record.origlen))
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                        links.clear();
                        None
                    }
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        links.push(interface.linktype);
                        None
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        let interface = usize::try_from(packet.if_id).unwrap_or(usize::MAX);
                        Some((links.get(interface).copied(), packet.packet_data(), packet.origlen))
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                        Some((links.first().copied(), packet.packet_data(), packet.origlen))
                    }
                    PcapBlockOwned::NG(_) => None,
                };
                if let Some((link, data, original_length)) = packet {
                    number += 1;
                    let captured = link.and_then(|link| captured(number, link, data, original_length));
                    if captured.is_some_and(|captured| !each(captured)) {
                        return Ok(());
                    }
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof | PcapError::UnexpectedEof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    return Ok(());
                }
                if let Err(error) = reader.refill() {
                    bail!("{}: {error:?}", context());
                }
            }
            Err(error) => bail!("{}, behind packet {number}: {error:?}", context()),
        }
    }
}

/// The frame of packet `number`, counted from 1.
///
/// # Errors
///
/// If the file can't be read or has no such packet, or not all of it.
pub fn packet(path: &Path, number: u64) -> Result<Vec<u8>> {
    let mut found = None;
    let mut last = 0;
    for_each(path, |captured| {
        let at = captured.number;
        if at == number {
            found = Some(captured);
        } else if at < number {
            last = at;
        }
        at < number
    })?;
    let Captured { frame, original_length, .. } = found.with_context(|| {
        format!(
            "{} has no packet {number} of Ethernet or plain IP; the last before it is {last}",
            path.display()
        )
    })?;
    if frame.len() < original_length {
        bail!(
            "packet {number} of {} was captured only to {} of its {original_length} bytes, and what the filter does with \
             the whole can't be told; capture with `-s 0`",
            path.display(),
            frame.len()
        );
    }
    Ok(frame)
}
