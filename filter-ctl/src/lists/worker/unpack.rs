//! Lists that are packed: gzip and zstd, told from their first bytes, for names and headers lie. One layer, and never more
//! text than is allowed: that bound, not a ratio, is what ends a bomb.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

use super::source::Fault;
use super::{Failure, FailureKind, Limits};

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// Largest window of zstd, as a power of two: 128 MiB, as zstd itself takes without being asked, and as `--long` makes. A
/// frame that wants more would take the child's memory before there is a byte of text.
const WINDOW_LOG: u32 = 27;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
    /// What can't be unpacked, by its name.
    Other(&'static str),
}

impl Packing {
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or one that is to be skipped (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [b'P', b'K', 3, 4, ..] => Some(Self::Other("a zip archive")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Other("packed by xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Other("packed by bzip2")),
            [b'7', b'z', 0xbc, 0xaf, ..] => Some(Self::Other("a 7-Zip archive")),
            _ => None,
        }
    }
}

/// The text of a list, whether it is packed or not.
///
/// # Errors
///
/// A [`Failure`] if it is packed in another way. What is wrong later is in `fault`.
pub fn text<'r>(
    input: impl Read + 'r,
    limits: &Limits,
    fault: &Fault,
) -> Result<Box<dyn BufRead + 'r>, Failure> {
    let bounded = |inner, is_packed| {
        let text = Text { inner, left: limits.text, limit: limits.text, is_packed, fault: fault.clone() };
        BufReader::with_capacity(BUFFER, text)
    };
    let (packing, input) = peek(input, fault)?;
    let packed = BufReader::with_capacity(BUFFER, input);
    let unpacked: Box<dyn Read + 'r> = match packing {
        None => return Ok(Box::new(bounded(Box::new(packed) as Box<dyn Read + 'r>, false))),
        Some(Packing::Gzip) => Box::new(MultiGzDecoder::new(packed)),
        Some(Packing::Zstd) => {
            let cannot = |error: io::Error| {
                Failure::new(FailureKind::Packed, format!("zstd can't be unpacked: {error}"))
            };
            let mut decoder = Decoder::with_buffer(packed).map_err(cannot)?;
            decoder.window_log_max(WINDOW_LOG).map_err(cannot)?;
            Box::new(decoder)
        }
        Some(Packing::Other(what)) => {
            let message = format!("the list is {what}; give it as plain text, or packed by gzip or zstd");
            return Err(Failure::new(FailureKind::Packed, message));
        }
    };
    let (packing, text) = peek(bounded(unpacked, true), fault)?;
    if packing.is_some() {
        let message = "the list is packed twice; give it packed once, by gzip or zstd";
        return Err(Failure::new(FailureKind::Packed, message));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER, text)))
}

/// How what is read is packed, and all of it.
fn peek<'r>(mut input: impl Read + 'r, fault: &Fault) -> Result<(Option<Packing>, impl Read + 'r), Failure> {
    let mut head = Vec::with_capacity(6);
    // An error is kept in the fault, and comes again with the next read where it is not.
    if let Err(error) = input.by_ref().take(6).read_to_end(&mut head) {
        fault.check()?;
        return Err(Failure::new(FailureKind::Input, format!("the list can't be read: {error}")));
    }
    let packing = Packing::of(&head);
    Ok((packing, Cursor::new(head).chain(input)))
}

/// Text up to a bound.
struct Text<'r> {
    inner: Box<dyn Read + 'r>,
    left: u64,
    limit: u64,
    is_packed: bool,
    fault: Fault,
}

impl Read for Text<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let came = match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted || !self.is_packed => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let message =
                    "the list was cut short: it ends in the middle of what is packed; fetch it again";
                return Err(self.fault.set(FailureKind::CutShort, message));
            }
            Err(error) => {
                let message =
                    format!("the list can't be unpacked: {error}; fetch it again, or give it as plain text");
                return Err(self.fault.set(FailureKind::Packed, message));
            }
            Ok(came) => came,
        };
        match self.left.checked_sub(came as u64) {
            Some(left) => self.left = left,
            None => {
                let message =
                    format!("the list is over {} bytes of text; allow more if it is to be so", self.limit);
                return Err(self.fault.set(FailureKind::TooLarge, message));
            }
        }
        Ok(came)
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write as _;

    use super::*;

    pub fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let fault = Fault::default();
        let mut all = Vec::new();
        let read = text(bytes, &Limits { text: 1 << 20, ..Limits::default() }, &fault)?.read_to_end(&mut all);
        fault.check()?;
        read.unwrap();
        Ok(all)
    }

    #[test]
    fn what_was_packed_comes_back() {
        for text in [&b""[..], b"a", b"192.0.2.1\n", &[b'x'; 200_000]] {
            assert_eq!(unpacked(text).unwrap(), text);
            assert_eq!(unpacked(&gzip(text)).unwrap(), text);
            assert_eq!(unpacked(&zstd(text)).unwrap(), text);
            assert_eq!(unpacked(&[gzip(text), gzip(text)].concat()).unwrap(), text.repeat(2));
            assert_eq!(unpacked(&[zstd(text), zstd(text)].concat()).unwrap(), text.repeat(2));
        }
    }

    #[test]
    fn bombs_cuts_and_strangers_are_told() {
        use FailureKind::{CutShort, Packed, TooLarge};
        let zeros = vec![0; 8 << 20];
        let long: Vec<u8> = (0..9999u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut damaged = gzip(&long);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        // A frame with a window of 2 GiB, and an empty block (RFC 8878, 3.1.1).
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
        for (bytes, kind, why) in [
            (gzip(&zeros), TooLarge, "bytes of text"),
            (zstd(&zeros), TooLarge, "bytes of text"),
            (zeros.clone(), TooLarge, "bytes of text"),
            (gzip(&long)[..20_000].to_vec(), CutShort, "middle"),
            (zstd(&long)[..20_000].to_vec(), CutShort, "middle"),
            (gzip(b"a")[..12].to_vec(), CutShort, "middle"),
            (damaged, Packed, "can't be unpacked"),
            (window.to_vec(), Packed, "memory"),
            (gzip(&gzip(b"a")), Packed, "twice"),
            (zstd(&gzip(b"a")), Packed, "twice"),
            (b"PK\x03\x04....".to_vec(), Packed, "zip archive"),
            (b"\xfd7zXZ\0...".to_vec(), Packed, "xz"),
        ] {
            let failure = unpacked(&bytes).unwrap_err();
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(why), "{failure}");
        }
    }
}
