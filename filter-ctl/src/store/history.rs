//! What the filter counted over the last hour, day and month, in an SQLite file of its own.
//!
//! The file holds *steps* and their *counts*. A step is a time between two samples, with the wall clock at its end
//! and its length on CLOCK_MONOTONIC; its counts say what a series (interface, reason and verdict) counted within.
//! A series that counted nothing has no row. So a step without a count is a zero, and a time without a step is a
//! gap: nobody looked.
//!
//! Steps are numbered within their resolution, and that number is their order. The wall clock is only shown: when it
//! jumps, no step is lost, taken twice or thrown away for its age, and no rate is wrong, since a rate is a
//! count by monotonic time.
//!
//! Nothing here is precious. What can't be read is set aside, and what can't be written is told to the caller, who
//! goes on: the next step then covers the missing time as well.

mod file;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use filter_common::{Reason, Verdict};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

pub use self::file::{MAX_BYTES, SetAside};
pub use self::reader::{Count, Reader, Series, Step};
use crate::stats::InterfaceCounts;

/// Most counts kept for each resolution. That is the whole time for some 23 series that never rest at a minute, 115
/// at ten seconds and 277 at a second; with more, older steps go sooner. All series of 63 interfaces without this
/// bound would be 200 million rows.
pub const MAX_COUNTS: u64 = 1_000_000;
/// Growth in one step beyond which a counter is not believed: no interface carries 2^50 bytes in a step, and sums
/// of steps stay below 2^63.
const MAX_GROWTH: i64 = 1 << 50;
/// Names of series kept before those that no count refers to are looked for: what 63 interfaces can have at once.
const SERIES_KEPT: u64 = 63 * 128;

/// How long a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// A second, or what lies between two samples.
    Second,
    /// Ten seconds.
    TenSeconds,
    /// A minute.
    Minute,
}

impl Resolution {
    /// All, the finest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// Its length in seconds.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }

    /// Most steps kept: an hour, a day, 30 days of them.
    pub const fn max_steps(self) -> u32 {
        match self {
            Self::Second => 3_600,
            Self::TenSeconds => 8_640,
            Self::Minute => 43_200,
        }
    }

    /// The finest that shows this time in at most 360 steps, which is what fits on a few screens; the coarsest where none does.
    pub fn for_span(span: Duration) -> Self {
        let fits = |resolution: &Self| span.as_secs() <= 360 * u64::from(resolution.seconds());
        Self::ALL.into_iter().find(fits).unwrap_or(Self::Minute)
    }

    /// Whether a boundary between two steps, a multiple of its length on CLOCK_MONOTONIC, lies between two moments.
    fn is_crossed(self, before: Duration, now: Duration) -> bool {
        let steps = |moment: Duration| moment.as_secs() / u64::from(self.seconds());
        steps(before) != steps(now)
    }
}

/// The writer of the file. There must be one.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    /// The last sample that was recorded.
    previous: Option<(Duration, Vec<InterfaceCounts>)>,
    series: BTreeMap<(String, Reason, Verdict), i64>,
    /// Number of series at which unused ones are looked for.
    prune_at: u64,
    /// [`MAX_COUNTS`], or what a test can fill.
    max_counts: u64,
}

impl History {
    /// Opens the history in this directory, or begins one. A file that is damaged or something else is set aside.
    ///
    /// All of the file is read to find damage, which takes a second or two where it is as large as it may be.
    ///
    /// # Errors
    ///
    /// If the directory or file can't be read or written, or another process writes.
    pub fn open(directory: &Path) -> Result<(Self, Option<SetAside>)> {
        let (connection, aside) = file::open(directory)?;
        forget_unused_series(&connection).context("could not write the history")?;
        let history = Self {
            connection,
            previous: None,
            series: BTreeMap::new(),
            prune_at: SERIES_KEPT,
            max_counts: MAX_COUNTS,
        };
        Ok((history, aside))
    }

