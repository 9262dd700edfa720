//! Who is connected by SSH: from the kernel's socket table, since sudo strips SSH_CONNECTION from the
//! environment and a colleague's session is not in it anyway.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use procfs::FromBufReadSI as _;
use procfs::net::{TcpNetEntries, TcpState};
use procfs::process::FDTarget;

/// The port of SSH (RFC 4253, section 4.1), counted as SSH whoever serves it.
const SSH_PORT: u16 = 22;

/// An established connection of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    local_port: u16,
    remote: IpAddr,
    inode: u64,
}

/// Remote addresses of established connections to an SSH server of this network namespace.
///
/// # Errors
///
/// If the kernel tells of its sockets in no way.
pub fn peers() -> Result<Vec<IpAddr>> {
    // A module of the kernel, which may be missing; procfs is always there, and takes ten times as long.
    let connections = told_by_netlink().or_else(|_| told_by_procfs())?;
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    Ok(peers_among(&connections, &sockets_of_ssh_servers()))
}

/// Established connections, by sock_diag(7).
fn told_by_netlink() -> Result<Vec<Connection>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut connections = told_of_family(&socket, AF_INET, SocketId::new_v4())?;
    connections.extend(told_of_family(&socket, AF_INET6, SocketId::new_v6())?);
    Ok(connections)
}

fn told_of_family(socket: &Socket, family: u8, any: SocketId) -> Result<Vec<Connection>> {
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id: any,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut connections = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let id = &response.header.socket_id;
                    connections.push(Connection {
                        local_port: id.source_port,
                        remote: id.destination_address.to_canonical(),
                        inode: response.header.inode.into(),
                    });
                }
                NetlinkPayload::Done(_) => return Ok(connections),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                other => bail!("an unexpected answer of sock_diag: {other:?}"),
            }
        }
    }
}

/// Established connections, by procfs.
fn told_by_procfs() -> Result<Vec<Connection>> {
    let mut connections =
        told_by_file("/proc/net/tcp").context("could not read /proc/net/tcp, nor ask sock_diag")?;
    // Absent where IPv6 is off.
    connections.extend(told_by_file("/proc/net/tcp6").unwrap_or_default());
    Ok(connections)
}

/// The kernel goes through its whole table of connections for each read, some milliseconds on a host with much memory:
/// so the file is read in large pieces, and one that was left half empty was the last.
fn told_by_file(path: &str) -> Result<Vec<Connection>> {
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
    let sockets = TcpNetEntries::from_buf_read(&text[..], procfs::current_system_info())?.0;
    let established = sockets.iter().filter(|socket| socket.state == TcpState::Established);
    let connections = established.map(|socket| Connection {
        local_port: socket.local_address.port(),
        remote: socket.remote_address.ip().to_canonical(),
        inode: socket.inode,
    });
    Ok(connections.collect())
}

fn peers_among(connections: &[Connection], of_ssh_servers: &HashSet<u64>) -> Vec<IpAddr> {
    let ssh = connections
        .iter()
        .filter(|connection| connection.local_port == SSH_PORT || of_ssh_servers.contains(&connection.inode));
    ssh.map(|connection| connection.remote).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    #[test]
    fn netlink_and_procfs_tell_of_the_same_connections() {
        let mut held = Vec::new();
        let mut want = Vec::new();
        for local in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let Ok(listener) = TcpListener::bind((local, 0)) else {
                assert!(local.is_ipv6(), "loopback has IPv4");
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let server = listener.accept().unwrap().0;
            for end in [&client, &server] {
                want.push((end.local_addr().unwrap().port(), end.peer_addr().unwrap().ip()));
            }
            held.push((listener, client, server));
        }
        want.sort_unstable();
        let ours = |told: Result<Vec<Connection>>| {
            let is_ours = |known: &Connection| want.contains(&(known.local_port, known.remote));
            let mut ours: Vec<_> = told.unwrap().into_iter().filter(is_ours).collect();
            ours.sort_unstable();
            ours
        };
        let told = ours(told_by_netlink());
        let known: Vec<_> = told.iter().map(|known| (known.local_port, known.remote)).collect();
        assert_eq!(known, want);
        assert_eq!(ours(told_by_procfs()), told);
    }
}
