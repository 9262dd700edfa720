//! Ranges of addresses, from the first to the last, as the fewest prefixes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::policy::Prefix;

/// How an address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// As everywhere, or as one decimal number.
    Usual,
    /// With octets filled up with zeros to three digits, which are decimal.
    Padded,
}

/// Reads an address.
///
/// # Errors
///
/// Says why it is none.
pub(super) fn address(token: &[u8], written: Written) -> Result<IpAddr, &'static str> {
    let text = str::from_utf8(token).map_err(|_| super::text::NOT_UTF8)?;
    if written == Written::Padded && super::text::has_leading_zero(text) && text.len() <= 15 {
        let mut octets = text.split('.').map(|octet| octet.parse::<u8>());
        let mut next = || octets.next().and_then(Result::ok).ok_or("an octet is over 255");
        return Ok(IpAddr::from([next()?, next()?, next()?, next()?]));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => Ok(address.to_ipv4_mapped().map_or(address.into(), IpAddr::V4)),
        Ok(address) => Ok(address),
        Err(_) if super::text::has_leading_zero(text) => {
            Err("leading zeros are octal to some programs, decimal to others")
        }
        Err(_) => Err("no IP address"),
    }
}

/// Reads two addresses as decimal numbers: IPv6 if either is beyond IPv4.
pub(super) fn decimals(first: &[u8], last: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let number = |token: &[u8]| {
        let is_number = !token.is_empty() && token.iter().all(u8::is_ascii_digit);
        is_number.then(|| str::from_utf8(token).ok()?.parse::<u128>().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    Some(match (u32::try_from(first), u32::try_from(last)) {
        (Ok(first), Ok(last)) => (Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into()),
        _ => {
            let of = |number| {
                let address = Ipv6Addr::from(number);
                address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
            };
            (of(first), of(last))
        }
    })
}

/// The prefixes of a range: at most 62 of IPv4, 254 of IPv6.
///
/// # Errors
///
/// Says why it is no range.
pub(super) fn prefixes(first: IpAddr, last: IpAddr) -> Result<impl Iterator<Item = Prefix>, &'static str> {
    let nets = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::from(Ipv4Subnets::new(first, last, 0)),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::from(Ipv6Subnets::new(first, last, 0)),
        _ => return Err("the ends of the range are of two families"),
    };
    if first > last {
        return Err("the range is reversed: its end is before its start");
    }
    // Of a range of IPv6 that reaches into the mapped addresses, these are IPv4.
    let prefix = |net: IpNet| Prefix::of_network(net).or_else(|| Prefix::parse(&net.to_string(), true).ok());
    Ok(nets.filter_map(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(first: &str, last: &str) -> Vec<String> {
        let [first, last] = [first, last].map(|text| address(text.as_bytes(), Written::Usual).unwrap());
        prefixes(first, last).unwrap().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn ranges_are_the_fewest_prefixes() {
        assert_eq!(shown("192.0.2.0", "192.0.2.255"), ["192.0.2.0/24"]);
        assert_eq!(shown("192.0.2.1", "192.0.2.4"), ["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/32"]);
        assert_eq!(shown("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(shown("255.255.255.255", "255.255.255.255"), ["255.255.255.255/32"]);
        assert_eq!(shown("0.0.0.1", "255.255.255.254").len(), 62);
        assert_eq!(shown("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe").len(), 254);
        assert_eq!(shown("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["::/0"]);
        assert_eq!(shown("::ffff:192.0.2.0", "192.0.2.1"), ["192.0.2.0/31"]);
        let mixed: Vec<_> =
            prefixes("::fffe:ffff:ffff".parse().unwrap(), "::ffff:0:1".parse().unwrap()).unwrap().collect();
        assert_eq!(
            mixed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["::fffe:ffff:ffff/128", "0.0.0.0/31"]
        );
    }

    proptest! {
        #[test]
        fn a_range_is_covered_exactly(first: u32, size in 0u32..100_000) {
            let last = first.saturating_add(size);
            let parts: Vec<_> = prefixes(Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into()).unwrap().collect();
            prop_assert!(parts.len() <= 62);
            let mut next = u64::from(first);
            for part in parts {
                let IpAddr::V4(address) = part.address() else { panic!("{part}") };
                prop_assert_eq!(u64::from(address.to_bits()), next);
                next += 1u64 << (32 - part.prefix_len());
            }
            prop_assert_eq!(next, u64::from(last) + 1);
        }
    }
}
