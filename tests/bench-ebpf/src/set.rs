//! The prefixes and the sources of the bench, by arithmetic alone: a program that looked them up in memory would
//! measure that memory as well. Compiled into the BPF programs, which draw sources, and into the bench, which writes
//! down the prefixes.
//!
//! Of IPv4 prefixes 70 % are /32, 17 to 20 % /24, and each other length from /16 to /31 has at most one in 128.
//! Prefixes shorter than /24 cover much, so they lie in 128.0.0.0/3 alone, and sources outside the set are drawn
//! from the other seven eighths. What is left there of hits by chance is 1.3 % at a million: the /24. IPv6
//! prefixes lie in 2000::/3 (what is assigned to the internet), and hits by chance are under 0.1 %.

/// Prefixes come in blocks of this many, in each of which all lengths have their share. A power of two: the
/// programs don't divide.
const BLOCK: u32 = 128;

/// Of a block, those of IPv4 that are /32.
const HOSTS: u32 = 90;

/// Of a block, those of IPv4 that are neither /32 nor /24: one each.
const OTHERS: u32 = 15;

/// Which prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Single IPv4 addresses.
    ExactV4 = 0,
    /// IPv4 prefixes of 17 lengths.
    MixedV4 = 1,
    /// IPv6 prefixes of the lengths 32, 48, 64 and 128.
    FourV6 = 2,
    /// IPv6 prefixes of 32 lengths.
    ManyV6 = 3,
    /// IPv6 prefixes of all 129 lengths. Its first is `::/0`, which covers every address: whoever wants misses gives
    /// it a deadline that has passed.
    AllV6 = 4,
}

impl Kind {
    /// The kind of this number.
    #[cfg(target_arch = "bpf")]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::ExactV4,
            1 => Self::MixedV4,
            2 => Self::FourV6,
            3 => Self::ManyV6,
            _ => Self::AllV6,
        }
    }

    /// Whether it is IPv4's.
    pub const fn is_v4(self) -> bool {
        matches!(self, Self::ExactV4 | Self::MixedV4)
    }

    /// Where in a block its /128 start, of which there are at least 20.
    const fn first_host(self) -> u32 {
        match self {
            Self::ManyV6 => 28,
            Self::AllV6 => 93,
            _ => 0,
        }
    }
}

/// Where a source lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Draw {
    /// In a prefix of the set, each as likely as any other.
    Member = 0,
    /// Anywhere else.
    Other = 1,
    /// Beside a single address of the set: in the same /24, or /48.
    Neighbour = 2,
}

impl Draw {
    /// The draw of this number.
    #[cfg(target_arch = "bpf")]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Member,
            1 => Self::Other,
            _ => Self::Neighbour,
        }
    }
}

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V4 {
    /// Network address.
    pub address: u32,
    /// Bits of it.
    pub length: u32,
}

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V6 {
    /// First half of the network address.
    pub high: u64,
    /// Second half.
    pub low: u64,
    /// Bits of both.
    pub length: u32,
}

/// Prefix `index` of an IPv4 set, below 2^20; no two are equal.
#[inline(always)] // in BPF: structs are not returned from functions
#[expect(clippy::cast_possible_truncation, reason = "a number of at most 32 bits is permuted")]
pub fn prefix_v4(kind: Kind, index: u32) -> V4 {
    let (block, place) = (index / BLOCK, index % BLOCK);
    if kind as u32 == Kind::ExactV4 as u32 || place < HOSTS {
        return V4 { address: permuted(index.into(), 32) as u32, length: 32 };
    }
    let mut length = 24;
    if place >= BLOCK - OTHERS {
        let other = place - (BLOCK - OTHERS);
        length = if other < 8 { 16 + other } else { 17 + other };
    }
    // At most as many as together cover one part in 128 of all addresses.
    let sparse = 20_u32.saturating_sub(length);
    if block & ((1 << sparse) - 1) != 0 {
        length = 24;
    }
    if length >= 24 {
        return V4 { address: (permuted(index.into(), length) as u32) << (32 - length), length };
    }
    let address = 0b100 << 29 | (permuted((block >> sparse).into(), length - 3) as u32) << (32 - length);
    V4 { address, length }
}

