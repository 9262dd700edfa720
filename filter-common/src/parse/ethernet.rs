//! Ethernet II and VLAN tags (IEEE 802.1Q). Ends at the EtherType of the payload.

use crate::frame::{Cursor, Frame};
use crate::reason::Reason;

/// Tags that are looked through. Four cover provider bridging (two) with room for the stacks of three that
/// carriers use; the loop is unrolled for the verifier, so each one more costs instructions.
pub const MAX_VLAN_TAGS: usize = 4;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const RARP: u16 = 0x8035;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const MPLS: u16 = 0x8847;
pub(super) const MPLS_UPSTREAM: u16 = 0x8848;
pub(super) const PPPOE_DISCOVERY: u16 = 0x8863;
pub(super) const PPPOE_SESSION: u16 = 0x8864;
/// Below it the field is a length (IEEE 802.3, 3.2.6).
pub(super) const FIRST_ETHER_TYPE: u16 = 0x0600;

/// The EtherType behind the Ethernet header and all VLAN tags.
pub(super) fn ether_type<F: Frame + ?Sized>(cursor: &mut Cursor<'_, F>) -> Result<u16, Reason> {
    let [_destination_and_source @ .., high, low] = cursor.take::<14>().ok_or(Reason::EthernetTruncated)?;
    let mut ether_type = u16::from_be_bytes([high, low]);
    for _ in 0..MAX_VLAN_TAGS {
        if !is_vlan_tag(ether_type) {
            return Ok(ether_type);
        }
        let [_, _, high, low] = cursor.take().ok_or(Reason::VlanTruncated)?;
        ether_type = u16::from_be_bytes([high, low]);
    }
    if is_vlan_tag(ether_type) { Err(Reason::VlanTooDeep) } else { Ok(ether_type) }
}

/// Whether this EtherType announces a tag: 802.1Q, 802.1ad, and the two numbers that QinQ used before it.
fn is_vlan_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100 | 0x9200)
}
