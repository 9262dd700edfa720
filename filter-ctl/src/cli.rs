//! What the operator typed, as clap types. Nothing here acts.

mod record;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum as _};
use clap_complete::Shell;
use filter_common::abi::{DEFAULT_MAX_V4, DEFAULT_MAX_V6, LARGEST_MAX};

pub use self::record::{
    FollowArgs, PassedArgs, RecordCommand, SaveArgs, ShowRecordArgs, SummaryArgs, WantedArgs,
};
use crate::daemon::crowdsec::Lapi;
use crate::host::devices::Mode;
use crate::kernel::pins::DEFAULT_ROOT;
use crate::lists::format::Format;
use crate::lists::guards::Bounds;
use crate::lists::settings::SHORTEST_REFRESH;
use crate::metrics::listen::Address;
use crate::policy::Action;
use crate::record::top::By;

/// XDP flood filter: drops traffic from blocked prefixes in the network driver's hook.
///
/// The filter lives in the kernel and goes on when every process is gone; only `unload` ends it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "filter-ctl",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not loaded, 4 only partly applied, 5 nothing matched.",
    max_term_width = 100
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print JSON; errors too, on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say all that is known, such as the verifier's whole log.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Directory on a BPF file system that holds the filter.
    #[arg(long, global = true, env = "FILTER_CTL_PIN_ROOT", default_value = DEFAULT_ROOT, value_name = "DIR")]
    pub pin_root: PathBuf,
    /// Directory of the store [default: /var/lib/ and the last part of the pin root].
    #[arg(long, global = true, env = "FILTER_CTL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the daemon [default: /run/, the last part of the pin root, and control.sock].
    #[arg(long, global = true, env = "FILTER_CTL_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How long to wait for another filter-ctl that holds the lock.
    #[arg(long, global = true, default_value = "10s", value_name = "TIME", value_parser = parse_wait)]
    pub lock_wait: Duration,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Filter the traffic that comes in on interfaces.
    #[command(after_help = "Examples:
  filter-ctl load eth0                   filter in the driver
  filter-ctl load eth0 eth1              both, or neither where one fails
  filter-ctl load eth0 --mode generic    where the driver has no XDP; slower
  filter-ctl load eth0 --max-ipv4 1000000
  filter-ctl load 'eth*'                 all that match, also those to come

Tables have room for as many entries as are asked for, and take their memory at once; `resize` changes
that later.")]
    Load(LoadArgs),
    /// Stop filtering interfaces. Entries and counts stay in the store; with the last interface the recorder's frames
    /// are gone.
    #[command(after_help = "Examples:
  filter-ctl unload eth1
  filter-ctl unload --all")]
    Unload(UnloadArgs),
    /// Show which interfaces are filtered, and how full the tables are.
    #[command(after_help = "Example, for a monitor:
  filter-ctl status > /dev/null || echo \"exit code $?\"

Exit code 4 if a loaded interface is gone or not filtered as it should be, 3 if none is loaded.")]
    Status,
    /// Filter again what was filtered before a reboot, with all entries, from the store. For a unit at boot.
    #[command(after_help = "Example:
  filter-ctl restore --wait 10s

Does nothing where the filter is loaded, or where nothing was. Needs neither network nor the right
time. A damaged store is set aside, and its copy used. Exit code 4 if only some interfaces could be
filtered.")]
    Restore(RestoreArgs),
    /// Run the daemon: keeps the filter as it is to be, proves that it works, and takes changes.
    #[command(after_help = "Example:
  filter-ctl run --block-group netops --read-group noc --hook /usr/local/bin/page-me

The filter does not depend on it: when it stops, for whatever reason, the filter goes on.")]
    Run(RunArgs),
    /// Compare everything: the store, the kernel's tables, the programs and the interfaces.
    #[command(after_help = "Example:
  filter-ctl verify || filter-ctl repair

Exit code 4 if something is not as it should be.")]
    Verify,
    /// Mend what `verify` finds. What is filtered is filtered throughout.
    #[command(after_help = "Example:
  filter-ctl repair

