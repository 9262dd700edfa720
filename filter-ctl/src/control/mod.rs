//! One lock around the store and the kernel: what is wanted is written down first, then enforced, then marked as enforced.
//!
//! The mark lies in the tables' header, beside what it speaks of: the number of the store and of its last change. So
//! whoever opens both knows in constant time whether they agree, and which of them knows more:
//!
//! - The tables are behind: a command died between writing down and enforcing. They are brought to what the store says.
//! - The tables were changed while the store could not be used, or the store is an older copy: it is brought to what is
//!   enforced.
//! - They know nothing of any store (made anew, or taken over from another build): both get what either has.
//! - They agree, and the sums of what they hold differ: somebody else wrote there. That is told, and `repair` mends it.

mod carry;
mod change;
mod hits;
mod holders;
mod interfaces;
mod kept;
mod lists;
mod passed;
mod reconcile;
mod repair;
mod restore;
mod unload;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

pub use self::hits::{EntryHits, ListHits};
pub use self::interfaces::{Loading, policy_of, wanted};
pub use self::lists::{HoledPrefix, ListChange, ListHolding};
pub use self::repair::{Repaired, repair};
pub use self::restore::{Restored, restore};
pub use self::unload::{Unloading, unload};
pub use self::verify::Finding;
use crate::kernel::{Filter, Lock, Pins};
use crate::store::{Actor, Record, Store, Unusable};

/// Where a filter's parts lie.
#[derive(Clone, Debug)]
pub struct Place {
    /// The kernel's side.
    pub pins: Pins,
    /// The directory of the store.
    pub state: PathBuf,
    /// How long to wait for the lock.
    pub lock_wait: Duration,
}

/// Who makes a change, and with which command.
#[derive(Clone, Debug)]
pub struct Author {
    /// Who.
    pub actor: Actor,
    /// The command line, or what the daemon does.
    pub command: String,
}

impl Author {
    fn record(&self, change: serde_json::Value) -> Record {
        Record { actor: self.actor.clone(), command: self.command.clone(), change }
    }

    /// The same, doing something of its own accord beside the command.
    fn tidying(&self, what: &str) -> Self {
        Self { actor: self.actor.clone(), command: format!("{} ({what})", self.command) }
    }
}

/// The filter and its store, while nobody else changes them.
pub struct Control {
    filter: Filter,
    store: Result<Store, Unusable>,
    /// Why the store, which can be read, can't be written.
    unwritable: Option<Unusable>,
    author: Author,
    /// What the operator must know beside what was asked.
    warnings: Vec<String>,
    /// What the kernel's tables hold is not what the store says.
    drift: Option<String>,
}

impl Control {
    /// Opens the filter and the store, and brings them together where they are apart.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`](crate::kernel::pins::NotLoaded) if there is no filter. That the store can't be used is none: it is
    /// a warning, and what is changed then lasts until the next reboot, or until the store can be used again.
    pub fn open(place: &Place, author: Author) -> Result<Self> {
        let filter = Filter::open(place.pins.clone(), place.lock_wait)?;
        Self::with(filter, Store::open(&place.state), author)
    }

    /// As [`Control::open`], by a caller that has the lock.
    fn open_locked(place: &Place, lock: &Arc<Lock>, author: Author) -> Result<Self> {
        let filter = Filter::open_locked(place.pins.clone(), Arc::clone(lock))?;
        Self::with(filter, Store::open(&place.state), author)
    }

    fn with(filter: Filter, store: Result<Store, Unusable>, author: Author) -> Result<Self> {
        // A policy that can't be read must never be taken for an empty one, and written over.
        let store = store.and_then(|store| match store.policy() {
            Ok(_) => Ok(store),
            Err(error) => Err(store.unusable(&error)),
        });
        let unwritable = store.as_ref().ok().and_then(Store::unwritable);
        let mut control = Self { filter, store, unwritable, author, warnings: Vec::new(), drift: None };
        control.reconcile()?;
        control.settle_counts()?;
        control.write_unloaded()?;
        Ok(control)
    }

