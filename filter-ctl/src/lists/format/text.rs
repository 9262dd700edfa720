//! What the formats of text share: tokens and their prefixes, why one is refused, comments. Pure.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::lines::Line;
use crate::lists::reading::Reading;
use crate::policy::{Prefix, PrefixError};

/// Most bytes of a refused token that are looked at: more than are shown.
const MOST_SHOWN: usize = 256;

/// Why bytes are no text.
pub(super) const NOT_UTF8: &str = "not UTF-8";

/// What stands behind an entry and is not set off as a comment.
pub(super) const ONLY_A_COMMENT: &str = "only a comment may follow an entry, after `#`, `;` or `//`";

/// Why a text is no prefix, for a place where the text itself is shown beside.
pub(super) fn why(error: &PrefixError) -> String {
    match error {
        PrefixError::Syntax(text) if has_leading_zero(text) => {
            "leading zeros are octal to some programs, decimal to others".to_owned()
        }
        PrefixError::Syntax(_) => "neither IP address nor prefix".to_owned(),
        PrefixError::Length(_, most) => format!("the prefix length is over {most}"),
        PrefixError::HostBits(_, prefix, address) => {
            format!(
                "host bits are set: {prefix} is the whole prefix, {address} the one address; --mask takes the first"
            )
        }
    }
}

/// Whether it is an IPv4 address but for zeros in front of an octet.
pub(super) fn has_leading_zero(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    let is_octet = |octet: &str| !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
    address.split('.').count() == 4
        && address.split('.').all(is_octet)
        && address.split('.').any(|octet| octet.len() > 1 && octet.starts_with('0'))
}

/// Reads a prefix: what [`Prefix::parse`] reads, faster where it is plain IPv4.
///
/// # Errors
///
/// Says why it is none.
pub(super) fn parse(token: &[u8], mask: bool) -> Result<Prefix, Cow<'static, str>> {
    if let Some(prefix) = plain_v4(token) {
        return Ok(prefix);
    }
    let text = str::from_utf8(token).map_err(|_| Cow::Borrowed(NOT_UTF8))?;
    Prefix::parse(text, mask).map_err(|error| Cow::Owned(why(&error)))
}

/// An IPv4 address or prefix as it mostly is: no zeros in front, no host bits. Of anything else none.
pub(super) fn plain_v4(token: &[u8]) -> Option<Prefix> {
    let mut rest = token;
    let mut address = 0u32;
    for position in 0..4 {
        if position > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (octet, after) = small_number(rest)?;
        address = address << 8 | u32::from(u8::try_from(octet).ok()?);
        rest = after;
    }
    let length = match rest {
        [] => 32,
        [b'/', digits @ ..] => match small_number(digits)? {
            (length, []) => u8::try_from(length).ok()?,
            _ => return None,
        },
        _ => return None,
    };
    Prefix::of_network(IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), length).ok()?))
}

/// A number of at most three digits without a zero in front, and what follows it.
fn small_number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let digit = |place: usize| {
        bytes.get(place).filter(|byte| byte.is_ascii_digit()).map(|byte| u16::from(byte - b'0'))
    };
    let first = digit(0)?;
    let Some(second) = digit(1) else { return Some((first, &bytes[1..])) };
    if first == 0 {
        return None;
    }
    let Some(third) = digit(2) else { return Some((first * 10 + second, &bytes[2..])) };
    Some((first * 100 + second * 10 + third, &bytes[3..]))
}

/// Refuses a part of a line. Where the text ends in that line without ending it, it was likely cut there.
pub(super) fn refuse(reading: &mut Reading, line: &Line<'_>, part: &[u8], why: impl std::fmt::Display) {
    let shown = String::from_utf8_lossy(&part[..part.len().min(MOST_SHOWN)]);
    reading.refuse(line.number, line.column_of(part), &shown, why);
    if !line.is_ended {
        reading.about.cut = Some(cut_in(line.number));
    }
}

/// What is said of a text that ends in the middle.
pub(super) fn cut_in(line: u64) -> String {
    format!("it ends in the middle, in line {line}")
}

/// Splits at the first of the signs that begin a comment. The comment is without its sign and blanks around.
pub(super) fn split_comment(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let is_start = |place: usize| match bytes[place] {
        b'#' | b';' => true,
        b'/' => bytes.get(place + 1) == Some(&b'/'),
        _ => false,
    };
    match (0..bytes.len()).find(|place| is_start(*place)) {
        None => (bytes, None),
        Some(place) => {
            let is_sign = |byte: &u8| matches!(byte, b'#' | b';' | b'/');
            let after = bytes[place..]
                .iter()
                .position(|byte| !is_sign(byte))
                .map_or(&[][..], |at| &bytes[place + at..]);
            (&bytes[..place], Some(after.trim_ascii()))
        }
    }
}

/// The first word, and what follows it without blanks in front.
pub(super) fn split_word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len());
    (&bytes[..end], bytes[end..].trim_ascii_start())
}

/// A comment as text: lists of names are often in an older encoding, which is no reason to refuse what they name.
pub(super) fn comment(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> (&str, Option<&str>) {
        let (before, after) = split_comment(text.as_bytes());
        (str::from_utf8(before).unwrap(), after.map(|after| str::from_utf8(after).unwrap()))
    }

    #[test]
    fn comments_begin_with_any_of_three_signs() {
        assert_eq!(split("a # b # c"), ("a ", Some("b # c")));
        assert_eq!(split("a ; b"), ("a ", Some("b")));
        assert_eq!(split("a/8//b"), ("a/8", Some("b")));
        assert_eq!(split("/"), ("/", None));
        assert_eq!(split("##"), ("", Some("")));
        assert_eq!(split("a#"), ("a", Some("")));
    }

    fn nearly() -> impl Strategy<Value = String> {
        let octet = prop_oneof![(0u32..300).prop_map(|n| n.to_string()), Just("01".to_owned()), "[0-9]{0,4}"];
        let octets = prop::collection::vec(octet, 3..6).prop_map(|octets| octets.join("."));
        (octets, "(/[0-9]{0,3})?", "[ .x]?").prop_map(|(octets, length, rest)| octets + &length + &rest)
    }

    proptest! {
        #[test]
        fn the_fast_way_is_the_slow_way(text in prop_oneof![nearly(), "[0-9./]{0,20}"], mask: bool) {
            if let Some(prefix) = plain_v4(text.as_bytes()) {
                prop_assert_eq!(Prefix::parse(&text, mask), Ok(prefix));
            }
            prop_assert_eq!(parse(text.as_bytes(), mask).ok(), Prefix::parse(&text, mask).ok());
        }

        #[test]
        fn plain_addresses_go_the_fast_way(address: u32, length in 0u8..=32) {
            let net = Ipv4Net::new(Ipv4Addr::from(address), length).unwrap().trunc();
            prop_assert_eq!(plain_v4(net.to_string().as_bytes()), Prefix::of_network(net.into()));
            prop_assert!(plain_v4(Ipv4Addr::from(address).to_string().as_bytes()).is_some());
        }
    }
}
