//! Lists as the store has them: settings, generations that never change, which of them is in force, how the last fetch
//! ended, and the never-block set.

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::holds::from_blob;
use super::merged::{
    Blocks, Cursor, Finder, InForce, View, block_around, block_where, decoded, merged, prefix_blob, prefix_of,
};
use super::{Bounds, Damaged, Holed, Store, wall_now_s};
use crate::holds::Hold;
use crate::lists::block;
use crate::lists::format::Format;
use crate::lists::reading::About;
use crate::lists::settings::{Settings, owner_of};
use crate::policy::{Deadline, Key, Owner, Prefix};

/// Generations of a list that are kept: of a list that is fetched daily more than a week's, of a million lines each some
/// 30 MB.
pub const KEPT: usize = 10;

/// Longest document, in bytes: settings with a long URL, or what was found in reading a list, with its first refusals.
const LONGEST: usize = 1 << 20;

/// How hard blocks are compressed: the lowest level halves them in a tenth of the time that writing them takes.
pub(super) const LEVEL: i32 = 1;

/// A list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Number.
    pub id: i64,
    /// Name.
    pub name: String,
    /// What the operator says of it.
    pub settings: Settings,
    /// The generation in force.
    pub generation: Option<i64>,
    /// The number of its newest generation.
    pub last: i64,
    /// Whether an operator put that generation in force, so that no schedule takes another in its place.
    pub is_held: bool,
    /// With what the server named what it sent last.
    pub validators: Validators,
    /// When it was last found up to date, in seconds since 1970.
    pub checked_s: Option<i64>,
    /// What went wrong since.
    pub trouble: Option<Trouble>,
    /// What went wrong since the list was added, in all.
    pub troubles: u64,
    /// Packets and bytes that are no more, or not only, in what is counted by the entries that the list holds: those that
    /// entries counted which left it, less what entries had counted before they came to it.
    pub kept: [i64; 2],
}

/// What a server names a state of a list by, so that it need not send it again (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// Why a list could not be brought up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When, in seconds since 1970.
    pub at_s: i64,
    /// A word, such as `shrunk` or `http_status`.
    pub kind: String,
    /// In words.
    pub why: String,
}

/// A generation of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Number, from 1.
    pub number: i64,
    /// When it was taken in, in seconds since 1970.
    pub at_s: i64,
    /// Prefixes.
    pub entries: u64,
    /// What was found in reading it.
    pub found: Found,
}

/// What was found in reading a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The format.
    pub format: Format,
    /// Entries, as the list has them.
    pub listed: u64,
    /// Prefixes that were there already.
    pub duplicates: u64,
    /// Prefixes that a wider one of the list covers.
    pub covered: u64,
    /// Places that are no entries.
    pub refused: u64,
    /// Entries of kinds that are none of ours.
    pub ignored: u64,
    /// What the list says of itself.
    pub about: About,
}

/// A generation that is to be written.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    /// The entries, as `lists::block` makes them.
    pub blocks: Vec<Vec<u8>>,
    /// How many there are.
    pub entries: u64,
    /// What was found in reading it.
    pub found: Found,
    /// What the server names it by.
    pub validators: Validators,
}

/// A change to lists, as part of an intent.
#[derive(Clone, Copy)]
pub enum ListWrite<'c> {
    /// A new generation, put in force; of a list that may be new.
    Take {
        /// Name.
        name: &'c str,
        /// Settings.
        settings: &'c Settings,
        /// The generation.
        new: &'c NewGeneration,
        /// When it was taken in, in seconds of CLOCK_MONOTONIC: its times count from then.
        base_s: u32,
    },
    /// Another generation is put in force, or none.
    Force {
        /// Name.
        name: &'c str,
        /// The generation.
        generation: Option<i64>,
        /// Whether it is held there.
        is_held: bool,
    },
    /// A generation that was taken is not wanted after all.
    Drop {
        /// Name.
        name: &'c str,
        /// The generation.
        generation: i64,
    },
    /// The list goes, with all generations.
    Remove {
        /// Name.
        name: &'c str,
    },
    /// The never-block set.
    Never(&'c [Never]),
    /// The list keeps packets and bytes that entries counted for it which leave it; or fewer, by what entries counted that
    /// come to it.
    Keep {
        /// Name.
        name: &'c str,
        /// Packets and bytes.
        counted: [i64; 2],
    },
}

