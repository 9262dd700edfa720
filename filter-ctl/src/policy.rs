//! The validated desired state: prefixes, actions, deadlines, entries. Knows nothing of the kernel.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use filter_common::abi;
use filter_common::packet::Address;
use filter_common::prefix::{self, Family, OWNER_LENGTH, REASON_LENGTH, Step, words_of};
use filter_common::{FOREVER, Verdict};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Longest text that can be a prefix: an IPv6 address written in full with its length is 43 characters.
const LONGEST_PREFIX_TEXT: usize = 64;

/// Longest time to live that may be asked for: ten years, far below what the 32 bits of seconds in the tables
/// hold, and beyond any deadline that is meant.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// An IPv4 or IPv6 prefix with host bits zero. IPv4-mapped IPv6 does not occur: it is IPv4.
///
/// The order is by family, address and length, so that a prefix comes directly before those it covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(IpNet);

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        // As numbers: lists of millions are merged by this.
        match (self.0, other.0) {
            (IpNet::V4(this), IpNet::V4(other)) => {
                let rank = |net: Ipv4Net| u64::from(net.addr().to_bits()) << 8 | u64::from(net.prefix_len());
                rank(this).cmp(&rank(other))
            }
            (IpNet::V6(this), IpNet::V6(other)) => {
                let rank = |net: Ipv6Net| (net.addr().to_bits(), net.prefix_len());
                rank(this).cmp(&rank(other))
            }
            (IpNet::V4(_), IpNet::V6(_)) => Ordering::Less,
            (IpNet::V6(_), IpNet::V4(_)) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Neither address nor prefix.
    #[error("`{0}` is not an IP address or prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// The prefix length is over the family's.
    #[error("`{0}`: the prefix length is over {1}")]
    Length(String, u8),
    /// Host bits are set, so it is unclear what is meant.
    #[error(
        "`{0}` has host bits set: {1} is the whole prefix, {2} the one address; give one of these, or --mask for the first"
    )]
    HostBits(String, Prefix, IpAddr),
}

impl Prefix {
    /// Reads an address or prefix. A bare address is /32 or /128. Where `mask` is set, host bits are cleared;
    /// otherwise they are an error, since widening what somebody typed would block the innocent.
    ///
    /// # Errors
    ///
    /// [`PrefixError`] names the text and what to write instead.
    pub fn parse(text: &str, mask: bool) -> Result<Self, PrefixError> {
        // It may come from a stranger's list, and goes to a terminal.
        let shown =
            || text.chars().take(LONGEST_PREFIX_TEXT).flat_map(char::escape_debug).collect::<String>();
        let syntax = || PrefixError::Syntax(shown());
        if text.len() > LONGEST_PREFIX_TEXT {
            return Err(syntax());
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            // `+8` is a number to Rust, but not to anybody who writes prefixes.
            Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(syntax());
            }
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or_else(|| PrefixError::Length(shown(), bits))?,
        };
        let typed = unmapped(IpNet::new(address, length).map_err(|_| syntax())?);
        let prefix = Self(typed.trunc());
        if typed.addr() != prefix.0.addr() && !mask {
            return Err(PrefixError::HostBits(shown(), prefix, typed.addr()));
        }
        Ok(prefix)
    }

    /// The prefix of a table's key.
    ///
    /// Returns `None` for anything that this program would not have written: an unknown length, host bits.
    pub fn from_table(key: &prefix::Key) -> Option<Self> {
        let (family, length) = key.step.family_and_length()?;
        let [high, low] = [key.high, key.low].map(u64::to_be_bytes);
        let address = match family {
            Family::V4 => IpAddr::from([high[0], high[1], high[2], high[3]]),
            Family::V6 => IpAddr::from(<[u8; 16]>::try_from([high, low].concat()).ok()?),
        };
        Self::of_network(IpNet::new(address, length).ok()?)
    }

    /// The prefix of a network, or `None` where host bits are set or it is an IPv4-mapped one.
    pub fn of_network(net: IpNet) -> Option<Self> {
        let is_network = match net {
            IpNet::V4(v4) => v4.addr().to_bits() & v4.hostmask().to_bits() == 0,
            IpNet::V6(v6) => v6.addr().to_bits() & v6.hostmask().to_bits() == 0,
        };
        (is_network && net == unmapped(net)).then_some(Self(net))
    }

    /// The prefix that holds `address` alone.
    pub fn host(address: IpAddr) -> Self {
        Self(unmapped(address.into()))
    }

    /// First address.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        if self.address().is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is the default route, 0.0.0.0/0 or ::/0.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// The two halves; none of a single address.
    pub fn halves(&self) -> impl Iterator<Item = Self> {
        self.0.subnets(self.0.prefix_len() + 1).into_iter().flatten().map(Self)
    }

    /// The prefix of this length that covers this one; nothing where that is longer.
    pub fn widened(&self, length: u8) -> Option<Self> {
        let net = IpNet::new(self.address(), length).ok()?.trunc();
        (length <= self.prefix_len()).then(|| Self::of_network(net)).flatten()
    }

    /// Whether every address of `other` is in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        if self.prefix_len() > other.prefix_len() {
            return false;
        }
        match (self.0, other.0) {
            (IpNet::V4(this), IpNet::V4(other)) => {
                (this.addr().to_bits() ^ other.addr().to_bits()) & this.netmask().to_bits() == 0
            }
            (IpNet::V6(this), IpNet::V6(other)) => {
                (this.addr().to_bits() ^ other.addr().to_bits()) & this.netmask().to_bits() == 0
            }
            _ => false,
        }
    }
}

