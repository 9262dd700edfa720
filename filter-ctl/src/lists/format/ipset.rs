//! What `ipset save` prints and `ipset restore` reads: verbs, which are carried out in order. The list is what all sets of
//! addresses hold in the end. Pure.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use super::Unreadable;
use super::lines::{Line, Lines};
use super::span::{self, Written};
use super::text;
use crate::lists::holes::Holes;
use crate::lists::items::Said;
use crate::lists::reading::Reading;
use crate::policy::Prefix;

/// Reads a list.
pub(super) fn read(input: impl Read, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    let mut sets = Sets::default();
    while let Some(line) = lines.next()? {
        let row = line.bytes.trim_ascii();
        if !row.is_empty() && !row.starts_with(b"#") {
            carry_out(&mut sets, reading, &line, row);
        }
    }
    sets.names.into_values().for_each(|set| set.finish(reading));
    Ok(())
}

#[derive(Default)]
struct Sets {
    names: HashMap<Vec<u8>, Set>,
}

#[derive(Default)]
struct Set {
    /// Whether it is of another type than addresses, so that what is added is none of ours.
    is_foreign: bool,
    /// The life of what is added without one.
    ttl_s: Option<u32>,
    /// Of `hash:ip`, to which every address is cut.
    netmask: Option<u8>,
    /// Adds and deletes in their order.
    log: Vec<Change>,
    comments: String,
    has_deletes: bool,
}

#[derive(Clone, Copy)]
struct Change {
    prefix: Prefix,
    kind: Kind,
    ttl_s: Option<u32>,
    comment: (u32, u16),
    /// Whether it is the first of the prefixes of its entry.
    is_first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Add,
    Hole,
    Delete,
}

impl Set {
    fn push(&mut self, prefix: Prefix, kind: Kind, options: &Options<'_>, is_first: bool) {
        let shown = text::comment(options.comment);
        let comment = match (u32::try_from(self.comments.len()), u16::try_from(shown.len())) {
            (Ok(start), Ok(length)) if length > 0 => {
                self.comments.push_str(&shown);
                (start, length)
            }
            _ => (0, 0),
        };
        self.has_deletes |= kind == Kind::Delete;
        self.log.push(Change { prefix, kind, ttl_s: options.ttl_s.unwrap_or(self.ttl_s), comment, is_first });
    }

    /// What remains: each add that nothing behind it deletes. The longest entry decides about an address, so a hole is
    /// taken out of what is wider, not out of what lies in it.
    fn finish(mut self, reading: &mut Reading) {
        if self.has_deletes {
            let mut gone = HashSet::new();
            let mut log: Vec<Change> = self.log.into_iter().rev().collect();
            log.retain(|change| match change.kind {
                Kind::Delete => {
                    gone.insert(change.prefix);
                    false
                }
                Kind::Add | Kind::Hole => !gone.contains(&change.prefix),
            });
            log.reverse();
            self.log = log;
        }
        let is_hole = |change: &&Change| change.kind == Kind::Hole;
        let mut holes: Vec<Prefix> = self.log.iter().filter(is_hole).map(|change| change.prefix).collect();
        holes.sort_unstable();
        for Change { prefix, kind, ttl_s, comment: (start, length), is_first } in self.log {
            reading.entries += u64::from(is_first);
            if kind == Kind::Hole {
                continue;
            }
            let end = start as usize + usize::from(length);
            let said = Said { ttl_s, comment: &self.comments[start as usize..end] };
            let first = holes.partition_point(|hole| *hole < prefix);
            let within: Vec<Prefix> =
                holes[first..].iter().take_while(|hole| prefix.covers(hole)).copied().collect();
            if within.is_empty() {
                reading.items.push(prefix, said);
            } else {
                let parts = within.into_iter().collect::<Holes>().parts_of(prefix);
                parts.into_iter().for_each(|part| reading.items.push(part, said));
            }
        }
    }
}

/// What stands behind the entry of an `add`.
#[derive(Default)]
struct Options<'l> {
    /// `Some(None)` is for ever.
    ttl_s: Option<Option<u32>>,
    comment: &'l [u8],
    is_hole: bool,
}

