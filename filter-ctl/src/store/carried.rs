//! What was counted and is in no map any more: of interfaces by name, and of entries, from when they are unloaded until they
//! are loaded again.
//!
//! What is written here is a whole count, never a difference, and so is what a map is given of it: whoever dies in between
//! does the same again, and nothing is counted twice. It is no change of what is wanted, and has no number.

use anyhow::{Context as _, Result};
use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};
use rusqlite::{OptionalExtension as _, TransactionBehavior};

use super::holds::{from_blob, to_blob};
use super::lists::LEVEL;
use super::{Damaged, Store};
use crate::policy::Key;
use crate::stats::InterfaceCounts;

/// What version 3 has beside: `carried` has a row for each interface, with a document; entries are in the order of their keys,
/// in blocks, since a million rows take seconds to write.
pub(super) const CARRIED: &str = "
CREATE TABLE carried (
    id INTEGER PRIMARY KEY AUTOINCREMENT, interface TEXT NOT NULL UNIQUE, counts TEXT NOT NULL
) STRICT;
CREATE TABLE carried_entries (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
";

/// Interfaces whose counts are kept, the last unloaded: names that come and go, as those of containers, must not pile up.
const MOST_INTERFACES: i64 = 1000;

/// Longest document in bytes: each reason and verdict, with the largest counts, are under 8 KiB.
const LONGEST: usize = 1 << 16;

/// Entries in a block.
const BLOCK: usize = 4096;

/// Bytes of an entry, at most: length, key, two counts.
const ENTRY_BYTES: usize = 1 + 19 + 16;

/// A row of an interface's document: reason, verdict, packets, bytes.
type Counted = (String, String, u64, u64);

impl Store {
    /// Writes down what these interfaces have counted, in place of what was carried for them; and where `entries` are given,
    /// which are in the order of their keys, what these have, in place of all that was carried.
    ///
    /// # Errors
    ///
    /// If it can't be written; then nothing is changed.
    pub fn carry(
        &mut self,
        interfaces: &[InterfaceCounts],
        entries: Option<&[(Key, Counter)]>,
    ) -> Result<()> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for interface in interfaces {
            let counted = interface.by_reason.iter().filter(|(.., counter)| *counter != Counter::default());
            let counted: Vec<_> = counted
                .map(|(reason, verdict, counter)| {
                    (reason.name(), verdict.name(), counter.packets, counter.bytes)
                })
                .collect();
            let document = serde_json::to_string(&counted).context("could not make JSON")?;
            transaction.execute(
                "INSERT OR REPLACE INTO carried (interface, counts) VALUES (?1, ?2)",
                (&interface.name, document),
            )?;
        }
        transaction.execute(
            "DELETE FROM carried WHERE id <= (SELECT id FROM carried ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            [MOST_INTERFACES],
        )?;
        if let Some(entries) = entries {
            transaction.execute("DELETE FROM carried_entries", [])?;
            let mut insert = transaction.prepare("INSERT INTO carried_entries (bytes) VALUES (?1)")?;
            // Where none has counted anything, that is carried: an empty block says so.
            for block in entries.chunks(BLOCK).chain(entries.is_empty().then_some(entries)) {
                let small =
                    zstd::bulk::compress(&to_bytes(block), LEVEL).context("could not compress counts")?;
                insert.execute([small])?;
            }
        }
        transaction.commit().context("could not write it to the disk")
    }

    /// What is carried for the interface of this name. Reasons that this build does not know are left out.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn carried(&self, interface: &str) -> Result<Option<Vec<(Reason, Verdict, Counter)>>> {
        let find = "SELECT counts FROM carried WHERE interface = ?1";
        let document: Option<String> = self.db.query_row(find, [interface], |row| row.get(0)).optional()?;
        let Some(document) = document.filter(|document| document.len() <= LONGEST) else { return Ok(None) };
        let counted: Vec<Counted> = serde_json::from_str(&document)
            .map_err(|error| Damaged(format!("what {interface} had counted: {error}")))?;
        let known = counted.into_iter().filter_map(|(reason, verdict, packets, bytes)| {
            let reason = Reason::ALL.iter().copied().find(|known| known.name() == reason)?;
            let verdict = reason.verdicts().find(|known| known.name() == verdict)?;
            Some((reason, verdict, Counter { packets, bytes }))
        });
        Ok(Some(known.collect()))
    }

    /// Hands over what is carried for each entry, in the order of keys.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn each_carried_entry(&self, mut on_entry: impl FnMut(Key, Counter)) -> Result<()> {
        let mut statement = self.db.prepare("SELECT bytes FROM carried_entries ORDER BY number")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let damaged = || Damaged("what entries had counted".into());
            let bytes = zstd::bulk::decompress(row.get_ref(0)?.as_blob()?, BLOCK * ENTRY_BYTES)
                .map_err(|_| damaged())?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (key, counter, left) = split_entry(rest).ok_or_else(damaged)?;
                on_entry(key, counter);
                rest = left;
            }
        }
        Ok(())
    }

    /// Forgets what is carried for these interfaces, and where `entries` is set, for all entries: the kernel counts them again.
    /// Writes nothing where there is nothing.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn forget_carried(&self, interfaces: &[String], entries: bool) -> Result<()> {
        let is_any = |table: &str| -> Result<bool> {
            Ok(self.db.query_row(&format!("SELECT EXISTS (SELECT 1 FROM {table})"), [], |row| row.get(0))?)
        };
        if is_any("carried")? {
            let mut forget = self.db.prepare("DELETE FROM carried WHERE interface = ?1")?;
            interfaces.iter().try_for_each(|interface| forget.execute([interface]).map(drop))?;
        }
        if entries && is_any("carried_entries")? {
            self.db.execute("DELETE FROM carried_entries", [])?;
        }
        Ok(())
    }
}

fn to_bytes(entries: &[(Key, Counter)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for (key, Counter { packets, bytes: length }) in entries {
        let blob = to_blob(key);
        bytes.push(u8::try_from(blob.len()).unwrap_or(u8::MAX));
        bytes.extend(blob);
        bytes.extend(packets.to_le_bytes());
        bytes.extend(length.to_le_bytes());
    }
    bytes
}

/// The first entry, and what comes behind it.
fn split_entry(bytes: &[u8]) -> Option<(Key, Counter, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let (packets, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let counter = Counter { packets: u64::from_le_bytes(*packets), bytes: u64::from_le_bytes(*length) };
    Some((from_blob(key)?, counter, rest))
}