The store is taken from its copy or from what is enforced, the kernel's tables from the store. Exit
code 4 if something could not be mended.")]
    Repair,
    /// Show who holds a prefix, since when, why and until when, and what covers it or is covered by it.
    #[command(after_help = "Example:
  filter-ctl show 203.0.113.0/24")]
    Show(ShowArgs),
    /// Print figures for Prometheus, or offer them over HTTP: packets by interface and reason, entries, lists, alarms, proofs.
    #[command(after_help = "Examples, for node_exporter's textfile collector, and for Prometheus itself:
  filter-ctl metrics > /var/lib/prometheus/node-exporter/filter.prom.new &&
    mv /var/lib/prometheus/node-exporter/filter.prom.new /var/lib/prometheus/node-exporter/filter.prom
  filter-ctl metrics --listen 127.0.0.1:9743

The daemon offers them as well: `filter-ctl run --metrics-listen`.")]
    Metrics(MetricsArgs),
    /// Show who changed what, and when.
    #[command(after_help = "Example:
  filter-ctl audit --last 50 --json")]
    Audit(AuditArgs),
    /// Make room for more entries, or for fewer. Nothing is lost, and no packet passes unfiltered meanwhile.
    #[command(after_help = "Examples:
  filter-ctl resize --max-ipv4 1000000
  filter-ctl resize --max-ipv4 1000000 --max-ipv6 262144

The new tables are made beside the old ones, so for a moment there must be memory for both.")]
    Resize(ResizeArgs),
    /// Put this build's programs in the place of those that another build of filter-ctl loaded. Entries, deadlines and
    /// counters are kept, and no packet passes unfiltered meanwhile.
    #[command(after_help = "Example, after the new filter-ctl was installed:
  filter-ctl upgrade

Where the tables are laid out differently, new ones are made beside the old ones, so for a moment there
must be memory for both. Where it fails, the other build's filter goes on.")]
    Upgrade,
    /// Edit the prefixes whose traffic is dropped.
    #[command(subcommand)]
    Block(EntryCommand),
    /// Edit the prefixes whose traffic passes, whatever the block entries say.
    #[command(subcommand)]
    Allow(EntryCommand),
    /// Keep lists of prefixes that others publish: blocked or allowed as a whole, brought up to date, taken back.
    #[command(subcommand)]
    List(ListCommand),
    /// Edit what no list may block. Lists are enforced with holes there; rules and `block` entries still apply.
    #[command(subcommand)]
    Never(NeverCommand),
    /// Print entries in the format of another program.
    #[command(after_help = "Examples:
  filter-ctl export --format nft > blocked.nft
  filter-ctl export --format ipset --list drop | ipset restore -exist")]
    Export(ExportArgs),
    /// Show what was passed and dropped, and why.
    #[command(after_help = "Examples:
  filter-ctl stats                       totals, and rates over one second
  filter-ctl stats --watch               again every second, until Ctrl-C
  filter-ctl stats --over 0s --json      totals at once, as JSON
  filter-ctl stats --watch 10 --json     a line of JSON every ten seconds
  filter-ctl stats --all --json          every entry, also those that decided nothing

Rates are over 1 second, 10 seconds and 1 minute. With --watch all are there after a minute; a single call
measures one second, and takes the others of interfaces from what the daemon recorded. `-`, and null in JSON,
is what is not known.")]
    Stats(StatsArgs),
    /// Show what was passed and dropped over the last minutes, hours or days, as the daemon recorded it.
    #[command(after_help = "Examples:
  filter-ctl history
  filter-ctl history --since 1d --interface eth0
  filter-ctl history --since 1h --json | jq '.steps[] | {time, series}'

Up to 6 minutes are shown by the second, up to an hour by ten seconds, and more by the minute. Time at
which nobody recorded is a gap. Exit code 5 if nothing is recorded of that time.")]
    History(HistoryArgs),
    /// Show frames that were dropped, byte for byte, and why; or have them as a capture file.
    #[command(subcommand)]
    Record(RecordCommand),
    /// Log a line for each frame on an interface, for a while: for finding faults in the filter itself.
    #[command(after_help = "Example:
  filter-ctl debug eth0 --for 5s

