//! The policy: which interfaces are to be filtered and how, the sizes of the tables, the tolerated faults. Each change makes
//! a generation, which never changes again.

use anyhow::{Context as _, Result, ensure};
use filter_common::Reason;
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::{Damaged, Store, wall_now_s};
use crate::host::devices::Mode;

/// Generations that are kept: the last is in force, and those before tell what was.
const KEPT: i64 = 1000;

/// Longest document in bytes: 63 interfaces and all faults by name are under 8 KiB.
const LONGEST: usize = 1 << 20;

/// What is to be filtered, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Interfaces, by name or pattern.
    pub interfaces: Vec<InterfacePolicy>,
    /// Names that a pattern would match and that are not filtered all the same.
    pub except: Vec<String>,
    /// Most IPv4 entries; nothing before the first load.
    pub max_ipv4: Option<u32>,
    /// Most IPv6 entries.
    pub max_ipv6: Option<u32>,
    /// Faults that pass.
    pub tolerated: Vec<String>,
}

/// Interfaces that are to be filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfacePolicy {
    /// A name, or a pattern with `*`, `?` or `[…]`.
    pub name: String,
    /// Where the filter runs.
    pub mode: Mode,
}

/// Whether this names more than one interface.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

impl InterfacePolicy {
    /// Whether it is about the interface of this name.
    pub fn matches(&self, name: &str) -> bool {
        self.name == name
            || is_pattern(&self.name) && glob::Pattern::new(&self.name).is_ok_and(|p| p.matches(name))
    }
}

impl Policy {
    /// How the interface of this name is to be filtered, if at all. What was named exactly comes before patterns.
    pub fn mode_of(&self, name: &str) -> Option<Mode> {
        let exact = self.interfaces.iter().find(|interface| interface.name == name);
        let by_pattern = || {
            let is_excepted = self.except.iter().any(|except| except == name);
            self.interfaces.iter().find(|interface| !is_excepted && interface.matches(name))
        };
        exact.or_else(by_pattern).map(|interface| interface.mode)
    }

    /// Whether frames with this fault pass.
    pub fn tolerates(&self, fault: Reason) -> bool {
        self.tolerated.iter().any(|name| name == fault.name())
    }

    /// Adds interfaces, by name or pattern.
    pub fn include(&mut self, names: &[String], mode: Mode) {
        for name in names {
            self.except.retain(|except| except != name);
            if !is_pattern(name) && self.mode_of(name) == Some(mode) {
                continue;
            }
            self.interfaces.retain(|interface| interface.name != *name);
            self.interfaces.push(InterfacePolicy { name: name.clone(), mode });
        }
    }

    /// Takes an interface out, also where a pattern matches it; or a pattern.
    pub fn exclude(&mut self, name: &str) {
        self.interfaces.retain(|interface| interface.name != name);
        if !is_pattern(name) && self.mode_of(name).is_some() {
            self.except.push(name.to_owned());
        }
    }
}

impl Store {
    /// The policy in force; the empty one before the first.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn policy(&self) -> Result<Policy> {
        let document: Option<String> = self
            .db
            .query_row("SELECT document FROM policies ORDER BY generation DESC LIMIT 1", [], |row| row.get(0))
            .optional()?;
        let Some(document) = document else { return Ok(Policy::default()) };
        ensure!(document.len() <= LONGEST, Damaged("its policy is longer than any".into()));
        serde_json::from_str(&document).map_err(|error| Damaged(format!("its policy: {error}")).into())
    }
}

/// Writes a generation, unless it is the one in force.
pub(super) fn write(db: &Connection, policy: &Policy) -> Result<()> {
    let document = serde_json::to_string(policy).context("could not write the policy as JSON")?;
    db.execute(
        "INSERT INTO policies (at_s, document) SELECT ?1, ?2
         WHERE ?2 IS NOT (SELECT document FROM policies ORDER BY generation DESC LIMIT 1)",
        (wall_now_s(), document),
    )?;
    db.execute(
        "DELETE FROM policies WHERE generation <= (SELECT max(generation) FROM policies) - ?1",
        [KEPT],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_patterns_and_exceptions_hold() {
        let mut policy = Policy::default();
        policy.include(&["eth*".into()], Mode::Native);
        policy.include(&["eth7".into()], Mode::Generic);
        assert_eq!(policy.mode_of("eth0"), Some(Mode::Native));
        assert_eq!(policy.mode_of("eth7"), Some(Mode::Generic));
        assert_eq!(policy.mode_of("wan0"), None);
        policy.exclude("eth1");
        assert_eq!((policy.mode_of("eth1"), policy.mode_of("eth2")), (None, Some(Mode::Native)));
        policy.include(&["eth1".into()], Mode::Native);
        assert_eq!((policy.mode_of("eth1"), policy.interfaces.len()), (Some(Mode::Native), 2));
        policy.exclude("eth*");
        assert_eq!((policy.mode_of("eth0"), policy.mode_of("eth7")), (None, Some(Mode::Generic)));
    }
}
