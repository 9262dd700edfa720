//! Who holds what, from both sides on which it is written: holds as rows, and the generations of lists that are in force as
//! blocks, with the never-block set taken out of those that block. Read in the order of keys, a block at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension as _, Rows};

use super::holds::{from_blob, hold_of, to_blob};
use super::{BELIEVED_S, Bounds, Damaged};
use crate::holds::{Hold, enforced};
use crate::kernel::filter::digest as digest_of;
use crate::lists::block::{self, Block, LARGEST};
use crate::lists::holes::Holes;
use crate::lists::settings::owner_of;
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};

/// Prefixes with holes that are remembered; of more the rest is counted.
const MOST_HOLED: usize = 100;

/// Holes of one prefix that are remembered.
const MOST_HOLES: usize = 8;

/// What beside the rows of holds makes up what is wanted.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Seconds by which times are moved in reading.
    pub(super) shift_s: i64,
    /// Up to which second what ended is cleared away: what a list holds until then counts no more.
    pub(super) cleared_s: i64,
    /// The lists of which a generation is in force.
    pub lists: Vec<InForce>,
    /// What is left out of lists that block.
    pub holes: Holes,
}

/// A generation of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Number of the list.
    pub(super) id: i64,
    /// Number of the generation.
    pub generation: i64,
    /// The list as an owner.
    pub owner: Owner,
    /// What its entries do.
    pub action: Action,
    /// When it was taken in, in seconds of CLOCK_MONOTONIC.
    pub base_s: i64,
    /// What each hold says, made once.
    reason: ReasonText,
    creator: Arc<str>,
}

impl InForce {
    pub(super) fn of(id: i64, generation: i64, owner: Owner, action: Action, base_s: i64) -> Self {
        Self { id, generation, owner, action, base_s, reason: ReasonText::default(), creator: "".into() }
    }

    /// A generation that is not in the store yet.
    pub fn new(owner: Owner, generation: i64, action: Action, base_s: i64) -> Self {
        Self::of(0, generation, owner, action, base_s)
    }

    /// What the list holds, until when.
    pub fn hold(&self, until: Deadline) -> Hold {
        Hold {
            owner: self.owner.clone(),
            reason: self.reason.clone(),
            creator: Arc::clone(&self.creator),
            created_s: self.base_s,
            until,
        }
    }

    /// The entry that the list alone makes.
    pub fn entry(&self, key: Key, until: Deadline) -> Entry {
        Entry { key, until, created_s: self.base_s, owner: self.owner.clone(), reason: self.reason.clone() }
    }
}

impl View {
    /// Reads it.
    pub(super) fn read(db: &Connection, shift_s: i64) -> Result<Self> {
        let cleared_s: i64 = db.query_row("SELECT cleared_s FROM state", [], |row| row.get(0))?;
        let mut statement = db.prepare_cached(
            "SELECT lists.id, lists.generation, name, action, base_s FROM lists
             JOIN generations ON list = lists.id AND generations.generation = lists.generation ORDER BY name",
        )?;
        let mut rows = statement.query([])?;
        let mut lists = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, action): (String, u8) = (row.get(2)?, row.get(3)?);
            let owner = owner_of(&name).map_err(|error| Damaged(error.to_string()))?;
            let base_s: i64 = row.get(4)?;
            let action = Action::from_number(action).filter(|_| BELIEVED_S.contains(&base_s));
            let action = action.ok_or_else(|| Damaged(format!("the list {name}")))?;
            lists.push(InForce::of(row.get(0)?, row.get(1)?, owner, action, base_s + shift_s));
        }
        let mut statement = db.prepare_cached("SELECT prefix FROM never")?;
        let mut rows = statement.query([])?;
        let mut holes = Vec::new();
        while let Some(row) = rows.next()? {
            holes.push(prefix_of(row.get_ref(0)?.as_blob()?)?);
        }
        Ok(Self { shift_s, cleared_s: cleared_s + shift_s, lists, holes: holes.into_iter().collect() })
    }

    /// The generation in force of the list that is this owner.
    pub fn list(&self, owner: &Owner) -> Option<&InForce> {
        self.lists.iter().find(|list| list.owner == *owner)
    }

    /// The same with other holes.
    #[must_use]
    pub fn with_holes(&self, holes: Holes) -> Self {
        Self { holes, ..self.clone() }
    }

    /// The same once what has ended by this second is cleared away.
    #[must_use]
    pub fn cleared(&self, now_s: u32) -> Self {
        Self { cleared_s: self.cleared_s.max(now_s.into()), ..self.clone() }
    }

    /// The same without a list.
    #[must_use]
    pub fn without(&self, owner: &Owner) -> Self {
        let mut view = self.clone();
        view.lists.retain(|list| list.owner != *owner);
        view
    }
}

