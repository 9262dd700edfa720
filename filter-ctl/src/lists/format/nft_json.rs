//! nft's JSON, `nft -j list ruleset` or `list set`: one document, mostly one line, that is never held whole. The list is what
//! all sets of addresses hold. Pure.

use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{Place, Spot, Value, Watched};
use super::span::{self, Written};
use super::{BUFFER, Unreadable, text};
use crate::lists::items::Said;
use crate::lists::reading::Reading;
use crate::policy::Prefix;

/// Reads a list.
pub(super) fn read(input: impl Read, mask: bool, reading: &mut Reading) -> Result<(), Unreadable> {
    let spot = Spot::at_line(1);
    let below = BufReader::with_capacity(BUFFER, input);
    let mut json = serde_json::Deserializer::from_reader(Watched { below, spot: &spot });
    let mut state = State {
        spot: &spot,
        reading,
        mask,
        set: Set::default(),
        element: Element::default(),
        name: Value::default(),
    };
    let read = Node(&mut state, In::Document).deserialize(&mut json).and_then(|()| json.end());
    if let Err(error) = read {
        let Place { line, .. } = spot.explain(error)?;
        state.reading.about.cut = Some(text::cut_in(line));
    }
    Ok(())
}

struct State<'s> {
    spot: &'s Spot,
    reading: &'s mut Reading,
    mask: bool,
    set: Set,
    element: Element,
    name: Value,
}

#[derive(Default)]
struct Set {
    is_foreign: bool,
    timeout: Value,
}

/// The parts of an element, filled again and again.
#[derive(Default)]
struct Element {
    shape: Shape,
    place: Place,
    /// An address, a prefix's address, or a range's start.
    first: Value,
    last: Value,
    length: Value,
    timeout: Value,
    expires: Value,
    comment: Value,
    /// Values of a range that were read.
    ends: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Other,
    Address,
    Prefix,
    Range,
}

/// Where in the document a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    /// The whole of it, the array in it, its objects, and the commands that these may be.
    Document,
    /// A set, or the elements that a command adds.
    Set,
    /// The type of a set.
    Type,
    Elements,
    /// An element, or what is in its `val`.
    Element,
    Prefix,
    Range,
}

/// A value in its place.
struct Node<'n, 's>(&'n mut State<'s>, In);

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what nft prints")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let Self(state, place) = self;
        let at = state.spot.token();
        match place {
            In::Type if !matches!(text, "ipv4_addr" | "ipv6_addr") => state.foreign(at, text),
            In::Elements => {
                // One element alone, without an array.
                state.begin();
                state.string(text);
                state.judge();
            }
            In::Element => state.string(text),
            _ => {}
        }
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.element.place = self.0.spot.token();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.element.place = self.0.spot.token();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.element.place = self.0.spot.token();
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.element.place = self.0.spot.token();
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.element.place = self.0.spot.token();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let Self(state, place) = self;
        let at = state.spot.token();
        match place {
            In::Document => while values.next_element_seed(Node(state, In::Document))?.is_some() {},
            In::Elements => {
                state.begin();
                while values.next_element_seed(Node(state, In::Element))?.is_some() {
                    state.judge();
                    state.begin();
                }
            }
            In::Range => loop {
                let Element { first, last, ends, .. } = &mut state.element;
                let into = if *ends == 0 { first } else { last };
                if values.next_element_seed(into.seed(state.spot))?.is_none() {
                    break;
                }
                *ends += 1;
            },
            _ => {
                if place == In::Type {
                    state.foreign(at, "[");
                }
                state.element.place = at;
                while values.next_element::<IgnoredAny>()?.is_some() {}
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self(state, place) = self;
        let at = state.spot.token();
        match place {
            In::Set => {
                state.set.is_foreign = false;
                state.set.timeout.clear();
            }
            In::Type => state.foreign(at, "{"),
            // What is outermost is where the element is.
            In::Element if state.element.place == Place::default() => state.element.place = at,
            _ => {}
        }
        let spot = state.spot;
        loop {
            if fields.next_key_seed(state.name.seed(spot))?.is_none() {
                return Ok(());
            }
            let element = &mut state.element;
            let value = match (place, &*state.name.text) {
                (In::Set, "timeout") => &mut state.set.timeout,
                (In::Prefix, "addr") => &mut element.first,
                (In::Prefix, "len") => &mut element.length,
                (In::Element, "timeout") => &mut element.timeout,
                (In::Element, "expires") => &mut element.expires,
                (In::Element, "comment") => &mut element.comment,
                (place, name) => {
                    let within = match (place, name) {
                        (In::Document, "nftables" | "add" | "create") => Some(In::Document),
                        (In::Document, "set" | "element") => Some(In::Set),
                        (In::Set, "type") => Some(In::Type),
                        (In::Set, "elem") if !state.set.is_foreign => Some(In::Elements),
                        (In::Element, "elem" | "val") => Some(In::Element),
                        (In::Element, "prefix") => {
                            element.shape = Shape::Prefix;
                            Some(In::Prefix)
                        }
                        (In::Element, "range") => {
                            element.shape = Shape::Range;
                            Some(In::Range)
                        }
                        _ => None,
                    };
                    match within {
                        Some(within) => fields.next_value_seed(Node(state, within))?,
                        None => {
                            let key = state.name.place;
                            match (place, &*state.name.text) {
                                (In::Document, "map") => {
                                    state.reading.refuse(
                                        key.line,
                                        key.column,
                                        "map",
                                        "a map, not a set of addresses",
                                    );
                                }
                                (In::Document, "delete" | "destroy") => {
                                    let why = "takes elements away, which is not followed";
                                    state.reading.refuse(key.line, key.column, &state.name.text, why);
                                }
                                _ => {}
                            }
                            if (place, &*state.name.text) == (In::Set, "elem") {
                                fields.next_value_seed(Counted(state.reading))?;
                            } else {
                                fields.next_value::<IgnoredAny>()?;
                            }
                        }
                    }
                    continue;
                }
            };
            fields.next_value_seed(value.seed(spot))?;
        }
    }
}

