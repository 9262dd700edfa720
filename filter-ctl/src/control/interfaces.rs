//! Which interfaces are to be filtered: written down as policy, then attached.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::carry::carry;
use super::{Author, Control, Place};
use crate::host::devices::{self, Device, Mode};
use crate::kernel::filter::PartlyApplied;
use crate::kernel::interface::State;
use crate::kernel::loading::{self, LoadOutcome, Sizes};
use crate::kernel::{Lock, Pins};
use crate::store::{Policy, Store};

/// What to load, and how.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// Names and patterns.
    pub names: &'a [String],
    /// Where the filter runs.
    pub mode: Mode,
    /// Sizes of the tables, if they are to be made.
    pub sizes: Sizes,
    /// Whether to keep all of the verifier's log.
    pub verbose: bool,
}

/// The policy of a store without what was unloaded while that could not be written down; an empty one where it can't be
/// read.
pub fn policy_of(store: Option<&Store>, pins: &Pins) -> Policy {
    let mut policy = store.and_then(|store| store.policy().ok()).unwrap_or_default();
    pins.unloaded().unwrap_or_default().iter().for_each(|name| policy.exclude(name));
    policy
}

/// The devices of this host that are to be filtered by a policy, with their modes.
///
/// # Errors
///
/// If netlink fails.
pub fn wanted(policy: &Policy) -> Result<Vec<(Device, Mode)>> {
    let devices = devices::devices()?.into_iter();
    let may_be = devices.filter(|device| device.ifindex != filter_common::abi::LOOPBACK_IFINDEX);
    Ok(may_be.filter_map(|device| policy.mode_of(&device.name).map(|mode| (device, mode))).collect())
}

impl Control {
    /// Filters interfaces, too, with all entries of the store in place before the first is attached. All or nothing.
    ///
    /// # Errors
    ///
    /// If an interface can't be filtered: then everything is as it was.
    pub fn load(place: &Place, author: Author, loading: Loading<'_>) -> Result<(Self, Vec<LoadOutcome>)> {
        let targets = loading::targets(loading.names, &devices::devices()?)?;
        let targets: Vec<_> = targets.into_iter().map(|device| (device, loading.mode)).collect();
        let lock = Arc::new(Lock::create(&place.pins, place.lock_wait)?);
        let was_loaded = !place.pins.loaded_interfaces()?.is_empty();
        let store = Store::open(&place.state);
        let is_kept = store.is_ok();
        let loaded = Self::create(place, &lock, store, author, loading.sizes, loading.verbose).and_then(
            |mut control| {
                let outcomes = control.load_targets(loading, &targets)?;
                Ok((control, outcomes))
            },
        );
        loaded.map_err(|error| match undo_create(place, was_loaded, is_kept) {
            Ok(()) => error,
            Err(undo) => PartlyApplied::after(&error, &undo).into(),
        })
    }

    /// The filter that is there, or a new one with the entries of the store, which filters no interface yet.
    pub(super) fn create(
        place: &Place,
        lock: &Arc<Lock>,
        store: Result<Store, crate::store::Unusable>,
        author: Author,
        asked: Sizes,
        verbose: bool,
    ) -> Result<Self> {
        let policy = store.as_ref().ok().and_then(|store| store.policy().ok()).unwrap_or_default();
        let sizes =
            Sizes { max_v4: asked.max_v4.or(policy.max_ipv4), max_v6: asked.max_v6.or(policy.max_ipv6) };
        let filter = loading::open_or_create(&place.pins, lock, sizes, verbose)?;
        loading::require_sizes(&filter, asked)?;
        Self::with(filter, store, author)
    }

    fn load_targets(&mut self, loading: Loading<'_>, targets: &[(Device, Mode)]) -> Result<Vec<LoadOutcome>> {
        let before = self.policy();
        let mut policy = before.clone();
        policy.include(loading.names, loading.mode);
        self.note_sizes(&mut policy);
        let record = self.author.record(json!({ "load": loading.names, "mode": loading.mode }));
        if policy != before {
            self.write_policy(&policy, &record);
        }
        self.filter.pins().forget_unloaded(loading.names)?;
        let loaded = self.attach(targets, loading.verbose);
        if loaded.is_err() && policy != before {
            let refused = self.author.tidying("refused, taken back").record(record.change);
            self.write_policy(&before, &refused);
        }
        self.mark();
        loaded
    }

