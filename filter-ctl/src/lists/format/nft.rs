//! nft's text: what `nft list ruleset` and `nft list set` print, scripts with `add element` and `define`, and bare lists with
//! commas between. The list is what all sets of addresses hold. Pure.

use std::io::{BufReader, Read};

use super::json::Place;
use super::nft_tokens::{Kind, Tokens};
use super::span::{self, Written};
use super::{BUFFER, Unreadable, duration, text};
use crate::lists::items::Said;
use crate::lists::reading::Reading;
use crate::policy::Prefix;

/// Words of a statement, or of an element, that are looked at: an element with all its parts has a dozen.
const MOST_WORDS: usize = 32;

/// Deepest nesting of braces: rulesets have three.
const DEEPEST: usize = 64;

/// Reads a list.
pub(super) fn read(input: impl Read, mask: bool, reading: &mut Reading) -> Result<(), Unreadable> {
    let tokens = Tokens::of(BufReader::with_capacity(BUFFER, input));
    Parser { tokens, reading, mask, stack: Vec::new(), words: Words::default() }.run()
}

/// What a brace opened.
#[derive(Clone, Copy, Debug)]
enum Level {
    Table,
    Set(Set),
    /// A chain, a map, or another thing without addresses of ours.
    Other,
}

/// What is known of a set.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    is_foreign: bool,
    /// The life of an element that says none itself.
    ttl_s: Option<u32>,
}

/// Words, in one piece of memory that is used again and again.
#[derive(Default)]
struct Words {
    bytes: Vec<u8>,
    ends: Vec<(usize, Place, Kind)>,
    is_too_many: bool,
}

impl Words {
    fn push(&mut self, kind: Kind, place: Place, bytes: &[u8]) {
        self.is_too_many |= self.ends.len() == MOST_WORDS;
        if !self.is_too_many {
            self.bytes.extend_from_slice(bytes);
            self.ends.push((self.bytes.len(), place, kind));
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.is_too_many = false;
    }

    fn word(&self, number: usize) -> Option<&[u8]> {
        let (end, ..) = self.ends.get(number)?;
        let start =
            number.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(end, ..)| *end);
        self.bytes.get(start..*end)
    }

    fn place(&self, number: usize) -> Place {
        self.ends.get(number).or(self.ends.last()).map(|(_, place, _)| *place).unwrap_or_default()
    }

    fn kind(&self, number: usize) -> Option<Kind> {
        self.ends.get(number).map(|(.., kind)| *kind)
    }

    fn is(&self, number: usize, word: &str) -> bool {
        self.kind(number) == Some(Kind::Word) && self.word(number) == Some(word.as_bytes())
    }

    fn refuse(&self, reading: &mut Reading, number: usize, why: impl std::fmt::Display) {
        let Place { line, column } = self.place(number);
        reading.refuse(line, column, &text::comment(self.word(number).unwrap_or_default()), why);
    }
}

struct Parser<'r, R> {
    tokens: Tokens<R>,
    reading: &'r mut Reading,
    mask: bool,
    stack: Vec<Level>,
    words: Words,
}