/// A prefix as it sorts.
pub(super) fn prefix_blob(prefix: &Prefix) -> Vec<u8> {
    let mut blob = to_blob(&Key { prefix: *prefix, action: Action::Allow });
    blob.pop();
    blob
}

pub(super) fn prefix_of(blob: &[u8]) -> Result<Prefix> {
    let key = from_blob(&[blob, &[Action::Allow.number()]].concat());
    Ok(key.ok_or_else(|| Damaged("a prefix is none".into()))?.prefix)
}

/// Hands over the holds of all keys within `bounds`, in the order of keys.
pub(super) fn each_key(
    db: &Connection,
    view: &View,
    bounds: Bounds,
    mut on_key: impl FnMut(Key, Vec<Hold>) -> Result<()>,
) -> Result<()> {
    merged(db, view, bounds, |merged| {
        let mut holds = Vec::new();
        while let Some(key) = merged.next(&mut holds)? {
            on_key(key, std::mem::take(&mut holds))?;
        }
        Ok(())
    })
}

/// Sum of the digests of what is to be enforced. What has ended counts until it is cleared away, as in the tables.
pub(super) fn digest(db: &Connection, view: &View) -> Result<u64> {
    let mut sum = 0u64;
    each_key(db, view, Bounds::All, |key, holds| {
        sum = sum.wrapping_add(enforced(key, &holds).map_or(0, |entry| digest_of(&entry)));
        Ok(())
    })?;
    Ok(sum)
}

/// Reads what lies within `bounds`.
pub(super) fn merged<T>(
    db: &Connection,
    view: &View,
    bounds: Bounds,
    read: impl FnOnce(&mut Merged<'_>) -> Result<T>,
) -> Result<T> {
    let (first, last) = match bounds {
        Bounds::All => (Vec::new(), vec![u8::MAX]),
        Bounds::Within(first, last) => (to_blob(&first), to_blob(&last)),
    };
    let sql = "SELECT key, owner, reason, creator, created_s, until_s FROM holds WHERE key >= ?1 AND key <= ?2 ORDER BY key, owner";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query((first, last))?;
    let lists = view.lists.iter().map(|list| Cursor::of(db, view, list, bounds));
    let lists = lists.collect::<Result<Vec<_>>>()?;
    let mut merged = Merged { rows, row: None, lists, shift_s: view.shift_s };
    merged.next_row()?;
    read(&mut merged)
}

/// Holds by key, from rows and lists.
pub struct Merged<'d> {
    rows: Rows<'d>,
    row: Option<(Key, Hold)>,
    lists: Vec<Cursor<'d>>,
    shift_s: i64,
}

