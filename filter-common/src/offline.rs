//! Tables and clocks in memory, for tests and for explaining without a kernel: the plainest thing that can be
//! right.

use crate::decide::{Clock, Match, Tables};
use crate::packet::Address;
use crate::prefix::{Record, Switch};
use crate::reason::Reason;

/// An entry of [`HostTables`].
#[derive(Clone, Copy, Debug)]
pub struct HostEntry {
    /// Network address.
    pub address: Address,
    /// Prefix length in bits.
    pub prefix_len: u8,
    /// Whether it allows; otherwise it blocks.
    pub allows: bool,
    /// Own end, in seconds of the clock.
    pub until_s: u32,
}

/// Entries in a list, searched from end to end. The id of an entry is its position plus one.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// The entries.
    pub entries: Vec<HostEntry>,
    /// Faults that pass all the same.
    pub tolerated: Vec<Reason>,
}

impl HostTables {
    fn covering(&self, source: &Address, allows: bool) -> Option<Match> {
        let covering = || {
            (1..).zip(&self.entries).filter(|(_, entry)| {
                entry.allows == allows && covers(&entry.address, entry.prefix_len, source)
            })
        };
        let (entry, _) = covering().max_by_key(|(_, entry)| entry.prefix_len)?;
        let until_s = covering().map(|(_, entry)| entry.until_s).max()?;
        Some(Match { entry, until_s })
    }
}

impl Tables for HostTables {
    fn find(&self, source: &Address) -> Option<Record> {
        let word = |allows| self.covering(source, allows).map_or(0, Match::to_word);
        let (allow, block) = (word(true), word(false));
        Some(Record { words: [allow, block, allow, block] })
    }

    fn switch(&self) -> Switch {
        Switch::default()
    }

    fn tolerates(&self, fault: Reason) -> bool {
        self.tolerated.contains(&fault)
    }
}

/// A clock that stands still.
#[derive(Clone, Copy, Debug)]
pub struct StoppedClock(pub u32);

impl Clock for StoppedClock {
    fn now_s(&self) -> u32 {
        self.0
    }
}

/// Whether `network`/`prefix_len` holds `address`. Families never match each other.
fn covers(network: &Address, prefix_len: u8, address: &Address) -> bool {
    let (network, address, bits) = match (network, address) {
        (Address::V4(network), Address::V4(address)) => {
            (u32::from_be_bytes(*network).into(), u32::from_be_bytes(*address).into(), 32)
        }
        (Address::V6(network), Address::V6(address)) => {
            (u128::from_be_bytes(*network), u128::from_be_bytes(*address), 128)
        }
        _ => return false,
    };
    let host_bits = bits - u32::from(prefix_len);
    (network ^ address).checked_shr(host_bits).unwrap_or(0) == 0
}
