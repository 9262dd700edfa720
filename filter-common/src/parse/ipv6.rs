//! The IPv6 header and its extension headers (RFC 8200).

use super::{fragment, transport};
use crate::frame::{Cursor, Frame};
use crate::packet::{Address, IpPacket, Transport};
use crate::reason::Reason;

/// Extension headers that are followed. RFC 8200 recommends an order in which seven can occur, one of them twice;
/// the loop is unrolled for the verifier, so each one more costs instructions.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
/// RFC 4302: the one whose length is not in units of eight bytes.
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 6275.
const MOBILITY: u8 = 135;
/// RFC 7401.
const HOST_IDENTITY: u8 = 139;
/// RFC 5533.
const SHIM6: u8 = 140;

/// What every extension header is at least, and all of a fragment header.
const SHORTEST: usize = 8;
/// An authentication header without integrity check value.
const SHORTEST_AUTHENTICATION: usize = 12;
const MORE_FRAGMENTS: u16 = 1;

pub(super) fn packet<F: Frame + ?Sized>(cursor: &mut Cursor<'_, F>) -> Result<IpPacket, Reason> {
    let [version_and_class, _, _, _, length_high, length_low, next_header, hop_limit] =
        cursor.take().ok_or(Reason::Ipv6Truncated)?;
    if version_and_class >> 4 != 6 {
        return Err(Reason::Ipv6Version);
    }
    let source = cursor.take().ok_or(Reason::Ipv6Truncated)?;
    let destination = cursor.take().ok_or(Reason::Ipv6Truncated)?;
    let available = cursor.remaining();
    let length = match u16::from_be_bytes([length_high, length_low]) {
        // What the stack has merged into more than the field can say (BIG TCP, 5.19), as a jumbogram (RFC 2675) or,
        // in later kernels, without its option; generic mode sees it.
        0 if available > usize::from(u16::MAX) => available,
        0 if next_header == HOP_BY_HOP => return Err(Reason::Ipv6JumboLength),
        length => usize::from(length),
    };
    if length > available {
        return Err(Reason::Ipv6PayloadLength);
    }
    let mut chain = Chain { next_header, left: length, is_fragment: false, fragmented: false };
    let transport = behind_extensions(cursor, &mut chain)?;
    Ok(IpPacket {
        source: Address::V6(source),
        destination: Address::V6(destination),
        hop_limit,
        is_fragment: chain.is_fragment,
        transport,
    })
}

/// Follows the extension headers, and reads what ends the chain.
fn behind_extensions<F: Frame + ?Sized>(
    cursor: &mut Cursor<'_, F>,
    chain: &mut Chain,
) -> Result<Transport, Reason> {
    let (next_header, whole) = (chain.next_header, chain.left);
    // The only place where they may stand.
    if next_header == HOP_BY_HOP {
        chain.follow(cursor, FORMS[usize::from(HOP_BY_HOP)])?;
    }
    let followed = usize::from(next_header == HOP_BY_HOP);
    for _ in followed..MAX_EXTENSION_HEADERS {
        let form = FORMS[usize::from(chain.next_header)];
        if form == NOT_AN_EXTENSION || chain.next_header == HOP_BY_HOP {
            break;
        }
        let is_fragment = chain.next_header == FRAGMENT;
        let field = chain.follow(cursor, form)?;
        if is_fragment && let Some(offset) = chain.enter_fragment(field)? {
            let before = whole - chain.left - SHORTEST;
            return fragment::later(chain.next_header, offset, chain.left, before);
        }
    }
    match chain.next_header {
        HOP_BY_HOP => Err(Reason::Ipv6ExtensionOrder),
        next_header if FORMS[usize::from(next_header)] != NOT_AN_EXTENSION => {
            Err(Reason::Ipv6TooManyExtensions)
        }
        protocol => {
            let payload = transport::Payload { protocol, length: chain.left, fragmented: chain.fragmented };
            transport::header(cursor, payload, transport::ICMPV6)
        }
    }
}

