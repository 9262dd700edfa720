//! The kernel's side: pins, programs, links and maps. The only module that calls aya.

mod bpf;
mod bpffs;
pub mod builds;
pub mod counted;
pub mod debug;
pub mod descriptors;
pub mod explain;
pub mod filter;
mod handover;
pub mod held;
pub mod interface;
pub mod loading;
mod lock;
mod mapped;
pub mod maps;
pub mod pins;
pub mod program;
pub mod proof;
pub mod reader;
pub mod recorder;
pub mod refusal;
pub mod renames;
mod renew;
pub mod resize;
mod set;
pub mod upgrade;

use std::error::Error;

pub use filter::Filter;
pub use lock::Lock;
pub use pins::Pins;
pub use set::Set;

/// The errno at the root of an error of aya's, wherever in the chain it hides.
fn errno_of(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}
