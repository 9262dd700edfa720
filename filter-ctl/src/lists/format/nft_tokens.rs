//! The words and signs of nft's text, with their places. A script may hold a million elements in one line, so this goes by
//! tokens, not by lines. Pure.

use std::io::{BufRead, BufReader, Read};

use super::json::Place;
use super::{LONGEST_LINE, Unreadable};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    /// A text in quotes, without these.
    Quoted,
    Open,
    Close,
    Comma,
    Semicolon,
    NewLine,
    End,
}

pub(super) struct Tokens<R> {
    input: BufReader<R>,
    now: Place,
    /// The bytes of the word that was read last.
    pub bytes: Vec<u8>,
    after_return: bool,
}

impl<R: Read> Tokens<R> {
    pub fn of(input: BufReader<R>) -> Self {
        Self { input, now: Place { line: 1, column: 1 }, bytes: Vec::new(), after_return: false }
    }

    /// Where the reader is.
    pub fn place(&self) -> Place {
        self.now
    }

    fn peek(&mut self) -> Result<Option<u8>, Unreadable> {
        loop {
            match self.input.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn step(&mut self, byte: u8) {
        self.input.consume(1);
        // CR LF is one end of a line.
        let is_second = self.after_return && byte == b'\n';
        self.after_return = byte == b'\r';
        match byte {
            b'\n' if is_second => {}
            b'\n' | b'\r' => self.now = Place { line: self.now.line + 1, column: 1 },
            _ => self.now.column += 1,
        }
    }

    /// The next token and where it began.
    ///
    /// # Errors
    ///
    /// If a word is too long, or nothing can be read.
    pub fn next(&mut self) -> Result<(Kind, Place), Unreadable> {
        self.bytes.clear();
        let byte = loop {
            match self.peek()? {
                None => return Ok((Kind::End, self.now)),
                Some(byte @ (b' ' | b'\t' | b'\x0b' | b'\x0c')) => self.step(byte),
                Some(b'\n') if self.after_return => self.step(b'\n'),
                Some(b'#') => self.skip_line()?,
                Some(b'\\') => {
                    let place = self.now;
                    self.step(b'\\');
                    match self.peek()? {
                        // A line that goes on in the next.
                        Some(end @ (b'\n' | b'\r')) => {
                            self.step(end);
                        }
                        _ => {
                            self.bytes.push(b'\\');
                            return self.word(place);
                        }
                    }
                }
                Some(byte) => break byte,
            }
        };
        let place = self.now;
        let kind = match byte {
            b'{' => Kind::Open,
            b'}' => Kind::Close,
            b',' => Kind::Comma,
            b';' => Kind::Semicolon,
            b'\n' | b'\r' => Kind::NewLine,
            b'"' => return self.quoted(place),
            b'=' => {
                self.bytes.push(b'=');
                Kind::Word
            }
            _ => return self.word(place),
        };
        self.step(byte);
        Ok((kind, place))
    }

    fn skip_line(&mut self) -> Result<(), Unreadable> {
        while let Some(byte) = self.peek()? {
            if matches!(byte, b'\n' | b'\r') {
                break;
            }
            self.step(byte);
        }
        Ok(())
    }

    fn word(&mut self, place: Place) -> Result<(Kind, Place), Unreadable> {
        while let Some(byte) = self.peek()? {
            if byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b',' | b';' | b'=' | b'"' | b'#') {
                break;
            }
            self.keep(byte)?;
        }
        Ok((Kind::Word, place))
    }

    /// nft knows no escapes in quotes. One that is not closed ends with its line.
    fn quoted(&mut self, place: Place) -> Result<(Kind, Place), Unreadable> {
        self.step(b'"');
        while let Some(byte) = self.peek()? {
            match byte {
                b'\n' | b'\r' => break,
                b'"' => {
                    self.step(byte);
                    break;
                }
                _ => self.keep(byte)?,
            }
        }
        Ok((Kind::Quoted, place))
    }

    fn keep(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.bytes.len() == LONGEST_LINE {
            return Err(Unreadable::LongLine { line: self.now.line });
        }
        self.bytes.push(byte);
        self.step(byte);
        Ok(())
    }
}