impl Merged<'_> {
    /// Passes over what comes before `key`.
    pub fn skip_to(&mut self, key: &Key) -> Result<()> {
        while self.row.as_ref().is_some_and(|(next, _)| next < key) {
            self.next_row()?;
        }
        self.lists.iter_mut().try_for_each(|list| list.skip_to(key))
    }

    fn next_row(&mut self) -> Result<()> {
        self.row = self.rows.next()?.map(|row| hold_of(row, self.shift_s)).transpose()?;
        Ok(())
    }

    /// The next key, whose holds take the place of what is in `holds`; nothing at the end.
    pub fn next(&mut self, holds: &mut Vec<Hold>) -> Result<Option<Key>> {
        holds.clear();
        let of_lists = self.lists.iter().filter_map(|list| list.head().map(|(key, _)| key)).min();
        let of_rows = self.row.as_ref().map(|(key, _)| *key);
        let Some(key) = of_rows.into_iter().chain(of_lists).min() else { return Ok(None) };
        while let Some((_, hold)) = self.row.take_if(|(next, _)| *next == key) {
            holds.push(hold);
            self.next_row()?;
        }
        for list in &mut self.lists {
            if let Some((_, until)) = list.head().filter(|(next, _)| *next == key) {
                holds.push(list.hold(until));
                list.advance()?;
            }
        }
        if of_rows == Some(key) {
            holds.sort_by(|one, next| one.owner.cmp(&next.owner));
        }
        Ok(Some(key))
    }
}

/// Where the blocks of a generation are.
#[derive(Clone, Copy)]
pub(super) enum Blocks<'d> {
    /// In the store.
    Stored(&'d Connection),
    /// In memory, as they came, before they are written.
    Given(&'d [Vec<u8>]),
}

/// What a list holds, in the order of keys, without its holes and what has ended.
pub struct Cursor<'d> {
    blocks: Blocks<'d>,
    list: InForce,
    holes: Option<&'d Holes>,
    cleared_s: i64,
    first: Option<Key>,
    last: Option<Key>,
    block: Block,
    position: usize,
    /// The first prefix of the block that is read, or the place of the next one that was given.
    at: Option<Vec<u8>>,
    next_given: usize,
    is_at_end: bool,
    /// Holes that come before what was taken last.
    holes_passed: usize,
    /// What remains of prefixes with holes, which comes later in the order than these.
    parts: BTreeMap<Prefix, Deadline>,
    head: Option<(Key, Deadline)>,
    /// Prefixes with holes so far.
    pub holed: Holed,
}

/// What the never-block set did to a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holed {
    /// The first prefixes, each with its first holes.
    pub first: Vec<(Prefix, Vec<Prefix>)>,
    /// How many there are.
    pub number: usize,
}

impl<'d> Cursor<'d> {
    /// Of what is in the store.
    fn of(db: &'d Connection, view: &'d View, list: &InForce, bounds: Bounds) -> Result<Self> {
        Self::new(Blocks::Stored(db), view, list.clone(), bounds)
    }

    /// A cursor at its first key.
    pub(super) fn new(blocks: Blocks<'d>, view: &'d View, list: InForce, bounds: Bounds) -> Result<Self> {
        let (first, last) = match bounds {
            Bounds::All => (None, None),
            Bounds::Within(first, last) => (Some(first), Some(last)),
        };
        let holes = (list.action == Action::Block && !view.holes.is_empty()).then_some(&view.holes);
        let mut cursor = Self {
            blocks,
            list,
            holes,
            cleared_s: view.cleared_s,
            first,
            last,
            block: Block::default(),
            position: 0,
            at: None,
            next_given: 0,
            is_at_end: false,
            holes_passed: 0,
            parts: BTreeMap::new(),
            head: None,
            holed: Holed::default(),
        };
        if let Some(first) = first {
            cursor.seek(first.prefix)?;
        }
        cursor.advance()?;
        Ok(cursor)
    }

    /// What comes next.
    pub fn head(&self) -> Option<(Key, Deadline)> {
        self.head
    }

    /// What the list holds, until when.
    pub fn hold(&self, until: Deadline) -> Hold {
        self.list.hold(until)
    }

    /// Goes on to the next key.
    pub fn advance(&mut self) -> Result<()> {
        loop {
            let Some((prefix, until)) = self.next_of_both()? else {
                self.head = None;
                return Ok(());
            };
            let key = Key { prefix, action: self.list.action };
            if self.last.is_some_and(|last| key > last) {
                self.head = None;
                self.is_at_end = true;
                self.block = Block::default();
                self.parts.clear();
                return Ok(());
            }
            if self.first.is_none_or(|first| key >= first) {
                self.head = Some((key, until));
                return Ok(());
            }
        }
    }

