//! What a recorded frame says of itself, as far as it goes: for showing and counting, so broken headers are no obstacle.
//! By another parser than the filter's, whose business is to refuse.

use std::net::IpAddr;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// The headers of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Headers {
    /// EtherType behind all VLAN tags.
    pub ether_type: Option<u16>,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Protocol behind the IP header and IPv6 extension headers.
    pub protocol: Option<u8>,
    /// Source port; nothing in later fragments.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
}

/// Reads the headers of a frame that may be cut off anywhere.
pub fn headers(frame: &[u8]) -> Headers {
    let mut headers = Headers::default();
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return headers };
    headers.ether_type = sliced.ether_payload().map(|payload| payload.ether_type.0);
    match &sliced.net {
        Some(LaxNetSlice::Ipv4(ipv4)) => {
            headers.source = Some(ipv4.header().source_addr().into());
            headers.destination = Some(ipv4.header().destination_addr().into());
            headers.protocol = Some(ipv4.payload().ip_number.0);
        }
        Some(LaxNetSlice::Ipv6(ipv6)) => {
            headers.source = Some(ipv6.header().source_addr().into());
            headers.destination = Some(ipv6.header().destination_addr().into());
            headers.protocol = Some(ipv6.payload().ip_number.0);
        }
        _ => {}
    }
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    };
    (headers.source_port, headers.destination_port) = ports.unzip();
    headers
}

/// The name of a protocol in lower case, or its number.
pub fn protocol_name(number: u8) -> String {
    match IpNumber(number) {
        // By the name that everybody gives it; the registry has `IPv6-ICMP`.
        IpNumber::IPV6_ICMP => "icmpv6".into(),
        protocol => protocol.keyword_str().map_or_else(|| number.to_string(), str::to_lowercase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([192, 0, 2, 1], [198, 51, 100, 7], 64)
            .udp(53, 4444);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 20]).expect("a Vec");
        frame
    }

    #[test]
    fn a_whole_frame_says_everything() {
        let said = headers(&udp());
        assert_eq!(said.ether_type, Some(0x800));
        assert_eq!(said.source, Some("192.0.2.1".parse().expect("an address")));
        assert_eq!(said.destination, Some("198.51.100.7".parse().expect("an address")));
        assert_eq!(
            (said.protocol, said.source_port, said.destination_port),
            (Some(17), Some(53), Some(4444))
        );
    }

    #[test]
    fn protocols_have_the_names_that_everybody_uses() {
        let names = [1, 2, 6, 17, 58, 132, 254].map(protocol_name);
        assert_eq!(names, ["icmp", "igmp", "tcp", "udp", "icmpv6", "sctp", "254"]);
    }

    #[test]
    fn a_frame_that_is_cut_off_or_broken_says_what_it_can() {
        let whole = udp();
        for length in 0..whole.len() {
            let said = headers(&whole[..length]);
            assert_eq!(said.source.is_some(), length >= 34, "{length} bytes");
            assert_eq!(said.source_port.is_some(), length >= 42, "{length} bytes");
        }
        let mut broken = whole;
        broken[16..18].copy_from_slice(&[0xff, 0xff]); // a total length far beyond the frame
        assert_eq!(headers(&broken).destination_port, Some(4444));
    }
}
