//! The demonstration, `cargo xtask demo`: a service under a flood, without the filter and with it. Every number
//! it prints was measured in this run, and it fails if a step does not show what it should.

mod console;
mod traffic;
mod world;

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use filter_tests::flood::Flood;

use crate::console::{Console, INTERRUPTED, Interrupted};
use crate::traffic::{Clients, Tally};
use crate::world::{CLIENTS, FLOOD, INGRESS, World};

/// How long each state is measured: hundreds of requests, even under the flood.
const MEASURED: Duration = Duration::from_secs(4);

/// Time from a change until its effect is measured: connections that lost a packet try again after one second.
const SETTLING: Duration = Duration::from_secs(2);

/// Longest flood, if nobody ends it.
const FLOOD_LIMIT: Duration = Duration::from_secs(75);

/// Addresses that are blocked beside the flood's: as many as all public blocklists together hold.
const MILLION: u32 = 1_000_000;

/// The least harm that makes a flood: under this share of the quiet rate.
const HURT: f64 = 0.5;

/// What counts as recovered: over this share of the quiet rate. It was 0.99 on a machine with nothing else to
/// do, and 0.82 beside builds that kept both CPUs busy.
const RECOVERED: f64 = 0.7;

fn main() -> ExitCode {
    let Err(error) = Console::new().and_then(|console| story(&console)) else {
        return ExitCode::SUCCESS;
    };
    let interrupted = error.is::<Interrupted>();
    let rest = if interrupted { "; all that it made goes with it" } else { "" };
    // Where even this can't be written, there is nobody to tell.
    let _ = writeln!(io::stderr(), "\ndemo: {error:#}{rest}");
    if interrupted { INTERRUPTED.into() } else { ExitCode::FAILURE }
}

fn story(console: &Console) -> Result<()> {
    ensure!(
        std::env::var_os("FILTER_CTL").is_some(),
        "it is run by `cargo xtask demo`, which builds filter-ctl first"
    );
    let world = World::new()?;
    introduce(console)?;
    let (flood, clients) = (world.flood()?, world.clients());
    let scene = Scene { console, world: &world, clients: &clients, flood: &flood };
    let quiet = scene.quiet()?;
    let running = flood.start(world.internet_cpu(), FLOOD_LIMIT);
    let unfiltered = scene.flooded(&quiet)?;
    scene.load()?;
    let filtered = scene.block(&quiet)?;
    let (million, took) = scene.block_a_million(&quiet)?;
    running.stop()?;
    let dropped = scene.unload()?;
    let states = [
        ("quiet", &quiet),
        ("flood, no filter", &unfiltered),
        ("flood, filtered", &filtered),
        ("+ 1 M prefixes", &million),
    ];
    scene.summary(&states, took, dropped)
}

fn introduce(console: &Console) -> Result<()> {
    let ([v4, v6], [first, second, third]) = (CLIENTS, FLOOD);
    console.line(&format!(
        "A server with a service on TCP port 80; good clients that ask it, {v4} over IPv4
and {v6} over IPv6; and a SYN flood from random hosts in {first},
{second} and {third}. The server has one CPU, and the flood
another. All of it lives in network namespaces of this process and takes less
than a minute. Ctrl-C ends it."
    ))
}

/// Counters at a moment.
struct Snapshot {
    at: Instant,
    requests: Tally,
    sent: u64,
    arrived: u64,
}

/// What happened between two moments.
struct Rates {
    /// Requests answered, a second.
    answered: f64,
    /// Time to an answer, on average, in milliseconds; not a number if there was none.
    took_ms: f64,
    /// Share of the requests that failed.
    failed: f64,
    /// Packets of the flood sent, a second.
    sent: f64,
    /// Packets that came in at the server, a second.
    arrived: f64,
}

impl Rates {
    fn took(&self) -> String {
        if self.took_ms.is_nan() { "-".to_owned() } else { format!("{:.1} ms", self.took_ms) }
    }
}