/// What no list may block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Never {
    /// The prefix.
    pub prefix: Prefix,
    /// Whose it is.
    pub kind: NeverKind,
    /// Why, in the operator's words.
    pub reason: String,
    /// Until when it counts, by CLOCK_MONOTONIC.
    pub until: Deadline,
}

/// Whose a prefix is that no list may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NeverKind {
    /// Loopback or link-local addresses, which every host has.
    Local,
    /// A private network (RFC 1918, RFC 6598, RFC 4193) that this host has an address in: lists of bogons hold them, and
    /// here they are none.
    Private,
    /// An address of this host.
    Own,
    /// The next hop of a default route.
    Gateway,
    /// A resolver of names.
    Resolver,
    /// The other end of an SSH session.
    SshPeer,
    /// An operator added it.
    Operator,
}

impl NeverKind {
    /// All kinds, in the order of their numbers in the store.
    pub const ALL: [Self; 7] =
        [Self::Local, Self::Private, Self::Own, Self::Gateway, Self::Resolver, Self::SshPeer, Self::Operator];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "loopback or link-local",
            Self::Private => "a private network of this host",
            Self::Own => "an address of this host",
            Self::Gateway => "a gateway",
            Self::Resolver => "a resolver",
            Self::SshPeer => "connected by SSH",
            Self::Operator => "added by an operator",
        }
    }
}