A program that logs takes the place of the interface's own, with the same entries and counters; no frame
is missed. It is slower, so that a flood is filtered at a lower rate. Where this command is killed,
`filter-ctl upgrade` or a restart of the daemon puts the ordinary program back.")]
    Debug(DebugArgs),
    /// Show who and what the frames are that were dropped, or that pass: the largest groups, each with its error.
    #[command(after_help = "Examples:
  filter-ctl top sources                    of all that is recorded
  filter-ctl top source-ports --for 10s     what comes in the next ten seconds: which service reflects
  filter-ctl top ports --passed --for 10s   what passes; records it for that time
  filter-ctl top lengths --since 5m --json

Of `reasons` and of entries' `prefixes` (and /32 and /128 `sources`) the counters are shown: `exact`, unless
--since asks for a time that they don't know. All else is estimated from samples: the true number is within
± packets in 95 of 100 cases. --for is closest, since it reads samples before they are overwritten.
Exit code 5 if there is nothing to show.")]
    Top(TopArgs),
    /// Show what the filter does with a source address or a frame, and why. Nothing is counted.
    #[command(after_help = "Examples:
  filter-ctl explain 203.0.113.7
  filter-ctl explain --pcap attack.pcap:42 --json
  filter-ctl explain --offline --block 203.0.113.0/24 --allow 203.0.113.7 203.0.113.7")]
    Explain(ExplainArgs),
    /// Choose what happens to frames that can't be parsed: each fault is dropped, unless it is to pass.
    #[command(subcommand)]
    Malformed(MalformedCommand),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:
  filter-ctl completions bash > /etc/bash_completion.d/filter-ctl")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Interfaces on which traffic comes in, by name or pattern; the daemon filters those that appear later, too.
    #[arg(required = true, value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// Where the filter runs. It never falls back from native to generic by itself.
    #[arg(long, value_enum, default_value_t = Mode::Native)]
    pub mode: Mode,
    #[arg(long, value_name = "N", value_parser = capacity(), help = format!("Most IPv4 entries, allow and block together [default: {DEFAULT_MAX_V4}]"))]
    #[expect(missing_docs, reason = "the help is computed")]
    pub max_ipv4: Option<u32>,
    #[arg(long, value_name = "N", value_parser = capacity(), help = format!("Most IPv6 entries, allow and block together [default: {DEFAULT_MAX_V6}]"))]
    #[expect(missing_docs, reason = "the help is computed")]
    pub max_ipv6: Option<u32>,
}

fn capacity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(LARGEST_MAX))
}

/// Arguments of `restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// How long to wait for interfaces that are named and not there yet.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_wait)]
    pub wait: Duration,
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Group whose members may ask, through the socket, what is filtered: also for recorded frames, with what people sent.
    #[arg(long, value_name = "GROUP")]
    pub read_group: Option<String>,
    /// Group whose members may also add and remove entries.
    #[arg(long, value_name = "GROUP")]
    pub block_group: Option<String>,
    /// Command that is started for each event, with the event as JSON on its standard input; may be given again.
    #[arg(long, value_name = "COMMAND")]
    pub hook: Vec<String>,
    /// URL to which each event is posted as JSON; may be given again.
    #[arg(long, value_name = "URL")]
    pub webhook: Vec<String>,
    /// CrowdSec's local API, whose decisions are blocked by the owner `crowdsec`: https, or http on this host.
    #[arg(long, value_name = "URL", value_parser = Lapi::parse, requires = "crowdsec_key_file")]
    pub crowdsec: Option<Lapi>,
    /// File with the key that `cscli bouncers add` printed; nobody else may read it.
    #[arg(long, value_name = "FILE", requires = "crowdsec")]
    pub crowdsec_key_file: Option<PathBuf>,
    /// Time between two questions to CrowdSec.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_question)]
    pub crowdsec_interval: Duration,
    /// Offer figures for Prometheus at http://IP:PORT/metrics, or on the socket unix:PATH; as `metrics --listen` does.
    #[arg(long, value_name = "ADDR", value_parser = Address::parse)]
    pub metrics_listen: Option<Address>,
    /// Time between two proofs that the programs work.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_proof)]
    pub proof_interval: Duration,
    /// What is written of recorded frames.
    #[command(flatten)]
    pub record: RecordFilesArgs,
}