impl<R: Read> Parser<'_, R> {
    fn run(mut self) -> Result<(), Unreadable> {
        loop {
            let (kind, place) = self.tokens.next()?;
            let is_outside = self.stack.is_empty();
            match kind {
                Kind::End => break,
                // `elements =` and its brace may be in two lines.
                Kind::NewLine if self.words.ends.len() == 2 && self.words.is(1, "=") => {}
                Kind::NewLine | Kind::Semicolon => self.statement(),
                Kind::Open => self.open(place)?,
                Kind::Close => {
                    self.statement();
                    if self.stack.pop().is_none() {
                        self.reading.refuse(place.line, place.column, "}", "a brace that closes nothing");
                    }
                }
                // Without braces: a list that was cut out of one.
                Kind::Comma if is_outside => {
                    let words = std::mem::take(&mut self.words);
                    self.element(&words, Set::default());
                    return self.bare();
                }
                Kind::Comma => {}
                Kind::Word | Kind::Quoted => self.words.push(kind, place, &self.tokens.bytes),
            }
        }
        let refusals = self.reading.refusals;
        self.statement();
        if !self.stack.is_empty() || self.reading.refusals > refusals {
            self.cut();
        }
        Ok(())
    }

    /// The end of a statement, which matters only in a set.
    fn statement(&mut self) {
        if let Some(Level::Set(set)) = self.stack.last_mut() {
            let words = &self.words;
            if words.is(0, "timeout") {
                let life =
                    words.word(1).and_then(|life| str::from_utf8(life).ok()).and_then(duration::seconds);
                set.ttl_s = life.flatten();
            } else if let Some(number) = foreign(words) {
                words.refuse(
                    self.reading,
                    number,
                    "a set of this type holds more or something else than addresses",
                );
                set.is_foreign = true;
            }
        } else if self.stack.is_empty() && !self.words.ends.is_empty() {
            let is_command =
                ["add", "create", "flush", "delete", "destroy", "include", "define", "undefine", "table"]
                    .iter()
                    .any(|command| self.words.is(0, command));
            if !is_command {
                let words = std::mem::take(&mut self.words);
                self.element(&words, Set::default());
            }
        }
        self.words.clear();
    }

    fn open(&mut self, place: Place) -> Result<(), Unreadable> {
        if self.stack.len() >= DEEPEST {
            let Place { line, column } = place;
            self.reading.refuse(line, column, "{", "braces are nested too deeply");
            return Err(Unreadable::NotAList("a text of nothing but braces".to_owned()));
        }
        let words = &self.words;
        let verb = usize::from(words.is(0, "add") || words.is(0, "create"));
        let level = match self.stack.last() {
            Some(Level::Other) => Some(Level::Other),
            Some(Level::Set(set)) => {
                let set = *set;
                let is_elements = words.is(0, "elements");
                self.words.clear();
                return if is_elements { self.elements(set) } else { self.push(Level::Other) };
            }
            _ if words.is(verb, "table") => Some(Level::Table),
            _ if words.is(verb, "set") => Some(Level::Set(Set::default())),
            _ if words.is(verb, "map") => {
                words.refuse(self.reading, verb, "a map, not a set of addresses");
                Some(Level::Other)
            }
            None if words.ends.is_empty() || words.is(0, "elements") || words.is(0, "define") => None,
            _ if verb == 1 && words.is(1, "element") => None,
            _ if words.is(1, "element") => {
                words.refuse(self.reading, 0, "takes elements away, which is not followed");
                Some(Level::Other)
            }
            _ => Some(Level::Other),
        };
        self.words.clear();
        match level {
            Some(level) => self.push(level),
            None => self.elements(Set::default()),
        }
    }

    fn push(&mut self, level: Level) -> Result<(), Unreadable> {
        self.stack.push(level);
        Ok(())
    }

    /// Elements up to the brace that closes them.
    fn elements(&mut self, set: Set) -> Result<(), Unreadable> {
        let mut depth = 0u32;
        let mut words = std::mem::take(&mut self.words);
        loop {
            let (kind, place) = self.tokens.next()?;
            match kind {
                Kind::End => {
                    // The last element may be half of one.
                    self.cut();
                    return Ok(());
                }
                Kind::NewLine => {}
                Kind::Open => {
                    depth = depth.saturating_add(1);
                    words.push(Kind::Open, place, b"{");
                }
                Kind::Close if depth > 0 => depth -= 1,
                Kind::Close | Kind::Comma | Kind::Semicolon if depth == 0 => {
                    self.element(&words, set);
                    words.clear();
                    if kind == Kind::Close {
                        self.words = words;
                        return Ok(());
                    }
                }
                Kind::Close | Kind::Comma | Kind::Semicolon => {}
                Kind::Word | Kind::Quoted => words.push(kind, place, &self.tokens.bytes),
            }
        }
    }

    /// Elements without braces, up to the end: each ends with a comma or its line.
    fn bare(&mut self) -> Result<(), Unreadable> {
        let mut words = Words::default();
        loop {
            let (kind, place) = self.tokens.next()?;
            match kind {
                Kind::Word | Kind::Quoted => words.push(kind, place, &self.tokens.bytes),
                Kind::Open | Kind::Close => {
                    self.reading.refuse(place.line, place.column, "{}", "a brace in a list without braces");
                }
                Kind::End | Kind::NewLine | Kind::Comma | Kind::Semicolon => {
                    let refusals = self.reading.refusals;
                    self.element(&words, Set::default());
                    words.clear();
                    if kind == Kind::End {
                        if self.reading.refusals > refusals {
                            self.cut();
                        }
                        return Ok(());
                    }
                }
            }
        }
    }

    fn cut(&mut self) {
        self.reading.about.cut = Some(text::cut_in(self.tokens.place().line));
    }

    fn element(&mut self, words: &Words, set: Set) {
        if words.ends.is_empty() {
            return;
        }
        if set.is_foreign {
            self.reading.ignored += 1;
        } else if let Err((number, why)) = self.take(words, set) {
            words.refuse(self.reading, number, why);
        }
    }

    /// Takes an element, or says which of its words is wrong, and why.
    fn take(&mut self, words: &Words, set: Set) -> Result<(), (usize, String)> {
        let refused = |number: usize, why: &str| Err((number, why.to_owned()));
        let has = |sign: &str| (0..words.ends.len()).find(|number| words.is(*number, sign));
        if words.kind(0) != Some(Kind::Word) {
            return refused(0, "a name, not an address");
        }
        if words.is_too_many {
            return refused(0, "too many words for an element");
        }
        if has(".").is_some() {
            return refused(0, "a concatenation, which is more than an address");
        }
        if has(":").is_some() {
            return refused(0, "an element of a map");
        }
        let first = words.word(0).unwrap_or_default();
        let dash = first.iter().position(|byte| *byte == b'-');
        let (ends, rest) = match dash {
            Some(dash) => (Some((&first[..dash], &first[dash + 1..])), 1),
            None if words.is(1, "-") => (Some((first, words.word(2).unwrap_or_default())), 3),
            None => (None, 1),
        };
        let mut said = Said { ttl_s: set.ttl_s, comment: "" };
        let comment = attributes(words, rest, &mut said)?;
        let Some(comment) = comment else {
            self.reading.ignored += 1;
            return Ok(());
        };
        let shown = text::comment(comment);
        said.comment = &shown;
        let Some((start, end)) = ends else {
            let prefix = text::parse(first, self.mask).map_err(|why| (0, why.into_owned()))?;
            self.reading.entry(prefix, said);
            return Ok(());
        };
        let address = |part: &[u8]| span::address(part, Written::Usual);
        let start = address(start).map_err(|why| (0, why.to_owned()))?;
        // The second of `a-b` is in the first word, that of `a - b` in the third.
        let end = address(end).map_err(|why| (rest - 1, why.to_owned()))?;
        let prefixes: Vec<Prefix> = span::prefixes(start, end).map_err(|why| (0, why.to_owned()))?.collect();
        self.reading.range(prefixes, said);
        Ok(())
    }
}

