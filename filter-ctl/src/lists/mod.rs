//! Lists of prefixes that others publish: formats, one file each, what all formats share, and what a list must keep to.
//! Pure: reads bytes that may be hostile, knows neither network nor store.

pub mod block;
pub mod format;
pub mod guards;
pub mod holes;
pub mod items;
pub mod reading;
pub mod settings;
