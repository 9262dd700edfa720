//! What all tests share: the lab, the scenarios and the tools to send and count frames.

pub mod builds;
pub mod flood;
pub mod frames;
pub mod kernel_side;
pub mod lab;
pub mod model;
pub mod mutate;
pub mod packets;
pub mod prefixes;
pub mod scenarios;

/// A random generator with a seed that is printed, and taken from `FILTER_SEED` where that is set.
pub fn seeded() -> fastrand::Rng {
    let seed = std::env::var("FILTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("FILTER_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
