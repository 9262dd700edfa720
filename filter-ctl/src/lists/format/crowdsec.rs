//! CrowdSec's decisions: what its local API answers at `/v1/decisions/stream`, and the plain array of `/v1/decisions`.
//! Pure: the client that fetches them is elsewhere.

use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::duration;
use super::json::{Kind, Place, Spot, Value, Watched};
use super::text::why;
use super::{BUFFER, Unreadable};
use crate::lists::items::Said;
use crate::lists::reading::{Reading, Refused};
use crate::policy::Prefix;

/// A ban of an address or a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whom it bans.
    pub prefix: Prefix,
    /// Seconds that it still lasts, rounded up; none if it has ended.
    pub ttl_s: Option<u32>,
    /// Why, in CrowdSec's words.
    pub scenario: String,
}

/// What an answer of the stream holds. `deleted` is to be applied before `new`, as CrowdSec's own bouncer does.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Bans that were made; at startup all that there are, of each value the longest.
    pub new: Vec<Decision>,
    /// Bans that were lifted or have ended.
    pub deleted: Vec<Prefix>,
    /// Decisions about countries and networks, and such that ask for something else than a ban.
    pub ignored: u64,
    /// The first of those that can't be understood.
    pub refused: Vec<Refused>,
    /// How many there are of these.
    pub refusals: u64,
}

/// Reads an answer of the stream.
///
/// # Errors
///
/// If it is no JSON, is cut short, or can't be read. A server that failed in the middle closes its arrays: such an answer
/// is no error here.
pub fn read_stream(input: impl Read) -> Result<Stream, Unreadable> {
    let mut stream = Stream::default();
    let mut told = Reading::default();
    let end = decisions(input, &mut told, |_, part, prefix, ttl_s, scenario| match part {
        Part::New => stream.new.push(Decision { prefix, ttl_s, scenario: scenario.to_owned() }),
        Part::Deleted => stream.deleted.push(prefix),
    })?;
    if let Some(Place { line, column }) = end {
        return Err(Unreadable::Json { line, column, why: "it ends in the middle".to_owned() });
    }
    (stream.ignored, stream.refused, stream.refusals) = (told.ignored, told.refused, told.refusals);
    Ok(stream)
}

/// Reads a document as a list: the bans that have not ended.
pub(super) fn read(input: impl Read, reading: &mut Reading) -> Result<(), Unreadable> {
    let end = decisions(input, reading, |reading, part, prefix, ttl_s, comment| match (part, ttl_s) {
        (Part::New, Some(_)) => reading.entry(prefix, Said { ttl_s, comment }),
        // Nothing was there before that could be deleted.
        (Part::New, None) | (Part::Deleted, _) => reading.ignored += 1,
    })?;
    reading.about.cut = end.map(|place| format!("it ends in the middle, in line {}", place.line));
    Ok(())
}

/// The two lists of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    New,
    Deleted,
}

/// Tells `take` each ban; returns where the document ends, if that is in the middle.
fn decisions<F>(input: impl Read, reading: &mut Reading, take: F) -> Result<Option<Place>, Unreadable>
where
    F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str),
{
    let spot = Spot::at_line(1);
    let below = BufReader::with_capacity(BUFFER, input);
    let mut json = serde_json::Deserializer::from_reader(Watched { below, spot: &spot });
    let mut state = State { spot: &spot, reading, take, fields: Fields::default() };
    let read = Document(&mut state).deserialize(&mut json).and_then(|()| json.end());
    read.map_or_else(|error| spot.explain(error).map(Some), |()| Ok(None))
}

struct State<'s, F> {
    spot: &'s Spot,
    reading: &'s mut Reading,
    take: F,
    fields: Fields,
}

/// The fields of the decision that is being read.
#[derive(Default)]
struct Fields {
    scope: Value,
    value: Value,
    kind: Value,
    duration: Value,
    scenario: Value,
    simulated: Value,
}

impl Fields {
    fn all(&mut self) -> [&mut Value; 6] {
        let Self { scope, value, kind, duration, scenario, simulated } = self;
        [scope, value, kind, duration, scenario, simulated]
    }