fn carry_out(sets: &mut Sets, reading: &mut Reading, line: &Line<'_>, row: &[u8]) {
    let mut words = Words(row);
    let mut next =
        || words.by_ref().find(|word| !matches!(*word, b"-exist" | b"-!" | b"ipset" | b"-q" | b"-quiet"));
    let Some(verb) = next() else { return };
    let names = [next(), next()];
    let name = |reading: &mut Reading| {
        names[0].map(<[u8]>::to_vec).or_else(|| {
            text::refuse(reading, line, verb, "names no set");
            None
        })
    };
    match verb {
        b"create" | b"-N" | b"n" => {
            let Some(name) = name(reading) else { return };
            let set = create(reading, line, names[1].unwrap_or(verb), words);
            sets.names.entry(name).or_insert(set);
        }
        b"add" | b"-A" | b"del" | b"-D" => {
            let Some(name) = name(reading) else { return };
            let Some(entry) = names[1] else { return text::refuse(reading, line, verb, "names no entry") };
            let is_delete = matches!(verb, b"del" | b"-D");
            change(sets.names.entry(name).or_default(), reading, line, entry, words, is_delete);
        }
        b"flush" | b"-F" => match names[0] {
            Some(name) => {
                if let Some(set) = sets.names.get_mut(name) {
                    (set.log, set.has_deletes) = (Vec::new(), false);
                }
            }
            None => sets.names.values_mut().for_each(|set| (set.log, set.has_deletes) = (Vec::new(), false)),
        },
        b"destroy" | b"-X" | b"x" => match names[0] {
            Some(name) => drop(sets.names.remove(name)),
            None => sets.names.clear(),
        },
        b"swap" | b"-W" | b"w" | b"rename" | b"-E" => {
            let [Some(from), Some(to)] = names else {
                return text::refuse(reading, line, verb, "names no two sets");
            };
            let (one, other) = (sets.names.remove(from).unwrap_or_default(), sets.names.remove(to));
            sets.names.insert(to.to_vec(), one);
            // The file need not make the other: that may be the set in use.
            sets.names.insert(from.to_vec(), other.unwrap_or_default());
        }
        b"COMMIT" | b"quit" => {}
        _ => text::refuse(reading, line, verb, "no verb of ipset: create, add, del, flush, swap, destroy"),
    }
}

fn create(reading: &mut Reading, line: &Line<'_>, kind: &[u8], mut words: Words<'_>) -> Set {
    let mut set = Set::default();
    if !matches!(kind, b"hash:ip" | b"hash:net" | b"iphash" | b"nethash") {
        text::refuse(reading, line, kind, "a set of this type holds more or something else than addresses");
        set.is_foreign = true;
    }
    while let Some(option) = words.next() {
        let mut number = || str::from_utf8(words.next().unwrap_or_default()).ok()?.parse::<u32>().ok();
        match option {
            b"timeout" => set.ttl_s = number().filter(|seconds| *seconds > 0),
            b"netmask" => set.netmask = number().and_then(|length| u8::try_from(length).ok()),
            b"bitmask" => {
                text::refuse(reading, line, option, "a set with a bitmask does not hold prefixes");
                set.is_foreign = true;
            }
            _ => {}
        }
    }
    set
}

fn change(
    set: &mut Set,
    reading: &mut Reading,
    line: &Line<'_>,
    entry: &[u8],
    mut words: Words<'_>,
    is_delete: bool,
) {
    if set.is_foreign {
        reading.ignored += 1;
        return;
    }
    let mut options = Options::default();
    while let Some(option) = words.next() {
        match option {
            b"nomatch" => options.is_hole = true,
            b"timeout" => {
                let seconds = words.next().unwrap_or(option);
                match str::from_utf8(seconds).ok().and_then(|seconds| seconds.parse::<u32>().ok()) {
                    Some(seconds) => options.ttl_s = Some((seconds > 0).then_some(seconds)),
                    None => return text::refuse(reading, line, seconds, "no timeout in seconds"),
                }
            }
            b"comment" => options.comment = words.next().unwrap_or_default(),
            b"packets" | b"bytes" | b"skbmark" | b"skbprio" | b"skbqueue" => drop(words.next()),
            b"-exist" | b"-!" => {}
            _ => return text::refuse(reading, line, option, "no option of an entry of addresses"),
        }
    }
    let kind = match (is_delete, options.is_hole) {
        (true, _) => Kind::Delete,
        (false, true) => Kind::Hole,
        (false, false) => Kind::Add,
    };
    if entry.contains(&b',') {
        return text::refuse(reading, line, entry, "more than an address, as in `hash:ip,port`");
    }
    if let Some(dash) = entry.iter().position(|byte| *byte == b'-') {
        let ends = [&entry[..dash], &entry[dash + 1..]].map(|end| span::address(end, Written::Usual));
        let prefixes = match ends {
            [Ok(first), Ok(last)] => span::prefixes(first, last),
            [Err(why), _] | [_, Err(why)] => Err(why),
        };
        return match prefixes {
            Ok(prefixes) => prefixes.enumerate().for_each(|(place, prefix)| {
                set.push(cut(prefix, set.netmask), kind, &options, place == 0);
            }),
            Err(why) => text::refuse(reading, line, entry, why),
        };
    }
    // ipset itself clears host bits, and so does what it saves.
    match text::parse(entry, true) {
        Ok(prefix) => set.push(cut(prefix, set.netmask), kind, &options, true),
        Err(why) => text::refuse(reading, line, entry, why),
    }
}

fn cut(prefix: Prefix, netmask: Option<u8>) -> Prefix {
    let shorter = netmask.filter(|length| *length < prefix.prefix_len());
    let parse = |length: u8| Prefix::parse(&format!("{}/{length}", prefix.address()), true).ok();
    shorter.and_then(parse).unwrap_or(prefix)
}

