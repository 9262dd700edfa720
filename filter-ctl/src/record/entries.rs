//! Who made the entries that decided about recorded frames, and why: asked once an entry, since an entry may be gone by the
//! time that its frames are looked at again.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;

use super::SampledEntry;
use crate::control::Control;
use crate::policy::{Action, Owner, Prefix};

/// Entries that are remembered; beyond, all are forgotten and asked for again. Some 16 MB.
const MOST_KNOWN: usize = 1 << 16;

/// What became of an entry since it decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was there when it was asked for.
    Present,
    /// It was not there any more; one with the same prefix may have been made since.
    Removed,
    /// Nobody could tell.
    Unknown,
}

/// What is known of an entry that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Story {
    /// Its prefix.
    pub prefix: Prefix,
    /// What it does.
    pub action: Action,
    /// Whether it was still there when this was asked.
    pub fate: Fate,
    /// Who held it longest.
    pub owner: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// The lists that held it.
    pub lists: Vec<String>,
}

impl Story {
    fn of(entry: SampledEntry, fate: Fate) -> Self {
        let (prefix, action) = (entry.key.prefix, entry.key.action);
        Self { prefix, action, fate, owner: None, why: None, lists: Vec::new() }
    }

    fn read(control: &Control, entry: SampledEntry) -> Result<Self> {
        // One with the same key that was made at another time is another one, of which somebody else may have thought.
        let there = control.filter().entry(&entry.key)?;
        let Some(there) = there.filter(|there| there.created_s == i64::from(entry.created_s)) else {
            return Ok(Self::of(entry, Fate::Removed));
        };
        let holders = control.holders(&entry.key)?;
        let said = holders.iter().find(|(hold, _)| hold.owner == there.owner);
        let why = match said {
            Some((_, why)) => why.clone(),
            None => Some(there.reason.as_str().to_owned()).filter(|why| !why.is_empty()),
        };
        let lists = holders.iter().map(|(hold, _)| hold.owner.as_str());
        let lists = lists.filter_map(|owner| owner.strip_prefix(Owner::LIST)).map(str::to_owned).collect();
        let owner = Some(there.owner.as_str().to_owned());
        Ok(Self { owner, why, lists, ..Self::of(entry, Fate::Present) })
    }
}

/// Entries that were asked for.
#[derive(Debug, Default)]
pub struct Entries(HashMap<SampledEntry, Story>);

impl Entries {
    /// Asks for those that are not known yet, with one opening of the filter, if there are any.
    ///
    /// # Errors
    ///
    /// If the filter can't be opened or read; then they stay unknown.
    pub fn learn(
        &mut self,
        entries: impl Iterator<Item = SampledEntry>,
        open: impl FnOnce() -> Result<Control>,
    ) -> Result<()> {
        let mut unknown = entries.filter(|entry| !self.0.contains_key(entry)).collect::<Vec<_>>();
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort_by_key(|entry| (entry.key, entry.created_s));
        unknown.dedup();
        let control = open()?;
        if self.0.len() + unknown.len() > MOST_KNOWN {
            self.0.clear();
        }
        for entry in unknown {
            self.0.insert(entry, Story::read(&control, entry)?);
        }
        Ok(())
    }

    /// What is known of an entry.
    pub fn story(&self, entry: SampledEntry) -> Story {
        self.0.get(&entry).cloned().unwrap_or_else(|| Story::of(entry, Fate::Unknown))
    }
}
