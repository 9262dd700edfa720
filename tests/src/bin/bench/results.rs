//! What was measured, and how it compares with what was asked. Knows nothing of how it was measured.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

/// All that a run brought.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Whether it was a quick one, whose figures mean little.
    pub quick: bool,
    /// The comparisons.
    pub points: Vec<Point>,
    /// Figures that compare nothing.
    pub figures: Vec<Series>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    #[serde(skip)]
    start: Instant,
}

/// What the samples of a point are, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Time that each takes; the ratio says how many times faster ours is.
    Speed,
    /// Work done a second; the ratio is ours to the peer's.
    Rate,
    /// Time that each takes; the ratio is ours to the peer's, and small is good.
    Cost,
}

/// A comparison: samples of ours and of a peer, taken in turn.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The part of the bench.
    pub part: char,
    /// What is compared.
    pub what: String,
    /// Name of the peer.
    pub peer: String,
    /// Unit of the samples.
    pub unit: &'static str,
    /// What the samples are.
    pub measure: Measure,
    /// Samples of ours.
    pub ours: Vec<f64>,
    /// Samples of the peer, as many.
    pub theirs: Vec<f64>,
    /// What the ratio must reach, or for a cost not pass.
    pub asked: Option<f64>,
    /// What it should reach.
    pub aim: Option<f64>,
}

/// Samples of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// The part of the bench.
    pub part: char,
    /// What.
    pub what: String,
    /// Unit of the samples.
    pub unit: &'static str,
    /// The samples, in order.
    pub samples: Vec<f64>,
}

impl Point {
    /// The ratio of each pair of samples.
    pub fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.theirs);
        pairs
            .map(|(ours, theirs)| match self.measure {
                Measure::Speed => theirs / ours,
                Measure::Rate | Measure::Cost => ours / theirs,
            })
            .collect()
    }

    /// Whether the ratio, by its median, is within a bound.
    pub fn reaches(&self, bound: f64) -> bool {
        let ratio = median(&self.ratios());
        match self.measure {
            Measure::Speed | Measure::Rate => ratio >= bound,
            Measure::Cost => ratio <= bound,
        }
    }
}

impl Results {
    /// Nothing yet.
    pub fn new(quick: bool) -> Self {
        let (points, figures, failures) = (Vec::new(), Vec::new(), Vec::new());
        Self { quick, points, figures, failures, start: Instant::now() }
    }

    /// Says on standard error what is being done: a run takes many minutes.
    pub fn tell(&self, what: &str) {
        eprintln!("[{:4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// Takes a comparison, and says it.
    pub fn point(&mut self, point: Point) {
        let (low, middle, high) = spread(&point.ratios());
        self.tell(&format!(
            "{}: {}, to {}: {middle:.2}x ({low:.2} to {high:.2}), {}; {:.1} and {:.1} {}",
            point.part,
            point.what,
            point.peer,
            match point.asked {
                Some(asked) if point.reaches(asked) => format!("reaches {asked}"),
                Some(asked) => format!("does NOT reach {asked}"),
                None => "reported".to_owned(),
            },
            median(&point.ours),
            median(&point.theirs),
            point.unit
        ));
        self.points.push(point);
    }

    /// Takes samples that compare nothing.
    pub fn figure(&mut self, part: char, what: impl Into<String>, unit: &'static str, samples: Vec<f64>) {
        let what = what.into();
        self.tell(&format!("{part}: {what}: {:.2} {unit}", median(&samples)));
        self.figures.push(Series { part, what, unit, samples });
    }

    /// Notes what could not be measured; the rest goes on.
    pub fn attempt(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        self.tell(what);
        if let Err(error) = work(self) {
            let failure = format!("{what}: {error:#}");
            self.tell(&format!("FAILED: {failure}"));
            self.failures.push(failure);
        }
    }
}

/// The sample in the middle; not a number if there are none.
pub fn median(samples: &[f64]) -> f64 {
    spread(samples).1
}

/// The least, the median and the greatest.
pub fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return (f64::NAN, f64::NAN, f64::NAN);
    };
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    (*first, median, *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(measure: Measure, ours: &[f64], theirs: &[f64]) -> Point {
        let (ours, theirs) = (ours.to_vec(), theirs.to_vec());
        let (what, peer) = (String::new(), String::new());
        Point { part: 'A', what, peer, unit: "ns", measure, ours, theirs, asked: None, aim: None }
    }

    #[test]
    fn ratios_are_of_pairs_and_judged_by_their_median() {
        let speed = point(Measure::Speed, &[1.0, 2.0, 4.0], &[10.0, 10.0, 10.0]);
        assert_eq!(speed.ratios(), [10.0, 5.0, 2.5]);
        assert!(speed.reaches(5.0) && !speed.reaches(5.1));
        let cost = point(Measure::Cost, &[3.0], &[2.0]);
        assert!(cost.reaches(1.5) && !cost.reaches(1.4));
        let rate = point(Measure::Rate, &[3.0], &[2.0]);
        assert!(rate.reaches(1.5) && !rate.reaches(1.6));
    }

    #[test]
    fn nothing_measured_reaches_nothing() {
        let none = point(Measure::Speed, &[], &[]);
        assert!(!none.reaches(0.0));
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[3.0, 1.0, 2.0, 4.0]), (1.0, 2.5, 4.0));
    }
}
