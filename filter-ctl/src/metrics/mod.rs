//! Figures for Prometheus: what is collected, in which text it is written, and how it is offered over HTTP.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>. Nothing is labelled by address or entry, so that no traffic
//! makes a series: a device has some forty reasons, and there are at most 63 of them (`INTERFACE_SLOTS`), beside those that
//! the policy names and for which there is no slot; lists are at most 60 (`MOST_LISTS`); maps, families, actions and kinds
//! of event are fixed in the source.
//!
//! Another block of figures is a function that adds to [`Figures`], and a line in [`collect`].

mod daemon;
mod figures;
mod filter;
pub mod listen;
pub mod serve;
pub mod shared;
mod sources;
pub mod text;
mod walked;

use anyhow::Result;
use filter_common::abi::ABI_VERSION;

pub use self::figures::Figures;
use self::figures::{Labels, alone, label};
pub use self::walked::Walked;
use crate::control::{Author, Control, Place, policy_of};
use crate::daemon::state::DaemonState;
use crate::kernel::pins::NotLoaded;
use crate::store::Store;

/// What every name begins with.
const PREFIX: &str = "xdp_filter";

/// Collects all figures, with the state of the daemon where one runs, and what was found in an earlier collection where that is
/// good enough. Where nothing is loaded, that is a figure as well.
///
/// # Errors
///
/// If something can't be read that is there, or the lock can't be had in time. That the store can't be used is none.
pub fn collect(
    place: &Place,
    author: Author,
    daemon: Option<&DaemonState>,
    walked: &Walked,
) -> Result<Figures> {
    let mut figures = Figures::default();
    build(&mut figures);
    match Control::open(place, author) {
        Ok(control) => {
            let walk = walked.of(&control)?;
            filter::loaded(&mut figures, &control, walk.counts)?;
            let listed = sources::lists(&mut figures, control.store().ok(), walk.hits.as_deref());
            let is_usable = control.is_durable() && listed.is_ok() && walk.hits.is_some();
            filter::store(&mut figures, is_usable);
        }
        Err(error) if error.is::<NotLoaded>() => {
            walked.forget();
            // Opening it would make it.
            let store = Store::is_in(&place.state).then(|| Store::open(&place.state));
            let opened = store.as_ref().and_then(|store| store.as_ref().ok());
            filter::not_loaded(&mut figures, &policy_of(opened, &place.pins))?;
            let listed = sources::lists(&mut figures, opened, None);
            filter::store(&mut figures, !matches!(store, Some(Err(_))) && listed.is_ok());
        }
        Err(error) => return Err(error),
    }
    daemon::figures(&mut figures, daemon);
    Ok(figures)
}

fn build(figures: &mut Figures) {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let labels: Labels = vec![
        label("version", env!("CARGO_PKG_VERSION")),
        label("kernel", &kernel),
        label("abi", &ABI_VERSION.to_string()),
    ];
    figures.info("build", "Version of filter-ctl and of its maps' layout, and the kernel's release", labels);
}