/// Reads what stands behind the value, from this word on. Returns the comment; none if the element has ended.
fn attributes<'w>(
    words: &'w Words,
    rest: usize,
    said: &mut Said<'_>,
) -> Result<Option<&'w [u8]>, (usize, String)> {
    let mut comment: &[u8] = &[];
    let mut number = rest;
    let (mut is_over, mut has_expiry, mut in_counter) = (false, false, false);
    while let Some(word) = words.word(number) {
        let next = words.word(number + 1).unwrap_or_default();
        match word {
            b"timeout" | b"expires" => {
                let life = str::from_utf8(next).ok().and_then(duration::seconds);
                let life = life.ok_or_else(|| (number + 1, "no duration, such as 58m59s996ms".to_owned()))?;
                if word == b"expires" {
                    (said.ttl_s, has_expiry, is_over) = (life, true, life.is_none());
                } else if !has_expiry {
                    said.ttl_s = life;
                }
                number += 2;
            }
            b"comment" => {
                comment = next;
                number += 2;
            }
            // What an element counts or limits is none of ours; it goes on to the next of the words above.
            b"counter" | b"limit" | b"quota" | b"last" | b"ct" => {
                in_counter = true;
                number += 1;
            }
            _ if in_counter => number += 1,
            _ => return Err((number, "no comma before it".to_owned())),
        }
    }
    Ok((!is_over).then_some(comment))
}

