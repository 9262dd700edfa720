//! What takes going over all entries under the lock: seldom done where there are many, so that the daemon's proofs, and commands,
//! have it for themselves nearly always.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::control::{Control, ListHits};
use crate::host::monotonic_now_s;
use crate::kernel::filter::Counts;
use crate::policy::Owner;

/// How many times as long as it took what was found is good for: a twentieth of the time at most is spent on it. With a million
/// entries of lists it takes a second.
const SELDOM: u32 = 20;

/// What was found when all entries were last gone over.
#[derive(Debug, Default)]
pub struct Walked(Seldom<Walk>);

/// What is found by going over all entries.
#[derive(Clone, Debug)]
pub struct Walk {
    /// How many entries there are of each kind.
    pub counts: Counts,
    /// What each list did; nothing where the store can't be read.
    pub hits: Option<Vec<(Owner, ListHits)>>,
}

impl Walked {
    /// What was found lately, or is now.
    ///
    /// # Errors
    ///
    /// If there is no memory to look at all entries.
    pub fn of(&self, control: &Control) -> Result<Walk> {
        self.0.of(|| {
            let counts = control.filter().count(monotonic_now_s())?;
            Ok(Walk { counts, hits: control.list_hits(0).ok() })
        })
    }

    /// What was found is of a filter that is gone.
    pub fn forget(&self) {
        *self.0.last() = None;
    }
}

/// What is found seldom, when, and how long that took.
#[derive(Debug)]
struct Seldom<T>(Mutex<Option<(T, Instant, Duration)>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Seldom<T> {
    fn last(&self) -> std::sync::MutexGuard<'_, Option<(T, Instant, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, find: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut last = self.last();
        if let Some((found, at, took)) = &*last
            && at.elapsed() < *took * SELDOM
        {
            return Ok(found.clone());
        }
        let began = Instant::now();
        let found = find()?;
        *last = Some((found.clone(), Instant::now(), began.elapsed()));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_good_for_longer() {
        let seldom = Seldom::default();
        assert_eq!(seldom.of(|| Ok(1)).unwrap(), 1);
        let began = Instant::now();
        let long = || {
            while began.elapsed() < Duration::from_millis(500) {
                std::thread::yield_now();
            }
            Ok(2)
        };
        // That took no time, and is good for none that can be told.
        while seldom.of(|| Ok(0)).unwrap() != 0 {}
        while seldom.of(long).unwrap() != 2 {}
        assert_eq!(seldom.of(|| Ok(3)).unwrap(), 2);
        *seldom.last() = None;
        assert_eq!(seldom.of(|| Ok(4)).unwrap(), 4);
        *seldom.last() = None;
        assert!(seldom.of(|| anyhow::bail!("not now")).is_err());
        assert_eq!(seldom.of(|| Ok(5)).unwrap(), 5);
    }
}
