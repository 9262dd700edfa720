//! What the bench's programs share: where each packet comes from.

#![no_std]

pub mod disguise;
pub mod set;