/// How much of what the flight recorder has is written to files.
#[derive(Clone, Debug, Args)]
pub struct RecordFilesArgs {
    /// Size of a file of recorded frames.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_size)]
    pub record_size: ByteSize,
    /// How long a file is written to, before the next one.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_record_age)]
    pub record_age: Duration,
    /// Size of all files of recorded frames; beyond, the oldest are removed.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub record_total: ByteSize,
    /// Write no files of recorded frames.
    #[arg(long, conflicts_with_all = ["record_size", "record_age", "record_total"])]
    pub no_record: bool,
}

fn parse_record_age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if age >= Duration::from_secs(1) { Ok(age) } else { Err("must be at least 1s".into()) }
}

/// The smallest file: a few batches of blocks.
const SMALLEST_FILE: ByteSize = ByteSize::kib(64);

fn parse_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size >= SMALLEST_FILE { Ok(size) } else { Err(format!("must be at least {SMALLEST_FILE}")) }
}

/// Shortest and longest time between two proofs: below it costs more than it tells, above the lapse is longer than any
/// attack needs.
const PROOF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

fn parse_proof(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if PROOF.contains(&interval) { Ok(interval) } else { Err("must be from 100ms to 1m".into()) }
}

/// Shortest and longest time between two questions to CrowdSec: more often would be felt there, and what is asked for less
/// often is of no use in an attack.
const QUESTION: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

fn parse_question(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if QUESTION.contains(&interval) { Ok(interval) } else { Err("must be from 100ms to 1h".into()) }
}

/// Arguments of `show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// A prefix or address.
    #[arg(value_name = "PREFIX")]
    pub prefix: String,
    /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
    #[arg(long)]
    pub mask: bool,
}

/// Arguments of `debug`.
#[derive(Clone, Debug, Args)]
pub struct DebugArgs {
    /// The interface.
    #[arg(value_name = "IFACE")]
    pub interface: String,
    /// How long, at most an hour: what is forgotten in a terminal must not slow a server for days.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = parse_look)]
    pub for_time: Duration,
}

/// Arguments of `metrics`.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// Answer those who ask at http://IP:PORT/metrics, or on the socket unix:PATH, until a signal ends it. IP must be of this
    /// host's loopback device: nobody is asked for a password.
    #[arg(long, value_name = "ADDR", value_parser = Address::parse)]
    pub listen: Option<Address>,
}

/// Arguments of `audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Lines to show, the newest last.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub last: u32,
}

/// Arguments of `resize`.
#[derive(Clone, Debug, Args)]
pub struct ResizeArgs {
    /// Most IPv4 entries, allow and block together; as before if not given.
    #[arg(long, value_name = "N", value_parser = capacity(), required_unless_present = "max_ipv6")]
    pub max_ipv4: Option<u32>,
    /// Most IPv6 entries, allow and block together; as before if not given.
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub max_ipv6: Option<u32>,
}

/// Arguments of `unload`.
#[derive(Clone, Debug, Args)]
pub struct UnloadArgs {
    /// Interfaces to stop filtering.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// All interfaces.
    #[arg(long)]
    pub all: bool,
}

