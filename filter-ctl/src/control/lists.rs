//! Lists: a generation takes the place of another, and the never-block set that of the one before. What changes is gone over
//! in the order of keys, from both generations and all others who hold something, and never held in memory as a whole.

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use filter_common::abi::Counter;
use filter_common::prefix::Family;
use serde::Serialize;
use serde_json::{Value, json};

use super::Control;
use super::change::{Draft, held_in};
use super::kept::{self, Followed, Kept};
use crate::exit::NoSuchList;
use crate::holds::{Change, Hold, Whose, enforced};
use crate::host::monotonic_now_s;
use crate::kernel::Filter;
use crate::kernel::filter::{PartlyApplied, digest_of};
use crate::lists::holes::Holes;
use crate::lists::settings::{Settings, owner_of};
use crate::plan::{Target, fits};
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};
use crate::store::{
    Compared, Holed, InForce, Intent, ListWrite, Listed, Never, NewGeneration, Side, Store, View,
};

/// Entries that are written to the tables at once: of each some 250 bytes are in memory meanwhile, 16 MB in all, and each time
/// the keys behind the first of them are gone over.
const AT_ONCE: usize = 1 << 16;

/// Prefixes that a change names; of more the rest is counted.
const MOST_NAMED: usize = 20;

/// A prefix of a list from which the never-block set took something out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoledPrefix {
    /// As the list has it.
    pub prefix: Prefix,
    /// The first of what was taken out; the prefix itself, or a wider one, if nothing is left of it.
    pub holes: Vec<Prefix>,
}

impl HoledPrefix {
    /// Those of a list.
    pub fn of(holed: Holed) -> Vec<Self> {
        holed.first.into_iter().map(|(prefix, holes)| Self { prefix, holes }).collect()
    }
}

/// A list that holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListHolding {
    /// Its name.
    pub list: String,
    /// What its entries do.
    pub action: Action,
    /// The narrowest of its prefixes that covers the address.
    pub prefix: Prefix,
    /// What it says of that prefix.
    pub comment: Option<String>,
    /// Of the never-block set what keeps the list from blocking the address.
    pub hole: Option<Prefix>,
}

/// What a change of a list comes to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ListChange {
    /// The generation in force after it.
    pub generation: Option<i64>,
    /// Prefixes that the list holds and did not.
    pub added: u64,
    /// Prefixes that end at another time.
    pub changed: u64,
    /// Prefixes that are as before.
    pub unchanged: u64,
    /// Prefixes that the list held and does not.
    pub removed: u64,
    /// Of the removed, those that others hold and that stay.
    pub still_held: u64,
    /// The first of the added.
    pub first_added: Vec<Prefix>,
    /// The first of the removed.
    pub first_removed: Vec<Prefix>,
    /// Prefixes of the list from which the never-block set took something out.
    pub holed: u64,
    /// The first of these, each with the first of what was taken out.
    pub first_holed: Vec<HoledPrefix>,
    /// Whether the list has what it had, with what the never-block set takes out of it: then no generation is made.
    #[serde(skip)]
    pub is_same: bool,
    /// Whether the never-block set took nothing out of either generation.
    #[serde(skip)]
    is_bare: bool,
    /// New entries of each family that the tables need.
    #[serde(skip)]
    needed: [u32; 2],
    /// What the list keeps of what entries counted.
    #[serde(skip)]
    kept: Kept,
    /// The entries that go and had counted anything.
    #[serde(skip)]
    gone: Vec<(Key, Counter)>,
    #[serde(skip)]
    digest: u64,
}

impl ListChange {
    /// Whether it changes nothing that is enforced.
    fn is_empty(&self) -> bool {
        self.added + self.changed + self.removed == 0
    }

    fn record(&self, name: &str) -> Value {
        json!({ "list": name, "generation": self.generation, "added": self.added, "changed": self.changed,
            "removed": self.removed, "holed": self.holed })
    }
}

/// The two sides of a change, and all others.
struct Sides<'c> {
    old: Option<InForce>,
    new: Option<InForce>,
    blocks: Option<&'c [Vec<u8>]>,
    others: View,
}

/// Which entries are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those that are there afterwards.
    There,
    /// Those that are not.
    Gone,
}

