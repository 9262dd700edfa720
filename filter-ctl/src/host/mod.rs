//! What this host looks like: devices, addresses, gateways, SSH sessions. Reads, and changes nothing but sockets of its own.

pub mod devices;
pub mod network;
pub mod sockets;
pub mod ssh;
pub mod users;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use filter_common::Clock;
use rustix::time::{ClockId, clock_gettime};

/// Runs one netlink conversation to its end.
fn block_on<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("could not set up the I/O for a netlink socket")?;
    runtime.block_on(conversation)
}

/// The time on CLOCK_MONOTONIC, on which the program in the kernel enforces deadlines.
pub fn monotonic_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// [`monotonic_now_s`] as the clock of the tables.
pub struct Monotonic;

impl Clock for Monotonic {
    fn now_s(&self) -> u32 {
        monotonic_now_s()
    }
}

/// [`monotonic_now`] in whole seconds.
pub fn monotonic_now_s() -> u32 {
    whole_seconds(monotonic_now())
}

/// A moment of CLOCK_MONOTONIC in whole seconds, as the program reads it: 136 years fit.
pub fn whole_seconds(moment: Duration) -> u32 {
    u32::try_from(moment.as_secs()).unwrap_or(u32::MAX)
}

/// What tells this boot from all others: deadlines on CLOCK_MONOTONIC mean nothing in another.
///
/// # Errors
///
/// If the kernel does not say.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("could not read {PATH}"))?;
    Ok(text.trim().to_owned())
}

/// Bytes of memory that can be had without swapping.
///
/// # Errors
///
/// If the kernel does not say.
pub fn memory_available() -> Result<u64> {
    let memory = procfs::Current::current().map(|memory: procfs::Meminfo| memory.mem_available);
    memory.ok().flatten().context("could not read from /proc/meminfo how much memory is available")
}
