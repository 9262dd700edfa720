//! What the tests of the formats share, what tells formats apart, and what holds for all of them: whatever the bytes, an
//! answer, and soon.

use proptest::prelude::*;

use super::*;
use crate::lists::reading::About;

/// A list, as people would write down what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub entries: Vec<String>,
    pub refused: Vec<String>,
    pub count: u64,
    pub ignored: u64,
    pub about: About,
}

pub(super) fn told_with(text: impl AsRef<[u8]>, options: &Options) -> (Format, Told) {
    let (format, reading) = read(&mut text.as_ref(), options).unwrap();
    let (count, ignored, about) = (reading.entries, reading.ignored, reading.about);
    let refused = reading.refused.iter().map(ToString::to_string).collect();
    let sorted = reading.items.finish();
    let entries = sorted.iter().map(|(prefix, said)| {
        let ttl = said.ttl_s.map_or(String::new(), |ttl_s| format!(" {ttl_s}s"));
        format!("{prefix}{ttl} {}", said.comment).trim_end().to_owned()
    });
    (format, Told { entries: entries.collect(), refused, count, ignored, about })
}

/// Reads a list that has to be told as one of this format.
pub(super) fn told(format: Format, text: impl AsRef<[u8]>) -> Told {
    let (found, told) = told_with(text, &Options::default());
    assert_eq!(found, format);
    told
}

pub(super) fn told_as(format: Format, text: impl AsRef<[u8]>) -> Told {
    told_with(text, &Options { format: Some(format), ..Options::default() }).1
}

pub(super) fn error(text: impl AsRef<[u8]>) -> String {
    read(&mut text.as_ref(), &Options::default()).unwrap_err().to_string()
}

/// One right text of each format.
pub(super) const FIXTURES: [(Format, &str); 14] = [
    (Format::Plain, include_str!("../fixtures/plain.txt")),
    (Format::Range, include_str!("../fixtures/range.txt")),
    (Format::P2p, include_str!("../fixtures/p2p.txt")),
    (Format::Dat, include_str!("../fixtures/dat.txt")),
    (Format::Spamhaus, include_str!("../fixtures/spamhaus.txt")),
    (Format::SpamhausJson, include_str!("../fixtures/spamhaus.json")),
    (Format::Firehol, include_str!("../fixtures/firehol.txt")),
    (Format::Ipset, include_str!("../fixtures/ipset.txt")),
    (Format::Nft, include_str!("../fixtures/nft.txt")),
    (Format::NftJson, include_str!("../fixtures/nft.json")),
    (Format::Crowdsec, include_str!("../fixtures/crowdsec.json")),
    (Format::Cymru, include_str!("../fixtures/cymru.txt")),
    (Format::Dshield, include_str!("../fixtures/dshield.txt")),
    (Format::Csv, include_str!("../fixtures/table.csv")),
];

#[test]
fn each_fixture_is_told_and_read_whole() {
    for (format, text) in FIXTURES {
        let list = told(format, text);
        assert!(!list.entries.is_empty(), "{format:?}");
        assert_eq!((list.refused, list.about.cut), (vec![], None), "{format:?}");
    }
}

#[test]
fn ends_of_lines_and_byte_order_marks_change_nothing() {
    for (format, text) in FIXTURES {
        let list = told(format, text);
        let trimmed = text.trim_end();
        for other in [
            text.replace('\n', "\r\n"),
            text.replace('\n', "\r"),
            format!("\u{feff}{text}"),
            format!("\n \n{text}\n\n"),
            trimmed.to_owned(),
            text.replace('\n', " \t\n"),
        ] {
            assert_eq!(told(format, &other), list, "{format:?} {other:?}");
        }
    }
}

#[test]
fn names_are_what_clap_and_serde_say() {
    for format in Format::all() {
        assert_eq!(format.to_possible_value().unwrap().get_name(), format.name());
        assert_eq!(serde_json::to_string(format).unwrap(), format!("\"{}\"", format.name()));
    }
}

#[test]
fn what_is_no_list_is_told_by_what_it_is() {
    for (text, what) in [
        (&b"<!DOCTYPE html>\n<html>"[..], "an HTML page"),
        (b"\n  <HTML><body>Rate limit", "an HTML page"),
        (b"<?xml version=\"1.0\"?>", "XML"),
        (b"\xef\xbb\xbf<html>", "an HTML page"),
        (b"\x1f\x8b\x08\0", "data compressed by gzip"),
        (b"PK\x03\x04..", "an archive"),
        (b"\xff\xfe1\x009\x002\x00", "text in UTF-16, to be converted to UTF-8"),
        (b"\xfe\xff\x001\x009", "text in UTF-16, to be converted to UTF-8"),
        (b"192.0.2.1\n\0\0\0", "binary data"),
        (b"Rate limit exceeded, try again later", "text of no known format"),
        (b"{\"error\": \"forbidden\"}", "JSON of no known kind"),
        (b"[1,2]", "a JSON array of no known kind"),
        (
            b"{\"syncToken\":\"1\",\"prefixes\":[{\"ip_prefix\":\"192.0.2.0/24\"}]}",
            "the JSON in which a cloud tells its ranges",
        ),
        (
            b"2|apnic|20261008|1|19850701|20261007|+1000\napnic|AU|ipv4|192.0.2.0|256|20110811|assigned",
            "the statistics of an address registry",
        ),
        (
            b"Name: x\nType: hash:ip\nMembers:\n192.0.2.1",
            "what `ipset list` prints, and `ipset save` is wanted,",
        ),
    ] {
        assert_eq!(error(text), format!("this is {what}, not a list of addresses"));
    }
    let forced = Options { format: Some(Format::Plain), ..Options::default() };
    assert!(matches!(read(&mut &b"<html>"[..], &forced), Err(Unreadable::NotAList(_))));
}

