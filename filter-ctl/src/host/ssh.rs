//! Who is connected by SSH: from the kernel's socket table, since sudo strips SSH_CONNECTION from the
//! environment and a colleague's session is not in it anyway.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use procfs::FromBufReadSI as _;
use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState};
use procfs::process::FDTarget;

/// The port of SSH (RFC 4253, section 4.1), counted as SSH whoever serves it.
const SSH_PORT: u16 = 22;

/// Remote addresses of established connections to an SSH server of this network namespace.
///
/// # Errors
///
/// If the socket table can't be read.
pub fn peers() -> Result<Vec<IpAddr>> {
    let mut sockets = tcp_sockets("/proc/net/tcp").context("could not read /proc/net/tcp")?;
    // Absent where IPv6 is off.
    sockets.extend(tcp_sockets("/proc/net/tcp6").unwrap_or_default());
    sockets.retain(|socket| socket.state == TcpState::Established);
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let of_ssh_servers = sockets_of_ssh_servers();
    Ok(peers_among(&sockets, &of_ssh_servers))
}

/// The sockets that a file of procfs lists.
///
/// The kernel goes through its whole table of connections for each read, some milliseconds on a host with much memory:
/// so it is read in large pieces, and one that was left half empty was the last.
fn tcp_sockets(path: &str) -> Result<Vec<TcpNetEntry>> {
    /// Bytes a read: some hundred sockets.
    const PIECE: usize = 1 << 16;
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    loop {
        let start = text.len();
        text.resize(start + PIECE, 0);
        let read = file.read(&mut text[start..])?;
        text.truncate(start + read);
        if read < PIECE / 2 {
            break;
        }
    }
    Ok(TcpNetEntries::from_buf_read(&text[..], procfs::current_system_info())?.0)
}

fn peers_among(sockets: &[TcpNetEntry], of_ssh_servers: &HashSet<u64>) -> Vec<IpAddr> {
    let ssh = sockets
        .iter()
        .filter(|socket| socket.local_address.port() == SSH_PORT || of_ssh_servers.contains(&socket.inode));
    ssh.map(|socket| socket.remote_address.ip().to_canonical()).collect()
}

/// Inodes of the sockets that SSH servers hold, whatever port they listen on. Processes that end or can't be
/// read meanwhile are passed over.
fn sockets_of_ssh_servers() -> HashSet<u64> {
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let servers = processes.filter(|process| {
        process.stat().is_ok_and(|stat| stat.comm.starts_with("sshd") || stat.comm == "dropbear")
    });
    let descriptors = servers.filter_map(|server| server.fd().ok()).flatten().flatten();
    descriptors
        .filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect()
}
