//! Owners and reasons, each pair kept once.

use super::{OWNER_LENGTH, REASON_LENGTH, Refused, Table};
use crate::prefix::cells::Cells;
use crate::prefix::geometry::{NOTE_WORDS, NOTES, Region, header};

impl<C: Cells> Table<C> {
    /// Owner and reason.
    pub fn note(&self, note: u16) -> (String, String) {
        let first = note_word(note.into(), 0);
        let lengths = self.get(Region::Notes, first);
        let bytes: Vec<u8> = (1..NOTE_WORDS as usize)
            .flat_map(|position| self.get(Region::Notes, first + position).to_le_bytes())
            .collect();
        let text = |start: usize, length: u64| {
            let length = usize::try_from(length & 0xff).unwrap_or(0);
            let bytes = bytes.get(start..start + length).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        (text(0, lengths >> 32), text(OWNER_LENGTH, lengths >> 40))
    }

    /// The note that says this, made if there is none, and held until it is released.
    ///
    /// # Errors
    ///
    /// [`Refused::Notes`] if there is no room for another; [`Refused::Damaged`] for texts longer than a note holds.
    pub fn hold_note(&mut self, owner: &str, reason: &str) -> Result<u16, Refused> {
        let (owner, reason) = (owner.as_bytes(), reason.as_bytes());
        if owner.len() > OWNER_LENGTH || reason.len() > REASON_LENGTH {
            return Err(Refused::Damaged);
        }
        let mut words = [0; NOTE_WORDS as usize];
        let mut bytes = [0; 8 * (NOTE_WORDS as usize - 1)];
        bytes[..owner.len()].copy_from_slice(owner);
        bytes[OWNER_LENGTH..OWNER_LENGTH + reason.len()].copy_from_slice(reason);
        words[0] = (owner.len() as u64) << 32 | (reason.len() as u64) << 40;
        for (word, bytes) in words[1..].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        let highest = self.header_u32(header::HIGHEST_NOTE);
        let says = |note: &u32| {
            let stored = |position| self.get(Region::Notes, note_word(*note, position));
            stored(0) & !USES == words[0]
                && (1..words.len()).all(|position| stored(position) == words[position])
        };
        let in_use = |note: &u32| self.get(Region::Notes, note_word(*note, 0)) & USES != 0;
        let note = match (1..=highest).find(|note| in_use(note) && says(note)) {
            Some(note) => note,
            None => {
                let mut free = (1..=highest).find(|note| !in_use(note)).unwrap_or(highest + 1);
                if free >= NOTES {
                    // Processes that died may have held some.
                    self.count_notes();
                    let in_use = |note: &u32| self.get(Region::Notes, note_word(*note, 0)) & USES != 0;
                    free = (1..NOTES).find(|note| !in_use(note)).ok_or(Refused::Notes)?;
                }
                for (position, word) in words.into_iter().enumerate() {
                    self.set(Region::Notes, note_word(free, position), word);
                }
                self.set_header(header::HIGHEST_NOTE, highest.max(free).into());
                free
            }
        };
        self.use_note(note, 1);
        let note = u16::try_from(note).expect("below NOTES");
        *self.held.entry(note).or_default() += 1;
        Ok(note)
    }

    /// Lets go of a note.
    pub fn release_note(&mut self, note: u16) {
        self.use_note(note.into(), -1);
        if let Some(held) = self.held.get_mut(&note) {
            *held = held.saturating_sub(1);
        }
    }

    pub(super) fn use_note(&mut self, note: u32, by: i32) {
        if note == 0 || note >= NOTES {
            return;
        }
        let word = self.get(Region::Notes, note_word(note, 0));
        let uses = u32::try_from(word & USES).unwrap_or(0).saturating_add_signed(by);
        self.set(Region::Notes, note_word(note, 0), word & !USES | u64::from(uses));
    }

    /// No note above this is in use.
    pub fn highest_note(&self) -> u16 {
        u16::try_from(self.header_u32(header::HIGHEST_NOTE)).unwrap_or(u16::MAX)
    }

    /// How many notes are in use; there is room for one fewer than [`NOTES`], since the empty one is not counted.
    pub fn notes_in_use(&self) -> u32 {
        let in_use = (1..=self.highest_note().into()).filter(|note| self.uses_of(*note) != 0).count();
        u32::try_from(in_use).unwrap_or(u32::MAX)
    }

    /// How often a note is used.
    pub(super) fn uses_of(&self, note: u32) -> u64 {
        self.get(Region::Notes, note_word(note, 0)) & USES
    }

    /// Counts anew how often each note is used, by entries and by this process.
    pub(super) fn count_notes(&mut self) {
        let mut uses = vec![0u64; NOTES as usize];
        for (_, entry) in self.entries() {
            if let Some(uses) = uses.get_mut(usize::from(entry.note)) {
                *uses += 1;
            }
        }
        for (note, held) in &self.held {
            uses[usize::from(*note)] += held;
        }
        for (note, uses) in (0..NOTES).zip(uses).skip(1) {
            let word = self.get(Region::Notes, note_word(note, 0));
            if word & USES != uses {
                self.set(Region::Notes, note_word(note, 0), word & !USES | uses);
            }
            if uses > 0 && note > self.header_u32(header::HIGHEST_NOTE) {
                self.set_header(header::HIGHEST_NOTE, note.into());
            }
        }
    }
}

/// The bits of a note's first word that count its uses.
const USES: u64 = 0xffff_ffff;

const fn note_word(note: u32, position: usize) -> usize {
    NOTE_WORDS as usize * note as usize + position
}
