//! What this host looks like: devices, addresses, gateways, SSH sessions. Reads, and changes nothing but sockets of its own.

pub mod devices;
pub mod network;
pub mod signals;
pub mod sockets;
pub mod ssh;
pub mod users;

use std::ffi::CStr;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use filter_common::Clock;
use rustix::system::uname;
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

/// The wall clock as it stands now beside CLOCK_MONOTONIC: what turns moments of the one into the other's. A clock that is
/// set later moves no moment that was turned before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock(Duration);

impl WallClock {
    /// Reads both clocks, three times, and keeps the reading that was interrupted least.
    pub fn now() -> Self {
        let read = |_| {
            let before = monotonic_now();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let took = monotonic_now() - before;
            // The kernel does not let the wall clock be set to before the boot.
            (took, wall.saturating_sub(before + took / 2))
        };
        Self((0..3).map(read).min().map_or(Duration::ZERO, |(_, offset)| offset))
    }

    /// The time since 1970 at a moment of CLOCK_MONOTONIC.
    pub fn since_1970(self, moment: Duration) -> Duration {
        self.0 + moment
    }

    /// A moment of CLOCK_MONOTONIC as a time of day.
    pub fn time(self, moment: Duration) -> SystemTime {
        UNIX_EPOCH + self.since_1970(moment)
    }
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

/// The machine and its kernel, in words: `x86_64`, and `Linux 6.1.0-18-amd64`.
pub fn machine_and_kernel() -> (String, String) {
    let system = uname();
    let text = |text: &CStr| text.to_string_lossy().into_owned();
    (text(system.machine()), format!("{} {}", text(system.sysname()), text(system.release())))
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