/// What to do with the entries of one action.
#[derive(Clone, Debug, Subcommand)]
pub enum EntryCommand {
    /// Add entries for source prefixes, or extend those there are.
    #[command(after_help = "Examples:
  filter-ctl block add 203.0.113.0/24 2001:db8:bad::/48 --ttl 2h --reason 'SYN flood'
  filter-ctl block add - < prefixes.txt

An address alone is /32 or /128. Adding again keeps the later deadline. All prefixes are checked
before the first is written. With `-` a line holds one prefix; `#` starts a comment.")]
    Add(AddArgs),
    /// Add entries from a file in any format that lists have, once. `list add` keeps a list that can be brought up to date.
    #[command(after_help = "Examples:
  filter-ctl block import attackers.csv --column ip --ttl 2h --reason 'SYN flood'
  ipset save | filter-ctl block import -

All or nothing. Exit code 1, and nothing is added, if anything in it is no entry.")]
    Import(ImportArgs),
    /// Remove entries, by exactly the prefix they were made with.
    #[command(after_help = "Example:
  filter-ctl block del 203.0.113.0/24

Exit code 5 if none of the prefixes has an entry, 4 if only some have.")]
    Del(DelArgs),
    /// List entries.
    #[command(after_help = "Example:
  filter-ctl block list --json | jq -r '.entries[].prefix'")]
    List,
    /// Remove all entries of this kind.
    #[command(
        after_help = "Example, with a copy that can be read back (deadlines and reasons are only in the JSON):
  filter-ctl block list --json | tee before.json | jq -r '.entries[].prefix' > before.txt
  filter-ctl block flush
  filter-ctl block add - < before.txt"
    )]
    Flush(FlushArgs),
}

/// Arguments of `block add` and `allow add`.
#[derive(Clone, Debug, Args)]
pub struct AddArgs {
    /// Prefixes or addresses, or `-` to read them from standard input.
    #[arg(required = true, value_name = "PREFIX")]
    pub prefixes: Vec<String>,
    /// Remove the entries by themselves after this time, such as 90s, 1h or 2d.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
    /// Why; shown wherever the entry is.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
    #[arg(long)]
    pub mask: bool,
    /// Even if it would cut off this host, its gateway or an SSH session.
    #[arg(long)]
    pub force: bool,
    /// Even if it would cut an SSH session; what would cut off this host or its gateway is refused all the same.
    #[arg(long, conflicts_with = "force")]
    pub cut_ssh: bool,
    /// Who holds it; each owner has a deadline and a reason of its own, and the entry stays until the last lets go.
    #[arg(long, value_name = "NAME", default_value = "manual")]
    pub owner: String,
}

/// Arguments of `block import` and `allow import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The file, or `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How it is read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Remove the entries by themselves after this time; otherwise as long as the file says, or for ever.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
    /// Why; shown wherever the entry is.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Even if it would cut off this host, its gateway or an SSH session.
    #[arg(long)]
    pub force: bool,
    /// Only say what it holds.
    #[arg(long)]
    pub dry_run: bool,
    /// Who holds the entries.
    #[arg(long, value_name = "NAME", default_value = "manual")]
    pub owner: String,
}

/// How a list is read.
#[derive(Clone, Debug, Args)]
pub struct ReadingArgs {
    /// Its format; recognised by what is in it if not given.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// The column of a CSV file that holds addresses or prefixes, by its header.
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
    #[arg(long)]
    pub mask: bool,
}

