//! Unix sockets by their paths.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;

/// A connection to whoever listens at a path. Never waits for one who is too busy to take it.
///
/// # Errors
///
/// If nobody listens there, or no connection is to be had at once.
pub fn connect_at_once(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Whether there is a socket at a path, whoever may listen on it.
pub fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Listens at a path, with these permissions. A socket that is there is removed: who calls this knows that its owner died.
///
/// # Errors
///
/// If something else is there, or the directory can't be written.
pub fn listen_in_place(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if is_socket(path) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}
