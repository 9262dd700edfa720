//! Which maps a program uses, by the descriptor of its pin. aya opens the program by its id for that, which takes
//! CAP_SYS_ADMIN, and the filter's commands must do without.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::programs::Xdp;
use aya_obj::generated::{bpf_cmd, bpf_prog_info};

/// What BPF_OBJ_GET_INFO_BY_FD reads: the start of `union bpf_attr` (since 4.13).
#[repr(C)]
struct Query {
    descriptor: u32,
    info_length: u32,
    info: u64,
}

/// Most maps of a program that are told; the filter's has a quarter of that, and the kernel allows 64.
const MOST: usize = 64;

/// The kernel's ids of the maps that `program` uses.
///
/// # Errors
///
/// If the program is not loaded, or the kernel does not tell.
pub fn used_maps(program: &Xdp) -> Result<Vec<u32>> {
    let descriptor = program.fd().context("the program has no descriptor")?.as_fd().as_raw_fd();
    let mut ids = [0_u32; MOST];
    // SAFETY: integers and arrays of them alone, for which zeros are values.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = u32::try_from(MOST)?;
    info.map_ids = ids.as_mut_ptr() as u64;
    let query = Query {
        descriptor: descriptor.cast_unsigned(),
        info_length: u32::try_from(size_of::<bpf_prog_info>())?,
        info: &raw mut info as u64,
    };
    let command = bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long;
    // SAFETY: the kernel reads `Query`, writes no more than `info_length` bytes of `info`, and at most `nr_map_ids` ids;
    // all three outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const query, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("the kernel does not tell which maps a program uses");
    }
    let count = usize::try_from(info.nr_map_ids)?.min(MOST);
    Ok(ids[..count].to_vec())
}