    /// Passes over what comes before `key`, whose holes are noted all the same.
    fn skip_to(&mut self, key: &Key) -> Result<()> {
        while self.head.is_some_and(|(next, _)| next < *key) {
            while let Some((prefix, until)) = self.peek_item()?
                && prefix < key.prefix
            {
                self.position += 1;
                self.take_item(prefix, until);
            }
            while self.parts.first_key_value().is_some_and(|(part, _)| *part < key.prefix) {
                self.parts.pop_first();
            }
            self.advance()?;
        }
        Ok(())
    }

    /// The next prefix, from the list itself or from what remains of a prefix with holes; each once, with the later end.
    fn next_of_both(&mut self) -> Result<Option<(Prefix, Deadline)>> {
        loop {
            let item = self.peek_item()?;
            let part = self.parts.first_key_value().map(|(prefix, _)| *prefix);
            let Some((prefix, until)) = item.filter(|(prefix, _)| part.is_none_or(|part| *prefix <= part))
            else {
                return Ok(self.parts.pop_first());
            };
            self.position += 1;
            if let Some(until) = self.take_item(prefix, until) {
                return Ok(Some((prefix, until)));
            }
        }
    }

    /// Takes an item of the list. Returns until when its own prefix is held, if it has no holes and has not ended.
    fn take_item(&mut self, prefix: Prefix, until: Deadline) -> Option<Deadline> {
        if has_ended(until, self.cleared_s) {
            return None;
        }
        if let Some(holes) = self.holes
            && let found @ [_, ..] = holes.overlapping_from(&mut self.holes_passed, &prefix)
        {
            self.holed.number += 1;
            if self.holed.first.len() < MOST_HOLED {
                self.holed.first.push((prefix, found.iter().take(MOST_HOLES).copied().collect()));
            }
            self.split(prefix, until);
            return None;
        }
        let same = if self.parts.is_empty() { None } else { self.parts.remove(&prefix) };
        Some(same.map_or(until, |part| Deadline::max(part, until)))
    }

    /// Notes what remains of a prefix with holes.
    fn split(&mut self, prefix: Prefix, until: Deadline) {
        let Some(holes) = self.holes else { return };
        for part in holes.parts_of(prefix) {
            let end = self.parts.entry(part).or_insert(until);
            *end = Deadline::max(*end, until);
        }
    }

    fn peek_item(&mut self) -> Result<Option<(Prefix, Deadline)>> {
        while self.position == self.block.items.len() {
            if self.is_at_end || !self.next_block()? {
                self.is_at_end = true;
                return Ok(None);
            }
        }
        let item = self.block.items[self.position];
        Ok(Some((item.prefix, self.until(item.ttl_s))))
    }

    fn until(&self, ttl_s: Option<u32>) -> Deadline {
        ttl_s.map_or(Deadline::NEVER, |ttl_s| {
            let end_s = (self.list.base_s + i64::from(ttl_s)).clamp(0, i64::from(Deadline::NEVER.0) - 1);
            Deadline(u32::try_from(end_s).unwrap_or(u32::MAX - 1))
        })
    }

    /// Reads the next block. Returns whether there is one.
    fn next_block(&mut self) -> Result<bool> {
        let bytes = match self.blocks {
            Blocks::Given(blocks) => {
                let Some(bytes) = blocks.get(self.next_given) else { return Ok(false) };
                self.next_given += 1;
                self.take_block(bytes)?;
                return Ok(true);
            }
            Blocks::Stored(db) => {
                let after = self.at.as_deref().unwrap_or_default();
                block_where(db, self.list.id, self.list.generation, "first > ?3 ORDER BY first", after)?
            }
        };
        let Some((first, bytes)) = bytes else { return Ok(false) };
        self.at = Some(first);
        self.take_block(&bytes)?;
        Ok(true)
    }

    fn take_block(&mut self, bytes: &[u8]) -> Result<()> {
        self.block = decoded(bytes)?;
        self.position = 0;
        Ok(())
    }