    /// Records what was counted since the last sample, and ends the longer steps whose time is over.
    ///
    /// `at` is on CLOCK_MONOTONIC, `wall_s` in seconds of Unix time. The first sample is only where counting begins;
    /// so is the first of an interface, one that was loaded anew, and counters that are smaller than before.
    ///
    /// # Errors
    ///
    /// If it can't be written, as on a full disk. Nothing is changed then, and the next sample makes up for it. Where
    /// the file turns out to be damaged, opening it again sets it aside.
    pub fn record(&mut self, wall_s: i64, at: Duration, interfaces: &[InterfaceCounts]) -> Result<()> {
        let recorded = self.write(wall_s, at, interfaces);
        match recorded {
            Ok(()) => self.previous = Some((at, interfaces.to_vec())),
            // Numbers of names that were new are not in the file either.
            Err(_) => self.series.clear(),
        }
        recorded.context("could not write the history")
    }

    fn write(&mut self, wall_s: i64, at: Duration, interfaces: &[InterfaceCounts]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        match &self.previous {
            Some((before, counts)) if *before < at => {
                let grown = growth(counts, interfaces);
                let number = last_number(&transaction, Resolution::Second)? + 1;
                let mut insert = transaction.prepare("INSERT INTO count VALUES (?, ?, ?, ?, ?)")?;
                let resolution = Resolution::Second.seconds();
                for (interface, reason, verdict, packets, bytes) in &grown {
                    let series = series(&transaction, &mut self.series, interface, *reason, *verdict)?;
                    insert.execute(params![resolution, number, series, packets, bytes])?;
                }
                let interval_us = i64::try_from((at - *before).as_micros()).unwrap_or(i64::MAX >> 8);
                transaction.execute(
                    "INSERT INTO step VALUES (?, ?, ?, ?, ?, ?)",
                    params![resolution, number, wall_s, interval_us, rows(grown.len()), number],
                )?;
                drop(insert);
                trim(&transaction, Resolution::Second, self.max_counts)?;
                for pair in Resolution::ALL.windows(2) {
                    if pair[1].is_crossed(*before, at) {
                        fold(&transaction, pair[0], pair[1], self.max_counts)?;
                    }
                }
            }
            // What an earlier process left over ends here, so that no step spans the time between.
            _ => {
                for pair in Resolution::ALL.windows(2) {
                    fold(&transaction, pair[0], pair[1], self.max_counts)?;
                }
            }
        }
        if self.series.len() as u64 > self.prune_at {
            forget_unused_series(&transaction)?;
            self.series.clear();
            let left: i64 = transaction.query_row("SELECT count(*) FROM series", [], |row| row.get(0))?;
            self.prune_at = SERIES_KEPT.max(2 * left.unsigned_abs());
        }
        transaction.commit()
    }
}

/// What each series counted between two samples; those that counted nothing, or can't be compared, are left out.
fn growth(before: &[InterfaceCounts], now: &[InterfaceCounts]) -> Vec<(String, Reason, Verdict, i64, i64)> {
    let mut grown = Vec::new();
    for interface in now {
        let same =
            |then: &&InterfaceCounts| (&then.name, then.loaded_s) == (&interface.name, interface.loaded_s);
        let Some(before) = before.iter().find(same) else { continue };
        for (reason, verdict, counter) in &interface.by_reason {
            let then = before.of(*reason, *verdict);
            let grew = |now: u64, then: u64| {
                i64::try_from(now.checked_sub(then)?).ok().filter(|growth| *growth <= MAX_GROWTH)
            };
            if let (Some(packets), Some(bytes)) =
                (grew(counter.packets, then.packets), grew(counter.bytes, then.bytes))
                && packets > 0
            {
                grown.push((interface.name.clone(), *reason, *verdict, packets, bytes));
            }
        }
    }
    grown
}

