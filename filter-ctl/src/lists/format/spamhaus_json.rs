//! Spamhaus' DROP as JSON, an object a line: entries, and at the end what the list says of itself. Pure.

use std::io::Read;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::Unreadable;
use super::json::{Kind, Place, Spot, Value, Watched};
use super::lines::{Line, Lines};
use super::text;
use crate::lists::items::Said;
use crate::lists::reading::Reading;

/// Reads a list.
pub(super) fn read(input: impl Read, mask: bool, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    let mut fields = Fields::default();
    while let Some(line) = lines.next()? {
        if !line.bytes.trim_ascii().is_empty() {
            object(reading, &line, &mut fields, mask);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Fields {
    cidr: Value,
    sblid: Value,
    asn: Value,
    kind: Value,
    timestamp: Value,
    records: Value,
}

impl Fields {
    fn all(&mut self) -> [(&'static str, &mut Value); 6] {
        let Self { cidr, sblid, asn, kind, timestamp, records } = self;
        [
            ("cidr", cidr),
            ("sblid", sblid),
            ("asn", asn),
            ("type", kind),
            ("timestamp", timestamp),
            ("records", records),
        ]
    }
}

fn object(reading: &mut Reading, line: &Line<'_>, fields: &mut Fields, mask: bool) {
    let spot = Spot::at_line(line.number);
    fields.all().into_iter().for_each(|(_, value)| value.clear());
    let mut json = serde_json::Deserializer::from_reader(Watched { below: line.bytes, spot: &spot });
    let whole = line.bytes.trim_ascii();
    let object = Object { fields, spot: &spot };
    if let Err(error) = object.deserialize(&mut json).and_then(|()| json.end()) {
        return match spot.explain(error) {
            Ok(_) => text::refuse(reading, line, whole, "an object that ends in the middle"),
            Err(Unreadable::Json { column, why, .. }) => {
                let at = usize::try_from(column).unwrap_or(1).saturating_sub(1).min(line.bytes.len());
                text::refuse(reading, line, &line.bytes[at..], format_args!("no JSON: {why}"));
            }
            Err(other) => text::refuse(reading, line, whole, other),
        };
    }
    let Fields { cidr, sblid, asn, kind, timestamp, records } = fields;
    if let Some(text) = cidr.as_text() {
        match text::parse(text.as_bytes(), mask) {
            Ok(prefix) => {
                let comment = sblid.as_text().unwrap_or_default();
                reading.entry(prefix, Said { ttl_s: None, comment });
            }
            Err(why) => reading.refuse(cidr.place.line, cidr.place.column, text, why),
        }
    } else if kind.as_text() == Some("metadata") {
        reading.about.declared = records.as_u64();
        reading.about.made_s = timestamp.as_u64().and_then(|seconds| i64::try_from(seconds).ok());
    } else if asn.kind != Kind::Absent {
        reading.ignored += 1;
    } else {
        let Place { line: number, column } = cidr.place;
        match cidr.kind {
            Kind::Absent => text::refuse(reading, line, whole, "no `cidr`"),
            _ => reading.refuse(number, column, &cidr.text, "not a text"),
        }
    }
}

struct Object<'f> {
    fields: &'f mut Fields,
    spot: &'f Spot,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut name = Value::default();
        while fields.next_key_seed(name.seed(self.spot))?.is_some() {
            match self.fields.all().into_iter().find(|(known, _)| *known == name.text) {
                Some((_, value)) => fields.next_value_seed(value.seed(self.spot))?,
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn the_last_line_declares_how_many_there_are() {
        let told = told(Format::SpamhausJson, FIXTURES[5].1);
        assert_eq!(told.entries, ["192.0.2.0/25 SBL100001", "2001:db8:1::/48 SBL100002"]);
        assert_eq!((told.about.declared, told.count, told.ignored), (Some(3), 3, 1));
        assert_eq!(told.about.made_s, Some(1_791_060_242));
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = r#"{"cidr":"192.0.2.0/24"}
garbage
  {"sblid":"SBL1", "cidr": "192.0.2.1/24"}
{"cidr":7}
{"sblid":"SBL1"}
{"cidr":"192.0.2.0/24"} x
[1]
{"cidr":"192.0.2.0
{"cidr":"1.2.3.04"}
{"cidr":"192.0.2.0/2"#;
        let told = told(Format::SpamhausJson, text);
        assert_eq!(
            told.refused,
            [
                "2:1: `garbage`, no JSON: expected value",
                "3:28: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1 the one address; --mask takes the first",
                "4:9: `7`, not a text",
                "5:1: `{\\\"sblid\\\":\\\"SBL1\\\"}`, no `cidr`",
                "6:25: `x`, no JSON: trailing characters",
                "7:1: `[1]`, no JSON: invalid type: sequence, expected an object",
                "8:1: `{\\\"cidr\\\":\\\"192.0.2.0`, an object that ends in the middle",
                "9:9: `1.2.3.04`, leading zeros are octal to some programs, decimal to others",
                "10:1: `{\\\"cidr\\\":\\\"192.0.2.0/2`, an object that ends in the middle",
            ]
        );
        assert!(told.about.cut.is_some());
    }
}