    /// Goes to the first item that is not before `prefix`, and notes what remains of wider ones with holes.
    fn seek(&mut self, prefix: Prefix) -> Result<()> {
        if let Some(holes) = self.holes {
            for length in 0..prefix.prefix_len() {
                let Some(wider) = prefix.widened(length) else { continue };
                if holes.overlapping(&wider).is_empty() {
                    break;
                }
                if let Some(until) = self.find(&wider)? {
                    self.split(wider, until);
                }
            }
            let cleared_s = self.cleared_s;
            self.parts.retain(|part, until| *part >= prefix && !has_ended(*until, cleared_s));
        }
        self.go_to(&prefix)?;
        while let Some((next, _)) = self.peek_item()?
            && next < prefix
        {
            self.position += 1;
        }
        Ok(())
    }

    /// Until when the list itself holds exactly this prefix.
    fn find(&mut self, prefix: &Prefix) -> Result<Option<Deadline>> {
        self.go_to(prefix)?;
        let found = self.block.items.binary_search_by_key(prefix, |item| item.prefix);
        Ok(found.ok().map(|position| self.until(self.block.items[position].ttl_s)))
    }

    /// Reads the block that holds `prefix`, if one does, unless it is read already.
    fn go_to(&mut self, prefix: &Prefix) -> Result<()> {
        let Blocks::Stored(db) = self.blocks else { return Ok(()) };
        if self.block.spans(prefix) {
            self.position = 0;
            return Ok(());
        }
        if let Some((first, bytes)) = block_around(db, &self.list, prefix)? {
            self.at = Some(first);
            self.take_block(&bytes)?;
        }
        Ok(())
    }
}

/// Finds single prefixes of a generation, close to each other as a rule: the block that was read last is kept.
pub(super) struct Finder<'d> {
    db: &'d Connection,
    list: &'d InForce,
    block: Block,
}

impl<'d> Finder<'d> {
    pub fn new(db: &'d Connection, list: &'d InForce) -> Self {
        Self { db, list, block: Block::default() }
    }

    /// The block that holds exactly this prefix, and where in it.
    pub fn find(&mut self, prefix: &Prefix) -> Result<Option<(&Block, usize)>> {
        if !self.block.spans(prefix) {
            let Some((_, bytes)) = block_around(self.db, self.list, prefix)? else { return Ok(None) };
            self.block = decoded(&bytes)?;
        }
        let position = self.block.items.binary_search_by_key(prefix, |item| item.prefix);
        Ok(position.ok().map(|position| (&self.block, position)))
    }
}

/// Whether what ends then was cleared away by second `cleared_s`.
fn has_ended(until: Deadline, cleared_s: i64) -> bool {
    until != Deadline::NEVER && i64::from(until.0) <= cleared_s
}

/// The block in which `prefix` lies, if it is in the list: its first prefix, and its bytes.
pub(super) fn block_around(
    db: &Connection,
    list: &InForce,
    prefix: &Prefix,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    block_where(db, list.id, list.generation, "first <= ?3 ORDER BY first DESC", &prefix_blob(prefix))
}

/// A block of the store's.
pub(super) fn decoded(bytes: &[u8]) -> Result<Block> {
    block::decode(bytes).map_err(|damaged| Damaged(damaged.to_string()).into())
}

/// The first block of a generation for which this holds: its first prefix, and its bytes.
pub(super) fn block_where(
    db: &Connection,
    list: i64,
    generation: i64,
    condition: &str,
    first: &[u8],
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let sql = format!(
        "SELECT first, bytes FROM blocks WHERE list = ?1 AND generation = ?2 AND {condition} LIMIT 1"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement
        .query_row((list, generation, first), |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    found
        .map(|(first, bytes)| {
            let bytes = zstd::bulk::decompress(&bytes, LARGEST)
                .map_err(|error| Damaged(format!("a block of a list: {error}")))?;
            Ok((first, bytes))
        })
        .transpose()
}
