//! What no list may block: what this host has or needs, as it is seen now, and what operators add. A list that holds such
//! addresses is enforced with holes in it. Rules and limits still apply to these sources; only an `allow` entry skips them.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::host;
use crate::policy::{Deadline, Prefix};
use crate::store::{Never, NeverKind};

/// How long what was seen counts when it is seen no more: a shift. An operator whose session breaks must be able to come
/// back, and an address that is about to be configured again is still this host's.
const LINGER: Duration = Duration::from_secs(8 * 3600);

/// How long who is connected by SSH, and has not proven who he is, counts once he is connected no more. Anybody can connect:
/// OpenSSH lets go of such after two minutes, and of more than a hundred at once.
const KNOCKED: Duration = Duration::from_secs(120);

/// Most of these that count.
const MOST_KNOCKING: usize = 128;

/// Addresses that every host has, and on which it speaks to itself or its neighbours alone: RFC 1122 (section 3.2.1.3),
/// RFC 3927, RFC 4291 (sections 2.5.3 and 2.5.6).
const LOCAL: [&str; 4] = ["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10"];

/// Networks that are private, and everywhere else bogons: RFC 1918, RFC 6598, RFC 4193. Who has an address there is managed
/// from there as a rule, by colleagues who are not connected at the moment.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// Files that name resolvers: the one that all programs read, and the servers behind systemd's own resolver.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Largest file of resolvers that is read, in bytes: three servers and some options are a hundred.
const LARGEST: u64 = 64 << 10;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The prefix.
    pub prefix: Prefix,
    /// Whose it is.
    pub kind: NeverKind,
    /// How long it counts when it is seen no more.
    pub linger: Duration,
}

impl Seen {
    fn new(prefix: Prefix, kind: NeverKind) -> Self {
        Self { prefix, kind, linger: LINGER }
    }
}

/// What this host has and needs now; and what could not be seen. `ssh_peers` are known beside those that this process sees.
pub fn observed(ssh_peers: &[IpAddr]) -> (Vec<Seen>, Vec<String>) {
    let mut warnings = Vec::new();
    let prefixes = |texts: &[&str]| -> Vec<Prefix> {
        texts.iter().filter_map(|text| Prefix::parse(text, false).ok()).collect()
    };
    let mut seen: Vec<Seen> =
        prefixes(&LOCAL).into_iter().map(|prefix| Seen::new(prefix, NeverKind::Local)).collect();
    let mut add = |addresses: Vec<IpAddr>, kind| {
        seen.extend(addresses.into_iter().map(|address| Seen::new(Prefix::host(address), kind)));
    };
    match host::network::addresses() {
        Ok(addresses) => {
            add(addresses.own, NeverKind::Own);
            add(addresses.gateways, NeverKind::Gateway);
        }
        Err(error) => warnings.push(format!("this host's addresses can't be told: {error:#}")),
    }
    add(RESOLVERS.iter().flat_map(|path| resolvers_in(path)).collect(), NeverKind::Resolver);
    // Those first who have proven who they are: of several alike the first counts.
    add(host::ssh::authenticated_peers().unwrap_or_default(), NeverKind::SshPeer);
    let mut knocking = ssh_peers.to_vec();
    match host::ssh::peers() {
        Ok(peers) => knocking.extend(peers),
        Err(error) => warnings.push(format!("who is connected by SSH can't be told: {error:#}")),
    }
    let knocking = knocking.into_iter().take(MOST_KNOCKING);
    seen.extend(knocking.map(|address| Seen {
        prefix: Prefix::host(address),
        kind: NeverKind::SshPeer,
        linger: KNOCKED,
    }));
    let is_ours = |private: &Prefix| {
        let ours = seen
            .iter()
            .filter(|seen| seen.linger == LINGER && matches!(seen.kind, NeverKind::Own | NeverKind::SshPeer));
        ours.into_iter().any(|seen| private.covers(&seen.prefix))
    };
    let private: Vec<Prefix> = prefixes(&PRIVATE).into_iter().filter(is_ours).collect();
    seen.extend(private.into_iter().map(|prefix| Seen::new(prefix, NeverKind::Private)));
    (seen, warnings)
}

/// The resolvers that a file names; none if it can't be read, as where there is none.
fn resolvers_in(path: &str) -> Vec<IpAddr> {
    if fs::metadata(path).is_ok_and(|file| file.len() > LARGEST) {
        return Vec::new();
    }
    let text = fs::read(path).unwrap_or_default();
    let Ok(config) = resolv_conf::Config::parse(&text) else { return Vec::new() };
    config.nameservers.iter().map(|server| IpAddr::from(server.clone())).collect()
}