impl Sides<'_> {
    /// The entry that is to be made or changed for a key.
    fn made(&self, compared: &Compared<'_>, is_undone: bool) -> Option<Entry> {
        let mut sides = [(&self.old, compared.old), (&self.new, compared.new)];
        if is_undone {
            sides.reverse();
        }
        let [from, to] = sides.map(|(list, until)| list.as_ref().zip(until));
        if compared.others.is_empty() {
            return to.map(|(list, until)| list.entry(compared.key, until));
        }
        let enforced = |held: Option<(&InForce, Deadline)>| {
            let mut holds: Vec<Hold> = compared.others.to_vec();
            holds.extend(held.map(|(list, until)| list.hold(until)));
            enforced(compared.key, &holds)
        };
        enforced(to).filter(|to| enforced(from).as_ref() != Some(to))
    }

    /// Whether nobody holds a key any more.
    fn is_gone(&self, compared: &Compared<'_>, is_undone: bool) -> bool {
        let to = if is_undone { compared.old } else { compared.new };
        to.is_none() && compared.others.is_empty()
    }

    fn compare(&self, store: &Store, on_key: impl FnMut(Compared<'_>) -> Result<()>) -> Result<[Holed; 2]> {
        let old = self.old.as_ref().map(|list| Side { list, blocks: None });
        let new = self.new.as_ref().map(|list| Side { list, blocks: self.blocks });
        store.compare(old, new, &self.others, on_key)
    }

    /// Whether both have the same, also what the never-block set takes out of it.
    fn are_the_same(&self, store: &Store) -> Result<bool> {
        let whole = Self {
            old: self.old.clone(),
            new: self.new.clone(),
            blocks: self.blocks,
            others: self.others.with_holes(Holes::default()),
        };
        let mut differ = false;
        whole.compare(store, |compared| {
            differ |= compared.old != compared.new;
            Ok(())
        })?;
        Ok(!differ)
    }

    /// Counts what changes.
    fn count(&self, store: &Store, filter: &Filter) -> Result<ListChange> {
        let mut change =
            ListChange { generation: self.new.as_ref().map(|new| new.generation), ..Default::default() };
        let mut followed = Followed::new(filter);
        let named = |named: &mut Vec<Prefix>, key: &Key| {
            if named.len() < MOST_NAMED {
                named.push(key.prefix);
            }
        };
        let [holed_before, holed] = self.compare(store, |compared| {
            let held = [compared.old.is_some(), compared.new.is_some()];
            followed.key(&compared.key, held, self.is_gone(&compared, false));
            match (compared.old, compared.new) {
                (old, new) if old == new => {
                    change.unchanged += 1;
                    return Ok(());
                }
                (None, _) => {
                    change.added += 1;
                    named(&mut change.first_added, &compared.key);
                }
                (_, None) => {
                    change.removed += 1;
                    named(&mut change.first_removed, &compared.key);
                }
                _ => change.changed += 1,
            }
            // Of what is enforced only its end counts here: names are told when it is written.
            let longest = compared.others.iter().map(|hold| hold.until).max();
            let [before, after] = [compared.old, compared.new].map(|until| until.max(longest));
            let sum = |until: Option<Deadline>| until.map_or(0, |until| digest_of(compared.key, until));
            change.digest = change.digest.wrapping_add(sum(after)).wrapping_sub(sum(before));
            match (before, after) {
                (None, Some(_)) => {
                    change.needed[usize::from(compared.key.prefix.family() == Family::V6)] += 1
                }
                (Some(_), None) => {}
                _ => change.still_held += u64::from(compared.new.is_none()),
            }
            Ok(())
        })?;
        (change.kept, change.gone) = followed.end();
        change.is_bare = holed_before.number + holed.number == 0;
        (change.holed, change.first_holed) = (holed.number as u64, HoledPrefix::of(holed));
        Ok(change)
    }

    /// Writes what changes into the tables, or where `is_undone` takes it back. What is to be there comes first: so each
    /// address meets its old verdict or its new one, and never a gap between two prefixes that cover it.
    fn enforce(&self, store: &Store, filter: &mut Filter, passes: &[Pass], is_undone: bool) -> Result<()> {
        keep_freed_memory();
        for pass in passes {
            let mut targets = Vec::new();
            self.compare(store, |compared| {
                if compared.old == compared.new {
                    return Ok(());
                }
                targets.extend(match pass {
                    Pass::There => self.made(&compared, is_undone).map(Target::There),
                    Pass::Gone => self.is_gone(&compared, is_undone).then_some(Target::Gone(compared.key)),
                });
                if targets.len() >= AT_ONCE {
                    filter.bring(std::mem::take(&mut targets))?;
                }
                Ok(())
            })?;
            if !targets.is_empty() {
                filter.bring(targets)?;
            }
        }
        Ok(())
    }
}

