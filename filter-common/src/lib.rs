//! The filter itself: from the bytes of a frame to a decision, in safe, allocation-free Rust.
//!
//! The same code is compiled to BPF (inside `filter-ebpf`) and to the host (tests, tools), so what drops
//! packets in the kernel is what the tests exercise. It knows nothing of BPF, maps or clocks; those come in
//! through the traits [`Frame`], [`Tables`] and [`Clock`].
//!
//! The path of a packet:
//!
//! 1. [`frame`]: bounded reads from the frame; a read outside it is `None`, never a guess.
//! 2. [`parse()`]: Ethernet and VLAN tags, IPv4 or IPv6, transport header: a [`Packet`], or the [`Reason`]
//!    why the frame cannot be one.
//! 3. [`packet`]: all that later steps may know about a packet.
//! 4. [`decide()`]: protocol essentials, allow, block, default; asks [`Tables`], reads the clock at most once.
//! 5. [`prefix`]: which entries cover the source: the tables in the kernel, and their writer.
//! 6. [`reason`]: the one enum that names every outcome and its verdict.
//! 7. [`sample`]: which frames are recorded, and what of each.
//!
//! [`abi`] is the contract of the maps that the kernel and userspace share.

#![cfg_attr(not(any(test, feature = "offline", feature = "writer")), no_std)]
#![cfg_attr(not(feature = "pod"), forbid(unsafe_code))]
#![cfg_attr(feature = "pod", deny(unsafe_code))]

pub mod abi;
mod decide;
pub mod frame;
#[cfg(any(test, feature = "offline"))]
pub mod offline;
pub mod packet;
mod parse;
pub mod prefix;
pub mod reason;
pub mod sample;

pub use decide::{Clock, Decision, FOREVER, Match, NO_ENTRY, Tables, decide, filter};
pub use frame::Frame;
pub use packet::Packet;
pub use parse::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, parse};
pub use reason::{Reason, Verdict};
