//! Reading the history, beside the process that writes it and without making it wait.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags, params};

use super::Resolution;
use super::file::{BUSY, FILE, foreign};

/// A time between two samples and what was counted within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Unix time at its end in seconds, as the clock said then. Steps are in their true order; this need not be.
    pub wall_s: i64,
    /// Its length on CLOCK_MONOTONIC; never zero.
    pub interval: Duration,
    /// What was counted, by interface, reason and verdict; what is missing counted nothing.
    pub counts: Vec<Count>,
}

/// What a series counted in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Of what.
    pub series: Arc<Series>,
    /// Frames.
    pub packets: u64,
    /// Bytes in these.
    pub bytes: u64,
}

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// Name under which the interface was loaded.
    pub interface: String,
    /// Name of the reason, maybe one that another build had.
    pub reason: String,
    /// `pass` or `drop`.
    pub verdict: String,
}

impl Step {
    /// A number within this step as a number a second.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and a rate is rounded anyway")]
    pub fn per_second(&self, number: u64) -> f64 {
        number as f64 / self.interval.as_secs_f64()
    }
}

/// The history, to read.
#[derive(Debug)]
pub struct Reader(Connection);

impl Reader {
    /// Opens the history in this directory; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the file can't be read or is something else.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let named = || format!("could not read the history {}", path.display());
        if !path.try_exists().with_context(named)? {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).with_context(named)?;
        connection.busy_timeout(BUSY).with_context(named)?;
        if let Some(why) = foreign(&connection).with_context(named)? {
            bail!("could not read the history {}: {why}", path.display());
        }
        Ok(Some(Self(connection)))
    }

    /// The steps that ended at `since_s` (Unix time in seconds) or later by the clock of then, in their order.
    /// Longer steps lack what came after the last that is complete.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn steps(&self, since_s: i64, resolution: Resolution) -> Result<Vec<Step>> {
        self.query(since_s, resolution).context("could not read the history")
    }

    fn query(&self, since_s: i64, resolution: Resolution) -> rusqlite::Result<Vec<Step>> {
        // One statement sees one state of the file.
        let mut query = self.0.prepare(
            "SELECT number, wall_s, interval_us, series.id, interface, reason, verdict, packets, bytes
             FROM step LEFT JOIN count USING (resolution, number) LEFT JOIN series ON series.id = count.series
             WHERE resolution = ? AND wall_s >= ? ORDER BY number",
        )?;
        let mut rows = query.query(params![resolution.seconds(), since_s])?;
        let (mut steps, mut last): (Vec<Step>, Option<i64>) = (Vec::new(), None);
        let mut known: HashMap<i64, Arc<Series>> = HashMap::new();
        while let Some(row) = rows.next()? {
            let number = Some(row.get(0)?);
            if number != last {
                let interval = Duration::from_micros(row.get::<_, i64>(2)?.unsigned_abs().max(1));
                steps.push(Step { wall_s: row.get(1)?, interval, counts: Vec::new() });
                last = number;
            }
            let (Some(step), Some(id)) = (steps.last_mut(), row.get(3)?) else { continue };
            let series = match known.get(&id) {
                Some(series) => Arc::clone(series),
                None => {
                    let series = Series { interface: row.get(4)?, reason: row.get(5)?, verdict: row.get(6)? };
                    Arc::clone(known.entry(id).or_insert(Arc::new(series)))
                }
            };
            let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
            step.counts.push(Count { series, packets: number(7)?, bytes: number(8)? });
        }
        steps.iter_mut().for_each(|step| step.counts.sort_by(|a, b| a.series.cmp(&b.series)));
        Ok(steps)
    }
}