    fn named(&mut self, name: &str) -> Option<&mut Value> {
        Some(match name {
            "scope" => &mut self.scope,
            "value" => &mut self.value,
            "type" => &mut self.kind,
            "duration" => &mut self.duration,
            "scenario" => &mut self.scenario,
            "simulated" => &mut self.simulated,
            _ => return None,
        })
    }
}

impl<F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> State<'_, F> {
    /// Judges the decision whose fields were read; `place` is its own.
    fn judge(&mut self, part: Part, place: Place) {
        let Fields { scope, value, kind, duration, scenario, simulated } = &self.fields;
        let is =
            |value: &Value, name: &str| value.as_text().is_some_and(|text| text.eq_ignore_ascii_case(name));
        let is_ours = is(scope, "ip") || is(scope, "range");
        if !is_ours || !is(kind, "ban") || simulated.text == "true" {
            self.reading.ignored += 1;
            return;
        }
        let at = |value: &Value| if value.kind == Kind::Absent { place } else { value.place };
        let Some(text) = value.as_text() else {
            let Place { line, column } = at(value);
            return self.reading.refuse(line, column, &value.text, "a decision without a value");
        };
        // Go's `net.ParseCIDR`, by which CrowdSec stores a range, clears host bits: the whole prefix is what it means.
        let prefix = match Prefix::parse(text, true) {
            Ok(prefix) => prefix,
            Err(error) => {
                return self.reading.refuse(value.place.line, value.place.column, text, why(&error));
            }
        };
        let ttl_s = match (duration.as_text().map(duration::seconds), part) {
            (Some(Some(ttl_s)), _) => ttl_s,
            (_, Part::Deleted) => None,
            (_, Part::New) => {
                let Place { line, column } = at(duration);
                let why = format_args!("{text} has no duration, such as 3h59m55s");
                return self.reading.refuse(line, column, &duration.text, why);
            }
        };
        (self.take)(self.reading, part, prefix, ttl_s, scenario.as_text().unwrap_or_default());
    }
}

/// The whole document.
struct Document<'d, 's, F>(&'d mut State<'s, F>);

/// An array of decisions, or null.
struct Decisions<'d, 's, F>(&'d mut State<'s, F>, Part);

