//! Mends what `verify` finds: the store from its copy or the tables, the tables from the store, what is not attached.

use std::sync::Arc;

use anyhow::Result;

use super::restore::open_checked;
use super::{Author, Control, Finding, Place, Restored};
use crate::kernel::Lock;
use crate::kernel::builds::OtherBuild;
use crate::kernel::loading::{self, Sizes};
use crate::kernel::pins::NotLoaded;
use crate::store::{Store, Unusable};

/// What was mended, and what could not be.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was done, a sentence each.
    pub done: Vec<String>,
    /// What is still not as it should be.
    pub left: Vec<Finding>,
}

/// Mends what can be. An interface that is filtered is filtered throughout.
///
/// # Errors
///
/// If nothing is loaded nor to be, or the kernel refuses.
pub fn repair(place: &Place, author: Author, verbose: bool) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    let lock = Arc::new(Lock::create(&place.pins, place.lock_wait)?);
    let mut restored = Restored::default();
    let store: Result<Store, Unusable> = match open_checked(&place.state, &mut restored) {
        Ok(store) => Ok(store),
        Err(error) => Err(error.downcast::<Unusable>()?),
    };
    repaired.done.extend(restored.damaged.take());
    let is_wanted =
        store.as_ref().is_ok_and(|store| store.policy().is_ok_and(|policy| !policy.interfaces.is_empty()));
    let links = place.pins.loaded_interfaces()?;
    if links.is_empty() && !is_wanted && place.pins.set()?.is_none() {
        place.pins.remove()?;
        return Err(
            NotLoaded("nothing is filtered, nor to be; start with `filter-ctl load IFACE`".into()).into()
        );
    }
    let whole =
        crate::kernel::Filter::open_locked(place.pins.clone(), Arc::clone(&lock)).and_then(|filter| {
            filter.table().cells().map_all()?;
            filter.table().check()?;
            Ok(filter)
        });
    let mut control = match whole {
        Ok(filter) => Control::with(filter, store, author)?,
        Err(error) if error.is::<OtherBuild>() => return Err(error),
        Err(error) if place.pins.set()?.is_none() && links.is_empty() => {
            repaired.done.push(format!("tables were made: {error:#}"));
            Control::create(place, &lock, store, author, Sizes::default(), verbose)?
        }
        Err(error) => {
            let control = rebuild(place, &lock, store, author, verbose)?;
            repaired.done.push(format!(
                "the tables were made anew from the store, and their counters are at zero: {error:#}"
            ));
            control
        }
    };
    if control.drift.take().is_some()
        || control.verify()?.iter().any(|finding| finding.part == "entries" || finding.part == "policy")
    {
        control.push()?;
        repaired.done.push("the tables were brought to what the store says".into());
    }
    if !control.filter.set().explain().exists() {
        control.filter.pin_explain(verbose)?;
        repaired.done.push("the program that explains was loaded again".into());
    }
    let stale = loading::renew_stale(&mut control.filter, verbose)?;
    repaired.done.extend(stale.into_iter().map(|name| format!("{name}: the program was put in place anew")));
    let (loaded, failures) = control.filter_missing(verbose)?;
    repaired.done.extend(loaded.into_iter().map(|outcome| format!("{}: filtered again", outcome.interface)));
    repaired.left.extend(failures.into_iter().map(|failure| Finding::new("interface", failure)));
    if control.is_durable() {
        control.mark();
        control.back_up();
    }
    repaired.left.extend(control.verify()?);
    Ok(repaired)
}

/// Makes maps and programs anew from the store and puts them behind the links, of which none is ever without a program.
fn rebuild(
    place: &Place,
    lock: &Arc<Lock>,
    store: Result<Store, Unusable>,
    author: Author,
    verbose: bool,
) -> Result<Control> {
    // Without a store there is nothing to make them of: what runs now enforces more than empty tables would.
    let store = store?;
    place.pins.forget_maps()?;
    let mut control = Control::create(place, lock, Ok(store), author, Sizes::default(), verbose)?;
    loading::renew_stale(&mut control.filter, verbose)?;
    Ok(control)
}
