//! What the operator typed behind `record`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use filter_common::{Reason, Verdict};

use super::parse_wait;
use crate::policy::Prefix;

/// What to do with what the flight recorder has.
#[derive(Clone, Debug, Subcommand)]
pub enum RecordCommand {
    /// Show what was dropped, by reason and entry: from when to when, how much, and what most of it is.
    #[command(after_help = "Examples:
  filter-ctl record summary
  filter-ctl record summary --since 12h --interface eth0 --json

Frames are what counters say, and so are exact; first and last are of the frames that are recorded.
Exit code 5 if nothing was recorded, or nothing matches.")]
    Summary(SummaryArgs),
    /// Show the latest frames that were dropped, and why.
    #[command(after_help = "Examples:
  filter-ctl record show
  filter-ctl record show --reason blocked --entry 203.0.113.0/24 --since 10m
  filter-ctl record show --json --limit 1000 | jq '.samples[] | {time, source, reason}'

Of each flood the first frames are kept and some of the latest, others in between. Exit code 5 if
nothing was recorded, or nothing matches.")]
    Show(ShowRecordArgs),
    /// Show frames as they are dropped.
    #[command(after_help = "Examples:
  filter-ctl record follow
  filter-ctl record follow --reason blocked --interface eth0 --for 10s --json

Up to a hundred frames a second of each reason, entry and CPU. Ctrl-C ends it.")]
    Follow(FollowArgs),
    /// Write frames that were dropped as a capture file (pcapng), with verdict and reason.
    #[command(after_help = "Examples:
  filter-ctl record save -w dropped.pcapng
  filter-ctl record save --for 10s --src 203.0.113.0/24 -w - | tcpdump -nr -

Writes what is kept now, or with --for what comes during that time. Frames are cut to 128 bytes. Exit
code 5 if there is none: then the file has none either.")]
    Save(SaveArgs),
    /// Record frames that pass as well, for a time.
    #[command(after_help = "Examples:
  filter-ctl record passed --for 30s && filter-ctl record follow --verdict pass --for 30s
  filter-ctl record passed --off")]
    Passed(PassedArgs),
}

/// Which frames are meant. Each option narrows it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which frames")]
pub struct WantedArgs {
    /// Only frames with this reason; may be given again. `stats` has their names.
    #[arg(long, value_name = "REASON", value_parser = reason(), hide_possible_values = true)]
    pub reason: Vec<Reason>,
    /// Only frames with this verdict.
    #[arg(long, value_parser = verdict())]
    pub verdict: Option<Verdict>,
    /// Only frames that an entry with this prefix decided about, or with one inside.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub entry: Option<Prefix>,
    /// Only frames from this prefix.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub src: Option<Prefix>,
    /// Only frames to this prefix.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub dst: Option<Prefix>,
    /// Only frames that came in on this interface.
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
}

fn reason() -> impl TypedValueParser<Value = Reason> {
    let names = Reason::ALL.iter().map(|reason| reason.name());
    PossibleValuesParser::new(names).try_map(|name| {
        let named = Reason::ALL.iter().copied().find(|reason| reason.name() == name);
        named.ok_or("no reason has this name")
    })
}

fn verdict() -> impl TypedValueParser<Value = Verdict> {
    PossibleValuesParser::new([Verdict::Drop.name(), Verdict::Pass.name()])
        .map(|name| if name == Verdict::Drop.name() { Verdict::Drop } else { Verdict::Pass })
}

fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text, false).map_err(|error| error.to_string())
}

/// Arguments of `record summary`.
#[derive(Clone, Debug, Args)]
pub struct SummaryArgs {
    /// Which.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// Only frames of this time up to now, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
}

/// Arguments of `record show`.
#[derive(Clone, Debug, Args)]
pub struct ShowRecordArgs {
    /// Which frames.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// Only frames of this time, up to now, such as 90s or 10m.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Frames to show, the newest last.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

/// Arguments of `record follow`.
#[derive(Clone, Debug, Args)]
pub struct FollowArgs {
    /// Which frames.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// How long; until Ctrl-C if not given.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_wait)]
    pub span: Option<Duration>,
}

/// Arguments of `record save`.
#[derive(Clone, Debug, Args)]
pub struct SaveArgs {
    /// Which frames.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// Only frames of this time, up to now.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "span")]
    pub since: Option<Duration>,
    /// Write what comes during this time, in place of what is kept; Ctrl-C ends it before.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_wait)]
    pub span: Option<Duration>,
    /// The file, or `-` for standard output.
    #[arg(long, short, value_name = "FILE")]
    pub write: PathBuf,
}

/// Arguments of `record passed`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct PassedArgs {
    /// For how long, at most a day; it ends by itself.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span, group = "what")]
    pub span: Option<Duration>,
    /// No longer.
    #[arg(long, group = "what")]
    pub off: bool,
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let span = parse_wait(text)?;
    if span.is_zero() { Err("must be over zero; --off ends it".into()) } else { Ok(span) }
}