/// Has the allocator keep what is freed from here on: the same megabytes are asked for again with each part of a list, and
/// given back in between each page would be made anew, a tenth of all the time. glibc keeps twice as much as the largest
/// piece that was mapped by itself and freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD); others do as they do.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(31 << 20)));
}

impl Control {
    /// Takes a new generation of a list, which may be new itself, and puts it in force. All or nothing. With `dry` it is
    /// only said what that would come to, if this were the never-block set.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::plan::Full) if it does not fit; what the kernel refuses; or that the store, which lists need, can't
    /// be used. Nothing is changed then.
    pub fn take_list(
        &mut self,
        name: &str,
        settings: &Settings,
        new: &NewGeneration,
        dry: Option<&[Never]>,
    ) -> Result<ListChange> {
        let now_s = self.expire()?;
        let owner = owner_of(name)?;
        if dry.is_none() {
            self.take_orphans(&owner)?;
        }
        let store = self.durable_store()?;
        let view = store.view();
        let next = store.next_generation(name)?;
        let is_held = store.list(name)?.is_some_and(|listed| listed.is_held);
        let list = InForce::new(owner.clone(), next, settings.action, now_s.into());
        let sides = Sides {
            old: view.list(&owner).cloned(),
            new: Some(list),
            blocks: Some(&new.blocks),
            others: match dry {
                Some(never) => view.without(&owner).with_holes(holes_of(never)),
                None => view.without(&owner),
            },
        };
        let old = sides.old.as_ref().map(|old| old.generation);
        let writes = [ListWrite::Take { name, settings, new, base_s: now_s }];
        let undo =
            [ListWrite::Force { name, generation: old, is_held }, ListWrite::Drop { name, generation: next }];
        let change = self.replace(name, &sides, &writes, &undo, dry.is_some())?;
        if dry.is_none() {
            self.release_all_of(&orphan_of(&owner)?)?;
        }
        Ok(change)
    }

    /// Where a store was lost, what a list held became rows of its name. These go to an owner of their own until the list
    /// is there again, so that nothing passes meanwhile.
    fn take_orphans(&mut self, owner: &Owner) -> Result<()> {
        let store = self.durable_store()?;
        let keys = store.rows_of(owner)?;
        if keys.is_empty() {
            return Ok(());
        }
        let orphan = orphan_of(owner)?;
        for action in [Action::Block, Action::Allow] {
            let keys: Vec<Key> = keys.iter().filter(|key| key.action == action).copied().collect();
            let hold = Hold {
                owner: orphan.clone(),
                reason: ReasonText::default(),
                creator: "".into(),
                created_s: monotonic_now_s().into(),
                until: Deadline::NEVER,
            };
            self.change(Change::Hold { keys, hold })?;
        }
        self.release_all_of(owner)
    }

    fn release_all_of(&mut self, owner: &Owner) -> Result<()> {
        let keys = self.durable_store()?.rows_of(owner)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.change(Change::Release { keys, whose: Whose::Of(owner.clone()) }).map(drop)
    }

    /// Puts another generation of a list in force, and holds it there.
    ///
    /// # Errors
    ///
    /// As [`Control::take_list`], and if there is no such generation.
    pub fn force_generation(&mut self, name: &str, generation: i64, is_held: bool) -> Result<ListChange> {
        self.force(name, Some(generation), is_held)
    }