/// Prefixes, to be asked which of them covers another: in as many look-ups as an address has bits.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet(HashSet<IpNet>);

impl PrefixSet {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The longest prefix in the set that covers `prefix`, itself included.
    pub fn longest_covering(&self, prefix: &Prefix) -> Option<Prefix> {
        let wider = std::iter::successors(Some(prefix.0), IpNet::supernet);
        wider.into_iter().find(|wider| self.0.contains(wider)).map(Prefix)
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        Self(prefixes.into_iter().map(|prefix| prefix.0).collect())
    }
}

/// An IPv4-mapped IPv6 prefix (RFC 4291, 2.5.5.2) as the IPv4 prefix that it is; others as they are.
fn unmapped(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED_BITS => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - MAPPED_BITS).map_or(net, IpNet::V4),
            None => net,
        },
        _ => net,
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What an entry does with the sources it covers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Pass, whatever block entries say.
    Allow,
    /// Drop.
    Block,
}

impl Action {
    /// `allow` or `block`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
        }
    }

    /// What becomes of the frames.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Allow => Verdict::Pass,
            Self::Block => Verdict::Drop,
        }
    }

    /// The value in the maps.
    pub fn number(self) -> u8 {
        match self {
            Self::Allow => abi::action::ALLOW,
            Self::Block => abi::action::BLOCK,
        }
    }

    /// The action of a map's value, if it is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            abi::action::ALLOW => Some(Self::Allow),
            abi::action::BLOCK => Some(Self::Block),
            _ => None,
        }
    }
}

/// What makes an entry that entry: there is at most one for each action and prefix.
///
/// The order is that of the tables' keys, and puts a prefix directly before those it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whom it concerns.
    pub prefix: Prefix,
    /// What it does.
    pub action: Action,
}

impl Key {
    /// The key as the tables have it.
    pub fn to_table(self) -> prefix::Key {
        let address = match self.prefix.address() {
            IpAddr::V4(address) => Address::V4(address.octets()),
            IpAddr::V6(address) => Address::V6(address.octets()),
        };
        let (family, high, low) = words_of(&address);
        let step = Step::of(family, self.prefix.prefix_len());
        prefix::Key { high, low, step, action: self.action.number() }
    }

    /// The key that a table has, or `None` if this program would not have written it.
    pub fn from_table(key: &prefix::Key) -> Option<Self> {
        Some(Self { action: Action::from_number(key.action)?, prefix: Prefix::from_table(key)? })
    }
}

