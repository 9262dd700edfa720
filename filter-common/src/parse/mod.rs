//! From a frame to a packet, one protocol layer a file. Holds no policy: what to do with a packet is
//! [`decide`](crate::decide())'s business.

mod ethernet;
mod fragment;
mod ipv4;
mod ipv6;
mod transport;

pub use ethernet::MAX_VLAN_TAGS;
pub use ipv6::MAX_EXTENSION_HEADERS;

use crate::frame::{Cursor, Frame};
use crate::packet::Packet;
use crate::reason::Reason;

/// Reads the headers of `frame`.
///
/// # Errors
///
/// The [`Reason`] why the frame is not a well-formed packet. A frame that is well-formed as far as it can be
/// understood (an unknown EtherType, an unknown IP protocol) is a packet.
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Packet, Reason> {
    let mut cursor = Cursor::new(frame);
    match ethernet::ether_type(&mut cursor)? {
        ethernet::IPV4 => ipv4::packet(&mut cursor).map(Packet::Ip),
        ethernet::IPV6 => ipv6::packet(&mut cursor).map(Packet::Ip),
        ethernet::ARP | ethernet::RARP => Ok(Packet::Arp),
        ethernet::MPLS | ethernet::MPLS_UPSTREAM => Ok(Packet::Mpls),
        ethernet::PPPOE_DISCOVERY | ethernet::PPPOE_SESSION => Ok(Packet::Pppoe),
        length if length < ethernet::FIRST_ETHER_TYPE => Ok(Packet::Llc),
        ether_type => Ok(Packet::NonIp { ether_type }),
    }
}