impl Store {
    /// All lists, by name.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn lists(&self) -> Result<Vec<Listed>> {
        let mut statement = self.db.prepare_cached(
            // One without a generation is what a removal left that was killed.
            "SELECT id, name, settings, generation, is_held, checked_s, trouble, troubles, retired_packets, retired_bytes,
                    generations, etag, last_modified
             FROM lists WHERE generation IS NOT NULL ORDER BY name",
        )?;
        let mut rows = statement.query([])?;
        let mut lists = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let damaged = |error: serde_json::Error| Damaged(format!("the list {name}: {error}"));
            let (settings, trouble): (String, Option<String>) = (row.get(2)?, row.get(6)?);
            let longest = settings.len().max(trouble.as_ref().map_or(0, String::len));
            ensure!(longest <= LONGEST, Damaged(format!("what it says of the list {name} is too long")));
            let number = |column| -> Result<u64> { Ok(row.get::<_, i64>(column)?.cast_unsigned()) };
            lists.push(Listed {
                id: row.get(0)?,
                settings: serde_json::from_str(&settings).map_err(damaged)?,
                generation: row.get(3)?,
                is_held: row.get(4)?,
                checked_s: row.get(5)?,
                trouble: trouble
                    .map(|trouble| serde_json::from_str(&trouble))
                    .transpose()
                    .map_err(damaged)?,
                troubles: number(7)?,
                kept: [row.get(8)?, row.get(9)?],
                last: row.get(10)?,
                validators: Validators { etag: row.get(11)?, last_modified: row.get(12)? },
                name,
            });
        }
        Ok(lists)
    }

    /// The list of this name.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn list(&self, name: &str) -> Result<Option<Listed>> {
        Ok(self.lists()?.into_iter().find(|list| list.name == name))
    }

    /// The generations of a list that are kept, the oldest first.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn generations(&self, list: &Listed) -> Result<Vec<Generation>> {
        let mut statement = self.db.prepare_cached(
            "SELECT generation, at_s, entries, found FROM generations WHERE list = ?1 ORDER BY generation",
        )?;
        let mut rows = statement.query([list.id])?;
        let mut generations = Vec::new();
        while let Some(row) = rows.next()? {
            let found: String = row.get(3)?;
            ensure!(found.len() <= LONGEST, Damaged("what it says of a generation is too long".into()));
            let found = serde_json::from_str(&found)
                .map_err(|error| Damaged(format!("a generation of the list {}: {error}", list.name)))?;
            let entries = row.get::<_, i64>(2)?.cast_unsigned();
            generations.push(Generation { number: row.get(0)?, at_s: row.get(1)?, entries, found });
        }
        Ok(generations)
    }

    /// What a list says of exactly this prefix, or of the narrowest wider one that it has: that prefix, and the comment.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn said(&self, list: &InForce, prefix: &Prefix) -> Result<Option<(Prefix, String)>> {
        let mut finder = Finder::new(&self.db, list);
        for wider in (0..=prefix.prefix_len()).rev().filter_map(|length| prefix.widened(length)) {
            if let Some((block, position)) = finder.find(&wider)? {
                return Ok(Some((wider, block.comment(position).to_owned())));
            }
        }
        Ok(None)
    }

    /// The prefixes of a list that share addresses with this one, as the list has them: without holes.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn touching(&self, list: &InForce, prefix: &Prefix) -> Result<Vec<Prefix>> {
        let mut finder = Finder::new(&self.db, list);
        let mut touching = Vec::new();
        for wider in (0..prefix.prefix_len()).filter_map(|length| prefix.widened(length)) {
            touching.extend(finder.find(&wider)?.map(|_| wider));
        }
        let next_after = |first: &[u8]| {
            block_where(&self.db, list.id, list.generation, "first > ?3 ORDER BY first", first)
        };
        let mut next = match block_around(&self.db, list, prefix)? {
            None => next_after(&prefix_blob(prefix))?,
            found => found,
        };
        while let Some((first, bytes)) = next {
            let block = decoded(&bytes)?;
            touching.extend(block.items.iter().map(|item| item.prefix).filter(|item| prefix.covers(item)));
            if block.items.last().is_some_and(|last| last.prefix > *prefix && !prefix.covers(&last.prefix)) {
                break;
            }
            next = next_after(&first)?;
        }
        Ok(touching)
    }

    /// The never-block set as it is applied.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn never(&self) -> Result<Vec<Never>> {
        let mut statement = self
            .db
            .prepare_cached("SELECT prefix, kind, reason, until_s FROM never ORDER BY kind, prefix")?;
        let mut rows = statement.query([])?;
        let mut never = Vec::new();
        while let Some(row) = rows.next()? {
            let (kind, until_s): (u8, i64) = (row.get(1)?, row.get(3)?);
            let kind = *NeverKind::ALL
                .get(usize::from(kind))
                .ok_or_else(|| Damaged("the never-block set".into()))?;
            let until = match u32::try_from(until_s) {
                Ok(u32::MAX) => Deadline::NEVER,
                _ => Deadline(u32::try_from((until_s + self.shift_s).max(0)).unwrap_or(u32::MAX - 1)),
            };
            let prefix = prefix_of(row.get_ref(0)?.as_blob()?)?;
            never.push(Never { prefix, kind, reason: row.get(2)?, until });
        }
        Ok(never)
    }

    /// Writes until when each of the never-block set counts, which is otherwise as it is.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn renew_never(&self, never: &[Never]) -> Result<()> {
        let mut renew = self.db.prepare_cached("UPDATE never SET until_s = ?2 WHERE prefix = ?1")?;
        for Never { prefix, until, .. } in never {
            renew.execute((prefix_blob(prefix), until.0))?;
        }
        Ok(())
    }

    /// What beside the rows makes up what is wanted.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Goes over a change of one list: each key that it held in `old` or holds in `new`, until when in each, and the holds
    /// of others on it. Returns what the never-block set did to both.
    ///
    /// # Errors
    ///
    /// If something can't be read, or `on_key` fails.
    pub fn compare(
        &self,
        old: Option<Side<'_>>,
        new: Option<Side<'_>>,
        others: &View,
        mut on_key: impl FnMut(Compared<'_>) -> Result<()>,
    ) -> Result<[Holed; 2]> {
        merged(&self.db, others, Bounds::All, |merged| {
            let (mut old, mut new) = (self.cursor(old, others)?, self.cursor(new, others)?);
            let mut holds = Vec::new();
            let mut held = merged.next(&mut holds)?;
            loop {
                let heads = [&old, &new].map(|side| side.as_ref().and_then(Cursor::head));
                let Some(key) = heads.iter().flatten().map(|(key, _)| *key).min() else { break };
                if held.is_some_and(|held| held < key) {
                    merged.skip_to(&key)?;
                    held = merged.next(&mut holds)?;
                }
                let until = heads.map(|head| head.filter(|(of, _)| *of == key).map(|(_, until)| until));
                let others = if held == Some(key) { holds.as_slice() } else { &[] };
                on_key(Compared { key, old: until[0], new: until[1], others })?;
                for (side, until) in [&mut old, &mut new].into_iter().zip(until) {
                    if until.is_some()
                        && let Some(side) = side
                    {
                        side.advance()?;
                    }
                }
            }
            Ok([old, new].map(|side| side.map(|side| side.holed).unwrap_or_default()))
        })
    }

    fn cursor<'s>(&'s self, side: Option<Side<'s>>, view: &'s View) -> Result<Option<Cursor<'s>>> {
        let Some(Side { list, blocks }) = side else { return Ok(None) };
        let blocks = blocks.map_or(Blocks::Stored(&self.db), Blocks::Given);
        Ok(Some(Cursor::new(blocks, view, list.clone(), Bounds::All)?))
    }

    /// What the never-block set takes out of a list.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn holed(&self, list: &InForce) -> Result<Holed> {
        let side = Some(Side { list, blocks: None });
        let Some(mut cursor) = self.cursor(side, &self.view)? else { return Ok(Holed::default()) };
        while cursor.head().is_some() {
            cursor.advance()?;
        }
        Ok(cursor.holed)
    }

    /// Has no list keep less than nothing.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn forget_what_lists_lack(&self) -> Result<()> {
        self.db.execute(
            "UPDATE lists SET retired_packets = max(retired_packets, 0), retired_bytes = max(retired_bytes, 0)
             WHERE retired_packets < 0 OR retired_bytes < 0",
            [],
        )?;
        Ok(())
    }

    /// The number that the next generation of a list will have.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn next_generation(&self, name: &str) -> Result<i64> {
        let last: Option<i64> = self
            .db
            .query_row(
                "SELECT generations FROM lists WHERE name = ?1 AND generation IS NOT NULL",
                [name],
                |row| row.get(0),
            )
            .optional()?;
        Ok(last.unwrap_or(0) + 1)
    }

    /// The generation of a list, as it would be in force.
    ///
    /// # Errors
    ///
    /// If there is no such generation.
    pub fn in_force(&self, list: &Listed, generation: i64) -> Result<InForce> {
        let base_s: Option<i64> = self
            .db
            .query_row(
                "SELECT base_s FROM generations WHERE list = ?1 AND generation = ?2",
                (list.id, generation),
                |row| row.get(0),
            )
            .optional()?;
        let base_s =
            base_s.with_context(|| format!("there is no generation {generation} of {}", list.name))?;
        let owner = owner_of(&list.name)?;
        Ok(InForce::of(list.id, generation, owner, list.settings.action, base_s + self.shift_s))
    }

    /// Writes down that a list was found as it is, with its settings and what the server names it by. No change to what is
    /// wanted.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn note_success(&self, name: &str, settings: &Settings, validators: &Validators) -> Result<()> {
        let text = serde_json::to_string(settings).context("could not make JSON")?;
        self.db
            .execute(
                "UPDATE lists SET settings = ?2, etag = ?3, last_modified = ?4, checked_s = ?5, trouble = NULL
                 WHERE name = ?1",
                (name, text, &validators.etag, &validators.last_modified, wall_now_s()),
            )
            .with_context(|| format!("that {name} is up to date could not be written down"))?;
        Ok(())
    }

    /// Writes down why a list could not be brought up to date. No change to what is wanted.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn note_trouble(&self, name: &str, trouble: &Trouble) -> Result<()> {
        let text = serde_json::to_string(trouble).context("could not make JSON")?;
        self.db.execute(
            "UPDATE lists SET trouble = ?2, troubles = troubles + 1 WHERE name = ?1",
            (name, text),
        )?;
        Ok(())
    }

    /// Keys that this owner holds by rows, in order.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn rows_of(&self, owner: &Owner) -> Result<Vec<Key>> {
        let mut statement = self.db.prepare_cached("SELECT key FROM holds WHERE owner = ?1 ORDER BY key")?;
        let mut rows = statement.query([owner.as_str()])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            let key = from_blob(row.get_ref(0)?.as_blob()?);
            keys.push(key.ok_or_else(|| Damaged("a key is none".into()))?);
        }
        Ok(keys)
    }
}