/// When an entry ends, in seconds of CLOCK_MONOTONIC. The largest value, [`Deadline::NEVER`], never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u32);

impl Deadline {
    /// The entry stays until it is removed.
    pub const NEVER: Self = Self(FOREVER);

    /// The end of an entry that is made now and lives for `ttl`, or for ever. Rounded up to a whole second:
    /// a block may last up to one second longer than asked for, never less.
    ///
    /// # Errors
    ///
    /// If `ttl` is zero or over ten years.
    pub fn after(ttl: Option<Duration>, now: Duration) -> Result<Self, TtlError> {
        let Some(ttl) = ttl else { return Ok(Self::NEVER) };
        if ttl.is_zero() {
            return Err(TtlError::Zero);
        }
        if ttl > LONGEST_TTL {
            return Err(TtlError::TooLong);
        }
        let end = now + ttl;
        let seconds = end.as_secs() + u64::from(end.subsec_nanos() > 0);
        u32::try_from(seconds).map(Self).map_err(|_| TtlError::TooLong)
    }

    /// Whether it has come. `now_s` is in whole seconds, as the program reads its clock.
    pub fn has_passed(self, now_s: u32) -> bool {
        self != Self::NEVER && self.0 <= now_s
    }

    /// Whole seconds until it comes, rounded down but at least one: zero once it has come, `None` if it never does.
    pub fn left_s(self, now: Duration) -> Option<u32> {
        if self == Self::NEVER {
            return None;
        }
        let left = Duration::from_secs(self.0.into()).checked_sub(now).unwrap_or_default();
        Some(match left.is_zero() {
            true => 0,
            false => u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1),
        })
    }
}

/// Why a time to live is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TtlError {
    /// It would end at once.
    #[error("--ttl must be over zero")]
    Zero,
    /// It is beyond what is meant.
    #[error("--ttl is over ten years; leave it out for an entry that stays until it is removed")]
    TooLong,
}

/// The text that says why an entry was made: at most [`REASON_LENGTH`] bytes, no control characters
/// (it is printed on terminals).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReasonText(Arc<str>);

/// Why a text is refused as a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReasonTextError {
    /// Too long.
    #[error("--reason is {0} bytes long; at most {REASON_LENGTH} fit")]
    Length(usize),
    /// Not printable.
    #[error("--reason holds a control character")]
    Control,
}

impl ReasonText {
    /// Checks a reason.
    ///
    /// # Errors
    ///
    /// If it is too long or holds control characters.
    pub fn parse(text: &str) -> Result<Self, ReasonTextError> {
        if text.len() > REASON_LENGTH {
            return Err(ReasonTextError::Length(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(ReasonTextError::Control);
        }
        Ok(Self(text.into()))
    }

    /// The text; empty where none was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no owner.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnerError {
    /// It is too long, or has other characters.
    #[error(
        "`{0}` can't be an owner: 1 to {OWNER_LENGTH} letters, digits and any of `-_.:@/`, such as `manual` or `fail2ban`"
    )]
    Syntax(String),
    /// It can't name a list.
    #[error("`{0}` can't name a list: 1 to {most} letters, digits and any of `-_.`", most = OWNER_LENGTH - Owner::LIST.len())]
    List(String),
}

impl OwnerError {
    /// Of a text that can't name a list.
    pub fn of_list(text: &str) -> Self {
        Self::List(shortened(text))
    }
}

/// The start of a text that may come from anywhere, fit for a terminal.
fn shortened(text: &str) -> String {
    text.chars().take(2 * OWNER_LENGTH).flat_map(char::escape_debug).collect()
}