    /// Puts a generation in force, or none.
    fn force(&mut self, name: &str, generation: Option<i64>, is_held: bool) -> Result<ListChange> {
        self.expire()?;
        let owner = owner_of(name)?;
        let store = self.durable_store()?;
        let listed = require(store, name)?;
        let sides = Sides {
            old: store.view().list(&owner).cloned(),
            new: generation.map(|generation| store.in_force(&listed, generation)).transpose()?,
            blocks: None,
            others: store.view().without(&owner),
        };
        let writes = [ListWrite::Force { name, generation, is_held }];
        let undo = [ListWrite::Force { name, generation: listed.generation, is_held: listed.is_held }];
        self.replace(name, &sides, &writes, &undo, false)
    }

    /// Removes a list with all its generations. What others hold stays.
    ///
    /// # Errors
    ///
    /// As [`Control::take_list`], and if there is no such list.
    pub fn remove_list(&mut self, name: &str) -> Result<ListChange> {
        // No generation is forgotten before the kernel has taken the change: until then it can be taken back.
        let change = self.force(name, None, false)?;
        let record = self.author.tidying("its generations").record(json!({ "list": name, "removed": true }));
        self.write_down(&Intent { lists: &[ListWrite::Remove { name }], ..Intent::of(&record) });
        self.mark();
        Ok(change)
    }

    /// The widest prefixes of lists that block, which share addresses with this one; in order.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn lists_touching(&self, prefix: &Prefix) -> Result<Vec<Prefix>> {
        let store = self.durable_store()?;
        let mut touching = Vec::new();
        for list in store.view().lists.iter().filter(|list| list.action == Action::Block) {
            touching.extend(store.touching(list, prefix)?);
        }
        Ok(touching.into_iter().collect::<Holes>().iter().copied().collect())
    }

    /// The lists that hold an address, whether or not they decide about it, with the narrowest prefix of each.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn lists_holding(&self, address: IpAddr) -> Result<Vec<ListHolding>> {
        let Ok(store) = &self.store else { return Ok(Vec::new()) };
        let (host, view) = (Prefix::host(address), store.view());
        let mut holding = Vec::new();
        for list in &view.lists {
            let Some((prefix, comment)) = store.said(list, &host)? else { continue };
            let hole = view.holes.overlapping(&host).first().filter(|_| list.action == Action::Block);
            holding.push(ListHolding {
                list: list.owner.list_name().unwrap_or_default().to_owned(),
                action: list.action,
                prefix,
                comment: Some(comment).filter(|comment| !comment.is_empty()),
                hole: hole.copied(),
            });
        }
        Ok(holding)
    }

    fn replace(
        &mut self,
        name: &str,
        sides: &Sides<'_>,
        writes: &[ListWrite<'_>],
        undo: &[ListWrite<'_>],
        is_dry: bool,
    ) -> Result<ListChange> {
        let store = self.durable_store()?;
        let mut change = sides.count(store, &self.filter)?;
        for (family, needed) in [Family::V4, Family::V6].into_iter().zip(change.needed) {
            let fits = fits(family, self.filter.room(family), needed);
            fits.with_context(|| {
                format!(
                    "{name} changes without a gap, so that for a moment its old and its new entries must fit"
                )
            })?;
        }
        change.is_same = sides.blocks.is_some()
            && sides.old.is_some()
            && change.is_empty()
            && (change.is_bare || sides.are_the_same(store)?);
        if change.is_same {
            change.generation = sides.old.as_ref().map(|old| old.generation);
        }
        if is_dry || change.is_same {
            return Ok(change);
        }
        let record = self.author.record(change.record(name));
        let mut kept = kept::of_gone(&self.filter, store, &sides.others, &change.gone)?;
        kept.add(name, change.kept);
        let lists: Vec<_> = writes.iter().copied().chain(kept.writes()).collect();
        let undo: Vec<_> = undo.iter().copied().chain(kept.undone()).collect();
        // The sides are read from the store as it is after this: the old generation is still there.
        self.write_down(&Intent { lists: &lists, digest: change.digest, ..Intent::of(&record) });
        self.durable_store()?;
        let Self { filter, store: Ok(store), .. } = &mut *self else {
            bail!(PartlyApplied("the store is gone".into()))
        };
        // Most often a list only grows, or all of it goes.
        let passes = match (change.added + change.changed + change.still_held > 0, change.removed > 0) {
            (true, true) => &[Pass::There, Pass::Gone][..],
            (true, false) => &[Pass::There],
            (false, _) => &[Pass::Gone],
        };
        if let Err(error) = sides.enforce(store, filter, passes, false) {
            let draft = Draft { digest: change.digest, ..Draft::default() };
            let undone = sides
                .enforce(store, filter, &[Pass::There, Pass::Gone], true)
                .and_then(|()| self.take_back(&draft, &record, &undo));
            return Err(undone.err().map_or_else(
                || error.context("the list is as it was"),
                |undo| PartlyApplied(format!("{undo:#}")).into(),
            ));
        }
        self.mark();
        self.back_up();
        Ok(change)
    }

    /// The store, to be read by who can't do without: lists are nowhere else.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn readable_store(&self) -> Result<&Store> {
        self.store.as_ref().map_err(|unusable| anyhow!("{unusable}; lists are kept there"))
    }

    /// The store, which must be writable.
    pub(super) fn durable_store(&self) -> Result<&Store> {
        match (&self.store, &self.unwritable) {
            (Ok(store), None) => Ok(store),
            (Err(unusable), _) | (_, Some(unusable)) => {
                Err(anyhow!("{unusable}; lists are kept there, and nothing was changed"))
            }
        }
    }

    /// Puts a never-block set in the place of the one before: what it covers, no list blocks. Returns the prefixes of lists
    /// that change by it.
    ///
    /// # Errors
    ///
    /// As [`Control::take_list`].
    pub fn set_never(&mut self, never: &[Never]) -> Result<u64> {
        let now_s = self.expire()?;
        let store = self.durable_store()?;
        let before = store.never()?;
        if before == never {
            return Ok(0);
        }
        let said = |never: &Never| (never.prefix, never.kind, never.reason.clone());
        if before.iter().map(said).eq(never.iter().map(said)) {
            // Only seen again, which changes nothing for any packet, and is nothing for the audit log.
            store.renew_never(never)?;
            return Ok(0);
        }
        let view = store.view();
        let after = view.with_holes(holes_of(never));
        let keys = touched(store, view, &after)?;
        let mut draft = Draft::default();
        let (held, holds) = (held_in(store, view, &keys)?, held_in(store, &after, &keys)?);
        for (key, (before, after)) in keys.iter().zip(held.into_iter().zip(holds)) {
            if before != after {
                draft.add(*key, before, after);
            }
        }
        let changed = draft.len() as u64;
        let named: Vec<String> =
            never.iter().take(MOST_NAMED).map(|never| never.prefix.to_string()).collect();
        let record = self.author.record(json!({ "never": named, "number": never.len(), "changed": changed }));
        let (lists, undo) = ([ListWrite::Never(never)], [ListWrite::Never(&before)]);
        let intent = Intent { lists: &lists, cleared_s: Some(now_s), ..Intent::of(&record) };
        self.commit_or(draft, &intent, &undo)?;
        Ok(changed)
    }
}