    /// Writes down what was unloaded while that could not be.
    fn write_unloaded(&mut self) -> Result<()> {
        let unloaded = self.filter.pins().unloaded()?;
        if unloaded.is_empty() || !self.is_durable() {
            return Ok(());
        }
        let policy = self.policy();
        let record = self.author.tidying("what was unloaded").record(json!({ "unload": unloaded }));
        self.write_policy(&policy, &record);
        if self.is_durable() {
            self.mark();
            self.filter.pins().forget_unloaded(&unloaded)?;
        }
        Ok(())
    }

    /// What is enforced.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The store, to be read.
    ///
    /// # Errors
    ///
    /// Why it can't be read.
    pub fn store(&self) -> Result<&Store, &Unusable> {
        self.store.as_ref()
    }

    /// Why the store can't be read or written.
    pub fn store_trouble(&self) -> Option<&Unusable> {
        self.store.as_ref().err().or(self.unwritable.as_ref())
    }

    /// What the operator must know beside what was asked: trouble with the store, and drift.
    pub fn warnings(&self) -> Vec<String> {
        let store = self.store_trouble().map(|unusable| {
            format!("{unusable}; what is enforced now is written down once it can be, and lost by a reboot until then")
        });
        self.warnings.iter().cloned().chain(store).chain(self.drift.clone()).collect()
    }

    /// Whether what is enforced is written down.
    pub fn is_durable(&self) -> bool {
        self.store_trouble().is_none()
    }

    /// What the kernel's tables hold that is not what the store says, found in constant time.
    pub fn drift(&self) -> Option<&str> {
        self.drift.as_deref()
    }

    /// Puts this build's program behind each link that has another than the one that is pinned. Returns the interfaces.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; then the other one runs on.
    pub fn renew_stale(&mut self, verbose: bool) -> Result<Vec<String>> {
        crate::kernel::loading::renew_stale(&mut self.filter, verbose)
    }

    /// Gives pins, counters and policy of renamed interfaces the names that their devices have now. Returns both names.
    ///
    /// # Errors
    ///
    /// If netlink fails, or a pin can't be changed; then the next call finishes it.
    pub fn follow_renames(&mut self) -> Result<Vec<(String, String)>> {
        let renamed = crate::kernel::renames::follow_renames(&mut self.filter)?;
        if renamed.is_empty() {
            return Ok(renamed);
        }
        let mut policy = self.policy();
        for (from, to) in &renamed {
            // A device that gets the old name is filtered as the policy says of that name.
            if let Some(mode) = policy.mode_of(from) {
                policy.include(std::slice::from_ref(to), mode);
            }
        }
        let record = self.author.record(json!({ "renamed": renamed }));
        self.write_policy(&policy, &record);
        self.mark();
        Ok(renamed)
    }

    /// Writes a line into the audit log, about what was done beside the store.
    pub fn note(&mut self, change: serde_json::Value) {
        let (policy, record) = (self.policy(), self.author.record(change));
        self.write_policy(&policy, &record);
        self.mark();
    }

    /// Gives up the store, after `error` in reading it.
    fn lose_store(&mut self, error: &anyhow::Error) {
        if let Ok(store) = &self.store {
            self.store = Err(store.unusable(error));
        }
    }

    /// Writes no more into the store, after `error` in writing it. What it says can still be read, unless it is damaged.
    fn stop_writing(&mut self, error: &anyhow::Error) {
        let Ok(store) = &self.store else { return };
        let unusable = store.unusable(error);
        if unusable.damaged {
            self.store = Err(unusable);
        } else {
            self.unwritable = Some(unusable);
        }
    }

    /// Makes the copy of the store anew, if it is time. That it can't be made is a warning.
    fn back_up(&mut self) {
        if self.unwritable.is_none()
            && let Ok(store) = &self.store
            && let Err(error) = crate::store::backup(store, crate::store::Kept::IfCheap)
        {
            self.warnings.push(format!("{error:#}"));
        }
    }

    /// A line of the audit log that says what else was done.
    fn record(&self, what: &str, entries: usize) -> Record {
        self.author.tidying(what).record(json!({ "entries": entries }))
    }
}