/// Words, of which one in quotes may hold blanks; without the quotes.
struct Words<'l>(&'l [u8]);

impl<'l> Iterator for Words<'l> {
    type Item = &'l [u8];

    fn next(&mut self) -> Option<&'l [u8]> {
        let rest = self.0.trim_ascii_start();
        let quote = rest.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
        if rest.is_empty() {
            return None;
        }
        let (word, after) = match quote {
            Some(quote) => {
                let end = rest[1..].iter().position(|byte| *byte == quote).map_or(rest.len(), |end| end + 1);
                (&rest[1..end], rest.get(end + 1..).unwrap_or_default())
            }
            None => text::split_word(rest),
        };
        self.0 = after;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn a_save_is_the_union_of_its_sets() {
        let told = told(Format::Ipset, FIXTURES[7].1);
        assert_eq!(told.entries, ["192.0.2.0/25", "198.51.100.0/24 59s a b", "2001:db8::7/128"]);
        assert_eq!(told.count, 4);
    }

    #[test]
    fn verbs_are_carried_out_in_order() {
        let text = "create a hash:net timeout 300\ncreate b hash:ip\nadd a 192.0.2.0/24\nadd a 192.0.2.77/25 timeout 9\nadd b 198.51.100.1\nadd b 198.51.100.2\ndel b 198.51.100.1\nadd b 198.51.100.9\ndel b 198.51.100.9\nadd b 198.51.100.9 -exist\nflush c\ncreate c hash:ip\nadd c 203.0.113.1\nflush c\nadd -exist c 203.0.113.2\nswap a c\ndestroy c\nipset add d 203.0.113.8-203.0.113.9\nrename d e\n";
        let told = told(Format::Ipset, text);
        assert_eq!(told.refused, [""; 0]);
        assert_eq!(told.entries, ["198.51.100.2/32", "198.51.100.9/32", "203.0.113.2/32", "203.0.113.8/31"]);
    }

    #[test]
    fn a_hole_is_taken_out_of_what_is_wider_in_its_own_set() {
        let text = "create a hash:net\ncreate b hash:net\nadd a 10.0.0.0/8\nadd a 10.0.0.0/9 nomatch\nadd a 10.1.0.0/16\nadd a 10.1.2.0/24 nomatch\nadd b 10.9.0.0/16\n";
        let told = told(Format::Ipset, text);
        assert!(
            told.entries.contains(&"10.128.0.0/9".to_owned())
                && told.entries.contains(&"10.9.0.0/16".to_owned())
        );
        assert!(told.entries.contains(&"10.1.128.0/17".to_owned()), "{:?}", told.entries);
        assert_eq!(told.entries.len(), 2 + 8);
        assert_eq!(told.count, 5);
    }

    #[test]
    fn lives_netmasks_and_comments() {
        let text = "create a hash:ip netmask 24 timeout 60\nadd a 192.0.2.0 comment \"x timeout 5 \\n\" timeout 7\nadd a 198.51.100.0\nadd a 203.0.113.0 timeout 0 comment ''\n";
        let told = told(Format::Ipset, text);
        assert_eq!(
            told.entries,
            ["192.0.2.0/24 7s x timeout 5 \\n", "198.51.100.0/24 60s", "203.0.113.0/24"]
        );
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "create p hash:ip,port family inet\nadd p 192.0.2.1,tcp:80\ncreate i hash:ip bitmask 255.0.255.0\nadd x 192.0.2.1,80\nadd x 192.0.2.01\n  nonsense x\nadd x\nadd x 192.0.2.9-192.0.2.1\nadd x 192.0.2.1 timeout soon\nadd x 192.0.2.1 forever\nswap x\nadd x 192.0.2.1\ncreate\nadd x 192.0.";
        let told = told(Format::Ipset, text);
        assert_eq!(
            told.refused,
            [
                "1:10: `hash:ip,port`, a set of this type holds more or something else than addresses",
                "3:18: `bitmask`, a set with a bitmask does not hold prefixes",
                "4:7: `192.0.2.1,80`, more than an address, as in `hash:ip,port`",
                "5:7: `192.0.2.01`, leading zeros are octal to some programs, decimal to others",
                "6:3: `nonsense`, no verb of ipset: create, add, del, flush, swap, destroy",
                "7:1: `add`, names no entry",
                "8:7: `192.0.2.9-192.0.2.1`, the range is reversed: its end is before its start",
                "9:25: `soon`, no timeout in seconds",
                "10:17: `forever`, no option of an entry of addresses",
                "11:1: `swap`, names no two sets",
                "13:1: `create`, names no set",
                "14:7: `192.0.`, neither IP address nor prefix",
            ]
        );
        assert_eq!((told.entries.len(), told.ignored), (1, 1));
        assert!(told.about.cut.is_some());
    }
}
