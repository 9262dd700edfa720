//! Holds as rows: by key and owner. A key is a blob that sorts as keys do.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use filter_common::abi::ABI_VERSION;
use ipnet::IpNet;
use rusqlite::{Connection, Row, TransactionBehavior};

use super::{BELIEVED_S, Damaged, Policy, Record, Store, audit, policies, read_state, to_sql, wall_now_s};
use crate::holds::{Hold, enforced};
use crate::host::{boot_id, monotonic_now_s};
use crate::kernel::filter::digest as digest_of;
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};

/// Longest creator that is kept, in bytes: two user names.
const LONGEST_CREATOR: usize = 128;

/// Which keys are read.
#[derive(Clone, Copy, Debug)]
pub enum Bounds {
    /// All.
    All,
    /// From one to another, both included.
    Within(Key, Key),
}

/// The key as it sorts: family, address, length, action.
fn to_blob(key: &Key) -> Vec<u8> {
    let mut blob = Vec::with_capacity(19);
    match key.prefix.address() {
        IpAddr::V4(address) => {
            blob.push(4);
            blob.extend(address.octets());
        }
        IpAddr::V6(address) => {
            blob.push(6);
            blob.extend(address.octets());
        }
    }
    blob.extend([key.prefix.prefix_len(), key.action.number()]);
    blob
}

fn from_blob(blob: &[u8]) -> Option<Key> {
    let (address, rest) = match blob.split_first()? {
        (4, rest) => (IpAddr::from(*rest.first_chunk::<4>()?), &rest[4..]),
        (6, rest) => (IpAddr::from(*rest.first_chunk::<16>()?), &rest[16..]),
        _ => return None,
    };
    let [length, action] = *rest else { return None };
    let prefix = Prefix::of_network(IpNet::new(address, length).ok()?)?;
    Some(Key { prefix, action: Action::from_number(action)? })
}

const COLUMNS: &str = "key, owner, reason, creator, created_s, until_s";

/// The hold of a row, and its key, with times moved by `shift_s`.
fn hold_of(row: &Row<'_>, shift_s: i64) -> Result<(Key, Hold)> {
    let hold = || -> Option<(Key, Hold)> {
        let text = |column| row.get_ref(column).ok()?.as_str().ok();
        let key = from_blob(row.get_ref(0).ok()?.as_blob().ok()?)?;
        let creator = text(3).filter(|creator| creator.len() <= LONGEST_CREATOR)?;
        let created_s: i64 = row.get(4).ok().filter(|created_s| BELIEVED_S.contains(created_s))?;
        let until = match Deadline(row.get(5).ok()?) {
            Deadline::NEVER => Deadline::NEVER,
            Deadline(until_s) => Deadline(u32::try_from((i64::from(until_s) + shift_s).max(0)).ok()?),
        };
        let hold = Hold {
            owner: Owner::parse(text(1)?).ok()?,
            reason: ReasonText::parse(text(2)?).ok()?,
            creator: creator.into(),
            created_s: created_s + shift_s,
            until,
        };
        Some((key, hold))
    };
    hold().ok_or_else(|| Damaged("a hold is nothing that filter-ctl writes".into()).into())
}

/// Reads holds in the order of keys, and hands over all of one key at a time.
fn each_key(
    db: &Connection,
    bounds: Bounds,
    shift_s: i64,
    mut on_key: impl FnMut(Key, Vec<Hold>) -> Result<()>,
) -> Result<()> {
    let (first, last) = match bounds {
        Bounds::All => (Vec::new(), vec![u8::MAX]),
        Bounds::Within(first, last) => (to_blob(&first), to_blob(&last)),
    };
    let sql = format!("SELECT {COLUMNS} FROM holds WHERE key >= ?1 AND key <= ?2 ORDER BY key, owner");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query((first, last))?;
    let mut open: Option<(Key, Vec<Hold>)> = None;
    while let Some(row) = rows.next()? {
        let (key, hold) = hold_of(row, shift_s)?;
        match &mut open {
            Some((last, holds)) if *last == key => holds.push(hold),
            _ => {
                if let Some((key, holds)) = open.replace((key, vec![hold])) {
                    on_key(key, holds)?;
                }
            }
        }
    }
    open.map_or(Ok(()), |(key, holds)| on_key(key, holds))
}