    /// The policy of the store; an empty one where it can't be read.
    pub fn policy(&self) -> Policy {
        policy_of(self.store.as_ref().ok(), self.filter.pins())
    }

    fn note_sizes(&self, policy: &mut Policy) {
        let geometry = self.filter.geometry();
        policy.max_ipv4 = Some(geometry.capacity_v4);
        policy.max_ipv6 = Some(geometry.capacity_v6);
    }

    /// Adds to a policy what is loaded and not in it.
    pub(super) fn include_loaded(&self, policy: &mut Policy) -> Result<()> {
        for loaded in self.filter.interfaces()? {
            if let State::Attached { mode, .. } = loaded.state
                && policy.mode_of(&loaded.name).is_none()
            {
                policy.include(&[loaded.name], mode);
            }
        }
        Ok(())
    }

    /// Devices that are to be filtered and are not, with their modes.
    ///
    /// # Errors
    ///
    /// If a link can't be opened or netlink fails.
    pub fn unfiltered(&self) -> Result<Vec<(Device, Mode)>> {
        let loaded = self.filter.interfaces()?;
        let is_filtered = |device: &Device| {
            loaded.iter().any(|loaded| match &loaded.state {
                State::Attached { ifindex, .. } | State::Stale { ifindex, .. } => *ifindex == device.ifindex,
                State::Elsewhere { .. } => loaded.name == device.name,
                State::Gone => false,
            })
        };
        let mut unfiltered = wanted(&self.policy())?;
        unfiltered.retain(|(device, _)| !is_filtered(device));
        Ok(unfiltered)
    }

    /// Filters each device that is to be filtered and is not, one by one. Returns those that are now, and why others could
    /// not be.
    ///
    /// # Errors
    ///
    /// If it can't be told which are.
    pub fn filter_missing(&mut self, verbose: bool) -> Result<(Vec<LoadOutcome>, Vec<String>)> {
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for target in self.unfiltered()? {
            match self.attach(&[target], verbose) {
                Ok(outcomes) => done.extend(outcomes),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        Ok((done, failures))
    }

    /// Makes the tables anew, with these capacities.
    ///
    /// # Errors
    ///
    /// As [`resize`](crate::kernel::resize::resize).
    pub fn resize(&mut self, max_v4: Option<u32>, max_v6: Option<u32>, verbose: bool) -> Result<()> {
        self.expire()?;
        crate::kernel::resize::resize(&mut self.filter, max_v4, max_v6, verbose)?;
        let mut policy = self.policy();
        self.note_sizes(&mut policy);
        let record = self.author.record(json!({ "max_ipv4": policy.max_ipv4, "max_ipv6": policy.max_ipv6 }));
        self.write_policy(&policy, &record);
        self.mark();
        Ok(())
    }

    /// Sets whether frames with these faults pass.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; then nothing is changed.
    pub fn tolerate(&mut self, faults: &[filter_common::Reason], tolerated: bool) -> Result<()> {
        let before = self.policy();
        let mut policy = before.clone();
        let names = || faults.iter().map(|fault| fault.name().to_owned());
        policy.tolerated.retain(|name| !names().any(|fault| fault == *name));
        if tolerated {
            policy.tolerated.extend(names());
            policy.tolerated.sort();
            policy.tolerated.dedup();
        }
        let change = json!({ if tolerated { "pass" } else { "drop" }: names().collect::<Vec<_>>() });
        let record = self.author.record(change.clone());
        self.write_policy(&policy, &record);
        let set = self.filter.tolerate(faults, tolerated);
        if set.is_err() {
            let refused = self.author.tidying("refused, taken back").record(change);
            self.write_policy(&before, &refused);
        }
        self.mark();
        set
    }
}

/// Takes back what a load that failed has made, unless something was filtered before, or entries lie there and nowhere else.
fn undo_create(place: &Place, was_loaded: bool, is_kept: bool) -> Result<()> {
    let pins = &place.pins;
    if was_loaded || (!is_kept && loading::count_entries(pins) > 0) {
        return Ok(());
    }
    // Tables that an unload left which died have counts that are nowhere else. What was not even made has none.
    let _ = carry(pins, &mut Store::open(&place.state));
    pins.remove()
}