/// The set that is to be applied at second `now_s`: what is seen, what was and still counts, what operators added.
pub fn merged(stored: &[Never], seen: &[Seen], now_s: u32) -> Vec<Never> {
    let is_local = |prefix: &Prefix| {
        seen.iter().any(|local| local.kind == NeverKind::Local && local.prefix.covers(prefix))
    };
    let mut merged: Vec<Never> =
        stored.iter().filter(|never| never.kind == NeverKind::Operator).cloned().collect();
    for Seen { prefix, kind, linger } in seen {
        let is_there = merged.iter().any(|never| never.prefix == *prefix);
        if is_there || (*kind != NeverKind::Local && is_local(prefix)) {
            continue;
        }
        let linger_s = u32::try_from(linger.as_secs()).unwrap_or(u32::MAX);
        let fresh = match kind {
            NeverKind::Local => Deadline::NEVER,
            _ => Deadline(now_s.saturating_add(linger_s)),
        };
        // Most often nothing is new, and then nothing need be written. What counted longer goes on to.
        let known = stored.iter().find(|never| never.prefix == *prefix && never.kind == *kind);
        let until = known
            .map(|never| never.until)
            .filter(|until| *until == Deadline::NEVER || until.0 > now_s.saturating_add(linger_s / 2))
            .unwrap_or(fresh);
        merged.push(Never { prefix: *prefix, kind: *kind, reason: String::new(), until });
    }
    let still = stored.iter().filter(|never| {
        never.kind != NeverKind::Operator && never.kind != NeverKind::Local && !never.until.has_passed(now_s)
    });
    for never in still {
        if !merged.iter().any(|other| other.prefix == never.prefix) {
            merged.push(never.clone());
        }
    }
    merged.sort_by_key(|never| (never.kind, never.prefix));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(prefix: &str, kind: NeverKind, until_s: u32) -> Never {
        let prefix = Prefix::parse(prefix, false).unwrap();
        Never { prefix, kind, reason: String::new(), until: Deadline(until_s) }
    }

    fn seen(texts: &[(&str, NeverKind)]) -> Vec<Seen> {
        texts.iter().map(|(text, kind)| Seen::new(Prefix::parse(text, false).unwrap(), *kind)).collect()
    }

    #[test]
    fn who_only_knocks_counts_for_minutes() {
        let prefix = Prefix::parse("198.51.100.9", false).unwrap();
        let knocking = [Seen { prefix, kind: NeverKind::SshPeer, linger: KNOCKED }];
        let known = merged(&[], &knocking, 1000);
        assert_eq!(known[0].until, Deadline(1120));
        assert_eq!(merged(&known, &knocking, 1050), known);
        assert_eq!(merged(&known, &knocking, 1100)[0].until, Deadline(1220));
        assert_eq!(merged(&known, &[], 1120), []);
        let proven = merged(&known, &seen(&[("198.51.100.9", NeverKind::SshPeer)]), 1010);
        assert_eq!(proven[0].until, Deadline(1010 + 28_800));
        assert_eq!(merged(&proven, &knocking, 1020), proven, "it is not shortened");
    }

    fn shown(merged: &[Never]) -> Vec<(String, NeverKind, u32)> {
        merged.iter().map(|never| (never.prefix.to_string(), never.kind, never.until.0)).collect()
    }

    #[test]
    fn what_was_seen_counts_for_a_shift() {
        let stored = [
            never("192.0.2.1/32", NeverKind::Gateway, 40_000),
            never("198.51.100.9/32", NeverKind::SshPeer, 120),
            never("198.51.100.8/32", NeverKind::SshPeer, 100),
            never("203.0.113.0/24", NeverKind::Operator, u32::MAX),
        ];
        let seen = seen(&[("192.0.2.1/32", NeverKind::Gateway), ("192.0.2.10/32", NeverKind::Own)]);
        let merged = merged(&stored, &seen, 100);
        assert_eq!(
            shown(&merged),
            [
                ("192.0.2.10/32".into(), NeverKind::Own, 100 + 28_800),
                ("192.0.2.1/32".into(), NeverKind::Gateway, 40_000),
                ("198.51.100.9/32".into(), NeverKind::SshPeer, 120),
                ("203.0.113.0/24".into(), NeverKind::Operator, u32::MAX),
            ]
        );
        assert_eq!(self::merged(&merged, &seen, 110), merged, "nothing to be written");
        let later = self::merged(&merged, &seen, 30_000);
        assert_eq!(shown(&later)[0].2, 58_800, "renewed before it ends");
    }

    #[test]
    fn operators_come_first_and_local_ones_need_no_hole_of_their_own() {
        let stored = [never("192.0.2.1/32", NeverKind::Operator, u32::MAX)];
        let seen = seen(&[
            ("127.0.0.0/8", NeverKind::Local),
            ("127.0.0.1/32", NeverKind::Own),
            ("192.0.2.1/32", NeverKind::Gateway),
        ]);
        let kinds: Vec<_> = merged(&stored, &seen, 0).iter().map(|never| never.kind).collect();
        assert_eq!(kinds, [NeverKind::Local, NeverKind::Operator]);
    }

    #[test]
    fn all_hosts_have_local_ones() {
        let (seen, _) = observed(&["198.51.100.9".parse().unwrap()]);
        assert_eq!(seen.iter().filter(|seen| seen.kind == NeverKind::Local).count(), LOCAL.len());
        let has = |seen: &[Seen], prefix: &str, kind| {
            let prefix = Prefix::parse(prefix, false).unwrap();
            seen.iter().any(|seen| (seen.prefix, seen.kind) == (prefix, kind))
        };
        assert!(has(&seen, "198.51.100.9", NeverKind::SshPeer));
        let (seen, _) = observed(&["172.31.4.5".parse().unwrap()]);
        let has_own = seen
            .iter()
            .any(|seen| seen.kind == NeverKind::Own && seen.prefix.to_string().starts_with("172."));
        assert!(
            has_own || !has(&seen, "172.16.0.0/12", NeverKind::Private),
            "who only knocks opens no network"
        );
    }
}
