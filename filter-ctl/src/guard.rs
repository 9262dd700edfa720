//! What a block must not cover by mistake, so that nobody locks themselves out. Pure.

use std::fmt;
use std::net::IpAddr;

use crate::host::network::Addresses;
use crate::policy::{Action, Prefix};

/// Why an entry is refused without `--force`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    /// The entry's prefix.
    pub prefix: Prefix,
    /// What would go wrong.
    pub harm: Harm,
}

/// What would go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It concerns every address of the family.
    Everything(Action),
    /// It covers one of this host's own addresses.
    OwnAddress(IpAddr),
    /// It covers the next hop of a default route.
    Gateway(IpAddr),
    /// It covers the other end of an SSH session.
    SshPeer(IpAddr),
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.prefix)?;
        match self.harm {
            Harm::Everything(Action::Block) => write!(f, "is every address: nothing could reach this host"),
            Harm::Everything(Action::Allow) => write!(f, "is every address: no block would have any effect"),
            Harm::OwnAddress(address) => write!(f, "covers {address}, an address of this host"),
            Harm::Gateway(address) => write!(f, "covers {address}, the gateway of a default route"),
            Harm::SshPeer(address) => write!(f, "covers {address}, which is connected to this host by SSH"),
        }
    }
}

/// The dangers of giving `prefixes` this action, the first for each prefix.
pub fn dangers(
    action: Action,
    prefixes: &[Prefix],
    addresses: &Addresses,
    ssh_peers: &[IpAddr],
) -> Vec<Danger> {
    let harm = |prefix: &Prefix| {
        if prefix.is_everything() {
            return Some(Harm::Everything(action));
        }
        if action == Action::Allow {
            return None;
        }
        let covered = |addresses: &[IpAddr]| {
            addresses.iter().copied().find(|address| prefix.covers(&Prefix::host(*address)))
        };
        covered(ssh_peers)
            .map(Harm::SshPeer)
            .or_else(|| covered(&addresses.gateways).map(Harm::Gateway))
            .or_else(|| covered(&addresses.own).map(Harm::OwnAddress))
    };
    prefixes.iter().filter_map(|prefix| Some(Danger { prefix: *prefix, harm: harm(prefix)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harms(action: Action, prefix: &str) -> Vec<Harm> {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let addresses = Addresses {
            own: vec![address("192.0.2.10"), address("2001:db8::10")],
            gateways: vec![address("192.0.2.1"), address("fe80::1")],
        };
        let ssh_peers = [address("198.51.100.9")];
        let prefix = Prefix::parse(prefix, false).unwrap();
        dangers(action, &[prefix], &addresses, &ssh_peers).into_iter().map(|danger| danger.harm).collect()
    }

    #[test]
    fn lockouts_are_dangers() {
        use Action::Block;
        assert_eq!(harms(Block, "0.0.0.0/0"), [Harm::Everything(Block)]);
        assert_eq!(harms(Block, "::/0"), [Harm::Everything(Block)]);
        assert_eq!(harms(Block, "192.0.2.8/29"), [Harm::OwnAddress("192.0.2.10".parse().unwrap())]);
        assert_eq!(harms(Block, "2001:db8::/32"), [Harm::OwnAddress("2001:db8::10".parse().unwrap())]);
        assert_eq!(harms(Block, "192.0.2.0/30"), [Harm::Gateway("192.0.2.1".parse().unwrap())]);
        assert_eq!(harms(Block, "fe80::/10"), [Harm::Gateway("fe80::1".parse().unwrap())]);
        assert_eq!(harms(Block, "198.51.100.9"), [Harm::SshPeer("198.51.100.9".parse().unwrap())]);
    }

    #[test]
    fn neighbours_of_dangers_are_none() {
        for prefix in
            ["192.0.2.9", "192.0.2.11", "198.51.100.8", "198.51.100.10", "203.0.113.0/24", "2001:db9::/32"]
        {
            assert_eq!(harms(Action::Block, prefix), [], "{prefix}");
        }
    }

    #[test]
    fn an_allow_is_dangerous_only_for_everything() {
        assert_eq!(harms(Action::Allow, "0.0.0.0/0"), [Harm::Everything(Action::Allow)]);
        assert_eq!(harms(Action::Allow, "192.0.2.0/24"), []);
    }
}
