//! Who is connected by SSH: from the kernel's socket table, since sudo strips SSH_CONNECTION from the
//! environment and a colleague's session is not in it anyway.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};

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

/// Those of [`peers`] whose user has proven who he is. A process that may not look into others', as a confined daemon, finds
/// none.
///
/// # Errors
///
/// As [`peers`].
pub fn authenticated_peers() -> Result<Vec<IpAddr>> {
    let connections = told_by_netlink().or_else(|_| told_by_procfs())?;
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    let sessions = sockets_of(&|process| process.cmdline().is_ok_and(|words| is_session(&words.join(" "))));
    Ok(connections.iter().filter(|known| sessions.contains(&known.inode)).map(|known| known.remote).collect())
}

/// Whether this is how OpenSSH's server names the process of a session: `sshd: user@pts/0`, and since 9.8
/// `sshd-session: user@notty`. Before the user has proven who he is, the name ends with what the process is, in brackets,
/// and has no terminal.
fn is_session(title: &str) -> bool {
    let user = title.trim().strip_prefix("sshd").and_then(|rest| rest.split_once(": "));
    user.is_some_and(|(_, user)| user.contains('@') && !user.ends_with(']'))
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
    while !read_answer(&socket.recv_from_full()?.0, &mut connections)? {}
    Ok(connections)
}

/// Reads a datagram of the kernel's answer. Returns whether it was the last.
fn read_answer(mut bytes: &[u8], connections: &mut Vec<Connection>) -> Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)?;
        ensure!(message.header.flags & NLM_F_DUMP_INTR == 0, "sockets changed while sock_diag told of them");
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                connections.push(Connection {
                    local_port: id.source_port,
                    remote: id.destination_address.to_canonical(),
                    inode: response.header.inode.into(),
                });
            }
            // A dump that failed ends like one that did not, but for the code.
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
            NetlinkPayload::Done(done) => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_neg()).into());
            }
            NetlinkPayload::Error(error) => return Err(error.to_io().into()),
            other => bail!("an unexpected answer of sock_diag: {other:?}"),
        }
    }
    Ok(false)
}

/// Established connections, by procfs.
fn told_by_procfs() -> Result<Vec<Connection>> {
    let mut sockets = procfs::net::tcp().context("could not read /proc/net/tcp, nor ask sock_diag")?;
    // Absent where IPv6 is off.
    sockets.extend(procfs::net::tcp6().unwrap_or_default());
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
    sockets_of(&|process| {
        process.stat().is_ok_and(|stat| stat.comm.starts_with("sshd") || stat.comm == "dropbear")
    })
}

/// Inodes of the sockets that such processes hold.
fn sockets_of(is_such: &dyn Fn(&Process) -> bool) -> HashSet<u64> {
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let servers = processes.filter(is_such);
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
    use netlink_packet_core::DoneMessage;
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
            // More than a page of procfs.
            for _ in 0..100 {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let server = listener.accept().unwrap().0;
                for end in [&client, &server] {
                    want.push((end.local_addr().unwrap().port(), end.peer_addr().unwrap().ip()));
                }
                held.extend([client, server]);
            }
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

    #[test]
    fn sessions_are_told_from_those_who_only_knock() {
        for session in ["sshd: root@pts/0", "sshd-session: alice@notty", "sshd: a b@pts/1"] {
            assert!(is_session(session), "{session}");
        }
        let knocks = [
            "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups",
            "sshd: [accepted]",
            "sshd: unknown [priv]",
            "sshd: me@home [priv]",
            "sshd: root [net]",
            "sshd-session: [accepted]",
            "nc -l root@pts/0",
        ];
        assert!(knocks.iter().all(|knock| !is_session(knock)));
    }

    #[test]
    fn a_failed_dump_is_an_error_and_not_an_empty_one() {
        let done = |code: i32| {
            let mut message = DoneMessage::default();
            message.code = code;
            let payload = NetlinkPayload::<SockDiagMessage>::Done(message);
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            bytes
        };
        assert!(read_answer(&done(0), &mut Vec::new()).unwrap());
        let error = read_answer(&done(-2), &mut Vec::new()).unwrap_err();
        assert_eq!(error.downcast::<io::Error>().unwrap().kind(), io::ErrorKind::NotFound);
        for cut in 1..20 {
            assert!(read_answer(&done(0)[..cut], &mut Vec::new()).is_err(), "{cut}");
        }
    }
}
