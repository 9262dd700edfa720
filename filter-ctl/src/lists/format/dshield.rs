//! DShield's `block.txt`: start, end, length or mask, number of attacks, name, country and mail address, with tabs between.
//! Pure.

use std::io::Read;
use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::Unreadable;
use super::lines::{Line, Lines};
use super::span::{self, Written};
use super::text;
use crate::lists::items::Said;
use crate::lists::reading::Reading;
use crate::policy::Prefix;

/// Reads a list.
pub(super) fn read(input: impl Read, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    while let Some(line) = lines.next()? {
        let row = line.bytes.trim_ascii();
        let is_header = row.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"start"));
        if !row.is_empty() && !row.starts_with(b"#") && !is_header {
            take(reading, &line, row);
        }
    }
    Ok(())
}

fn take(reading: &mut Reading, line: &Line<'_>, row: &[u8]) {
    let is_gap: fn(&u8) -> bool =
        if row.contains(&b'\t') { |byte| *byte == b'\t' } else { u8::is_ascii_whitespace };
    let mut columns = row.split(is_gap).map(<[u8]>::trim_ascii).filter(|column| !column.is_empty());
    let [Some(start), Some(end), Some(size)] = [columns.next(), columns.next(), columns.next()] else {
        return text::refuse(reading, line, row, "no `start end netmask`");
    };
    let mut ends = [start; 2];
    ends[1] = end;
    let mut addresses = Vec::with_capacity(2);
    for column in ends {
        match span::address(column, Written::Usual) {
            Ok(address) => addresses.push(address),
            Err(why) => return text::refuse(reading, line, column, why),
        }
    }
    let Some(length) = length(size) else {
        return text::refuse(reading, line, size, "neither prefix length nor netmask");
    };
    // All three have to agree: of a table that says two things, neither is to be believed.
    let net = IpNet::new(addresses[0], length).ok().filter(|net| net.addr() == net.network());
    match net.filter(|net| net.broadcast() == addresses[1]).and_then(Prefix::of_network) {
        None => text::refuse(reading, line, size, "does not agree with start and end"),
        // After the number of attacks.
        Some(prefix) => {
            let name = text::comment(columns.nth(1).unwrap_or_default());
            reading.entry(prefix, Said { ttl_s: None, comment: &name });
        }
    }
}

/// A prefix length from `24` or `255.255.255.0`, depending on the year of the list.
pub(super) fn length(column: &[u8]) -> Option<u8> {
    let text = str::from_utf8(column).ok()?;
    match text.parse::<Ipv4Addr>() {
        Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).ok(),
        Err(_) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn sizes_are_lengths_or_masks() {
        let told = told(Format::Dshield, FIXTURES[12].1);
        assert_eq!(told.entries, ["192.0.2.0/24 Some Net", "198.51.100.0/24 Other"]);
        assert_eq!(told.count, 2);
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "192.0.2.0\t192.0.2.255\t24\t1\tx\n192.0.2.0\t192.0.2.255\t25\t1\tx\n192.0.2.0\t192.0.2.255\t255.0.255.0\t1\n192.0.2.0\t192.0.2.2x\t24\t1\n192.0.2.1\t192.0.2.255\t24\t1\n192.0.2.0\t192.0.2.255\n192.0.2.0 192.0.2.127 25 1 y\n192.0.2.0\t192.0.2.255\t255.255.255.128";
        let told = told_as(Format::Dshield, text);
        assert_eq!(
            told.refused,
            [
                "2:23: `25`, does not agree with start and end",
                "3:23: `255.0.255.0`, neither prefix length nor netmask",
                "4:11: `192.0.2.2x`, no IP address",
                "5:23: `24`, does not agree with start and end",
                "6:1: `192.0.2.0\\t192.0.2.255`, no `start end netmask`",
                "8:23: `255.255.255.128`, does not agree with start and end",
            ]
        );
        assert_eq!(told.entries, ["192.0.2.0/24 x", "192.0.2.0/25 y"]);
        assert!(told.about.cut.is_some());
    }
}