/// What to do with lists.
#[derive(Clone, Debug, Subcommand)]
pub enum ListCommand {
    /// Add a list and put it in force; or give one that is there another source or other bounds.
    #[command(after_help = "Examples:
  filter-ctl list add drop --url https://www.spamhaus.org/drop/drop_v4.json --refresh 12h
  filter-ctl list add level1 --file firehol_level1.netset --dry-run
  filter-ctl list add partners --file partners.txt --action allow
  filter-ctl list add abuse --url https://api.example/blacklist --headers-file /etc/filter-ctl/abuse.headers

All or nothing: if the list is empty, cut short, no list, or out of bounds, nothing is changed. It never
blocks what `never list` shows. With the daemon, it is fetched again every --refresh.")]
    Add(ListAddArgs),
    /// Bring a list up to date, or all of them.
    #[command(after_help = "Examples:
  filter-ctl list update
  filter-ctl list update drop --dry-run

Exit code 1 if a list is not taken, and the generation that was in force still is; 4 if only some are.")]
    Update(ListUpdateArgs),
    /// Show all lists: entries, age, packets, and what went wrong.
    #[command(after_help = "Example:
  filter-ctl list ls --json | jq '.lists[] | {name, packets, trouble}'")]
    Ls,
    /// Show a list: where it comes from, its generations, its busiest entries, and what was taken out of it.
    #[command(after_help = "Example:
  filter-ctl list show drop --top 20")]
    Show {
        /// The list.
        name: String,
        /// Entries to show, those with most packets first.
        #[arg(long, value_name = "N", default_value_t = 10)]
        top: usize,
    },
    /// Remove a list. What others hold stays.
    #[command(after_help = "Example:
  filter-ctl list remove level1")]
    Remove {
        /// The list.
        name: String,
    },
    /// Put an earlier generation of a list in force, and hold it there until `list update`.
    #[command(after_help = "Examples:
  filter-ctl list rollback drop           the generation before
  filter-ctl list rollback drop --to 7")]
    Rollback {
        /// The list.
        name: String,
        /// The generation; `list show` has their numbers.
        #[arg(long, value_name = "GENERATION")]
        to: Option<i64>,
    },
}

/// Arguments of `list add`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("from").required(true))]
pub struct ListAddArgs {
    /// Its name: letters, digits and any of `-_.`.
    pub name: String,
    /// The file that it comes from; read again at each update, by the daemon as well: root's, and not in /root, /home or /tmp.
    #[arg(long, value_name = "FILE", group = "from")]
    pub file: Option<PathBuf>,
    /// The server that it comes from: https, or http to this host itself.
    #[arg(long, value_name = "URL", group = "from")]
    pub url: Option<String>,
    /// File with the URL, for one that holds a secret, which a process list would show.
    #[arg(long, value_name = "FILE", group = "from")]
    pub url_file: Option<PathBuf>,
    /// File with headers for the server, one a line, such as `Authorization: Bearer …`.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub headers_file: Option<PathBuf>,
    /// How it is read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// What its entries do.
    #[arg(long, value_enum, default_value_t = Action::Block)]
    pub action: Action,
    /// Time between two fetches by the daemon, a tenth more or less; none if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_refresh)]
    pub refresh: Option<Duration>,
    /// Most percent by which an update may have more entries.
    #[arg(long, value_name = "PERCENT", default_value_t = Bounds::default().grow_percent)]
    pub max_growth: u32,
    /// Most percent of its entries that an update may lack.
    #[arg(long, value_name = "PERCENT", default_value_t = Bounds::default().shrink_percent, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub max_shrink: u32,
    /// Most percent of it that may be no entry.
    #[arg(long, value_name = "PERCENT", default_value_t = Bounds::default().refused_percent, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub max_refused: u32,
    /// Shortest IPv4 prefix that it may hold.
    #[arg(long, value_name = "LENGTH", default_value_t = Bounds::default().shortest_v4, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub shortest_ipv4: u8,
    /// Shortest IPv6 prefix that it may hold.
    #[arg(long, value_name = "LENGTH", default_value_t = Bounds::default().shortest_v6, value_parser = clap::value_parser!(u8).range(0..=128))]
    pub shortest_ipv6: u8,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Take it although it is out of bounds, this once; never an empty one.
    #[arg(long)]
    pub force: bool,
}

fn parse_refresh(text: &str) -> Result<Duration, String> {
    /// Longest time between two fetches: what is older is no list of attackers any more.
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);
    let refresh = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (SHORTEST_REFRESH..=LONGEST).contains(&refresh) {
        Ok(refresh)
    } else {
        Err("must be from 1m to 30d".into())
    }
}

/// Arguments of `list update`.
#[derive(Clone, Debug, Args)]
pub struct ListUpdateArgs {
    /// The list; all if not given.
    pub name: Option<String>,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Take it although it is out of bounds, this once; never an empty one.
    #[arg(long, requires = "name")]
    pub force: bool,
}

