//! Holds as rows: by key and owner. A key is a blob that sorts as keys do.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use filter_common::abi::ABI_VERSION;
use ipnet::IpNet;
use rusqlite::{Row, TransactionBehavior};

use super::{
    BELIEVED_S, Damaged, ListWrite, Policy, Record, Store, View, audit, lists, merged, policies, read_state,
    to_sql, wall_now_s,
};
use crate::holds::{Hold, enforced};
use crate::host::{boot_id, monotonic_now_s};
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
pub(super) fn to_blob(key: &Key) -> Vec<u8> {
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

pub(super) fn from_blob(blob: &[u8]) -> Option<Key> {
    let (address, rest) = match blob.split_first()? {
        (4, rest) => (IpAddr::from(*rest.first_chunk::<4>()?), &rest[4..]),
        (6, rest) => (IpAddr::from(*rest.first_chunk::<16>()?), &rest[16..]),
        _ => return None,
    };
    let [length, action] = *rest else { return None };
    let prefix = Prefix::of_network(IpNet::new(address, length).ok()?)?;
    Some(Key { prefix, action: Action::from_number(action)? })
}

/// In the order in which [`hold_of`] takes them.
const COLUMNS: &str = "key, owner, reason, creator, created_s, until_s";

/// The hold of a row, and its key, with times moved by `shift_s`.
pub(super) fn hold_of(row: &Row<'_>, shift_s: i64) -> Result<(Key, Hold)> {
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
    /// What changes about lists.
    pub lists: &'c [ListWrite<'c>],
    /// The second by which what ended is cleared away with this change.
    pub cleared_s: Option<u32>,
    /// The line of the audit log.
    pub record: &'c Record,
}

impl<'c> Intent<'c> {
    /// An intent that changes nothing yet.
    pub fn of(record: &'c Record) -> Self {
        Self { before: &[], holds: &[], digest: 0, policy: None, lists: &[], cleared_s: None, record }
    }
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
                // What a list holds is in its generation.
                let rows = holds.iter().filter(|hold| self.view.list(&hold.owner).is_none());
                for Hold { owner, reason, creator, created_s, until } in rows {
                    let creator = &creator[..creator.floor_char_boundary(LONGEST_CREATOR)];
                    hold.execute((&blob, owner.as_str(), reason.as_str(), creator, created_s, until.0))?;
                }
            }
        }
        if let Some(policy) = intent.policy {
            policies::write(&transaction, policy)?;
        }
        intent.lists.iter().try_for_each(|change| lists::write(&transaction, change))?;
        if let Some(cleared_s) = intent.cleared_s {
            transaction
                .prepare_cached("UPDATE state SET cleared_s = max(cleared_s, ?1)")?
                .execute([i64::from(cleared_s)])?;
        }
        audit::append(&transaction, intent.record)?;
        transaction
            .prepare_cached(
                "UPDATE state SET change = change + 1, digest = ?1, digest_abi = ?2, boot = ?3, wall_s = max(wall_s, ?4), monotonic_s = ?5",
            )?
            .execute((to_sql(digest), ABI_VERSION, boot, wall_now_s(), i64::from(now_s)))?;
        transaction.commit().context("could not write it to the disk")?;
        self.state = read_state(&self.db)?;
        self.view = View::read(&self.db, self.shift_s)?;
        Ok(())
    }

    /// The holds of one key.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn holds(&self, key: &Key) -> Result<Vec<Hold>> {
        self.holds_in(&self.view, key)
    }

    /// As [`Store::holds`], with other lists or holes.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn holds_in(&self, view: &View, key: &Key) -> Result<Vec<Hold>> {
        merged::merged(&self.db, view, Bounds::Within(*key, *key), |merged| {
            let mut holds = Vec::new();
            merged.next(&mut holds)?;
            Ok(holds)
        })
    }

    /// Hands over the holds of all keys within `bounds`, in the order of keys.
    ///
    /// # Errors
    ///
    /// If they can't be read, or `on_key` fails.
    pub fn each_key(&self, bounds: Bounds, on_key: impl FnMut(Key, Vec<Hold>) -> Result<()>) -> Result<()> {
        self.each_key_in(&self.view, bounds, on_key)
    }

    /// As [`Store::each_key`], with other lists or holes.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn each_key_in(
        &self,
        view: &View,
        bounds: Bounds,
        on_key: impl FnMut(Key, Vec<Hold>) -> Result<()>,
    ) -> Result<()> {
        merged::each_key(&self.db, view, bounds, on_key)
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

    /// Keys that are held, but those for proofs.
    ///
    /// # Errors
    ///
    /// If they can't be counted.
    pub fn count_keys(&self) -> Result<u64> {
        let mut keys = 0;
        self.each_key(Bounds::All, |_, holds| {
            keys += u64::from(holds.iter().any(|hold| !hold.owner.is_canary()));
            Ok(())
        })?;
        Ok(keys)
    }
}
