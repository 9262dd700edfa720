//! Frames from capture files: pcap and pcapng, read by pcap-parser. The files may be anybody's.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
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

/// The packet as a frame, if the capture's link type is one that can be one.
fn frame(link: Linktype, packet: &[u8]) -> Option<Vec<u8>> {
    match link {
        Linktype::ETHERNET => Some(packet.to_vec()),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => Some([&ethernet_header(packet), packet].concat()),
        _ => None,
    }
}

/// Calls `each` with the number, from 1, and the frame of every packet in a capture until it says to stop. Packets
/// of other links than Ethernet and plain IP are numbered and passed over.
///
/// # Errors
///
/// If the file can't be read or is no capture.
pub fn for_each(path: &Path, mut each: impl FnMut(u64, Vec<u8>) -> bool) -> Result<()> {
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
                    PcapBlockOwned::Legacy(record) => Some((links.first().copied(), record.data)),
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
                        // The data is padded to four bytes.
                        let length =
                            usize::try_from(packet.caplen).unwrap_or(usize::MAX).min(packet.data.len());
                        Some((links.get(interface).copied(), &packet.data[..length]))
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                        Some((links.first().copied(), packet.data))
                    }
                    PcapBlockOwned::NG(_) => None,
                };
                if let Some((link, data)) = packet {
                    number += 1;
                    if let Some(frame) = link.and_then(|link| frame(link, data))
                        && !each(number, frame)
                    {
                        return Ok(());
                    }
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    // A capture that was cut off: what is whole has been given.
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
/// If the file can't be read or has no such packet.
pub fn packet(path: &Path, number: u64) -> Result<Vec<u8>> {
    let mut found = None;
    let mut last = 0;
    for_each(path, |at, frame| {
        last = at;
        if at == number {
            found = Some(frame);
        }
        at < number
    })?;
    found.with_context(|| {
        format!(
            "{} has no packet {number} of Ethernet or plain IP; the last before it is {last}",
            path.display()
        )
    })
}
