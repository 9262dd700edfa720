//! Taking the filter off, which must work whatever else does not.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::json;

use super::carry::carry;
use super::{Author, Control, Place};
use crate::kernel::filter::PartlyApplied;
use crate::kernel::interface;
use crate::kernel::loading::{self, Unloaded};
use crate::kernel::pins::NotLoaded;
use crate::kernel::{Lock, Pins};
use crate::store::{Intent, Policy, Store, Unusable, is_pattern};

/// What unloading came to.
#[derive(Debug, Default)]
pub struct Unloading {
    /// What was taken away.
    pub unloaded: Unloaded,
    /// Names that were only to be filtered, and are not any more.
    pub forgotten: Vec<String>,
    /// Entries that the store keeps.
    pub kept: usize,
    /// Why the store could not be told: it still says that they are to be filtered.
    pub undurable: Option<String>,
    /// Why what was counted could not be written down, and is lost.
    pub uncounted: Option<String>,
}

/// Stops filtering the named interfaces, or all, and writes down that they are not to be.
///
/// # Errors
///
/// As [`loading::unload`].
pub fn unload(place: &Place, author: &Author, names: Option<&[String]>) -> Result<Unloading> {
    let (lock, missing) = match Lock::acquire(&place.pins, place.lock_wait) {
        Ok(lock) => (Some(Arc::new(lock)), None),
        Err(error) if error.is::<NotLoaded>() => (None, Some(error)),
        Err(error) => return Err(unload_without_the_lock(place, names, error)),
    };
    // What is enforced and not written down yet is written down first: the tables go. Where they are damaged, detaching
    // must work all the same.
    let control = lock.as_ref().and_then(|lock| Control::open_locked(place, lock, author.clone()).ok());
    let mut store = match control {
        Some(control) => control.store,
        None if lock.is_none() && !place.state.exists() => Err(Unusable::missing(&place.state)),
        None => Store::open(&place.state),
    };
    let before = store.as_ref().ok().and_then(|store| store.policy().ok()).unwrap_or_default();
    let mut policy = before.clone();
    let pinned = match names {
        None => {
            (policy.interfaces, policy.except) = (Vec::new(), Vec::new());
            place.pins.loaded_interfaces()?
        }
        Some(names) => match exclude(&place.pins, &mut policy, names) {
            Err(error) if error.is::<NotLoaded>() => return Err(missing.unwrap_or(error)),
            excluded => excluded?,
        },
    };
    let forgotten = before.interfaces.iter().map(|interface| interface.name.clone());
    let forgotten: Vec<String> = forgotten
        .filter(|name| {
            !policy.interfaces.iter().any(|interface| interface.name == *name) && !pinned.contains(name)
        })
        .collect();
    if let Some(missing) = missing.filter(|_| forgotten.is_empty()) {
        return Err(missing);
    }
    let mut unloading = Unloading { forgotten, ..Unloading::default() };
    let record = author
        .record(json!({ "unload": names.map_or_else(|| vec!["--all".to_owned()], <[String]>::to_vec) }));
    if policy != before
        && let Ok(open) = &mut store
        && let Err(error) = open.intend(&Intent { policy: Some(&policy), ..Intent::of(&record) })
    {
        store = Err(open.unusable(&error));
    }
    if store.is_ok() {
        place.pins.forget_unloaded(&place.pins.unloaded()?)?;
    }
    match &store {
        // Nothing of the store may keep an interface filtered.
        Ok(store) => {
            unloading.kept = store.count_keys().ok().and_then(|keys| keys.try_into().ok()).unwrap_or(0)
        }
        Err(unusable) => unloading.undurable = Some(unusable.to_string()),
    }
    if let Some(lock) = &lock {
        if unloading.undurable.is_some() {
            // Beside the tables, until it can be written down; a reboot forgets it.
            let all = pinned.iter().chain(&unloading.forgotten).cloned().collect::<Vec<_>>();
            place.pins.note_unloaded(&all)?;
        }
        let uncounted = &mut unloading.uncounted;
        let on_detached =
            || *uncounted = carry(&place.pins, &mut store).err().map(|error| format!("{error:#}"));
        unloading.unloaded = loading::unload(&place.pins, lock, &pinned, on_detached)?;
        if !unloading.unloaded.everything
            && let Ok(control) = Control::open_locked(place, lock, author.clone())
        {
            control.mark();
        }
    }
    Ok(unloading)
}

/// Takes the filter off where another process keeps the lock, as one that is stopped may: nothing may lock the operator out.
/// Returns the error to report in any case.
fn unload_without_the_lock(place: &Place, names: Option<&[String]>, error: anyhow::Error) -> anyhow::Error {
    let detached = (|| {
        let pinned = match names {
            None => place.pins.loaded_interfaces()?,
            Some(names) => loading::pinned_names(&place.pins, names)?,
        };
        pinned.iter().try_for_each(|name| interface::detach(&place.pins, name))?;
        Ok::<_, anyhow::Error>(pinned)
    })();
    match detached {
        Ok(pinned) => PartlyApplied(format!(
            "{} no longer filtered, and nothing else of it was done: {error:#}. Say `unload` again then, or it is filtered \
             again at the next boot, or by the daemon",
            pinned.join(", ")
        ))
        .into(),
        Err(undone) => error.context(format!("{undone:#}")),
    }
}

/// Takes names and patterns out of a policy. Returns the names under which the interfaces are pinned that are not to be
/// filtered any more.
fn exclude(pins: &Pins, policy: &mut Policy, names: &[String]) -> Result<Vec<String>> {
    let mut pinned = Vec::new();
    for name in names {
        let is_named = policy.interfaces.iter().any(|interface| interface.name == *name);
        if is_pattern(name) {
            if !is_named {
                bail!(
                    "`{name}` is no pattern by which interfaces are filtered; `filter-ctl status` has them"
                );
            }
            let matched: Vec<String> = pins
                .loaded_interfaces()?
                .into_iter()
                .filter(|loaded| policy.mode_of(loaded).is_some())
                .collect();
            policy.exclude(name);
            pinned.extend(matched.into_iter().filter(|loaded| policy.mode_of(loaded).is_none()));
            continue;
        }
        match loading::pinned_names(pins, std::slice::from_ref(name)) {
            Ok(found) => {
                found.iter().for_each(|found| policy.exclude(found));
                pinned.extend(found);
            }
            Err(error) if error.is::<NotLoaded>() && is_named => {}
            Err(error) => return Err(error),
        }
        policy.exclude(name);
    }
    pinned.sort();
    pinned.dedup();
    Ok(pinned)
}
