//! Prefixes with holes: what remains of a prefix when others are left out of it. Pure.

use std::slice;

use crate::policy::Prefix;

/// Prefixes that are left out of others: in order, none within another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(Vec<Prefix>);

impl Holes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The holes in order.
    pub fn iter(&self) -> slice::Iter<'_, Prefix> {
        self.0.iter()
    }

    /// The holes that `prefix` shares addresses with: the one that covers it, or all that lie in it.
    pub fn overlapping(&self, prefix: &Prefix) -> &[Prefix] {
        self.overlapping_after(self.0.partition_point(|hole| hole < prefix), prefix)
    }

    /// The same, for prefixes that come in their order. `passed` is zero at first, and belongs to these.
    pub fn overlapping_from(&self, passed: &mut usize, prefix: &Prefix) -> &[Prefix] {
        while self.0.get(*passed).is_some_and(|hole| hole < prefix) {
            *passed += 1;
        }
        self.overlapping_after(*passed, prefix)
    }

    /// `first` is the first hole that does not come before `prefix`.
    fn overlapping_after(&self, first: usize, prefix: &Prefix) -> &[Prefix] {
        if first > 0 && self.0[first - 1].covers(prefix) {
            return &self.0[first - 1..first];
        }
        let rest = &self.0[first..];
        &rest[..rest.iter().take_while(|hole| prefix.covers(hole)).count()]
    }

    /// The widest prefixes that together are `prefix` without the holes, in order; `prefix` itself where no hole touches
    /// it, nothing where one covers it.
    pub fn parts_of(&self, prefix: Prefix) -> Vec<Prefix> {
        let mut parts = Vec::new();
        split(prefix, self.overlapping(&prefix), &mut parts);
        parts
    }
}

impl FromIterator<Prefix> for Holes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut holes: Vec<Prefix> = prefixes.into_iter().collect();
        holes.sort_unstable();
        // A prefix sorts directly before those that it covers.
        holes.dedup_by(|next, kept| kept.covers(next));
        Self(holes)
    }
}

/// `holes` are those that touch `prefix`. Goes no deeper than an address has bits.
fn split(prefix: Prefix, holes: &[Prefix], parts: &mut Vec<Prefix>) {
    match holes {
        [] => parts.push(prefix),
        [hole, ..] if hole.covers(&prefix) => {}
        _ => {
            for half in prefix.halves() {
                let first = holes.partition_point(|hole| *hole < half && !half.covers(hole));
                let within = holes[first..].iter().take_while(|hole| half.covers(hole)).count();
                split(half, &holes[first..first + within], parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text, true).unwrap()
    }

    fn parts(of: &str, holes: &[&str]) -> Vec<String> {
        let holes: Holes = holes.iter().map(|hole| prefix(hole)).collect();
        holes.parts_of(prefix(of)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_remains_is_as_wide_as_can_be() {
        assert_eq!(parts("192.0.2.0/30", &[]), ["192.0.2.0/30"]);
        assert_eq!(parts("192.0.2.0/30", &["192.0.2.1"]), ["192.0.2.0/32", "192.0.2.2/31"]);
        assert_eq!(parts("192.0.2.0/30", &["192.0.2.0/24"]), [""; 0]);
        assert_eq!(parts("192.0.2.0/30", &["192.0.2.0/30"]), [""; 0]);
        assert_eq!(parts("192.0.2.0/30", &["192.0.2.1", "192.0.2.0/31", "198.51.100.1"]), ["192.0.2.2/31"]);
        assert_eq!(parts("10.0.0.0/8", &["10.1.2.3"]).len(), 24);
        assert_eq!(parts("::/0", &["2001:db8::1"]).len(), 128);
        assert_eq!(parts("192.0.2.7", &["192.0.2.6", "192.0.2.8", "::/0"]), ["192.0.2.7/32"]);
    }

    proptest! {
        #[test]
        fn exactly_the_holes_are_missing(
            of in (0u32..256, 24u8..=32), holes in prop::collection::vec((0u32..256, 24u8..=32), 0..6),
        ) {
            let net = |(low, length): (u32, u8)| {
                prefix(&format!("{}/{length}", Ipv4Addr::from(0xc000_0200 | low)))
            };
            let of = net(of);
            let holes: Vec<Prefix> = holes.into_iter().map(net).collect();
            let punched = holes.iter().copied().collect::<Holes>();
            let mut passed = 0;
            for before in [net((0, 24)), of] {
                prop_assert_eq!(punched.overlapping_from(&mut passed, &before), punched.overlapping(&before));
            }
            let parts = punched.parts_of(of);
            prop_assert!(parts.is_sorted());
            for low in 0..256 {
                let address = net((low, 32));
                let is_left = of.covers(&address) && !holes.iter().any(|hole| hole.covers(&address));
                let times = parts.iter().filter(|part| part.covers(&address)).count();
                prop_assert_eq!(times, usize::from(is_left), "{}", address);
            }
        }
    }
}