#[test]
fn nothing_is_an_empty_list() {
    for text in ["", "\n\n", "# nothing today\n", "\u{feff}"] {
        assert_eq!(told(Format::Plain, text), Told::default(), "{text:?}");
    }
}

#[test]
fn formats_are_told_by_most_of_their_lines() {
    for (format, text) in [
        (Format::Plain, "gone\n192.0.2.1\n192.0.2.2"),
        (Format::Plain, "192.0.2.1/24"),
        (Format::Plain, "001.002.003.004\n"),
        (Format::Plain, "2001:db8::1\n::ffff:192.0.2.1"),
        (Format::Range, "192.0.2.1 - 192.0.2.9"),
        (Format::Range, "16777216,16777471"),
        (Format::Range, "\"16777216\",\"16777471\",\"AU\",\"Australia\""),
        (Format::Range, "192.0.2.0\t192.0.2.255\t64496\tUS\tEXAMPLE"),
        (Format::Dshield, "Start\tEnd\tNetmask\tAttacks"),
        (Format::P2p, "Some: one:192.0.2.1-192.0.2.3"),
        (Format::Dat, "192.000.002.001 - 192.000.002.003 , 0 , x"),
        (Format::Ipset, "add x 192.0.2.1"),
        (Format::Ipset, "-N x iphash\n-A x 192.0.2.1"),
        (Format::Nft, "192.0.2.1, 192.0.2.2"),
        (Format::Nft, "192.0.2.1,\n192.0.2.2"),
        (Format::Nft, "{ 192.0.2.1 }"),
        (Format::Nft, "elements={192.0.2.1}"),
        (Format::Nft, "add element inet f x { 192.0.2.1 }"),
        (Format::Nft, "192.0.2.1-192.0.2.4,192.0.2.9"),
        (Format::Csv, "ip\n192.0.2.1"),
        (Format::Csv, "a;CIDR;b\n1;192.0.2.0/24;2"),
        (Format::Crowdsec, "{\"deleted\":null}"),
        (Format::Crowdsec, "[]"),
        (Format::SpamhausJson, "{\"type\":\"metadata\",\"records\":0}"),
    ] {
        assert_eq!(told_with(text, &Options::default()).0, format, "{text:?}");
    }
}

#[test]
fn a_format_is_told_from_a_text_that_is_longer_than_what_is_looked_at() {
    let text = "192.0.2.1\n".repeat(HEAD);
    assert_eq!(told(Format::Plain, &text).count, HEAD as u64);
    let long = format!("{{ {} }}", vec!["192.0.2.1"; HEAD].join(","));
    assert_eq!(told(Format::Nft, long).count, HEAD as u64);
}

#[test]
fn a_long_line_is_an_error_that_names_it() {
    let text = format!("192.0.2.1\n{}", "9".repeat(LONGEST_LINE + 1));
    assert_eq!(error(text), "line 2 is over 65536 bytes long");
    let quoted = format!("ip\n\"{}", "x\n".repeat(LONGEST_LINE));
    assert_eq!(error(quoted), "line 2 is over 65536 bytes long");
}

#[test]
fn what_can_not_be_read_is_told() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk"))
        }
    }
    let blanks = " ".repeat(HEAD);
    for (format, text) in FIXTURES {
        let options = Options { format: Some(format), ..Options::default() };
        let mut input =
            io::BufReader::new(text.as_bytes().chain(blanks.as_bytes()).chain(Broken).take(u64::MAX));
        let error = read(&mut input, &options).unwrap_err();
        assert!(matches!(&error, Unreadable::Io(_)), "{format:?}: {error}");
    }
}

/// Reads as every format, and by detection; the answer itself does not matter.
fn read_all(bytes: &[u8]) {
    for format in Format::all().iter().copied().map(Some).chain([None]) {
        for column in [None, Some("ip".to_owned())] {
            let options = Options { format, mask: false, column };
            if let Ok((_, reading)) = read(&mut &*bytes, &options) {
                // Memory is bound by the entries, and a range of IPv6 takes 254.
                assert!(reading.items.len() <= bytes.len() * 254);
                reading.items.finish();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
    }

    #[test]
    fn any_signs_have_an_answer(text in "[-0-9./:,;#{}\"\\\\\\[\\] \r\n\ta-d=%|]{0,300}") {
        read_all(text.as_bytes());
    }

    #[test]
    fn what_is_nearly_right_has_an_answer(
        which in 0..FIXTURES.len(), cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), twice: bool,
    ) {
        let mut bytes = FIXTURES[which].1.as_bytes().to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if twice {
            bytes = bytes.repeat(2);
        }
        read_all(&bytes);
    }

    #[test]
    fn a_cut_of_what_is_right_is_no_more_than_it_was(which in 0..FIXTURES.len(), cut in any::<prop::sample::Index>()) {
        let (format, text) = FIXTURES[which];
        let mut end = cut.index(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // A table without its header has no column.
        let options = Options { format: Some(format), ..Options::default() };
        if let Ok((_, part)) = read(&mut &text.as_bytes()[..end], &options) {
            let whole = read(&mut text.as_bytes(), &options).unwrap().1;
            prop_assert!(part.entries <= whole.entries);
            prop_assert!(part.refusals == 0 || part.about.cut.is_some(), "{:?} {:?}", part.refused, &text[..end]);
        }
    }
}
