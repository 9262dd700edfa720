//! The bytes of a list on their way to its reader, with an eye on how many and how fast. Errors of readers go through
//! parsers of others', which may turn them into anything: so the first is also kept in a [`Fault`].

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Failure, FailureKind, Limits};

/// What went wrong first.
#[derive(Clone, Debug, Default)]
pub struct Fault(Rc<RefCell<Option<Failure>>>);

impl Fault {
    /// Keeps what went wrong, and makes it an error for a reader.
    pub fn set(&self, kind: FailureKind, message: impl std::fmt::Display) -> io::Error {
        let failure = Failure::new(kind, message);
        let error = io::Error::other(failure.message.clone());
        self.0.borrow_mut().get_or_insert(failure);
        error
    }

    /// What went wrong, if anything did.
    pub fn check(&self) -> Result<(), Failure> {
        self.0.borrow().clone().map_or(Ok(()), Err)
    }
}

/// Counts bytes, and ends where they are too many or too slow.
pub struct Watched<'c, R> {
    inner: R,
    limits: Limits,
    fault: Fault,
    /// How many there are to be.
    total: Option<u64>,
    count: &'c dyn Fn(u64, Option<u64>),
    bytes: u64,
    /// Time spent waiting, and what came meanwhile; nothing of a file's.
    waited: Option<(Duration, u64)>,
}

impl<'c, R: Read> Watched<'c, R> {
    /// Watches a file. `count` is told how many bytes there were, at each read.
    pub fn file(inner: R, limits: &Limits, fault: Fault, count: &'c dyn Fn(u64, Option<u64>)) -> Self {
        Self { inner, limits: limits.clone(), fault, total: None, count, bytes: 0, waited: None }
    }

    /// Watches what a server sends, which has announced this many bytes.
    pub fn body(
        inner: R,
        total: Option<u64>,
        limits: &Limits,
        fault: Fault,
        count: &'c dyn Fn(u64, Option<u64>),
    ) -> Self {
        let waited = Some((Duration::ZERO, 0));
        Self { inner, limits: limits.clone(), fault, total, count, bytes: 0, waited }
    }

    /// What an error of the connection means.
    fn failure(&self, error: &io::Error) -> io::Error {
        let cause = error.get_ref().and_then(|error| error.downcast_ref::<ureq::Error>());
        let bytes = self.bytes;
        match (error.kind(), cause) {
            (_, Some(ureq::Error::Timeout(_))) | (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => {
                let message =
                    format!("the server sent {bytes} bytes and then nothing for too long; try again later");
                self.fault.set(FailureKind::TooSlow, message)
            }
            (io::ErrorKind::UnexpectedEof, _) | (_, Some(ureq::Error::Protocol(_))) => self.cut_short(),
            _ if self.waited.is_none() => {
                self.fault.set(FailureKind::Input, format!("the list can't be read: {error}"))
            }
            _ => {
                let message = format!("the connection broke after {bytes} bytes: {error}; try again later");
                self.fault.set(FailureKind::Unreachable, message)
            }
        }
    }

    fn cut_short(&self) -> io::Error {
        let of = self.total.map_or(String::new(), |total| format!(" of the {total} that were announced"));
        let message = format!("the list was cut short after {} bytes{of}; try again later", self.bytes);
        self.fault.set(FailureKind::CutShort, message)
    }

    /// Refuses a server that sends a byte now and then, so that each wait is short.
    fn check_speed(&mut self, waited: Duration, came: usize) -> io::Result<()> {
        let Some((total, bytes)) = &mut self.waited else { return Ok(()) };
        *total += waited;
        *bytes += came as u64;
        if *total < self.limits.patience {
            return Ok(());
        }
        let rate = u128::from(*bytes) * 1000 / total.as_millis().max(1);
        if rate < u128::from(self.limits.least_rate) {
            let least = self.limits.least_rate;
            let message = format!("the server sends {rate} bytes a second, under {least}; try again later");
            return Err(self.fault.set(FailureKind::TooSlow, message));
        }
        self.waited = Some((Duration::ZERO, 0));
        Ok(())
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let start = Instant::now();
        let came = match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.failure(&error)),
            Ok(came) => came,
        };
        self.bytes += came as u64;
        if self.bytes > self.limits.packed {
            let message = format!(
                "the list is over {} bytes as it comes; allow more if it is to be so",
                self.limits.packed
            );
            return Err(self.fault.set(FailureKind::TooLarge, message));
        }
        if came == 0 && self.total.is_some_and(|total| total != self.bytes) {
            return Err(self.cut_short());
        }
        self.check_speed(start.elapsed(), came)?;
        (self.count)(self.bytes, self.total);
        Ok(came)
    }
}
