//! Lines of a text, without holding more than one of them: ended by LF, CRLF or CR alone, and bounded. Pure.

use std::io::{self, Read};

use super::{LONGEST_LINE, Unreadable};

/// A line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'b> {
    /// From 1.
    pub number: u64,
    /// What is in it, without its end.
    pub bytes: &'b [u8],
    /// Whether its end was there: of the last line it may be missing, and then the text may be cut there.
    pub is_ended: bool,
}

impl Line<'_> {
    /// The byte column, from 1, of a part of this line.
    pub fn column_of(&self, part: &[u8]) -> u64 {
        (part.as_ptr().addr() as u64).saturating_sub(self.bytes.as_ptr().addr() as u64) + 1
    }
}

/// See the module.
pub(super) struct Lines<R> {
    input: R,
    /// Twice the longest line, so that one always fits behind what was read.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_at_end: bool,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub fn of(input: R) -> Self {
        let buffer = vec![0; 2 * LONGEST_LINE + 2];
        Self { input, buffer, start: 0, end: 0, is_at_end: false, number: 0 }
    }

    /// The next line, or none at the end.
    ///
    /// # Errors
    ///
    /// If it is too long, or can't be read.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Unreadable> {
        let mut scanned = 0;
        let (length, end_length) = loop {
            let held = &self.buffer[self.start..self.end];
            let end = held[scanned..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let length = end.map_or(held.len(), |end| scanned + end);
            if length > LONGEST_LINE {
                return Err(Unreadable::LongLine { line: self.number + 1 });
            }
            match held.get(length..) {
                Some([b'\r', b'\n', ..]) => break (length, 2),
                Some([b'\n', ..] | [b'\r', _, ..]) => break (length, 1),
                Some([b'\r']) if self.is_at_end => break (length, 1),
                _ if self.is_at_end && held.is_empty() => return Ok(None),
                _ if self.is_at_end => break (length, 0),
                _ => {
                    scanned = length;
                    self.fill()?;
                }
            }
        };
        let bytes = &self.buffer[self.start..self.start + length];
        self.start += length + end_length;
        self.number += 1;
        Ok(Some(Line { number: self.number, bytes, is_ended: end_length > 0 }))
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.end == self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.is_at_end = count == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(input: impl Read) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::of(input);
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            assert_eq!(line.number, all.len() as u64 + 1);
            all.push((line.bytes.to_vec(), line.is_ended));
        }
        all
    }

    /// Gives a few bytes at a time, as a pipe may.
    struct Slow<'b>(&'b [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn lines_end_in_three_ways() {
        let text = |lines: &[(&str, bool)]| {
            lines.iter().map(|(l, e)| (l.as_bytes().to_vec(), *e)).collect::<Vec<_>>()
        };
        assert_eq!(lines(&b"a\nb\r\nc\rd"[..]), text(&[("a", true), ("b", true), ("c", true), ("d", false)]));
        assert_eq!(lines(&b"\r\r\n\n\r"[..]), text(&[("", true), ("", true), ("", true), ("", true)]));
        assert_eq!(lines(&b""[..]), []);
    }

    #[test]
    fn a_long_line_is_told_by_its_number() {
        let text = [&b"a\n"[..], &vec![b'x'; LONGEST_LINE], b"\n", &vec![b'x'; LONGEST_LINE + 1]].concat();
        let mut lines = Lines::of(&*text);
        assert_eq!(lines.next().unwrap().unwrap().bytes, b"a");
        assert_eq!(lines.next().unwrap().unwrap().bytes.len(), LONGEST_LINE);
        assert!(matches!(lines.next(), Err(Unreadable::LongLine { line: 3 })));
    }

    proptest! {
        #[test]
        fn how_it_comes_is_all_the_same(text in "[ab\r\n]{0,40}", step in 1usize..5) {
            prop_assert_eq!(lines(text.as_bytes()), lines(Slow(text.as_bytes(), step)));
        }
    }
}
