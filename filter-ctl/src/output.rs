//! What people and programs read: JSON with a schema number, aligned tables, entries and figures in words.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use filter_common::prefix::{Geometry, Region};
use serde::{Deserialize, Serialize};

use crate::exit::NotPrinted;
use crate::holds::Hold;
use crate::host::{memory_available, whole_seconds};
use crate::policy::{Action, Deadline, Entry, Prefix};

/// Version of all JSON output. Fields may be added under the same number; none changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Bytes of a stream that are written at once: a pipe takes as many.
const STREAM_BYTES: usize = 1 << 16;

#[derive(Serialize)]
struct Document<T> {
    schema: u32,
    #[serde(flatten)]
    content: T,
}

/// Where a command's words go: this process' own standard output and error, or memory, from which they are sent on.
pub struct Output {
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    style: Style,
}

/// Whether there is a terminal that shows colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// Colours, and the screen may be cleared.
    Terminal,
    /// Neither.
    Plain,
}

impl Style {
    /// What this process' standard output takes. `NO_COLOR` is heeded (no-color.org).
    pub fn of_stdout() -> Self {
        let is_plain = std::env::var_os("NO_COLOR").is_some() || !io::stdout().is_terminal();
        if is_plain { Self::Plain } else { Self::Terminal }
    }
}

impl Output {
    /// This process' standard output and error.
    pub fn stdio() -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()), Style::of_stdout())
    }

    /// Other places.
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, style: Style) -> Self {
        Self { out: RefCell::new(out), err: RefCell::new(err), style }
    }

    /// Whether the screen may be cleared.
    pub fn is_terminal(&self) -> bool {
        self.style == Style::Terminal
    }

    /// Prints a JSON document over several lines.
    ///
    /// # Errors
    ///
    /// If standard output can't be written.
    pub fn json(&self, content: impl Serialize) -> Result<()> {
        let document = Document { schema: SCHEMA, content };
        let text = serde_json::to_string_pretty(&document).context("could not make JSON")?;
        self.line(&text)
    }

    /// Prints a JSON document as one line, for streams of them. It is written piece by piece: it may be larger than
    /// what should be in memory.
    ///
    /// # Errors
    ///
    /// If standard output can't be written, or the content has no form in JSON.
    pub fn json_line(&self, content: impl Serialize) -> Result<()> {
        let mut out = self.out.borrow_mut();
        let mut out = BufWriter::with_capacity(STREAM_BYTES, &mut *out);
        serde_json::to_writer(&mut out, &Document { schema: SCHEMA, content }).map_err(|error| {
            if error.is_io() { NotPrinted(error.into()).into() } else { anyhow::Error::new(error) }
        })?;
        Ok(out.write_all(b"\n").and_then(|()| out.flush()).map_err(NotPrinted)?)
    }

    /// Prints a line, without control characters. Unlike `println!` it doesn't panic when the reader is gone.
    ///
    /// # Errors
    ///
    /// If standard output can't be written.
    pub fn line(&self, text: &str) -> Result<()> {
        self.raw_line(&printable(text))
    }

    /// Prints a line as it is, terminal sequences included.
    ///
    /// # Errors
    ///
    /// If standard output can't be written.
    pub fn raw_line(&self, text: &str) -> Result<()> {
        Ok(writeln!(self.out.borrow_mut(), "{text}").map_err(NotPrinted)?)
    }

    /// Writes bytes that are no text, at once.
    ///
    /// # Errors
    ///
    /// If standard output can't be written.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = self.out.borrow_mut();
        Ok(out.write_all(bytes).and_then(|()| out.flush()).map_err(NotPrinted)?)
    }

    /// Says something beside the result, on standard error, without control characters.
    pub fn note(&self, text: &str) {
        // Where even this can't be written, there is nobody to tell.
        let _ = writeln!(self.err.borrow_mut(), "{}", printable(text));
    }

    /// Says on standard error what the operator should know beside the result.
    pub fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| self.note(&format!("warning: {warning}")));
    }

    /// An error as JSON, on standard error.
    pub fn json_error(&self, message: &str, exit_code: u8) {
        self.json_failure(message, exit_code, &serde_json::Map::new());
    }

    /// The same, with more that is known of it.
    pub fn json_failure(
        &self,
        message: &str,
        exit_code: u8,
        more: &serde_json::Map<String, serde_json::Value>,
    ) {
        #[derive(Serialize)]
        struct Content<'m> {
            error: Description<'m>,
        }
        #[derive(Serialize)]
        struct Description<'m> {
            message: &'m str,
            exit_code: u8,
            #[serde(flatten)]
            more: &'m serde_json::Map<String, serde_json::Value>,
        }
        let content = Content { error: Description { message, exit_code, more } };
        match serde_json::to_string_pretty(&Document { schema: SCHEMA, content }) {
            Ok(text) => self.note(&text),
            Err(_) => self.note(message),
        }
    }

    /// A table without borders, with this header. Columns named in `right` hold numbers.
    pub fn table(&self, header: &[&str], right: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        match self.style {
            Style::Terminal => table.enforce_styling(),
            Style::Plain => table.force_no_tty(),
        };
        table.set_header(header.iter().map(|name| Cell::new(name).fg(Color::DarkGrey)));
        for (column, name) in table.column_iter_mut().zip(header) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// Prints a table without trailing blanks.
    ///
    /// # Errors
    ///
    /// If standard output can't be written.
    pub fn print_table(&self, table: &Table) -> Result<()> {
        table.lines().try_for_each(|row| self.raw_line(row.trim_end()))
    }
}