/// The word of a set's `type` that says that it holds no addresses, if it does.
fn foreign(words: &Words) -> Option<usize> {
    let count = words.ends.len();
    if words.is(0, "type") {
        let is_address = count == 2 && (words.is(1, "ipv4_addr") || words.is(1, "ipv6_addr"));
        (!is_address).then_some(1)
    } else if words.is(0, "typeof") {
        let is_address = count == 3
            && (words.is(1, "ip") || words.is(1, "ip6"))
            && (words.is(2, "saddr") || words.is(2, "daddr"));
        (!is_address).then_some(1)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn a_ruleset_is_the_union_of_its_sets() {
        let told = told(Format::Nft, FIXTURES[8].1);
        assert_eq!(
            told.entries,
            [
                "192.0.2.10/31 86400s",
                "192.0.2.12/30 86400s",
                "192.0.2.16/30 86400s",
                "192.0.2.20/32 86400s",
                "198.51.100.0/24 3540s x, {y}",
                "203.0.113.5/32 5s",
                "203.0.113.6/32",
                "2001:db8::/32",
            ]
        );
        assert_eq!((told.count, told.ignored), (5, 0));
    }

    #[test]
    fn scripts_and_bare_lists() {
        for text in [
            "{ 192.0.2.1, 192.0.2.2 }",
            "192.0.2.1, 192.0.2.2",
            "192.0.2.1,\n192.0.2.2,\n",
            "elements =\n{ 192.0.2.1, \\\n 192.0.2.2, }",
            "elements={192.0.2.1,192.0.2.2}",
            "#!/usr/sbin/nft -f\nflush set inet f x\nadd element inet f x { 192.0.2.1 }\nadd element inet f x { 192.0.2.2 timeout 0s }\n",
            "define bad = { 192.0.2.1, 192.0.2.2 }\n",
            "add set inet f x { type ipv4_addr; elements = { 192.0.2.1 - 192.0.2.2 }; }",
            "table ip f { set x { type ipv4_addr\r\nelements = { 192.0.2.1-192.0.2.2 } } }",
        ] {
            let told = told(Format::Nft, text);
            assert_eq!((told.refused, told.about.cut), (vec![], None), "{text}");
            assert!(
                told.entries.join(" ").starts_with("192.0.2.1/32 192.0.2.2/32"),
                "{text} {:?}",
                told.entries
            );
        }
    }

    #[test]
    fn sets_of_something_else_are_refused_once() {
        let text = "table inet f {\n set p {\n  type inet_service\n  elements = { 22, 80 }\n }\n set c {\n  type ipv4_addr . inet_service\n  elements = { 192.0.2.1 . 22 }\n }\n set i { typeof iifname; elements = { \"eth0\" }; }\n map m {\n  type ipv4_addr : verdict\n  elements = { 192.0.2.1 : drop }\n }\n set ok { typeof ip daddr; elements = { 192.0.2.7 }; }\n}\n";
        let told = told(Format::Nft, text);
        assert_eq!(
            told.refused,
            [
                "3:8: `inet_service`, a set of this type holds more or something else than addresses",
                "7:8: `ipv4_addr`, a set of this type holds more or something else than addresses",
                "10:17: `iifname`, a set of this type holds more or something else than addresses",
                "11:2: `map`, a map, not a set of addresses",
            ]
        );
        assert_eq!((told.entries, told.ignored), (vec!["192.0.2.7/32".to_owned()], 4));
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "{ 192.0.2.1,\n  192.0.2.1/24, 192.0.2.9-192.0.2.1, \"eth0\", 192.0.2.1 . 22,\n 192.0.2.1 : drop, 192.0.2.01, 192.0.2.1 192.0.2.2,\n192.0.2.3 timeout soon, 192.0.2.4 expires 0s, 192.0.2.5 - x, {1}, }\n}\ndelete element ip f x { 192.0.2.1 }\n";
        let told = told(Format::Nft, text);
        assert_eq!(
            told.refused,
            [
                "2:3: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1 the one address; --mask takes the first",
                "2:17: `192.0.2.9-192.0.2.1`, the range is reversed: its end is before its start",
                "2:38: `eth0`, a name, not an address",
                "2:46: `192.0.2.1`, a concatenation, which is more than an address",
                "3:2: `192.0.2.1`, an element of a map",
                "3:20: `192.0.2.01`, leading zeros are octal to some programs, decimal to others",
                "3:42: `192.0.2.2`, no comma before it",
                "4:19: `soon`, no duration, such as 58m59s996ms",
                "4:59: `x`, no IP address",
                "4:62: `{`, a name, not an address",
                "5:1: `}`, a brace that closes nothing",
                "6:1: `delete`, takes elements away, which is not followed",
            ]
        );
        assert_eq!((told.entries, told.ignored), (vec!["192.0.2.1/32".to_owned()], 1));
    }

    #[test]
    fn a_brace_that_is_not_closed_is_a_cut() {
        let told = told(Format::Nft, "table ip f {\n set x {\n elements = { 192.0.2.1,\n 192.0.2.1");
        assert_eq!((told.entries, told.refused), (vec!["192.0.2.1/32".to_owned()], vec![]));
        assert_eq!(told.about.cut.as_deref(), Some("it ends in the middle, in line 4"));
        let text = "table ip f {\n set x {\n elements = { 192.0.2.1 }\n }\n";
        assert!(super::super::tests::told(Format::Nft, text).about.cut.is_some());
    }
}