/// One side of a comparison: a generation that is stored, or the blocks of one that is not.
#[derive(Clone, Copy)]
pub struct Side<'s> {
    /// The list.
    pub list: &'s InForce,
    /// Its blocks, where they are not in the store.
    pub blocks: Option<&'s [Vec<u8>]>,
}

/// A key of a comparison.
pub struct Compared<'c> {
    /// The key.
    pub key: Key,
    /// Until when the old side holds it.
    pub old: Option<Deadline>,
    /// Until when the new side does.
    pub new: Option<Deadline>,
    /// What others hold.
    pub others: &'c [Hold],
}

/// Writes a change to lists.
pub(super) fn write(db: &Connection, change: &ListWrite<'_>) -> Result<()> {
    match change {
        ListWrite::Take { name, settings, new, base_s } => take(db, name, settings, new, *base_s),
        ListWrite::Force { name, generation, is_held } => {
            db.execute(
                "UPDATE lists SET generation = ?2, is_held = ?3 WHERE name = ?1",
                (name, generation, is_held),
            )?;
            Ok(())
        }
        ListWrite::Drop { name, generation } => {
            let id: Option<i64> = id_of(db, name)?;
            if let Some(id) = id {
                forget(db, id, *generation)?;
                db.execute(
                    "DELETE FROM lists WHERE id = ?1 AND generation IS NULL
                     AND NOT EXISTS (SELECT 1 FROM generations WHERE list = ?1)",
                    [id],
                )?;
            }
            Ok(())
        }
        ListWrite::Remove { name } => {
            if let Some(id) = id_of(db, name)? {
                db.execute("DELETE FROM blocks WHERE list = ?1", [id])?;
                db.execute("DELETE FROM generations WHERE list = ?1", [id])?;
                db.execute("DELETE FROM lists WHERE id = ?1", [id])?;
            }
            Ok(())
        }
        ListWrite::Never(never) => {
            db.execute("DELETE FROM never", [])?;
            let mut insert = db.prepare_cached(
                "INSERT OR REPLACE INTO never (prefix, kind, reason, until_s) VALUES (?1, ?2, ?3, ?4)",
            )?;
            for Never { prefix, kind, reason, until } in *never {
                insert.execute((prefix_blob(prefix), *kind as u8, reason, until.0))?;
            }
            Ok(())
        }
        ListWrite::Keep { name, counted: [packets, bytes] } => {
            db.execute(
                "UPDATE lists SET retired_packets = retired_packets + ?2, retired_bytes = retired_bytes + ?3
                 WHERE name = ?1",
                (name, packets, bytes),
            )?;
            Ok(())
        }
    }
}

