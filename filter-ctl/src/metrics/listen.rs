//! Where figures are offered: on this host alone.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};

use crate::host::sockets::{connect_at_once, is_socket, listen_in_place};

/// Root and the group of the socket, which is the directory's where that has the set-group-id bit, may connect.
const MODE: u32 = 0o660;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On an address of the loopback device.
    Tcp(SocketAddr),
    /// On a socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:9743`, `[::1]:9743` or `unix:/run/x.sock`.
    ///
    /// # Errors
    ///
    /// Why it is refused, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path.into()))
            } else {
                Err("the path must be absolute".into())
            };
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| "is neither IP:PORT, such as 127.0.0.1:9743, nor unix:/PATH".to_owned())?;
        if !address.ip().to_canonical().is_loopback() {
            return Err("must be an address of the loopback device, such as 127.0.0.1, since whoever connects is asked for no \
                        password and by no TLS: have a proxy listen for other hosts"
                .into());
        }
        if address.port() == 0 {
            Err("must have a port, which whoever asks has to know".into())
        } else {
            Ok(Self::Tcp(address))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/metrics"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What listens.
#[derive(Debug)]
pub enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On a socket in the file system, which goes with it.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Listens. Needs a runtime.
    ///
    /// # Errors
    ///
    /// If somebody else listens there, or the kernel refuses.
    pub async fn bind(address: &Address) -> Result<Self> {
        let context = || format!("could not listen on {address}");
        match address {
            Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.with_context(context)?)),
            Address::Unix(path) => {
                // Whoever has died refuses; whoever is busy lets nobody in at once.
                if is_socket(path) && connect_at_once(path).err() != Some(Errno::CONNREFUSED) {
                    bail!("{}: another program listens there already", context());
                }
                let listener = listen_in_place(path, MODE).with_context(context)?;
                Ok(Self::Unix(listener, SocketFile::at(path).with_context(context)?))
            }
        }
    }
}

/// A socket's file, removed at the end unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // Where it can't be removed, the next to listen there finds that nobody does.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_listened_to() {
        for text in ["127.0.0.1:9743", "127.9.9.9:1", "[::1]:9743", "[::ffff:127.0.0.1]:9743"] {
            assert_eq!(Address::parse(text), Ok(Address::Tcp(text.parse().unwrap())), "{text}");
        }
        assert_eq!(Address::parse("unix:/run/x"), Ok(Address::Unix("/run/x".into())));
        for (text, why) in [
            ("0.0.0.0:9743", "loopback"),
            ("[::]:9743", "loopback"),
            ("192.0.2.1:9743", "proxy"),
            ("[::ffff:192.0.2.1]:9743", "loopback"),
            ("127.0.0.1:0", "port"),
            ("127.0.0.1", "IP:PORT"),
            ("localhost:9743", "IP:PORT"),
            (":9743", "IP:PORT"),
            ("unix:run/x", "absolute"),
            ("unix:", "absolute"),
            ("", "IP:PORT"),
        ] {
            let refused = Address::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
