//! Compares everything with everything: the store with the tables, the tables with themselves, the policy with what is
//! attached, and the programs with what they should answer.

use anyhow::Result;
use filter_common::Reason;
use serde::Serialize;

use super::Control;
use crate::kernel::interface::State;
use crate::kernel::proof;
use crate::policy::{Entry, Key};
use crate::store::Policy;

/// Differences that are told one by one; of more the rest is counted.
const MOST_TOLD: usize = 20;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which part: `store`, `tables`, `entries`, `interface`, `program`, `policy`.
    pub part: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl Finding {
    pub(super) fn new(part: &'static str, what: impl Into<String>) -> Self {
        Self { part, what: what.into() }
    }
}

impl Control {
    /// Compares everything.
    ///
    /// # Errors
    ///
    /// If something can't be read that must be.
    pub fn verify(&mut self) -> Result<Vec<Finding>> {
        self.expire()?;
        let mut findings = self.verify_store()?;
        self.filter.table().cells().map_all()?;
        if let Err(wrong) = self.filter.table().check() {
            findings.push(Finding::new("tables", format!("they are not as their entries say: {wrong}")));
        }
        findings.extend(self.verify_interfaces()?);
        if !self.filter.set().explain().exists() {
            findings.push(Finding::new("program", "the one that explains is not pinned any more"));
        }
        for loaded in self.filter.interfaces()? {
            if let State::Attached { device, .. } = loaded.state
                && let Err(error) = proof::prove(&self.filter, &loaded.name)
            {
                findings.push(Finding::new("program", format!("the one on {device}: {error:#}")));
            }
        }
        Ok(findings)
    }

    /// What the tables hold that is not as the store says, found in constant time: entries by their sum, faults one by one.
    ///
    /// # Errors
    ///
    /// If the map of faults can't be read.
    pub fn find_drift(&self) -> Result<Option<String>> {
        if let Some(drift) = &self.drift {
            return Ok(Some(drift.clone()));
        }
        if !self.is_durable() {
            return Ok(None);
        }
        Ok(self.verify_faults(&self.policy())?.pop().map(|finding| finding.what))
    }

    /// Faults that pass or are dropped against the policy.
    fn verify_faults(&self, policy: &Policy) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for fault in Reason::ALL.iter().filter(|reason| reason.is_malformed()) {
            let wanted = policy.tolerates(*fault);
            if self.filter.maps().tolerates(*fault)? != wanted {
                let is = if wanted { "dropped" } else { "passed" };
                findings
                    .push(Finding::new("policy", format!("`{}` is {is}, against the policy", fault.name())));
            }
        }
        Ok(findings)
    }

    fn verify_store(&mut self) -> Result<Vec<Finding>> {
        let store = match &self.store {
            Ok(store) => store,
            Err(unusable) => return Ok(vec![Finding::new("store", unusable.to_string())]),
        };
        if let Some(unwritable) = &self.unwritable {
            return Ok(vec![Finding::new("store", unwritable.to_string())]);
        }
        if let Err(error) = store.check() {
            let unusable = store.unusable(&error);
            return Ok(vec![Finding::new("store", unusable.to_string())]);
        }
        let mut findings = Vec::new();
        let mut differences = Vec::new();
        let wanted = store.wanted()?;
        let policy = store.policy()?;
        let there = match self.filter.entries() {
            Ok(entries) => entries,
            Err(error) => return Ok(vec![Finding::new("tables", format!("{error:#}"))]),
        };
        let named = |key: &Key| format!("{} {}", key.action.name(), key.prefix);
        let said = |entry: &Entry| (entry.until, entry.owner.clone(), entry.reason.clone());
        let mut there = there.iter().map(|(_, entry)| entry).peekable();
        for wanted in &wanted {
            while let Some(extra) = there.next_if(|entry| entry.key < wanted.key) {
                differences
                    .push(format!("{} is enforced, and the store does not have it", named(&extra.key)));
            }
            match there.next_if(|entry| entry.key == wanted.key) {
                None => differences.push(format!("{} is not enforced", named(&wanted.key))),
                Some(entry) if said(entry) != said(wanted) => {
                    differences.push(format!(
                        "{} is enforced with another end, owner or reason",
                        named(&wanted.key)
                    ));
                }
                Some(_) => {}
            }
        }
        differences.extend(
            there.map(|extra| format!("{} is enforced, and the store does not have it", named(&extra.key))),
        );
        let more = differences.len().saturating_sub(MOST_TOLD);
        findings.extend(differences.into_iter().take(MOST_TOLD).map(|what| Finding::new("entries", what)));
        if more > 0 {
            findings.push(Finding::new("entries", format!("and {more} more differ")));
        }
        if findings.is_empty()
            && let Some(drift) = &self.drift
        {
            findings.push(Finding::new("tables", format!("their sum is wrong: {drift}")));
        }
        findings.extend(self.verify_faults(&policy)?);
        Ok(findings)
    }

    /// What is not filtered as the policy says.
    ///
    /// # Errors
    ///
    /// If a link can't be opened or netlink fails.
    pub fn verify_interfaces(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let policy = self.policy();
        for loaded in self.filter.interfaces()? {
            let name = &loaded.name;
            let wrong = match &loaded.state {
                State::Attached { mode, .. } => {
                    policy.mode_of(name).filter(|wanted| wanted != mode).map(|wanted| {
                        format!("{name} is filtered in {} mode, and {} is wanted", mode.name(), wanted.name())
                    })
                }
                State::Gone => Some(format!("{name} is gone")),
                State::Elsewhere { .. } => Some(format!("{name} is filtered in another network namespace")),
                State::Stale { device, .. } => {
                    Some(format!("{device} runs another program than the one that is pinned for it"))
                }
            };
            findings.extend(wrong.map(|wrong| Finding::new("interface", wrong)));
        }
        for (device, mode) in self.unfiltered()? {
            let what = format!("{} is to be filtered in {} mode and is not", device.name, mode.name());
            findings.push(Finding::new("interface", what));
        }
        Ok(findings)
    }
}