impl State<'_> {
    fn foreign(&mut self, at: Place, what: &str) {
        self.set.is_foreign = true;
        let why = "a set of this type holds more or something else than addresses";
        self.reading.refuse(at.line, at.column, what, why);
    }

    fn begin(&mut self) {
        let Element { shape, place, first, last, length, timeout, expires, comment, ends } =
            &mut self.element;
        [first, last, length, timeout, expires, comment].into_iter().for_each(Value::clear);
        (*shape, *place, *ends) = (Shape::Other, Place::default(), 0);
    }

    fn string(&mut self, text: &str) {
        let element = &mut self.element;
        element.shape = Shape::Address;
        element.place = self.spot.token();
        element.first.text.clear();
        element.first.text.push_str(text);
    }

    /// Takes the element that was read, or refuses it.
    fn judge(&mut self) {
        let Element { shape, place, first, last, length, timeout, expires, comment, ends } = &self.element;
        let refuse = |reading: &mut Reading, place: Place, what: &str, why: &str| {
            reading.refuse(place.line, place.column, what, why);
        };
        let seconds =
            |value: &Value| value.as_u64().map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        // What is left says more than what was given, and that more than what holds for all of the set.
        let ttl_s = match (seconds(expires), seconds(timeout), seconds(&self.set.timeout)) {
            (Some(0), ..) => {
                self.reading.ignored += 1;
                return;
            }
            (Some(left), ..) => Some(left),
            (None, Some(life), _) | (None, None, Some(life)) => Some(life).filter(|life| *life > 0),
            (None, None, None) => None,
        };
        let said = Said { ttl_s, comment: comment.as_text().unwrap_or_default() };
        match shape {
            Shape::Other => refuse(self.reading, *place, "", "no address, prefix or range"),
            Shape::Address => match text::parse(first.text.as_bytes(), self.mask) {
                Ok(prefix) => self.reading.entry(prefix, said),
                Err(why) => refuse(self.reading, *place, &first.text, &why),
            },
            Shape::Prefix => {
                let whole = format!("{}/{}", first.text, length.text);
                let parsed = match length.as_u64() {
                    Some(_) => text::parse(whole.as_bytes(), self.mask),
                    None => Err("no prefix length".into()),
                };
                match parsed {
                    Ok(prefix) => self.reading.entry(prefix, said),
                    Err(why) => refuse(self.reading, first.place, &whole, &why),
                }
            }
            Shape::Range if *ends != 2 => refuse(self.reading, *place, "", "a range has two ends"),
            Shape::Range => {
                let address = |end: &Value| span::address(end.text.as_bytes(), Written::Usual);
                let prefixes = match (address(first), address(last)) {
                    (Ok(start), Ok(end)) => span::prefixes(start, end),
                    (Err(why), _) => return refuse(self.reading, first.place, &first.text, why),
                    (_, Err(why)) => return refuse(self.reading, last.place, &last.text, why),
                };
                match prefixes {
                    Ok(prefixes) => {
                        let prefixes: Vec<Prefix> = prefixes.collect();
                        self.reading.range(prefixes, said);
                    }
                    Err(why) => {
                        refuse(self.reading, first.place, &format!("{}-{}", first.text, last.text), why);
                    }
                }
            }
        }
    }
}