/// The number of a series in the file.
fn series(
    transaction: &Transaction,
    known: &mut BTreeMap<(String, Reason, Verdict), i64>,
    interface: &str,
    reason: Reason,
    verdict: Verdict,
) -> rusqlite::Result<i64> {
    let key = (interface.to_owned(), reason, verdict);
    if let Some(id) = known.get(&key) {
        return Ok(*id);
    }
    let names = params![interface, reason.name(), verdict.name()];
    let find = "SELECT id FROM series WHERE (interface, reason, verdict) = (?, ?, ?)";
    let id = match transaction.query_row(find, names, |row| row.get(0)).optional()? {
        Some(id) => id,
        None => {
            transaction.execute("INSERT INTO series (interface, reason, verdict) VALUES (?, ?, ?)", names)?;
            transaction.last_insert_rowid()
        }
    };
    known.insert(key, id);
    Ok(id)
}

fn last_number(transaction: &Transaction, resolution: Resolution) -> rusqlite::Result<i64> {
    let last = "SELECT coalesce(max(number), 0) FROM step WHERE resolution = ?";
    transaction.query_row(last, [resolution.seconds()], |row| row.get(0))
}

/// Makes one step of all finer ones that are in none yet; nothing if there are none.
fn fold(transaction: &Transaction, fine: Resolution, coarse: Resolution, max: u64) -> rusqlite::Result<()> {
    let number = last_number(transaction, coarse)? + 1;
    let (fine, resolution) = (fine.seconds(), coarse.seconds());
    let covered = "SELECT coalesce(max(upto), 0) FROM step WHERE resolution = ?";
    let after: i64 = transaction.query_row(covered, [resolution], |row| row.get(0))?;
    let counts = transaction.execute(
        "INSERT INTO count SELECT ?1, ?2, series, sum(packets), sum(bytes) FROM count
         WHERE resolution = ?3 AND number > ?4 GROUP BY series",
        params![resolution, number, fine, after],
    )?;
    // Beside max(), SQLite takes other columns from the row that has it: the wall clock at the end of the last.
    transaction.execute(
        "INSERT INTO step SELECT ?1, ?2, wall_s, covered, ?5, upto FROM (
             SELECT wall_s, sum(interval_us) AS covered, max(number) AS upto FROM step
             WHERE resolution = ?3 AND number > ?4
         ) WHERE upto IS NOT NULL",
        params![resolution, number, fine, after, rows(counts)],
    )?;
    trim(transaction, coarse, max)
}

/// Deletes the oldest steps beyond the most that are kept of them and of their counts, but never the last.
fn trim(transaction: &Transaction, resolution: Resolution, max_counts: u64) -> rusqlite::Result<()> {
    let last = last_number(transaction, resolution)?;
    let resolution_s = resolution.seconds();
    let kept = "SELECT coalesce(max(number), 0) FROM (
            SELECT number, sum(counts) OVER (ORDER BY number DESC) AS kept FROM step WHERE resolution = ?1
        ) WHERE kept > ?2";
    let max_counts = i64::try_from(max_counts).unwrap_or(i64::MAX);
    let total = "SELECT coalesce(sum(counts), 0) FROM step WHERE resolution = ?";
    let total: i64 = transaction.query_row(total, [resolution_s], |row| row.get(0))?;
    let too_many: i64 = match total > max_counts {
        true => transaction.query_row(kept, params![resolution_s, max_counts], |row| row.get(0))?,
        false => 0,
    };
    // Numbers have no holes, so this leaves as many steps.
    let gone = too_many.max(last - i64::from(resolution.max_steps())).min(last - 1);
    for delete in [
        "DELETE FROM count WHERE resolution = ? AND number <= ?",
        "DELETE FROM step WHERE resolution = ? AND number <= ?",
    ] {
        transaction.execute(delete, params![resolution_s, gone])?;
    }
    Ok(())
}

/// A number of rows as SQLite has it.
fn rows(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn forget_unused_series(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM count)", [])
}