/// Prefix `index` of an IPv6 set, below 2^20; no two are equal.
#[inline(always)] // as `prefix_v4`
pub fn prefix_v6(kind: Kind, index: u32) -> V6 {
    // Lengths of which 2000::/3 has too few, or none.
    if kind as u32 == Kind::AllV6 as u32 && index < 32 {
        let high = if index == 0 { 0 } else { 1 << 63 };
        return V6 { high, low: 0, length: index };
    }
    let length = length_v6(kind, index % BLOCK);
    let (high_bits, low_bits) = if length > 64 { (64, length - 64) } else { (length, 0) };
    let high = 0b001 << 61 | permuted(index.into(), high_bits - 3) << (64 - high_bits);
    let low = if low_bits == 0 { 0 } else { scrambled(index.into()) >> (64 - low_bits) << (64 - low_bits) };
    V6 { high, low, length }
}

#[inline(always)] // as `prefix_v4`
fn length_v6(kind: Kind, place: u32) -> u32 {
    let (hosts, lans, sites) = match kind {
        Kind::ManyV6 if place < 28 => return if place < 15 { 33 + place } else { 34 + place },
        Kind::ManyV6 => (98, 113, 125),
        Kind::AllV6 if place < 93 => {
            return match place {
                ..15 => 33 + place,
                15..30 => 34 + place,
                _ => 35 + place,
            };
        }
        Kind::AllV6 => (113, 120, 125),
        _ => (90, 109, 124),
    };
    if place < hosts {
        128
    } else if place < lans {
        64
    } else if place < sites {
        48
    } else {
        32
    }
}

/// An IPv4 source.
#[inline(always)] // as `prefix_v4`
#[expect(clippy::cast_possible_truncation, reason = "halves of random bits are taken")]
pub fn source_v4(kind: Kind, size: u32, draw: Draw, random: u64) -> u32 {
    let low = random as u32;
    match draw {
        Draw::Member => {
            let prefix = prefix_v4(kind, below(size, random));
            prefix.address | (u64::from(low) & (0xffff_ffff >> prefix.length)) as u32
        }
        Draw::Other if kind as u32 == Kind::ExactV4 as u32 => low,
        Draw::Other => {
            let address = ((u64::from(low) * 7) >> 3) as u32;
            if address < 0b100 << 29 { address } else { address + (1 << 29) }
        }
        Draw::Neighbour => {
            let place = below(HOSTS, random << 32);
            let prefix = prefix_v4(kind, (below(size, random) & !(BLOCK - 1)) | place);
            prefix.address ^ (1 + below(255, scrambled(random)))
        }
    }
}

/// An IPv6 source.
#[inline(always)] // as `prefix_v4`
#[expect(clippy::cast_possible_truncation, reason = "a position in a block is taken")]
pub fn source_v6(kind: Kind, size: u32, draw: Draw, random: u64) -> (u64, u64) {
    let (high, low) = (scrambled(random), scrambled(!random));
    match draw {
        Draw::Member => {
            let prefix = prefix_v6(kind, below(size, random));
            let (high_host, low_host) = match prefix.length {
                0 => (!0, !0),
                1..64 => (!0 >> prefix.length, !0),
                64 => (0, !0),
                65..128 => (0, !0 >> (prefix.length - 64)),
                _ => (0, 0),
            };
            (prefix.high | (high & high_host), prefix.low | (low & low_host))
        }
        Draw::Other => (0b001 << 61 | high >> 3, low),
        Draw::Neighbour => {
            let place = kind.first_host() + below(20, random << 32);
            let prefix = prefix_v6(kind, (below(size, random) & !(BLOCK - 1)) | place);
            (prefix.high & !0xffff | u64::from(high as u16), low)
        }
    }
}

/// A number below `limit`, from the upper 32 bits of `random`.
const fn below(limit: u32, random: u64) -> u32 {
    (((random >> 32) * limit as u64) >> 32) as u32
}

/// A permutation of the numbers of `bits` bits (2 to 63): multiplying by odd numbers and folding the upper half into
/// the lower can each be undone.
const fn permuted(number: u64, bits: u32) -> u64 {
    let (mask, half) = ((1 << bits) - 1, bits.div_ceil(2));
    // The fractional bits of the golden ratio, and SplitMix64's second multiplier: odd, and without pattern.
    let mut number = (number + bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    number ^= number >> half;
    number = number.wrapping_mul(0x94d0_49bb_1331_11eb) & mask;
    number ^ number >> half
}

/// SplitMix64's output function (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
#[inline(always)] // in BPF: a call would cost more than the five steps
pub const fn scrambled(state: u64) -> u64 {
    let mut number = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
