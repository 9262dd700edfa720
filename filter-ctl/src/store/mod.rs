//! What the controller keeps on disk.

pub mod history;