fn id_of(db: &Connection, name: &str) -> Result<Option<i64>> {
    Ok(db.query_row("SELECT id FROM lists WHERE name = ?1", [name], |row| row.get(0)).optional()?)
}

fn take(db: &Connection, name: &str, settings: &Settings, new: &NewGeneration, base_s: u32) -> Result<()> {
    let document = serde_json::to_string(settings).context("could not make JSON")?;
    purge(db)?;
    db.execute(
        "INSERT INTO lists (name, action, settings) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET settings = excluded.settings",
        (name, settings.action.number(), document),
    )?;
    let id = id_of(db, name)?.context("it was just written")?;
    let (last, in_force): (i64, Option<i64>) =
        db.query_row("SELECT generations, generation FROM lists WHERE id = ?1", [id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let generation = last + 1;
    let found = serde_json::to_string(&new.found).context("could not make JSON")?;
    db.execute(
        "INSERT INTO generations (list, generation, at_s, base_s, entries, found) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (id, generation, wall_now_s(), base_s, new.entries.cast_signed(), found),
    )?;
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).context("could not set up compression")?;
    let mut insert =
        db.prepare_cached("INSERT INTO blocks (list, generation, first, bytes) VALUES (?1, ?2, ?3, ?4)")?;
    for bytes in &new.blocks {
        let first = block::first(bytes).map_err(|damaged| Damaged(damaged.to_string()))?;
        let small = compressor.compress(bytes).context("could not compress a block of a list")?;
        insert.execute((id, generation, prefix_blob(&first), small))?;
    }
    db.execute(
        "UPDATE lists SET generation = ?2, generations = ?2, is_held = 0, checked_s = ?3, trouble = NULL, etag = ?4,
                          last_modified = ?5 WHERE id = ?1",
        (id, generation, wall_now_s(), &new.validators.etag, &new.validators.last_modified),
    )?;
    let mut old = db.prepare_cached(
        "SELECT generation FROM generations WHERE list = ?1 ORDER BY generation DESC LIMIT -1 OFFSET ?2",
    )?;
    let old =
        old.query_map((id, i64::try_from(KEPT)?), |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    // The one that was in force is still needed, to tell what changes and to take it back.
    let old = old.into_iter().filter(|generation| in_force != Some(*generation));
    old.into_iter().try_for_each(|generation| forget(db, id, generation))
}

/// Forgets what removals left that were killed.
fn purge(db: &Connection) -> Result<()> {
    for table in ["blocks", "generations"] {
        let left = "SELECT id FROM lists WHERE generation IS NULL";
        db.execute(&format!("DELETE FROM {table} WHERE list IN ({left})"), [])?;
    }
    db.execute("DELETE FROM lists WHERE generation IS NULL", [])?;
    Ok(())
}

/// Forgets a generation.
fn forget(db: &Connection, list: i64, generation: i64) -> Result<()> {
    db.execute("DELETE FROM blocks WHERE list = ?1 AND generation = ?2", (list, generation))?;
    db.execute("DELETE FROM generations WHERE list = ?1 AND generation = ?2", (list, generation))?;
    Ok(())
}

/// Moves the times of lists to another boot's clock.
pub(super) fn move_times(db: &Connection, shift_s: i64, now_s: i64) -> Result<()> {
    db.execute("UPDATE generations SET base_s = base_s + ?1", [shift_s])?;
    db.execute("UPDATE never SET until_s = max(until_s + ?1, 0) WHERE until_s < 4294967295", [shift_s])?;
    db.execute("UPDATE state SET cleared_s = ?1", [now_s])?;
    // What entries had counted is gone with the boot, unless it was carried.
    db.execute(
        "UPDATE lists SET retired_packets = 0, retired_bytes = 0 WHERE NOT EXISTS (SELECT 1 FROM carried_entries)",
        [],
    )?;
    Ok(())
}