/// Sum of the digests of what is to be enforced. What has ended counts until it is cleared away, as in the tables.
pub(super) fn digest(db: &Connection, shift_s: i64) -> Result<u64> {
    let mut sum = 0u64;
    each_key(db, Bounds::All, shift_s, |key, holds| {
        sum = sum.wrapping_add(enforced(key, &holds).map_or(0, |entry| digest_of(&entry)));
        Ok(())
    })?;
    Ok(sum)
}

/// A change to be written: the holds of each key as they are to be, none where the key is free.
pub struct Intent<'c> {
    /// The holds as they were, in the order of keys, each key once.
    pub before: &'c [(Key, Vec<Hold>)],
    /// The holds of the same keys as they are to be.
    pub holds: &'c [(Key, Vec<Hold>)],
    /// How the sum of digests changes.
    pub digest: u64,
    /// The policy, where it changes.
    pub policy: Option<&'c Policy>,
    /// The line of the audit log.
    pub record: &'c Record,
}

impl Store {
    /// Writes an intent, through to the disk. From then on it is what the store holds.
    ///
    /// # Errors
    ///
    /// If it can't be written; then nothing is changed.
    pub fn intend(&mut self, intent: &Intent<'_>) -> Result<()> {
        ensure!(
            self.unwritable.is_none(),
            "it can only be read: {}",
            self.unwritable.clone().unwrap_or_default()
        );
        let (boot, now_s) = (boot_id()?, monotonic_now_s());
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Not that which was read when it was opened: others may have written since.
        let digest = read_state(&transaction)?.digest.wrapping_add(intent.digest);
        {
            let mut free = transaction.prepare_cached("DELETE FROM holds WHERE key = ?1")?;
            let mut hold = transaction.prepare_cached(&format!(
                "INSERT OR REPLACE INTO holds ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
            ))?;
            for ((key, holds), (_, before)) in intent.holds.iter().zip(intent.before) {
                let blob = to_blob(key);
                // Most of many are new.
                if !before.is_empty() {
                    free.execute([&blob])?;
                }
                for Hold { owner, reason, creator, created_s, until } in holds {
                    let creator = &creator[..creator.floor_char_boundary(LONGEST_CREATOR)];
                    hold.execute((&blob, owner.as_str(), reason.as_str(), creator, created_s, until.0))?;
                }
            }
        }
        if let Some(policy) = intent.policy {
            policies::write(&transaction, policy)?;
        }
        audit::append(&transaction, intent.record)?;
        transaction
            .prepare_cached(
                "UPDATE state SET change = change + 1, digest = ?1, digest_abi = ?2, boot = ?3, wall_s = max(wall_s, ?4), monotonic_s = ?5",
            )?
            .execute((to_sql(digest), ABI_VERSION, boot, wall_now_s(), i64::from(now_s)))?;
        transaction.commit().context("could not write it to the disk")?;
        self.state = read_state(&self.db)?;
        Ok(())
    }

    /// The holds of one key.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn holds(&self, key: &Key) -> Result<Vec<Hold>> {
        let mut statement =
            self.db.prepare_cached(&format!("SELECT {COLUMNS} FROM holds WHERE key = ?1 ORDER BY owner"))?;
        let mut rows = statement.query([to_blob(key)])?;
        let mut holds = Vec::new();
        while let Some(row) = rows.next()? {
            holds.push(hold_of(row, self.shift_s)?.1);
        }
        Ok(holds)
    }

    /// Hands over the holds of all keys within `bounds`, in the order of keys.
    ///
    /// # Errors
    ///
    /// If they can't be read, or `on_key` fails.
    pub fn each_key(&self, bounds: Bounds, on_key: impl FnMut(Key, Vec<Hold>) -> Result<()>) -> Result<()> {
        each_key(&self.db, bounds, self.shift_s, on_key)
    }

    /// What is to be enforced, in the order of keys; with what has ended and is not cleared away.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn wanted(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.each_key(Bounds::All, |key, holds| {
            entries.extend(enforced(key, &holds));
            Ok(())
        })?;
        Ok(entries)
    }

    /// Keys that are held.
    ///
    /// # Errors
    ///
    /// If they can't be counted.
    pub fn count_keys(&self) -> Result<i64> {
        Ok(self.db.query_row("SELECT count(DISTINCT key) FROM holds WHERE owner != 'canary'", [], |row| {
            row.get(0)
        })?)
    }
}
