//! Random frames that are nearly right: those of the scenarios, and what becomes of them by a few changes.

use crate::scenarios::{Scenario, all};

/// Makes frames from the scenarios'.
pub struct Mutator {
    scenarios: Vec<Scenario>,
}

impl Default for Mutator {
    fn default() -> Self {
        Self { scenarios: all() }
    }
}

/// Bytes that mean something somewhere: protocols, tags, versions, lengths at their limits.
const TELLING: [u8; 24] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 17, 40, 43, 44, 51, 58, 59, 60, 0x45, 0x60, 0x81, 0x88, 132, 135, 255];

impl Mutator {
    /// A scenario at random, for its policy.
    pub fn scenario(&self, random: &mut fastrand::Rng) -> &Scenario {
        &self.scenarios[random.usize(..self.scenarios.len())]
    }

    /// A frame: one in four as in its scenario, the others changed in up to four ways.
    pub fn frame(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut frame = self.scenario(random).frame.clone();
        if random.u8(..4) == 0 {
            return frame;
        }
        for _ in 0..=random.usize(..4) {
            self.change(&mut frame, random);
        }
        // What the kernel takes in a test-run.
        frame.truncate(3520);
        frame
    }

    fn change(&self, frame: &mut Vec<u8>, random: &mut fastrand::Rng) {
        if frame.is_empty() {
            frame.push(random.u8(..));
        }
        let place = random.usize(..frame.len());
        match random.u8(..8) {
            0 => frame[place] = random.u8(..),
            1 => frame[place] ^= 1 << random.u8(..8),
            2 | 3 => frame[place] = TELLING[random.usize(..TELLING.len())],
            4 => frame.truncate(place),
            5 => frame.resize(frame.len() + random.usize(..64), random.u8(..)),
            6 if frame.len() >= 14 => drop(frame.splice(12..12, [0x81, 0x00, random.u8(..), random.u8(..)])),
            _ => {
                // The head of one frame and the tail of another.
                let other = &self.scenario(random).frame;
                frame.truncate(place);
                frame.extend(other.iter().skip(place));
            }
        }
    }
}