/// What to do with what no list may block.
#[derive(Clone, Debug, Subcommand)]
pub enum NeverCommand {
    /// Add prefixes that no list may block.
    #[command(after_help = "Example:
  filter-ctl never add 10.0.0.0/8 --reason 'management network'")]
    Add {
        /// Prefixes or addresses, or `-` to read them from standard input.
        #[arg(required = true, value_name = "PREFIX")]
        prefixes: Vec<String>,
        /// Why; shown wherever it is.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
        #[arg(long)]
        mask: bool,
    },
    /// Remove prefixes that an operator added.
    #[command(after_help = "Example:
  filter-ctl never del 10.0.0.0/8

Exit code 5 if no operator added any of them, 4 if only some were.")]
    Del {
        /// Prefixes or addresses, or `-` to read them from standard input.
        #[arg(required = true, value_name = "PREFIX")]
        prefixes: Vec<String>,
        /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
        #[arg(long)]
        mask: bool,
    },
    /// Show what no list may block: what this host has and needs, and what operators added.
    #[command(after_help = "Example:
  filter-ctl never list --json | jq -r '.never[].prefix'")]
    List,
}

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The format [default: plain, or json with --json].
    #[arg(long, value_enum)]
    pub format: Option<ExportFormat>,
    /// Only what this list holds, as it is enforced.
    #[arg(long, value_name = "NAME")]
    pub list: Option<String>,
    /// Entries that do this.
    #[arg(long, value_enum, default_value_t = Action::Block)]
    pub action: Action,
}

/// Formats that entries are printed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// A prefix a line.
    Plain,
    /// For `ipset restore`.
    Ipset,
    /// For `nft -f`.
    Nft,
    /// JSON, with owners and ends.
    Json,
}

/// Arguments of `block flush` and `allow flush`.
#[derive(Clone, Debug, Args)]
pub struct FlushArgs {
    /// Only what this owner holds; otherwise everybody's.
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
}

/// Arguments of `block del` and `allow del`.
#[derive(Clone, Debug, Args)]
pub struct DelArgs {
    /// Who lets go.
    #[arg(long, value_name = "NAME", default_value = "manual")]
    pub owner: String,
    /// Let go for all owners, so that the entry is gone.
    #[arg(long, conflicts_with = "owner")]
    pub any_owner: bool,
    /// Prefixes or addresses, or `-` to read them from standard input.
    #[arg(required = true, value_name = "PREFIX")]
    pub prefixes: Vec<String>,
    /// Clear host bits, so that 192.0.2.7/24 means 192.0.2.0/24.
    #[arg(long)]
    pub mask: bool,
}

/// Arguments of `stats`.
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// Show them again every S seconds (1 if not given), with rates over that time.
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "1", value_parser = parse_interval)]
    pub watch: Option<Duration>,
    /// Time over which rates are taken; 0s shows totals at once.
    #[arg(long, value_name = "TIME", default_value = "1s", conflicts_with = "watch", value_parser = parse_wait)]
    pub over: Duration,
    /// Entries to show, those with most packets first.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Show every entry, in their order, also those that decided nothing.
    #[arg(long, conflicts_with = "top")]
    pub all: bool,
    /// Print totals for Prometheus, as `metrics` does.
    #[arg(long, conflicts_with_all = ["json", "watch", "over", "top", "all"])]
    pub prometheus: bool,
}

/// Arguments of `history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// How far back to look, such as 10m, 12h or 30d.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub since: Duration,
    /// Only this interface.
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
}

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// What frames are told apart by.
    #[arg(value_enum)]
    pub by: By,
    /// Frames that pass, in place of those that are dropped; `record passed` records them, and so does --for.
    #[arg(long)]
    pub passed: bool,
    /// How far back to look, such as 5m or 2h; as far as is recorded if not given.
    #[arg(long, value_name = "TIME", conflicts_with = "for_time", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// How long to look at what comes, such as 10s, with rates.
    #[arg(long = "for", id = "for_time", value_name = "TIME", value_parser = parse_look)]
    pub for_time: Option<Duration>,
    /// Groups to show.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: usize,
    /// Only this interface.
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
}