/// One of them.
struct One<'d, 's, F>(&'d mut State<'s, F>, Part);

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> DeserializeSeed<'de>
    for Document<'_, '_, F>
{
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> Visitor<'de> for Document<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with `new` and `deleted`, or an array of decisions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut name = Value::default();
        while fields.next_key_seed(name.seed(self.0.spot))?.is_some() {
            match &*name.text {
                "new" => fields.next_value_seed(Decisions(self.0, Part::New))?,
                "deleted" => fields.next_value_seed(Decisions(self.0, Part::Deleted))?,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<(), A::Error> {
        Decisions(self.0, Part::New).visit_seq(values)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        // `/v1/decisions` answers so if there is none.
        Ok(())
    }
}

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> DeserializeSeed<'de>
    for Decisions<'_, '_, F>
{
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> Visitor<'de> for Decisions<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of decisions, or null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(One(self.0, self.1))?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> DeserializeSeed<'de> for One<'_, '_, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&mut Reading, Part, Prefix, Option<u32>, &str)> Visitor<'de> for One<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a decision")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let place = self.0.spot.token();
        self.0.fields.all().into_iter().for_each(Value::clear);
        let mut name = Value::default();
        while fields.next_key_seed(name.seed(self.0.spot))?.is_some() {
            match self.0.fields.named(&name.text) {
                Some(value) => fields.next_value_seed(value.seed(self.0.spot))?,
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.0.judge(self.1, place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"new":[
  {"id":4,"origin":"cscli","type":"ban","scope":"Ip","value":"192.0.2.4","duration":"3h59m55.756182786s","scenario":"manual \"ban\""},
  {"id":5,"origin":"CAPI","type":"BAN","scope":"range","value":"2001:db8:5::1/48","duration":"1m","scenario":"x"},
  {"id":6,"origin":"crowdsec","type":"captcha","scope":"Ip","value":"192.0.2.6","duration":"1h","scenario":"x"},
  {"id":7,"origin":"crowdsec","type":"ban","scope":"Country","value":"XX","duration":"1h","scenario":"x"},
  {"id":8,"type":"ban","scope":"Ip","value":"192.0.2.8","duration":"-2m3s","scenario":"over","until":{"a":[1,{}]}},
  {"id":9,"type":"ban","scope":"Ip","value":"192.0.2.09","duration":"1h","scenario":"x"},
  {"id":10,"type":"ban","scope":"Ip","value":"192.0.2.10","duration":"soon","scenario":"x"},
  {"id":11,"type":"ban","scope":"Ip","simulated":true,"value":"192.0.2.11","duration":"1h"},
  {"id":12,"type":"ban","scope":"Ip","duration":"1h"}],
 "deleted":[{"type":"ban","scope":"Ip","value":"198.51.100.1","duration":"-1h"}, {"type":"ban","scope":"AS","value":"64496"}]}"#;

    fn shown(refused: &[Refused]) -> Vec<String> {
        refused.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stream_is_its_bans() {
        let stream = read_stream(ANSWER.as_bytes()).unwrap();
        let decision = |prefix: &str, ttl_s, scenario: &str| Decision {
            prefix: Prefix::parse(prefix, false).unwrap(),
            ttl_s,
            scenario: scenario.to_owned(),
        };
        assert_eq!(
            stream.new,
            [
                decision("192.0.2.4", Some(14_396), "manual \"ban\""),
                decision("2001:db8:5::/48", Some(60), "x"),
                decision("192.0.2.8", None, "over"),
            ]
        );
        assert_eq!(stream.deleted, [Prefix::parse("198.51.100.1", false).unwrap()]);
        assert_eq!(stream.ignored, 4);
        assert_eq!(
            shown(&stream.refused),
            [
                "7:45: `192.0.2.09`, leading zeros are octal to some programs, decimal to others",
                "8:70: `soon`, 192.0.2.10 has no duration, such as 3h59m55s",
                "10:3: ``, a decision without a value",
            ]
        );
        assert_eq!(stream.refusals, 3);
    }

    #[test]
    fn a_list_is_the_bans_that_last() {
        let mut reading = Reading::default();
        read(ANSWER.as_bytes(), &mut reading).unwrap();
        assert_eq!((reading.entries, reading.ignored, reading.refusals), (2, 6, 3));
        assert_eq!(reading.about.cut, None);
    }

    #[test]
    fn either_part_may_be_missing_or_null() {
        for text in
            ["{}", r#"{"new":null,"deleted":null}"#, r#"{"deleted":[]}"#, "null", "[]", " {\"new\":[]}\r\n"]
        {
            let stream = read_stream(text.as_bytes()).unwrap();
            assert_eq!((stream.new.len(), stream.deleted.len(), stream.refusals), (0, 0, 0), "{text}");
        }
        let array = r#"[{"type":"ban","scope":"Ip","value":"192.0.2.1","duration":"1s"}]"#;
        assert_eq!(read_stream(array.as_bytes()).unwrap().new.len(), 1);
    }

    #[test]
    fn a_cut_answer_is_told_everywhere() {
        for end in 1..ANSWER.len() {
            let error = read_stream(&ANSWER.as_bytes()[..end]).unwrap_err();
            assert!(
                matches!(&error, Unreadable::Json { why, .. } if why == "it ends in the middle"),
                "{end}: {error}"
            );
            let mut reading = Reading::default();
            read(&ANSWER.as_bytes()[..end], &mut reading).unwrap();
            assert!(reading.about.cut.is_some());
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_with_its_place() {
        for (text, line, column) in [
            ("7", 1, 1),
            ("{\"new\":\n [7]}", 2, 3),
            ("{\"new\":[]} x", 1, 12),
            ("[{]", 1, 3),
            ("{\"new\":[{\"a\" 1", 1, 14),
        ] {
            match read_stream(text.as_bytes()).unwrap_err() {
                Unreadable::Json { line: l, column: c, .. } => assert_eq!((l, c), (line, column), "{text}"),
                other => panic!("{text}: {other}"),
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let deep = "[".repeat(1 << 20);
        let error = read_stream(deep.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("nested") || error.to_string().contains("invalid type"),
            "{error}"
        );
        let deep = format!("{{\"x\":{deep}");
        assert!(read_stream(deep.as_bytes()).unwrap_err().to_string().contains("nested too deeply"));
        let long = format!("{{\"x\":\"{}", "a".repeat(1 << 20));
        assert!(read_stream(long.as_bytes()).unwrap_err().to_string().contains("too long"));
    }
}
