//! Which format a text is, by what its first lines hold and not by its name. Pure.

use super::csv::COLUMNS;
use super::dshield;
use super::range::Parts;
use super::span::{self, Written};
use super::text;
use super::{Format, Unreadable};

/// Lines that vote.
const VOTERS: usize = 64;

/// Refuses what is no text, or text of a kind that no list is: a page that says what went wrong is the most frequent.
pub(super) fn check(head: &[u8]) -> Result<(), Unreadable> {
    let is = |magic: &[u8]| head.starts_with(magic);
    let what = match head {
        _ if is(b"\x1f\x8b") => "data compressed by gzip",
        _ if is(b"\x28\xb5\x2f\xfd") || is(b"\xfd7zXZ") || is(b"BZh") => "compressed data",
        _ if is(b"PK\x03\x04") || is(b"Rar!") || is(b"7z\xbc\xaf") => "an archive",
        _ if is(b"\xff\xfe") || is(b"\xfe\xff") => "text in UTF-16, to be converted to UTF-8",
        _ if head.contains(&0) => "binary data",
        _ => {
            let start: String =
                head.trim_ascii_start().iter().take(64).map(|byte| char::from(*byte)).collect();
            match start.to_ascii_lowercase() {
                start if start.starts_with("<!doctype html") || start.starts_with("<html") => "an HTML page",
                start if start.starts_with("<?xml") => "XML",
                start if start.starts_with('<') => "an HTML page or XML",
                _ => return Ok(()),
            }
        }
    };
    Err(Unreadable::NotAList(what.to_owned()))
}

/// The format of a text that begins so. `is_all` says that this is the whole text.
pub(super) fn detect(head: &[u8], is_all: bool, has_column: bool) -> Result<Format, Unreadable> {
    let start = head.trim_ascii_start();
    match start {
        [b'[', ..] => return json(start),
        [b'{', rest @ ..] => match rest.trim_ascii_start() {
            [b'"' | b'}', ..] | [] => return json(start),
            _ => return Ok(Format::Nft),
        },
        _ if has_column => return Ok(Format::Csv),
        _ => {}
    }
    let mut rows: Vec<&[u8]> =
        head.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii).collect();
    if !is_all && rows.len() > 1 {
        // The last may be half of one.
        rows.pop();
    }
    let (comments, rows): (Vec<&[u8]>, Vec<&[u8]>) =
        rows.into_iter().filter(|row| !row.is_empty()).partition(|row| is_comment(row));
    if let Some(first) = rows.first() {
        if names_addresses(first) {
            return Ok(Format::Csv);
        }
        if let Some(what) = known_but_not_read(first) {
            return Err(Unreadable::NotAList(what.to_owned()));
        }
    }
    let votes: Vec<Format> = rows.iter().take(VOTERS).filter_map(|row| vote(row)).collect();
    let count = |format: Format| votes.iter().filter(|vote| **vote == format).count();
    // Of two with as many votes the one that was there first.
    let winner = votes.iter().rev().copied().max_by_key(|format| count(*format));
    match winner {
        Some(Format::Plain) => Ok(dialect(&comments, &rows)),
        Some(format) => Ok(format),
        None if rows.is_empty() => Ok(dialect(&comments, &rows)),
        None => Err(Unreadable::NotAList("text of no known format".to_owned())),
    }
}

fn is_comment(row: &[u8]) -> bool {
    row.starts_with(b"#") || row.starts_with(b";") || row.starts_with(b"//")
}

/// Which of the plain lists it is, whose comments say more.
fn dialect(comments: &[&[u8]], rows: &[&[u8]]) -> Format {
    let says = |word: &[u8]| comments.iter().any(|comment| contains(comment, word));
    let is_record = |row: &&[u8]| contains(row, b"; SBL");
    if says(b"Spamhaus") && comments.iter().any(|comment| comment.starts_with(b";"))
        || rows.iter().any(is_record)
    {
        Format::Spamhaus
    } else if says(b"hash:net ipset") || says(b"hash:ip ipset") {
        Format::Firehol
    } else if says(b"# last updated ") {
        Format::Cymru
    } else {
        Format::Plain
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn json(start: &[u8]) -> Result<Format, Unreadable> {
    let has = |key: &str| contains(start, format!("\"{key}\"").as_bytes());
    let first_key = start.split(|byte| *byte == b'"').nth(1).unwrap_or_default();
    let is_array = start.first() == Some(&b'[');
    let rest = start[1..].trim_ascii_start();
    let is_empty = matches!(rest, [b']' | b'}', ..]);
    Ok(match first_key {
        b"nftables" => Format::NftJson,
        b"new" | b"deleted" => Format::Crowdsec,
        b"cidr" | b"sblid" | b"asn" => Format::SpamhausJson,
        _ if is_array && (is_empty || has("scope") || has("scenario")) => Format::Crowdsec,
        _ if is_array => return Err(Unreadable::NotAList("a JSON array of no known kind".to_owned())),
        _ if has("nftables") => Format::NftJson,
        _ if has("cidr") || has("asn") || has("metadata") => Format::SpamhausJson,
        _ if has("new") && has("deleted") || is_empty => Format::Crowdsec,
        _ if has("ip_prefix") => {
            return Err(Unreadable::NotAList("the JSON in which a cloud tells its ranges".to_owned()));
        }
        _ => return Err(Unreadable::NotAList("JSON of no known kind".to_owned())),
    })
}

/// Whether it is the header of a table with a column of addresses.
fn names_addresses(row: &[u8]) -> bool {
    let columns = row.split(|byte| matches!(byte, b',' | b';' | b'\t')).map(<[u8]>::trim_ascii);
    let mut names =
        columns.map(|name| name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")).unwrap_or(name));
    names.any(|name| COLUMNS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())))
}

fn known_but_not_read(row: &[u8]) -> Option<&'static str> {
    if row.iter().filter(|byte| **byte == b'|').count() >= 5 {
        Some("the statistics of an address registry")
    } else if row.starts_with(b"Name: ") {
        Some("what `ipset list` prints, and `ipset save` is wanted,")
    } else {
        None
    }
}