/// Elements that are none of ours: counted.
struct Counted<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {
            self.0.ignored += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn elements_have_four_shapes() {
        let told = told(Format::NftJson, FIXTURES[9].1);
        assert_eq!(
            told.entries,
            [
                "192.0.2.10/31",
                "192.0.2.12/30",
                "192.0.2.16/30",
                "192.0.2.20/32",
                "192.0.2.128/25",
                "198.51.100.0/24 3539s x",
                "203.0.113.5/32",
                "203.0.113.8/31 60s",
                "2001:db8::1/128",
            ]
        );
        assert_eq!((told.count, told.ignored), (6, 1));
    }

    #[test]
    fn sets_of_something_else_are_refused_once() {
        let text = "{\"nftables\":[\n{\"set\":{\"type\":\"inet_service\",\"elem\":[22,80]}},\n{\"set\":{\"type\":[\"ipv4_addr\",\"inet_service\"],\"elem\":[{\"concat\":[\"192.0.2.1\",22]}]}},\n{\"map\":{\"type\":\"ipv4_addr\",\"map\":\"verdict\",\"elem\":[[\"192.0.2.1\",{\"drop\":null}]]}},\n{\"delete\":{\"element\":{\"elem\":[\"192.0.2.1\"]}}},\n{\"add\":{\"element\":{\"family\":\"ip\",\"elem\":\"192.0.2.7\"}}},{\"add\":{\"set\":{\"type\":\"ipv4_addr\",\"timeout\":9,\"elem\":[\"192.0.2.8\",{\"elem\":{\"val\":\"192.0.2.9\",\"timeout\":0}}]}}}]}";
        let told = told(Format::NftJson, text);
        assert_eq!(
            told.refused,
            [
                "2:16: `inet_service`, a set of this type holds more or something else than addresses",
                "3:16: `[`, a set of this type holds more or something else than addresses",
                "4:2: `map`, a map, not a set of addresses",
                "5:2: `delete`, takes elements away, which is not followed",
            ]
        );
        assert_eq!(told.entries, ["192.0.2.7/32", "192.0.2.8/32 9s", "192.0.2.9/32"]);
        assert_eq!(told.ignored, 3);
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "{\"nftables\":[{\"set\":{\"elem\":[\n \"192.0.2.01\",\n {\"prefix\":{\"addr\":\"192.0.2.1\",\"len\":24}},\n {\"prefix\":{\"addr\":\"192.0.2.0\"}},\n {\"range\":[\"192.0.2.9\",\"192.0.2.1\"]},\n {\"range\":[\"192.0.2.9\"]},\n {\"elem\":{\"val\":\"x\",\"timeout\":5}},\n {\"concat\":[\"192.0.2.1\",22]},\n 22, {\"set\":[\"192.0.2.1\"]}, {\"range\":[\"192.0.2.1\",\"y\"]}, [\"192.0.2.1\",\"drop\"], {\"elem\":{}}, null]}}]}";
        let told = told(Format::NftJson, text);
        assert_eq!(
            told.refused,
            [
                "2:2: `192.0.2.01`, leading zeros are octal to some programs, decimal to others",
                "3:20: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1 the one address; --mask takes the first",
                "4:20: `192.0.2.0/`, no prefix length",
                "5:12: `192.0.2.9-192.0.2.1`, the range is reversed: its end is before its start",
                "6:2: ``, a range has two ends",
                "7:17: `x`, neither IP address nor prefix",
                "8:2: ``, no address, prefix or range",
                "9:2: ``, no address, prefix or range",
                "9:6: ``, no address, prefix or range",
                "9:51: `y`, no IP address",
                "9:58: ``, no address, prefix or range",
                "9:80: ``, no address, prefix or range",
                "9:93: ``, no address, prefix or range",
            ]
        );
        assert_eq!(told.entries, [""; 0]);
    }

    #[test]
    fn an_end_in_the_middle_is_a_cut_wherever_it_is() {
        let text = FIXTURES[9].1.trim_end();
        for end in 1..text.len() {
            let told = told_as(Format::NftJson, &text[..end]);
            assert!(told.about.cut.is_some() && told.refused.is_empty(), "{end}");
        }
        assert!(error("{\"nftables\": [}").starts_with("1:15: no JSON: "));
    }
}
