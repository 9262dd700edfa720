//! What all tests share: the lab, the scenarios and the tools to send and count frames.

pub mod flood;
pub mod frames;
pub mod kernel_side;
pub mod lab;
pub mod packets;
pub mod scenarios;
