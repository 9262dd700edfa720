//! The shell around `filter-common`: gives it a frame, the maps and a clock, and acts on its decision. No protocol
//! knowledge belongs here.

#![no_std]
#![expect(
    missing_docs,
    reason = "shared by the binaries beside it; the table in `maps` says what the maps are"
)]

pub mod act;
pub mod frame;
pub mod maps;
pub mod record;
pub mod shell;
pub mod tables;
pub mod word;