/// Who acts.
struct Scene<'s> {
    console: &'s Console,
    world: &'s World,
    clients: &'s Clients,
    flood: &'s Flood<'s>,
}

impl Scene<'_> {
    fn quiet(&self) -> Result<Rates> {
        self.console.heading("1. Quiet")?;
        self.console.pause(SETTLING)?;
        let rates = self.measure()?;
        self.tell_service(&rates)?;
        ensure!(
            rates.answered > 0.0 && rates.failed < 0.01,
            "step 1: the service does not even work without a flood"
        );
        Ok(rates)
    }

    fn flooded(&self, quiet: &Rates) -> Result<Rates> {
        self.console.heading("2. A flood, and no filter")?;
        self.console.pause(SETTLING)?;
        let rates = self.measure()?;
        self.tell_flood(&rates)?;
        self.tell_service(&rates)?;
        ensure!(rates.arrived > rates.sent * HURT, "step 2: the flood does not arrive");
        ensure!(
            rates.answered < quiet.answered * HURT,
            "step 2: the flood does not hurt the service, as it would if nothing else kept this machine busy"
        );
        Ok(rates)
    }

    fn load(&self) -> Result<()> {
        self.console.heading("3. The filter is loaded; nothing is blocked yet")?;
        self.filter_ctl(&["load", INGRESS])?;
        self.filter_ctl(&["status"])?;
        ensure!(!self.attached()?.is_empty(), "step 3: no program is on {INGRESS}");
        self.console.pause(SETTLING)?;
        let rates = self.measure()?;
        self.tell_flood(&rates)?;
        self.tell_service(&rates)?;
        ensure!(rates.arrived > rates.sent * HURT, "step 3: the flood does not arrive any more");
        Ok(())
    }

    fn block(&self, quiet: &Rates) -> Result<Rates> {
        self.console.heading("4. The sources of the flood are blocked")?;
        let arguments = [&["block", "add"], &FLOOD[..], &["--ttl", "10m", "--reason", "demo flood"]].concat();
        self.filter_ctl(&arguments)?;
        self.console.pause(SETTLING)?;
        self.filter_ctl(&["stats"])?;
        let rates = self.measure()?;
        self.tell_flood(&rates)?;
        self.console.line("(faster now: its CPU is also the network card's, which has less to do)")?;
        self.tell_service(&rates)?;
        self.dropped()?;
        ensure!(rates.answered > quiet.answered * RECOVERED, "step 4: the service does not recover");
        Ok(rates)
    }

    /// Returns the rates with a million more entries, and how long it took to make them.
    fn block_a_million(&self, quiet: &Rates) -> Result<(Rates, Duration)> {
        self.console.heading("5. A million more addresses are blocked, while the flood goes on")?;
        self.filter_ctl(&["resize", "--max-ipv4", "1100000"])?;
        // From 16.0.0.0 on, far from everybody here, none like its neighbour.
        const FIRST: u32 = 16 << 24;
        const APART: u32 = 613;
        let lines =
            (0..MILLION).map(|number| format!("{}\n", Ipv4Addr::from(FIRST + number * APART))).collect();
        let arguments = ["block", "add", "-", "--reason", "demo list"];
        let took =
            self.console.filter_ctl_with(&self.world.server, &arguments, "a-million-addresses", lines)?;
        self.console.line(&format!("(that took {:.2} s)", took.as_secs_f64()))?;
        self.filter_ctl(&["status"])?;
        self.console.pause(SETTLING)?;
        let before = self.dropped()?;
        let rates = self.measure()?;
        self.tell_flood(&rates)?;
        self.tell_service(&rates)?;
        ensure!(self.dropped()? > before, "step 5: the flood is no longer dropped");
        ensure!(rates.answered > quiet.answered * RECOVERED, "step 5: the service suffers");
        Ok((rates, took))
    }

    /// Returns how many packets were dropped.
    fn unload(&self) -> Result<u64> {
        self.console.heading("6. The flood has ended; the filter is unloaded")?;
        let dropped = self.dropped()?;
        self.filter_ctl(&["unload", "--all"])?;
        ensure!(self.attached()?.is_empty(), "step 6: a program is left on {INGRESS}");
        // The kernel itself shows two files of that name.
        let pins = self.console.look(&self.world.server, "find /sys/fs/bpf -mindepth 1 ! -name '*.debug'")?;
        ensure!(pins.is_empty(), "step 6: pins are left");
        Ok(dropped)
    }

    /// Packets dropped since they were blocked, from every prefix some.
    fn dropped(&self) -> Result<u64> {
        let stats = self.world.server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
        let mut total = 0;
        for prefix in FLOOD {
            let entry =
                stats["entries"].as_array().into_iter().flatten().find(|entry| entry["prefix"] == prefix);
            let dropped = entry.and_then(|entry| entry["packets"].as_u64()).unwrap_or(0);
            ensure!(dropped > 0, "step 4: nothing from {prefix} was dropped");
            total += dropped;
        }
        Ok(total)
    }

    fn summary(&self, states: &[(&str, &Rates)], took: Duration, dropped: u64) -> Result<()> {
        self.console.heading("                   requests/s   answered in   failed   flood packets/s")?;
        for (state, rates) in states {
            let (answered, took, sent) = (whole(rates.answered), rates.took(), whole(rates.sent));
            let failed = rates.failed * 100.0;
            self.console.line(&format!("{state:18} {answered:>10} {took:>13} {failed:>6.1} % {sent:>17}"))?;
        }
        let million = states.last().map_or(0.0, |(_, rates)| rates.sent);
        self.console.line(&format!(
            "1 M prefixes loaded in {:.2} s, and the flood still dropped at {} packets/s",
            took.as_secs_f64(),
            whole(million)
        ))?;
        self.console.line(&format!("dropped by the filter: {} packets", whole(dropped as f64)))
    }

    /// What the kernel says of XDP on the server's interface.
    fn attached(&self) -> Result<String> {
        self.console.look(&self.world.server, &format!("ip link show {INGRESS} | grep prog/xdp"))
    }

    fn filter_ctl(&self, arguments: &[&str]) -> Result<()> {
        self.console.filter_ctl(&self.world.server, arguments)
    }

    fn measure(&self) -> Result<Rates> {
        let before = self.snapshot()?;
        self.console.pause(MEASURED)?;
        let after = self.snapshot()?;
        let per_second = |count: u64| count as f64 / (after.at - before.at).as_secs_f64();
        let requests = after.requests - before.requests;
        Ok(Rates {
            answered: per_second(requests.answered),
            took_ms: requests.waited_us as f64 / requests.answered as f64 / 1000.0,
            failed: requests.failed as f64 / (requests.answered + requests.failed) as f64,
            sent: per_second(after.sent - before.sent),
            arrived: per_second(after.arrived - before.arrived),
        })
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let sent = self.flood.sent()?.iter().map(|(_, sent)| sent).sum();
        Ok(Snapshot {
            at: Instant::now(),
            requests: self.clients.tally(),
            sent,
            arrived: self.flood.arrived()?,
        })
    }

    fn tell_service(&self, rates: &Rates) -> Result<()> {
        let (answered, took, failed) = (whole(rates.answered), rates.took(), rates.failed * 100.0);
        self.console
            .line(&format!("service: {answered} requests/s answered, in {took}; {failed:.1} % failed"))
    }

    fn tell_flood(&self, rates: &Rates) -> Result<()> {
        let (sent, arrived) = (whole(rates.sent), whole(rates.arrived));
        self.console.line(&format!("flood: {sent} packets/s sent; all in all {arrived} packets/s arrive"))
    }
}

/// A number without decimals, its thousands apart: `12,345,678`.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
