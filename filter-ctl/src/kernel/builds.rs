//! Which build's filter is there: whether this one may work on it.

use anyhow::Result;
use filter_common::abi::OLDEST_READABLE;
use thiserror::Error;

use super::handover::running_with;
use super::pins::Pins;

/// The filter that is there is not this build's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct OtherBuild(pub String);

/// Refuses to work on a filter that this build did not make.
///
/// # Errors
///
/// [`OtherBuild`] if another build's filter is there, with what to do about it.
pub(super) fn require_ours(pins: &Pins) -> Result<()> {
    require_no_newer(pins)?;
    let Some(older) = older(pins)? else { return Ok(()) };
    let what = if pins.set()?.is_some() { "an upgrade was interrupted" } else { "filtered by another build" };
    Err(OtherBuild(format!("{what} (ABI {}): run `filter-ctl upgrade`", older.abi_version())).into())
}

/// Refuses to work beside a newer build's filter.
///
/// # Errors
///
/// [`OtherBuild`] if there is one.
pub(super) fn require_no_newer(pins: &Pins) -> Result<()> {
    let Some(newer) = pins.others()?.pop().filter(|other| other.abi_version() > pins.abi_version()) else {
        return Ok(());
    };
    // Until a link runs its program, an upgrade to it that was interrupted changes nothing about ours.
    let is_in_force = match (pins.set()?, newer.set()?) {
        (Some(_), Some(set)) => !running_with(pins, &set)?.is_empty(),
        _ => true,
    };
    if !is_in_force {
        return Ok(());
    }
    Err(OtherBuild(format!(
        "a newer build made what is pinned at {} (ABI {}, and this one has ABI {}): use that build",
        pins.root().display(),
        newer.abi_version(),
        pins.abi_version()
    ))
    .into())
}

/// The pins of an older build's filter that an upgrade can take over, if there is one.
///
/// # Errors
///
/// If the pins can't be read.
pub(super) fn older(pins: &Pins) -> Result<Option<Pins>> {
    let readable = OLDEST_READABLE..pins.abi_version();
    Ok(pins.others()?.into_iter().rev().find(|other| readable.contains(&other.abi_version())))
}

/// The pins of the filter that is there, of this build or an older one.
///
/// # Errors
///
/// If the pins can't be read.
pub(super) fn in_force(pins: &Pins) -> Result<Pins> {
    if pins.set()?.is_some() {
        return Ok(pins.clone());
    }
    Ok(older(pins)?.unwrap_or_else(|| pins.clone()))
}
