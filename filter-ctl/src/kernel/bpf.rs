//! Calls of bpf(2) that aya lacks.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::bpf_prog_info;

/// `BPF_MAP_LOOKUP_ELEM` of linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
/// `BPF_OBJ_GET`.
const OBJ_GET: libc::c_long = 7;
/// `BPF_OBJ_GET_INFO_BY_FD` (4.13).
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_LINK_DETACH` (5.9).
const LINK_DETACH: libc::c_long = 34;

/// What the calls here take of `union bpf_attr`. The kernel takes the rest, which is not passed, as zero.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Lookup {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// As [`Lookup`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// As [`Lookup`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Query {
    fd: u32,
    length: u32,
    info: u64,
}

/// Most maps of a program that are told; the filter's has a quarter of that, and the kernel allows 64.
const MOST_MAPS: usize = 64;

/// Opens what is pinned at `path`.
///
/// # Errors
///
/// If nothing is, or the kernel refuses.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object { path: path.as_ptr().addr() as u64, ..Object::default() };
    // SAFETY: the kernel reads as many bytes of the attributes as they have, and the path up to the zero that ends it;
    // both live until the call returns.
    let opened = unsafe { call(OBJ_GET, &raw const attributes) }?;
    // SAFETY: the kernel made this descriptor for this call, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Detaches a link at once, whoever else holds it open (5.9).
///
/// # Errors
///
/// If the kernel refuses.
pub fn detach(link: impl AsFd) -> io::Result<()> {
    let link = number(link.as_fd());
    // SAFETY: the kernel reads four bytes of the attributes, the descriptor, and no memory besides.
    unsafe { call(LINK_DETACH, &raw const link) }.map(drop)
}

/// Reads element 0 of an array whose values are `length` bytes long.
///
/// # Errors
///
/// If the kernel refuses.
pub fn read_array(map: impl AsFd, length: u32) -> io::Result<Vec<u8>> {
    let key = 0u32;
    let mut value = vec![0u8; usize::try_from(length).map_err(io::Error::other)?];
    let attributes = Lookup {
        map_fd: number(map.as_fd()),
        key: (&raw const key).addr() as u64,
        value: value.as_mut_ptr().addr() as u64,
        ..Lookup::default()
    };
    // SAFETY: the kernel reads as many bytes of the attributes as they have, and a key of four bytes. It writes a value,
    // which the caller says is as long as the buffer.
    unsafe { call(MAP_LOOKUP_ELEM, &raw const attributes) }.map(|_| value)
}

/// The kernel's ids of the maps that a program uses. aya opens the program by its id for that, which takes CAP_SYS_ADMIN,
/// and the filter's commands must do without.
///
/// # Errors
///
/// If the kernel refuses.
pub fn used_maps(program: impl AsFd) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST_MAPS];
    // SAFETY: integers and arrays of them alone, for which zeros are values.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = u32::try_from(MOST_MAPS).map_err(io::Error::other)?;
    info.map_ids = ids.as_mut_ptr().expose_provenance() as u64;
    let attributes = Query {
        fd: number(program.as_fd()),
        length: u32::try_from(size_of::<bpf_prog_info>()).map_err(io::Error::other)?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: the kernel reads as many bytes of the attributes as they have, writes no more than `length` bytes of `info`,
    // and at most `nr_map_ids` ids; all three live until the call returns.
    unsafe { call(OBJ_GET_INFO_BY_FD, &raw const attributes) }?;
    let count = usize::try_from(info.nr_map_ids).map_err(io::Error::other)?.min(MOST_MAPS);
    Ok(ids[..count].to_vec())
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).expect("a descriptor that is open is not negative")
}

/// Calls bpf(2), and returns what it returns if that is no error.
///
/// # Safety
///
/// The attributes, and what they point to, must be what the command takes.
unsafe fn call<T>(command: libc::c_long, attributes: *const T) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(returned).map_err(io::Error::other)
}
