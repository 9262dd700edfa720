//! Parts of the process that stays: what happened, and who is told.

pub mod event;
pub mod hooks;
pub mod log;