fn is_prefix(token: &[u8]) -> bool {
    text::parse(token, true).is_ok()
}

fn is_address(token: &[u8]) -> bool {
    span::address(token, Written::Padded).is_ok()
}

/// What a line looks like.
fn vote(row: &[u8]) -> Option<Format> {
    let (first, rest) = text::split_word(row);
    let (second, _) = text::split_word(rest);
    match (first, second) {
        (
            b"add" | b"create" | b"flush" | b"delete" | b"destroy",
            b"element" | b"table" | b"set" | b"map" | b"ruleset",
        ) => {
            return Some(Format::Nft);
        }
        (b"table" | b"set" | b"define" | b"elements", _) => return Some(Format::Nft),
        _ if first.starts_with(b"elements=") => return Some(Format::Nft),
        (
            b"create" | b"add" | b"del" | b"flush" | b"swap" | b"destroy" | b"-N" | b"-A" | b"ipset",
            [_, ..],
        ) => {
            return Some(Format::Ipset);
        }
        _ if first.eq_ignore_ascii_case(b"start") && second.eq_ignore_ascii_case(b"end") => {
            return Some(Format::Dshield);
        }
        _ => {}
    }
    let (entry, _) = text::split_comment(row);
    let entry = entry.trim_ascii_end();
    if let Some(format) = parts(row, entry) {
        return Some(format);
    }
    if let Some(colon) = row.iter().rposition(|byte| *byte == b':')
        && let Some(Parts { first, last, separator: b'-', rest: [] }) =
            Parts::of(row[colon + 1..].trim_ascii())
        && is_address(first)
        && is_address(last)
    {
        return Some(Format::P2p);
    }
    let (word, rest) = text::split_word(entry);
    let is_like_one = |word: &[u8]| {
        word.len() > 2
            && word.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'/'))
            && word.iter().any(|byte| matches!(byte, b'.' | b':'))
    };
    if entry.contains(&b',') {
        let mut items = entry.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let head = items.clone().take(4);
        let is_element = |item: &[u8]| item.is_empty() || is_prefix(text::split_word(item).0);
        return match head.clone().all(is_element) && head.count() > 0 {
            true => Some(Format::Nft),
            false => items.any(is_prefix).then_some(Format::Csv),
        };
    }
    let is_plain = is_prefix(word) || rest.is_empty() && is_like_one(word);
    is_plain.then_some(Format::Plain)
}

/// What a line that begins with two tokens and a separator looks like.
fn parts(row: &[u8], entry: &[u8]) -> Option<Format> {
    let Parts { first, last, separator, rest } = Parts::of(entry)?;
    let unquoted =
        |token: &'_ [u8]| -> Vec<u8> { token.iter().copied().filter(|byte| *byte != b'"').collect() };
    match separator {
        b',' => {
            let is_number =
                |token: &[u8]| token.len() < 40 && !token.is_empty() && token.iter().all(u8::is_ascii_digit);
            (is_number(&unquoted(first)) && is_number(&unquoted(last))).then_some(Format::Range)
        }
        _ if !is_address(first) || !is_address(last) => None,
        b'-' if rest.trim_ascii_start().starts_with(b",") => {
            let level = rest.trim_ascii_start()[1..].trim_ascii_start();
            // A list of ranges with commas between is nft's.
            let is_level = level.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let is_ended = level.get(is_level).is_none_or(|byte| matches!(byte, b',' | b' ' | b'\t'));
            Some(if is_level > 0 && is_ended { Format::Dat } else { Format::Nft })
        }
        b'-' => Some(Format::Range),
        _ => {
            let mut columns =
                row.split(|byte| *byte == b'\t').map(<[u8]>::trim_ascii).filter(|column| !column.is_empty());
            let size = columns.nth(2).unwrap_or_default();
            let agrees = dshield::length(size).is_some_and(|length| {
                let net = span::address(first, Written::Usual)
                    .ok()
                    .and_then(|it| ipnet::IpNet::new(it, length).ok());
                net.is_some_and(|net| Some(net.broadcast()) == span::address(last, Written::Usual).ok())
            });
            Some(if agrees { Format::Dshield } else { Format::Range })
        }
    }
}
