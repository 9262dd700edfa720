//! From rings to bounds: what a key's frames sum up to over strata, and how far from that the true number may be.

use super::Estimate;

/// The normal distribution's quantile of 97.5 %.
pub(super) const Z: f64 = 1.959_964;

/// A ring as a stratum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) samples: u64,
    /// Frames that no sample is of; at least and at most.
    pub(super) unsampled: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Frames of a ring without samples.
    pub(super) unknown: f64,
    /// How many frames drawn by chance the samples are worth.
    pub(super) observations: f64,
    /// How many standard deviations the bounds are apart from the middle.
    pub(super) quantile: f64,
    pub(super) is_told: bool,
}

impl Found {
    /// The bounds of a share of the frames that no sample is of, of which this share of the samples is.
    pub(super) fn bounds(&self, share: f64) -> (f64, f64) {
        if self.is_told { (share, share) } else { wilson(share, self.observations, self.quantile) }
    }

    /// Most frames that a key can have of which no sample is.
    pub(super) fn unseen(&self) -> f64 {
        if self.most > 0.0 { self.most * self.bounds(0.0).1 } else { 0.0 }
    }
}

/// A key's frames, summed up over rings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) samples: u64,
    pub(super) bytes_seen: u64,
    /// Squares of what the bounds lie below and above.
    pub(super) below: f64,
    pub(super) above: f64,
    /// Frames that no sample is of, and those of rings without any.
    pub(super) unsampled: f64,
    pub(super) unknown: f64,
    pub(super) lengths: Lengths,
}

impl Sum {
    /// Adds a ring in which nothing was seen.
    pub(super) fn without(mut self, ring: &Found) -> Self {
        self.above += ring.unseen().powi(2);
        self.unsampled += ring.most;
        self.unknown += ring.unknown;
        self
    }

    /// Adds what was seen in a ring that was added without it.
    pub(super) fn add(&mut self, ring: &Found, part: &Part) {
        if part.seen == 0 {
            return;
        }
        let share = if ring.unsampled > 0.0 {
            part.weight / ring.unsampled
        } else {
            float(part.seen) / float(ring.samples)
        };
        let packets = ring.unsampled * share;
        self.packets += float(part.seen) + packets;
        if ring.most > 0.0 {
            let (lower, upper) = ring.bounds(share);
            self.below += (packets - ring.least * lower).max(0.0).powi(2);
            self.above += (ring.most * upper - packets).max(0.0).powi(2) - ring.unseen().powi(2);
        }
        self.samples += part.seen;
        self.bytes_seen += part.bytes_seen;
        self.bytes += float(part.bytes_seen) + part.bytes_weight;
        self.lengths = self.lengths.plus(&part.lengths);
    }

    /// The estimate. Where there are too few samples of it to tell how its lengths vary, they do so by `variance` at least.
    pub(super) fn estimate(&self, variance: f64) -> Estimate {
        /// Samples that tell how lengths vary.
        const ENOUGH: f64 = 10.0;
        if self.samples == 0 {
            return Estimate { packets_upper: whole_number(self.unknown), ..Estimate::default() };
        }
        let seen = float(self.samples);
        let lower = (self.packets - self.below.sqrt()).max(seen);
        let upper = (self.packets + self.above.max(0.0).sqrt()).min(seen + self.unsampled) + self.unknown;
        let (own, observations) = (self.lengths.variance(), self.lengths.weights.effective().unwrap_or(1.0));
        let variance = if observations < ENOUGH { own.max(variance) } else { own };
        let mean = self.bytes / self.packets;
        let by_length = Z * (self.packets - seen).max(0.0) * (variance / observations).sqrt();
        let error = |packets: f64| (packets * mean).hypot(by_length);
        let bytes_seen = float(self.bytes_seen);
        Estimate {
            packets: whole_number(self.packets.round()),
            packets_lower: whole_number(lower.floor()),
            packets_upper: whole_number(upper.ceil()),
            bytes: whole_number(self.bytes.round()),
            bytes_lower: whole_number((self.bytes - error(self.packets - lower)).max(bytes_seen).floor()),
            bytes_upper: whole_number((self.bytes + error(upper - self.packets)).ceil()),
            samples: self.samples,
        }
    }
}

/// Weights and their squares.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weights {
    pub(super) sum: f64,
    pub(super) squares: f64,
}

/// What of a ring has a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) seen: u64,
    pub(super) weight: f64,
    pub(super) bytes_seen: u64,
    pub(super) bytes_weight: f64,
    pub(super) lengths: Lengths,
}

/// Lengths of frames, each as often as its sample stands for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    pub(super) weights: Weights,
    pub(super) sum: f64,
    pub(super) squares: f64,
}

impl Part {
    pub(super) fn add(&mut self, length: u32, weight: f64) {
        self.seen += 1;
        self.weight += weight;
        self.bytes_seen += u64::from(length);
        self.bytes_weight += weight * f64::from(length);
        self.lengths.add(length.into(), 1.0 + weight);
    }
}

impl Weights {
    pub(super) fn add(&mut self, weight: f64) {
        self.sum += weight;
        self.squares += weight * weight;
    }

    /// How many observations of equal weight they are worth; nothing where there is no weight.
    pub(super) fn effective(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| self.sum * self.sum / self.squares)
    }
}

impl Lengths {
    pub(super) fn add(&mut self, length: f64, weight: f64) {
        self.weights.add(weight);
        self.sum += weight * length;
        self.squares += weight * length * length;
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            weights: Weights {
                sum: self.weights.sum + other.weights.sum,
                squares: self.weights.squares + other.weights.squares,
            },
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }

    pub(super) fn variance(&self) -> f64 {
        if self.weights.sum > 0.0 {
            let mean = self.sum / self.weights.sum;
            (self.squares / self.weights.sum - mean * mean).max(0.0)
        } else {
            0.0
        }
    }
}

/// Wilson's interval of a share that was found among so many observations.
pub(super) fn wilson(share: f64, observations: f64, quantile: f64) -> (f64, f64) {
    let share = share.clamp(0.0, 1.0);
    let spread = quantile * quantile / observations;
    let middle = share + spread / 2.0;
    let half = (share * (1.0 - share) * spread + spread * spread / 4.0).sqrt();
    (((middle - half) / (1.0 + spread)).max(0.0), ((middle + half) / (1.0 + spread)).min(1.0))
}

/// Student's quantile of 97.5 % (Abramowitz and Stegun, 26.7.5, to the third term): right to a hundredth from five on, and
/// below that too small, where bounds are nothing and all anyway.
pub(super) fn student(freedom: f64) -> f64 {
    let freedom = freedom.max(1.0);
    let first = (Z.powi(3) + Z) / 4.0;
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
    Z + first / freedom + second / freedom.powi(2)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 frames, beyond any interface")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, not negative, and below 2^64"
)]
pub(super) fn whole_number(number: f64) -> u64 {
    number as u64
}