/// How the length of an extension header follows from its second byte: `((byte & mask) + add) << shift`, with `add` in
/// the low two bits, `shift` in the next two, and the mask all ones if bit 4 is set, else zero.
///
/// A table, and no `match`: of three ways to compute a length, in eight headers one behind the other, the verifier
/// would follow each combination, since each leaves other bounds for the packet offset. So there is one way.
const fn form(mask: bool, add: u8, shift: u8) -> u8 {
    (mask as u8) << 4 | shift << 2 | add
}

/// Of a header that ends the chain. ESP and "no next header" do so as well, since nothing behind them can be read.
const NOT_AN_EXTENSION: u8 = 0;
/// RFC 6564: in units of eight bytes, the first not counted.
const EIGHTS: u8 = form(true, 1, 3);
/// In units of four bytes, the first two not counted.
const FOURS: u8 = form(true, 2, 2);
/// A fragment header is eight bytes, and has no length.
const FIXED: u8 = form(false, 1, 3);

/// The form of each next header.
static FORMS: [u8; 256] = {
    let mut forms = [NOT_AN_EXTENSION; 256];
    forms[HOP_BY_HOP as usize] = EIGHTS;
    forms[ROUTING as usize] = EIGHTS;
    forms[FRAGMENT as usize] = FIXED;
    forms[AUTHENTICATION as usize] = FOURS;
    forms[DESTINATION_OPTIONS as usize] = EIGHTS;
    forms[MOBILITY as usize] = EIGHTS;
    forms[HOST_IDENTITY as usize] = EIGHTS;
    forms[SHIM6 as usize] = EIGHTS;
    forms
};

/// The length in bytes of an extension header of this form, at most 2048.
fn length_of(form: u8, byte: u8) -> usize {
    let mask = (form >> 4).wrapping_neg();
    let length = (usize::from(byte & mask) + usize::from(form & 3)) << (form >> 2 & 3);
    // No length is larger; for the verifier, which takes a shift by a variable for anything.
    length & 0xfff
}

/// How far the chain of extension headers has been followed.
struct Chain {
    /// What comes next.
    next_header: u8,
    /// Bytes of the packet from there on.
    left: usize,
    /// Whether there was a fragment header.
    is_fragment: bool,
    /// Whether this is the first of several fragments.
    fragmented: bool,
}

impl Chain {
    /// Goes over one extension header of this form. Returns its third and fourth byte.
    fn follow<F: Frame + ?Sized>(&mut self, cursor: &mut Cursor<'_, F>, form: u8) -> Result<u16, Reason> {
        if self.left < SHORTEST {
            return Err(self.truncated());
        }
        let Some([following, byte, high, low, ..]) = cursor.peek::<SHORTEST>() else {
            return Err(self.truncated());
        };
        let length = length_of(form, byte);
        if form == FOURS && length < SHORTEST_AUTHENTICATION {
            return Err(Reason::Ipv6ExtensionLength);
        }
        if length > self.left {
            return Err(self.truncated());
        }
        self.next_header = following;
        self.left -= length;
        cursor.skip(length);
        Ok(u16::from_be_bytes([high, low]))
    }

    /// What it is called when the packet ends inside the chain.
    fn truncated(&self) -> Reason {
        if self.fragmented { Reason::FragmentTooShort } else { Reason::Ipv6ExtensionTruncated }
    }

    /// Takes in the field of a fragment header. Returns the offset if what follows is the middle of a datagram.
    fn enter_fragment(&mut self, field: u16) -> Result<Option<u16>, Reason> {
        self.is_fragment = true;
        let (offset, more) = (field >> 3, field & MORE_FRAGMENTS != 0);
        if more && !self.left.is_multiple_of(8) {
            return Err(Reason::FragmentLength);
        }
        // An atomic fragment (RFC 6946), with neither offset nor successor, is a whole datagram.
        self.fragmented |= more;
        Ok((offset != 0).then_some(offset))
    }
}