/// Who holds an entry: 1 to [`OWNER_LENGTH`] letters, digits and `-_.:@/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// What the names of lists as owners begin with.
    pub const LIST: &str = "list:";

    /// Name of [`Owner::canary`].
    pub const CANARY: &str = "canary";

    /// An operator at the command line.
    pub fn manual() -> Self {
        Self("manual".into())
    }

    /// The filter itself, for the entries with which it proves that it works.
    pub fn canary() -> Self {
        Self(Self::CANARY.into())
    }

    /// Whether this is [`Owner::canary`].
    pub fn is_canary(&self) -> bool {
        &*self.0 == Self::CANARY
    }

    /// Whether this is a list.
    pub fn is_list(&self) -> bool {
        self.0.starts_with(Self::LIST)
    }

    /// Reads an owner.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, OwnerError> {
        let is_owner = !text.is_empty()
            && text.len() <= OWNER_LENGTH
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:@/".contains(&byte));
        if is_owner { Ok(Self(text.into())) } else { Err(OwnerError::Syntax(shortened(text))) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the list that this owner is; nothing of others.
    pub fn list_name(&self) -> Option<&str> {
        self.0.strip_prefix(Self::LIST)
    }
}

/// An entry: what is enforced for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Action and prefix.
    pub key: Key,
    /// When it ends by itself.
    pub until: Deadline,
    /// When it was made, in seconds of CLOCK_MONOTONIC; negative for what is older than this boot.
    pub created_s: i64,
    /// Who holds it; of several, the one who holds it longest.
    pub owner: Owner,
    /// Why.
    pub reason: ReasonText,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text, false).unwrap()
    }

    #[test]
    fn bare_addresses_are_host_prefixes() {
        assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(prefix("2001:db8::7").to_string(), "2001:db8::7/128");
    }

    #[test]
    fn mapped_ipv6_is_ipv4() {
        assert_eq!(prefix("::ffff:192.0.2.0/120").to_string(), "192.0.2.0/24");
        assert_eq!(prefix("::ffff:192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(prefix("::ffff:0:0/96").to_string(), "0.0.0.0/0");
        assert_eq!(prefix("::/0").to_string(), "::/0");
        assert_eq!(prefix("::/95").to_string(), "::/95");
        assert_eq!(Prefix::host("::ffff:192.0.2.7".parse().unwrap()), prefix("192.0.2.7"));
    }

    #[test]
    fn host_bits_are_refused_or_masked() {
        let error = Prefix::parse("192.0.2.7/24", false).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.0/24") && error.contains("192.0.2.7") && error.contains("--mask"),
            "{error}"
        );
        assert_eq!(Prefix::parse("192.0.2.7/24", true).unwrap(), prefix("192.0.2.0/24"));
        assert_eq!(Prefix::parse("::ffff:192.0.2.7/120", true).unwrap(), prefix("192.0.2.0/24"));
        assert_eq!(Prefix::parse("192.0.2.7/0", true).unwrap(), prefix("0.0.0.0/0"));
    }

    #[test]
    fn what_is_not_a_prefix_is_refused() {
        for text in [
            "",
            "/",
            "/24",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "192.0.2.0/-1",
            "192.0.2.0/8/8",
            "192.0.2",
            "192.0.2.0 ",
            "0192.0.2.1",
            "192.0.2.0/24x",
            "example.org",
            "[2001:db8::1]",
            "fe80::1%eth0",
            "192.0.2.0/255.255.255.0",
        ] {
            assert!(matches!(Prefix::parse(text, true), Err(PrefixError::Syntax(_))), "{text:?}");
        }
        for (text, bits) in
            [("192.0.2.0/33", 32), ("192.0.2.0/999", 32), ("2001:db8::/129", 128), ("::/300", 128)]
        {
            assert_eq!(Prefix::parse(text, true), Err(PrefixError::Length(text.into(), bits)));
        }
        let escape = Prefix::parse("\x1b[2J", true).unwrap_err().to_string();
        assert!(!escape.contains('\x1b') && escape.contains("\\u{1b}[2J"), "{escape}");
        let long = "9".repeat(10_000);
        assert!(Prefix::parse(&long, true).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn keys_sort_covering_before_covered() {
        let mut prefixes =
            ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.1.0.0/16", "11.0.0.0/8"].map(prefix);
        let sorted = prefixes;
        prefixes.reverse();
        prefixes.sort();
        assert_eq!(prefixes, sorted);
    }

    #[test]
    fn deadlines_round_up_and_end() {
        let now = Duration::from_millis(10_500);
        let deadline = Deadline::after(Some(Duration::from_secs(90)), now).unwrap();
        assert_eq!(deadline, Deadline(101));
        assert!(!deadline.has_passed(100) && deadline.has_passed(101));
        assert_eq!(deadline.left_s(now), Some(90));
        assert_eq!(
            [100.0, 100.9, 101.0, 200.0].map(|s| deadline.left_s(Duration::from_secs_f64(s))),
            [Some(1), Some(1), Some(0), Some(0)]
        );
        assert_eq!(Deadline::NEVER.left_s(now), None);
        assert_eq!(Deadline::after(None, now).unwrap(), Deadline::NEVER);
        assert!(!Deadline::NEVER.has_passed(u32::MAX));
        assert_eq!(Deadline::after(Some(Duration::ZERO), now), Err(TtlError::Zero));
        assert_eq!(Deadline::after(Some(Duration::from_secs(u64::MAX)), now), Err(TtlError::TooLong));
    }

    #[test]
    fn reasons_are_bounded_and_printable() {
        assert_eq!(ReasonText::parse(&"é".repeat(48)).unwrap().as_str().len(), 96);
        assert_eq!(ReasonText::parse(&"é".repeat(49)), Err(ReasonTextError::Length(98)));
        assert_eq!(ReasonText::parse("a\x1b[2J"), Err(ReasonTextError::Control));
    }

    proptest! {
        #[test]
        fn the_longest_covering_prefix_is_found(lengths in prop::collection::vec(0u8..=32, 0..6), bits: u32, asked in 0u8..=32) {
            let at = |length: u8| Prefix::parse(&format!("{}/{length}", Ipv4Addr::from(bits)), true).unwrap();
            let prefixes: Vec<_> = lengths.iter().map(|length| at(*length)).collect();
            let naive = prefixes.iter().filter(|prefix| prefix.covers(&at(asked))).max_by_key(|prefix| prefix.prefix_len());
            let set: PrefixSet = prefixes.iter().copied().collect();
            prop_assert_eq!(set.longest_covering(&at(asked)), naive.copied());
        }

        #[test]
        fn keys_survive_the_table(address: u128, length in 0u8..=128, v4: bool, allow: bool) {
            let address = if v4 { IpAddr::from(((address >> 96) as u32).to_be_bytes()) } else { IpAddr::from(address.to_be_bytes()) };
            let length = if v4 { length.min(32) } else { length };
            let prefix = Prefix::parse(&format!("{address}/{length}"), true).unwrap();
            let key = Key { action: if allow { Action::Allow } else { Action::Block }, prefix };
            prop_assert_eq!(Key::from_table(&key.to_table()), Some(key));
            let other = prefix::Key { action: 7, ..key.to_table() };
            prop_assert_eq!(Key::from_table(&other), None);
        }

        #[test]
        fn keys_have_the_order_of_the_table(a: u32, b: u32, lengths in (0u8..=32, 0u8..=32)) {
            let key = |bits: u32, length| Key {
                action: Action::Block,
                prefix: Prefix::parse(&format!("{}/{length}", Ipv4Addr::from(bits)), true).unwrap(),
            };
            let (a, b) = (key(a, lengths.0), key(b, lengths.1));
            prop_assert_eq!(a.cmp(&b), a.to_table().cmp(&b.to_table()));
        }

        #[test]
        fn any_text_is_a_prefix_or_a_clear_error(text in "\\PC{0,80}") {
            match Prefix::parse(&text, true) {
                Ok(prefix) => prop_assert_eq!(Prefix::parse(&prefix.to_string(), false), Ok(prefix)),
                Err(error) => prop_assert!(error.to_string().len() < 400),
            }
        }
    }
}