/// A JSON document as one line of text, for those that print nothing.
///
/// # Errors
///
/// If the content has no form in JSON.
pub fn json_text(content: impl Serialize) -> Result<String> {
    serde_json::to_string(&Document { schema: SCHEMA, content }).context("could not make JSON")
}

/// The text with control characters but line ends escaped: names of interfaces and programs may hold any.
fn printable(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() && c != '\n' { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// A number of things: `1 entry`, `2 entries`.
pub fn counted(number: usize, one: &str, many: &str) -> String {
    counted_u64(number as u64, one, many)
}

/// As [`counted`], of what a counter counts.
pub fn counted_u64(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A cell with text that is not this program's own.
pub fn foreign(text: &str) -> Cell {
    Cell::new(printable(text))
}

/// A verdict, action or state, coloured on a terminal by whether it stops traffic.
pub fn coloured(word: &str) -> Cell {
    coloured_as(word, word)
}

/// Text in the colour of a verdict, action or state.
pub fn coloured_as(word: &str, text: &str) -> Cell {
    let colour = match word {
        "drop" | "block" | "gone" | "elsewhere" | "stale" => Color::Red,
        "pass" | "allow" | "attached" => Color::Green,
        _ => return foreign(text),
    };
    foreign(text).fg(colour)
}

/// A number with its thousands apart: `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number with its thousands apart where that fits in this many columns; otherwise as [`short`] has it.
pub fn fitting(number: u64, columns: usize) -> String {
    let whole = grouped(number);
    if whole.len() <= columns { whole } else { short(number) }
}

/// A number in three digits and a decimal prefix: `294`, `1.23k`, `45.6M`.
pub fn short(number: u64) -> String {
    const PREFIXES: [char; 6] = ['k', 'M', 'G', 'T', 'P', 'E'];
    if number < 1000 {
        return number.to_string();
    }
    // Tenths of a percent, cut rather than rounded: a figure is never shown as more than it is.
    let (mut whole, mut rest, mut prefixes) = (number, 0, PREFIXES.iter());
    let mut prefix = &PREFIXES[0];
    while whole >= 1000 {
        rest = whole % 1000;
        whole /= 1000;
        prefix = prefixes.next().expect("a u64 is below 19 E");
    }
    match whole {
        0..10 => format!("{whole}.{:02}{prefix}", rest / 10),
        10..100 => format!("{whole}.{}{prefix}", rest / 100),
        _ => format!("{whole}{prefix}"),
    }
}

/// A rate in three digits, or a dash where there is none.
pub fn rate(rate: Option<f64>) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive and far below 2^64"
    )]
    rate.map_or("-".into(), |rate| short(rate.round() as u64))
}

/// A time span in its two largest units: `2d 4h`, `1m 30s`.
pub fn span(seconds: u32) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds.into())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ").replace("days", "d").replace("day", "d")
}

/// Memory of the tables, as JSON.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryView {
    /// Bytes of all tables; they are taken whole, however full they are.
    pub tables_bytes: u64,
    /// Bytes of these that count packets and bytes of each entry, 16 for each CPU and entry.
    pub counters_bytes: u64,
    /// Possible CPUs of this host.
    pub cpus: u32,
    /// Bytes that are available on this host besides.
    pub available_bytes: u64,
}

impl MemoryView {
    /// Of tables of this size, beside what is available now.
    ///
    /// # Errors
    ///
    /// If the kernel does not say what is available.
    pub fn new(geometry: Geometry) -> Result<Self> {
        Ok(Self {
            tables_bytes: geometry.bytes(),
            counters_bytes: geometry.region_bytes(Region::Counters),
            cpus: geometry.cpus,
            available_bytes: memory_available()?,
        })
    }

    /// In words.
    pub fn sentence(&self, geometry: Geometry) -> String {
        let mib = |bytes: u64| grouped(bytes.div_ceil(1 << 20));
        format!(
            "room for {} IPv4 and {} IPv6 entries: {} MiB, of which {} MiB count on {}; {} MiB more are available",
            grouped(geometry.capacity_v4.into()),
            grouped(geometry.capacity_v6.into()),
            mib(self.tables_bytes),
            mib(self.counters_bytes),
            counted(self.cpus as usize, "CPU", "CPUs"),
            mib(self.available_bytes)
        )
    }
}

/// An entry as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntryView {
    /// The prefix.
    pub prefix: Prefix,
    /// `allow` or `block`.
    pub action: Action,
    /// Who holds it.
    pub owner: String,
    /// Why it was made, if that was said.
    pub reason: Option<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Seconds since then.
    pub age_s: u32,
    /// RFC 3339, UTC; absent if it never expires.
    pub expires_at: Option<String>,
    /// Seconds until then; zero if it has expired and is not enforced any more.
    pub expires_in_s: Option<u32>,
}

