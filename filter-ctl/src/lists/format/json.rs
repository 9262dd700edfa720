//! What the JSON formats share: a reader that knows where each token began, so that a refused value can be pointed at,
//! and that bounds what a hostile document can make the parser hold; and a value that may be of any kind. Pure.

use std::cell::Cell;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{LONGEST_LINE, Unreadable};

/// Deepest nesting: nft's elements are eight deep. Passing over a value takes a byte for each level.
const DEEPEST: u32 = 64;

/// A place in a text: line and byte column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub line: u64,
    pub column: u64,
}

/// Where a document is being read; shared by the reader, which knows, and the visitors, who ask.
#[derive(Debug)]
pub(super) struct Spot {
    now: Cell<Place>,
    token: Cell<Place>,
    depth: Cell<u32>,
    string_length: Cell<usize>,
    state: Cell<State>,
    /// Why this reader, not the one below, gave up.
    refused: Cell<Option<&'static str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    Bare,
    Text,
    Escape,
}

impl Spot {
    /// The start of a document, in this line.
    pub fn at_line(line: u64) -> Self {
        Self {
            now: Cell::new(Place { line, column: 0 }),
            token: Cell::new(Place { line, column: 1 }),
            depth: Cell::new(0),
            string_length: Cell::new(0),
            state: Cell::new(State::Between),
            refused: Cell::new(None),
        }
    }

    /// Where the value began that was read last: a string at its quote, an object or array, just entered, at its bracket.
    pub fn token(&self) -> Place {
        self.token.get()
    }

    /// Where the reader is.
    pub fn now(&self) -> Place {
        self.now.get()
    }

    fn step(&self, byte: u8) -> Result<(), &'static str> {
        let Place { line, column } = self.now.get();
        self.now.set(Place { line, column: column + 1 });
        let state = match (self.state.get(), byte) {
            (State::Escape, _) => State::Text,
            (State::Text, b'\\') => State::Escape,
            (State::Text, b'"') => State::Between,
            (State::Text, _) => State::Text,
            (_, b'"') => {
                self.token.set(self.now.get());
                self.string_length.set(0);
                State::Text
            }
            (_, b'{' | b'[') => {
                self.token.set(self.now.get());
                self.depth.set(self.depth.get() + 1);
                if self.depth.get() > DEEPEST {
                    return Err("it is nested too deeply");
                }
                State::Between
            }
            (_, b'}' | b']') => {
                self.depth.set(self.depth.get().saturating_sub(1));
                State::Between
            }
            (_, b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') => State::Between,
            (State::Bare, _) => State::Bare,
            (State::Between, _) => {
                self.token.set(self.now.get());
                State::Bare
            }
        };
        if matches!(state, State::Text | State::Escape) {
            self.string_length.set(self.string_length.get() + 1);
            if self.string_length.get() > LONGEST_LINE {
                return Err("a string is too long");
            }
        }
        if byte == b'\n' {
            self.now.set(Place { line: line + 1, column: 0 });
        }
        self.state.set(state);
        Ok(())
    }

    /// What an error of the parser means: `Ok` with the place where a document ends in the middle.
    pub fn explain(&self, error: serde_json::Error) -> Result<Place, Unreadable> {
        let Place { line, column } = self.now();
        if let Some(why) = self.refused.take() {
            return Err(Unreadable::Json { line, column, why: why.to_owned() });
        }
        match error.classify() {
            serde_json::error::Category::Eof => Ok(self.now()),
            serde_json::error::Category::Io => Err(Unreadable::Io(error.into())),
            category => {
                // What is of the wrong kind was read to its end, what is no JSON was not.
                let is_data = category == serde_json::error::Category::Data;
                let Place { line, column } = if is_data { self.token() } else { self.now() };
                // serde_json tells its own place behind the reason.
                let why = error.to_string();
                let why = why.split(" at line ").next().unwrap_or_default().to_owned();
                Err(Unreadable::Json { line, column: column.max(1), why })
            }
        }
    }
}

/// A reader that tells its [`Spot`]. serde_json takes one byte at a time, so that the spot is never far ahead of what
/// has been understood: below it there has to be a buffer.
pub(super) struct Watched<'s, R> {
    pub below: R,
    pub spot: &'s Spot,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.below.read(into)?;
        for byte in &into[..count] {
            if let Err(why) = self.spot.step(*byte) {
                self.spot.refused.set(Some(why));
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(count)
    }
}

/// What kind of value a [`Value`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// There was none, or null.
    #[default]
    Absent,
    Text,
    Number,
    Bool,
    /// An object or array, which was passed over.
    Nested,
}

/// A value of any kind, with its place; kept and filled again, so that a document of a million values takes no memory for
/// each.
#[derive(Clone, Debug, Default)]
pub(super) struct Value {
    pub kind: Kind,
    /// The text, or the number as text.
    pub text: String,
    pub place: Place,
}

impl Value {
    pub fn clear(&mut self) {
        self.kind = Kind::Absent;
        self.text.clear();
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        (self.kind == Kind::Text).then_some(&*self.text)
    }

    /// The number, if it is a whole one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        (self.kind == Kind::Number).then(|| self.text.parse().ok()).flatten()
    }

    /// Fills it from what comes next.
    pub fn seed<'v>(&'v mut self, spot: &'v Spot) -> Fill<'v> {
        Fill { value: self, spot }
    }

    fn set(&mut self, kind: Kind, text: &str, spot: &Spot) {
        self.kind = kind;
        self.text.clear();
        self.text.push_str(text);
        self.place = spot.token();
    }
}

/// See [`Value::seed`].
pub(super) struct Fill<'v> {
    value: &'v mut Value,
    spot: &'v Spot,
}

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.value.set(Kind::Text, text, self.spot);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.value.set(Kind::Bool, if value { "true" } else { "false" }, self.spot);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.value.set(Kind::Number, &number.to_string(), self.spot);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.value.set(Kind::Number, &number.to_string(), self.spot);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.value.set(Kind::Number, &number.to_string(), self.spot);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.value.set(Kind::Absent, "", self.spot);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        self.value.set(Kind::Nested, "[", self.spot);
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.value.set(Kind::Nested, "{", self.spot);
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
