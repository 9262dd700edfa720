//! Lists of prefixes that others publish: formats, one file each, what all formats share, and what a list must keep to.
//! Pure, but for `worker`, the child that fetches and reads them: bytes may be hostile. Knows neither kernel nor store.

pub mod block;
pub mod crowdsec;
pub mod format;
pub mod guards;
pub mod holes;
pub mod items;
pub mod reading;
pub mod settings;
pub mod worker;