impl EntryView {
    /// The view of `entry` at the moment `now` of CLOCK_MONOTONIC.
    pub fn new(entry: &Entry, now: Duration) -> Self {
        let times = Times::new(entry.created_s, entry.until, now);
        Self {
            prefix: entry.key.prefix,
            action: entry.key.action,
            owner: entry.owner.as_str().to_owned(),
            reason: Some(entry.reason.as_str()).filter(|text| !text.is_empty()).map(str::to_owned),
            created_at: times.created_at,
            age_s: times.age_s,
            expires_at: times.expires_at,
            expires_in_s: times.expires_in_s,
        }
    }

    /// The time that is left, in words.
    pub fn left(&self) -> String {
        left(self.expires_in_s)
    }
}

/// One of the holders of an entry as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HoldView {
    /// Who.
    pub owner: String,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// Who typed it or sent it, if that is known.
    pub creator: Option<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Seconds since then.
    pub age_s: u32,
    /// RFC 3339, UTC; absent if it never expires.
    pub expires_at: Option<String>,
    /// Seconds until then.
    pub expires_in_s: Option<u32>,
}

impl HoldView {
    /// The view of `hold` at the moment `now` of CLOCK_MONOTONIC.
    pub fn new(hold: &Hold, now: Duration) -> Self {
        let times = Times::new(hold.created_s, hold.until, now);
        let said = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            owner: hold.owner.as_str().to_owned(),
            reason: said(hold.reason.as_str()),
            creator: said(&hold.creator),
            created_at: times.created_at,
            age_s: times.age_s,
            expires_at: times.expires_at,
            expires_in_s: times.expires_in_s,
        }
    }

    /// The one holder that an entry names, where no other is known.
    pub fn of_entry(entry: &EntryView) -> Self {
        Self {
            owner: entry.owner.clone(),
            reason: entry.reason.clone(),
            creator: None,
            created_at: entry.created_at.clone(),
            age_s: entry.age_s,
            expires_at: entry.expires_at.clone(),
            expires_in_s: entry.expires_in_s,
        }
    }

    /// The time that is left, in words.
    pub fn left(&self) -> String {
        left(self.expires_in_s)
    }
}

/// The time that is left, in words.
pub fn left(expires_in_s: Option<u32>) -> String {
    match expires_in_s {
        None => "-".into(),
        Some(0) => "expired".into(),
        Some(left) => span(left),
    }
}

/// A second since 1970 as RFC 3339; what no clock showed is cut to the nearest that one could.
pub fn wall_time(at_s: i64) -> String {
    const LAST: u64 = 253_402_300_799; // the end of the year 9999
    let at = Duration::from_secs(u64::try_from(at_s).unwrap_or(0).min(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + at).to_string()
}

/// Beginning and end as people and programs read them.
struct Times {
    created_at: String,
    age_s: u32,
    expires_at: Option<String>,
    expires_in_s: Option<u32>,
}

impl Times {
    fn new(created_s: i64, until: Deadline, now: Duration) -> Self {
        let wall = SystemTime::now();
        let age_s = i64::from(whole_seconds(now)).saturating_sub(created_s).max(0);
        let age_s = u32::try_from(age_s).unwrap_or(u32::MAX);
        let expires_in_s = until.left_s(now);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let rfc3339 = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
        Self {
            created_at: rfc3339(wall.checked_sub(seconds(age_s)).unwrap_or(SystemTime::UNIX_EPOCH)),
            age_s,
            expires_at: expires_in_s.map(|left| rfc3339(wall + seconds(left))),
            expires_in_s,
        }
    }
}

/// The age and fate of an entry in a sentence: `for 1h`, `until removed`.
pub fn lifetime(view: &EntryView) -> String {
    match view.expires_in_s {
        None => "until removed".into(),
        Some(left) => format!("for {}", span(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 7, 999, 1_000, 12_345_678, u64::MAX].map(grouped);
        assert_eq!(texts, ["0", "7", "999", "1,000", "12,345,678", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        assert_eq!(printable("a\x1b[31mb\nc\u{9b}d"), "a\\u{1b}[31mb\nc\\u{9b}d");
    }

    #[test]
    fn short_numbers_have_three_digits() {
        let texts = [0, 294, 999, 1_000, 1_239, 45_678_901, 999_999, 123_456_789, u64::MAX].map(short);
        assert_eq!(texts, ["0", "294", "999", "1.00k", "1.23k", "45.6M", "999k", "123M", "18.4E"]);
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!(
            [0, 59, 90, 3600, 187_200, 200_000].map(span),
            ["0s", "59s", "1m 30s", "1h", "2d 4h", "2d 7h"]
        );
    }

    #[test]
    fn rates_round() {
        assert_eq!(rate(Some(1_499.6)), "1.50k");
        assert_eq!(rate(None), "-");
    }
}