/// Shortest and longest time over which samples are gathered: below, a kernel that has seldom ticks may sample none; above,
/// they would fill the memory.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

fn parse_look(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if LOOK.contains(&time) { Ok(time) } else { Err("must be from 1s to 1h".into()) }
}

/// Longest wait for the lock: nobody waits a day, and longer times overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

fn parse_wait(text: &str) -> Result<Duration, String> {
    let wait = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if wait <= LONGEST_WAIT { Ok(wait) } else { Err("must be at most a day".into()) }
}

/// Arguments of `explain`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct ExplainArgs {
    /// A source address.
    #[arg(value_name = "ADDR", group = "what")]
    pub address: Option<IpAddr>,
    /// A frame in hex, from the destination MAC address on.
    #[arg(long, value_name = "HEX", group = "what")]
    pub frame: Option<String>,
    /// A packet of a pcap or pcapng file, by its number from 1.
    #[arg(long, value_name = "FILE:N", group = "what")]
    pub pcap: Option<String>,
    /// Ask no kernel: decide here, with the entries given by --block and --allow.
    #[arg(long)]
    pub offline: bool,
    /// A blocked prefix.
    #[arg(long, value_name = "PREFIX", requires = "offline")]
    pub block: Vec<String>,
    /// An allowed prefix.
    #[arg(long, value_name = "PREFIX", requires = "offline")]
    pub allow: Vec<String>,
    /// A fault that passes; `malformed list` has their names.
    #[arg(long, value_name = "REASON", requires = "offline")]
    pub tolerate: Vec<String>,
}

/// What to do with the faults of frames.
#[derive(Clone, Debug, Subcommand)]
pub enum MalformedCommand {
    /// List the faults, and what happens to frames that have them.
    #[command(after_help = "Example:
  filter-ctl malformed list")]
    List,
    /// Let frames with these faults pass, counted and unread: from blocked sources as well.
    #[command(after_help = "Example:
  filter-ctl malformed pass udp_length")]
    Pass {
        /// Names of faults.
        #[arg(required = true, value_name = "REASON")]
        reasons: Vec<String>,
    },
    /// Drop frames with these faults, as at first.
    #[command(after_help = "Example:
  filter-ctl malformed drop udp_length")]
    Drop {
        /// Names of faults.
        #[arg(required = true, value_name = "REASON")]
        reasons: Vec<String>,
    },
}

/// Shortest and longest time between two looks, in seconds: below, reading costs more than it shows; above,
/// nobody is watching.
const WATCH_S: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if WATCH_S.contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("must be from {} to {} seconds", WATCH_S.start(), WATCH_S.end()))
    }
}

/// The command line's definition. `block` and `allow` share their types, so the examples of `allow` are made
/// from those of `block`.
pub fn definition() -> clap::Command {
    let mut definition = Cli::command();
    let allow = definition.find_subcommand_mut("allow").expect("defined above");
    for verb in allow.get_subcommands_mut() {
        if let Some(examples) = verb.get_after_help() {
            let examples = examples
                .to_string()
                .replace("filter-ctl block", "filter-ctl allow")
                .replace("SYN flood", "our monitoring");
            let owned = std::mem::replace(verb, clap::Command::new("placeholder"));
            *verb = owned.after_help(examples);
        }
    }
    definition
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().expect("no mode is skipped").get_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example_of_its_own() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path}{}", command.get_name());
            let subcommands: Vec<_> = command.get_subcommands().collect();
            if subcommands.is_empty() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&path), "`{path} --help` has no example");
            }
            for subcommand in subcommands {
                check(subcommand, &format!("{path} "));
            }
        }
        check(&definition(), "");
    }

    #[test]
    fn intervals_are_bounded() {
        assert!(parse_wait("300000000000y").is_err() && parse_wait("1d").is_ok());
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}
