//! Which samples are worth the disk: all of whatever is new, and fewer and fewer of what goes on. Pure; time is that of the
//! samples.
//!
//! The kernel takes up to a hundred samples a second of each ring and CPU, which is gigabytes a day. Of a ring, all CPUs
//! together, so many are kept as a logarithm of the time says for which it has been at it: `FIRST` at once,
//! 2,000 in the first minute, 4,400 in the first hour, 6,300 in the first day; and one in each `WIDEST` in any case. So the
//! start of a flood is still on the disk when it has gone on for days: 256 MiB hold a week of some forty floods. Where a
//! ring rests for `REST`, what follows is new again.

use std::collections::HashMap;
use std::time::Duration;

use super::Sample;

/// Samples of a ring that are kept at once: what one CPU takes in six seconds.
const FIRST: f64 = 600.0;

/// The unit of the logarithm: shorter, and more of the disk is for the start.
const SCALE: Duration = Duration::from_secs(6);

/// The longest time between two samples of a ring that is busy: some sample of each minute is there.
const WIDEST: Duration = Duration::from_secs(60);

/// How long a ring must have been quiet for what follows to be new. More than `WIDEST`, and less than the pause between two
/// waves of an attack that somebody would call two attacks.
const REST: Duration = Duration::from_secs(120);

/// What was kept of each ring.
#[derive(Clone, Debug, Default)]
pub struct Thinning(HashMap<u32, Busy>);

#[derive(Clone, Copy, Debug)]
struct Busy {
    since: Duration,
    seen: Duration,
    kept: Duration,
    number: f64,
}

/// How many samples of a ring are kept that has been at it for so long.
fn budget(busy: Duration) -> f64 {
    FIRST * (1.0 + (1.0 + busy.as_secs_f64() / SCALE.as_secs_f64()).ln())
}

impl Thinning {
    /// Whether a sample is kept. They come in the order of time.
    pub fn keeps(&mut self, sample: &Sample) -> bool {
        let now = sample.time;
        let new = Busy { since: now, seen: now, kept: now, number: 1.0 };
        let Some(busy) = self.0.get_mut(&sample.stream.ring) else {
            self.0.insert(sample.stream.ring, new);
            return true;
        };
        if now.saturating_sub(busy.seen) >= REST {
            *busy = new;
            return true;
        }
        busy.seen = now;
        let is_kept =
            busy.number < budget(now.saturating_sub(busy.since)) || now.saturating_sub(busy.kept) >= WIDEST;
        if is_kept {
            busy.kept = now;
            busy.number += 1.0;
        }
        is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    /// Samples kept between two times, of a ring that has ten to a hundred a second from the first.
    fn kept(thinning: &mut Thinning, ring: u32, from_ms: u64, to_ms: u64) -> usize {
        let step = if to_ms - from_ms < 100_000 { 10 } else { 100 };
        let times = (from_ms..to_ms).step_by(step).map(Duration::from_millis);
        times.filter(|time| thinning.keeps(&sample(0, ring, *time))).count()
    }

    #[test]
    fn of_what_is_new_all_is_kept_and_less_and_less_of_what_goes_on() {
        let mut thinning = Thinning::default();
        assert_eq!(kept(&mut thinning, 7, 0, 6_000), 600);
        let minute = 600 + kept(&mut thinning, 7, 6_000, 60_000);
        assert!((2_000..2_100).contains(&minute), "{minute}");
        let hour = minute + kept(&mut thinning, 7, 60_000, 3_600_000);
        assert!((4_400..4_500).contains(&hour), "{hour}");
        let day = hour + kept(&mut thinning, 7, 3_600_000, 86_400_000);
        assert!((6_300..8_000).contains(&day), "{day}");
        // Another ring is as new as it was.
        assert_eq!(kept(&mut thinning, 8, 86_400_000, 86_406_000), 600);
    }

    #[test]
    fn what_rested_is_new_again() {
        let mut thinning = Thinning::default();
        kept(&mut thinning, 7, 0, 600_000);
        assert!(kept(&mut thinning, 7, 601_000, 602_000) < 10, "a pause that is no rest");
        assert_eq!(kept(&mut thinning, 7, 722_000, 723_000), 100);
    }
}