/// Who holds what a lost list left, until that list is there again.
fn orphan_of(owner: &Owner) -> Result<Owner> {
    Ok(Owner::parse(&owner.as_str().replacen(Owner::LIST, "lost:", 1))?)
}

pub(super) fn holes_of(never: &[Never]) -> Holes {
    never.iter().map(|never| never.prefix).collect()
}

/// The keys of lists that may change where other holes are punched: what remains, in either case, of each prefix that one
/// of the holes touches which are not in both sets.
fn touched(store: &Store, before: &View, after: &View) -> Result<Vec<Key>> {
    let is_in = |holes: &Holes, hole: &Prefix| holes.overlapping(hole).contains(hole);
    let gone = before.holes.iter().filter(|hole| !is_in(&after.holes, hole));
    let new = after.holes.iter().filter(|hole| !is_in(&before.holes, hole));
    let differing: Vec<&Prefix> = gone.chain(new).collect();
    let mut keys = Vec::new();
    for list in before.lists.iter().filter(|list| list.action == Action::Block) {
        for hole in &differing {
            for prefix in store.touching(list, hole)? {
                let parts = before.holes.parts_of(prefix).into_iter().chain(after.holes.parts_of(prefix));
                keys.extend(parts.map(|prefix| Key { prefix, action: list.action }));
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// The list of this name.
fn require(store: &Store, name: &str) -> Result<Listed> {
    store.list(name)?.ok_or_else(|| NoSuchList(name.to_owned()).into())
}
