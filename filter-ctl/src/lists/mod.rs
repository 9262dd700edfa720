//! Lists of prefixes that others publish: formats, one file each, and what all formats share. Pure: reads bytes that may be
//! hostile, knows neither network nor store.

pub mod block;
pub mod crowdsec;
pub mod format;
pub mod holes;
pub mod items;
pub mod reading;
