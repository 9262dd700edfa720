//! `reboot`: a machine that filters is restarted, cut off and damaged, and must filter as before. The story is a table;
//! below it is what its words mean. How the machine is made and spoken with is `debian`'s matter.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command::{Run, build_filter_ctl};
use crate::debian::{Answer, Contents, Debian};
use crate::kernels::Kernels;
use crate::setup::{self, Scope};

/// One of Debian 12, which the machine has.
const KERNEL: &str = "6.1";
/// Seconds for the whole story, which takes two minutes on an idle machine.
const SECONDS: u32 = 900;
/// Seconds by which clocks may differ: entries and the machine's battery-backed clock count whole ones.
const SLACK_S: f64 = 5.0;

/// One step: what it shows, and what is done for it.
type Step = (&'static str, Deed);

enum Deed {
    /// A command that must succeed.
    Run(&'static str),
    /// A command that must succeed, and a text that must be in what it writes.
    Says(&'static str, &'static str),
    /// Of [`SOURCES`], exactly these must get an answer to their pings.
    Answers(&'static [&'static str]),
    /// The entries must be exactly these, as `ACTION PREFIX: REASON, ends`, and as much of their time be over as passed.
    Entries(&'static [&'static str]),
    /// A command that ends in a restart.
    Restart(&'static str),
    /// In this boot, the filter must have been there while the interface was down.
    FilteredBeforeNetwork,
}
use Deed::{Answers, Entries, FilteredBeforeNetwork, Restart, Run as Do, Says};

/// Where pings come from: nobody's; a blocked prefix; an allowed address in it; blocked for a time; blocked later.
const SOURCES: [&str; 5] = ["192.0.2.2", "203.0.113.5", "203.0.113.9", "198.51.100.7", "192.0.2.66"];

const STORY: &[Step] = &[
    // First boot.
    ("the first boot has nothing to bring back, and is none the worse", Do(RESTORE_SUCCEEDED)),
    ("all are answered", Answers(&SOURCES)),
    ("the filter is loaded", Says("filter-ctl load wan0 --mode native", "native")),
    ("a prefix is blocked", Do("filter-ctl block add 203.0.113.0/24 --reason keep")),
    ("an address is blocked for an hour", Do("filter-ctl block add 198.51.100.7 --ttl 1h")),
    ("an address is allowed", Do("filter-ctl allow add 203.0.113.9")),
    ("the blocked are not answered", Answers(&["192.0.2.2", "203.0.113.9", "192.0.2.66"])),
    ("the entries are there", Entries(&KEPT)),
    ("the daemon runs", Do("systemctl is-active filter-ctl")),
    ("a killed daemon comes back, and no packet got through meanwhile", Do(KILL_DAEMON)),
    ("a reload is heard", Do("systemctl reload filter-ctl && systemctl is-active filter-ctl")),
    ("a stopped daemon leaves the filter alone", Do("systemctl stop filter-ctl")),
    ("the blocked are not answered", Answers(&["192.0.2.2", "203.0.113.9", "192.0.2.66"])),
    ("the machine is rebooted", Restart("systemctl start filter-ctl && systemctl reboot")),
    // Second boot.
    ("the filter was there before the network", FilteredBeforeNetwork),
    ("the entries are there", Entries(&KEPT)),
    ("the blocked are not answered", Answers(&["192.0.2.2", "203.0.113.9", "192.0.2.66"])),
    ("the daemon runs", Do("systemctl is-active filter-ctl")),
    (
        "power is cut as soon as another prefix is blocked",
        Restart("filter-ctl block add 192.0.2.64/28 --reason last && echo b >/proc/sysrq-trigger"),
    ),
    // Third boot.
    ("the filter was there before the network", FilteredBeforeNetwork),
    ("all entries are there, the last as well", Entries(&KEPT_AND_LAST)),
    ("the blocked are not answered", Answers(&["192.0.2.2", "203.0.113.9"])),
    ("the store is damaged, and power cut", Restart(DAMAGE)),
    // Fourth boot.
    ("the filter was there before the network", FilteredBeforeNetwork),
    ("the damage is told", Says("journalctl --boot --unit filter-ctl-restore", "its copy took its place")),
    ("the entries come from the store's copy", Entries(&KEPT_AND_LAST)),
    ("the blocked are not answered", Answers(&["192.0.2.2", "203.0.113.9"])),
    ("the store is lost, and the machine rebooted", Restart(LOSE)),
    // Fifth boot.
    ("there is nothing to bring back, which is no failure", Do(RESTORE_SUCCEEDED)),
    ("and it is said", Says("journalctl --boot --unit filter-ctl-restore", "there is nothing to restore")),
    ("all are answered", Answers(&SOURCES)),
];

const KEPT: [&str; 3] = ["allow 203.0.113.9/32", "block 198.51.100.7/32, ends", "block 203.0.113.0/24: keep"];
const KEPT_AND_LAST: [&str; 4] = [KEPT[0], "block 192.0.2.64/28: last", KEPT[1], KEPT[2]];

const RESTORE_SUCCEEDED: &str = "systemctl is-active filter-ctl-restore";

/// Kills the daemon and waits for another, while a blocked source pings; none of its packets may be answered.
const KILL_DAEMON: &str = "\
    ip netns exec world ping -q -i 0.1 -I 203.0.113.5 192.0.2.1 >/run/pings & \
    before=$(systemctl show --property MainPID --value filter-ctl); \
    systemctl kill --signal KILL filter-ctl; \
    export before; timeout 30 bash -c 'until systemctl is-active --quiet filter-ctl && \
    [ $(systemctl show --property MainPID --value filter-ctl) != $before ]; do sleep 0.1; done'; \
    came_back=$?; kill -INT $!; wait; cat /run/pings; \
    [ $came_back = 0 ] && grep -q ' 0 received' /run/pings";

/// Overwrites the middle half of the store.
const DAMAGE: &str = "\
    systemctl stop filter-ctl; cd /var/lib/filter-ctl && quarter=$(($(stat -c %s state.db) / 4)) && \
    dd if=/dev/urandom of=state.db bs=$quarter count=2 seek=1 conv=notrunc,fsync status=none && \
    echo b >/proc/sysrq-trigger";

const LOSE: &str = "systemctl stop filter-ctl; rm -r /var/lib/filter-ctl && systemctl reboot";

/// The units under test, as they are shipped.
const UNITS: [&str; 2] = ["filter-ctl-restore.service", "filter-ctl.service"];

/// The interfaces are the ends of one cable. They get their names as on any Debian, some time after the boot begins.
const CABLE: [&str; 8] = [
    "-netdev",
    "hubport,hubid=0,id=wan",
    "-device",
    "virtio-net-pci,netdev=wan,mac=02:00:00:00:00:01",
    "-netdev",
    "hubport,hubid=0,id=world",
    "-device",
    "virtio-net-pci,netdev=world,mac=02:00:00:00:00:02",
];

const FILES: [(&str, &str); 4] = [
    ("/etc/systemd/network/10-wan0.link", "[Match]\nMACAddress=02:00:00:00:00:01\n[Link]\nName=wan0\n"),
    ("/etc/systemd/network/10-world0.link", "[Match]\nMACAddress=02:00:00:00:00:02\n[Link]\nName=world0\n"),
    // All sources are on the link. The last line of it is what `PREPARE` waits for.
    (
        "/etc/systemd/network/wan0.network",
        "[Match]\nName=wan0\n[Network]\nAddress=192.0.2.1/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\
         [Route]\nDestination=198.51.100.0/24\nScope=link\n[Route]\nDestination=203.0.113.0/24\nScope=link\n",
    ),
    ("/etc/systemd/system/before-network.service", BEFORE_NETWORK),
];

/// Notes what is filtered, and whether the interface is up, at the last moment before networks may be set up.
const BEFORE_NETWORK: &str = "[Unit]
DefaultDependencies=no
After=filter-ctl-restore.service
Wants=network-pre.target
Before=network-pre.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ip -json link show wan0 >/run/link-before-network; filter-ctl status --json >/run/status-before-network'
[Install]
WantedBy=sysinit.target
";

/// Puts the other end of the cable into a namespace of its own, with all sources, and waits for this end's network.
const PREPARE: &str = "
udevadm settle
ip netns add world
ip link set world0 netns world
for source in $SOURCES; do ip -n world address add $source/32 dev world0; done
ip -n world link set world0 up
ip -n world route add 192.0.2.1 dev world0
until ip route show dev wan0 | grep -q 203.0.113.0; do sleep 0.1; done
";

/// Pings from all sources at once, and names those that are answered.
const PINGS: &str = "\
    for source in $SOURCES; do \
    ip netns exec world ping -q -c 2 -i 0.2 -W 2 -I $source 192.0.2.1 >/dev/null && echo $source & \
    done; wait";

/// `cargo xtask reboot`
#[derive(clap::Args)]
pub struct Args {
    /// Series of Debian's kernels, as 6.12
    #[arg(default_value = KERNEL)]
    kernel: String,
}

impl Args {
    /// The default kernel.
    pub fn all() -> Self {
        Self { kernel: KERNEL.to_owned() }
    }
}

/// Tells the story, and stops at the first step that fails.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Disk)?;
    let filter_ctl = build_filter_ctl(&[])?;
    // Debug information is most of a binary.
    let stripped = filter_ctl.with_extension("stripped");
    Run::new("strip").arg("--strip-debug").arg("-o").args([&stripped, &filter_ctl]).run()?;
    let units =
        UNITS.map(|unit| (format!("filter-ctl/systemd/{unit}"), format!("/usr/lib/systemd/system/{unit}")));
    let mut files = vec![(stripped.as_path(), "/usr/bin/filter-ctl")];
    files.extend(units.iter().map(|(file, target)| (Path::new(file), target.as_str())));
    let prepare = PREPARE.replace("$SOURCES", &SOURCES.join(" "));
    let contents = Contents {
        files: &files,
        texts: &FILES,
        enabled: &[UNITS[0], UNITS[1], "before-network.service", "systemd-networkd.service"],
        prepare: &prepare,
    };

    let kernels = Kernels::open()?;
    let kernel = kernels.kernel(&args.kernel)?;
    let start = Instant::now();
    let debian = Debian::boot(&kernels, &kernel, &contents, &CABLE, SECONDS)?;
    println!(
        "{:5.1} s  a new machine has started, with kernel {}",
        start.elapsed().as_secs_f64(),
        kernel.series
    );
    let mut host = Host { debian, left: BTreeMap::new() };
    for (what, deed) in STORY {
        let step_start = Instant::now();
        if let Err(error) = host.perform(deed) {
            println!("FAILED  {what}");
            host.debian.show_last_words();
            return Err(error.context(format!("not so: {what}")));
        }
        println!("{:5.1} s  {what}", step_start.elapsed().as_secs_f64());
    }
    println!("the filter outlived all of it, in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The machine that filters, and what is known of it.
struct Host {
    debian: Debian,
    /// The time that each prefix had left when it was last looked at.
    left: BTreeMap<String, (f64, Instant)>,
}

impl Host {
    fn perform(&mut self, deed: &Deed) -> Result<()> {
        match deed {
            Do(command) => self.run(command).map(drop),
            Says(command, text) => {
                let answer = self.run(command)?;
                ensure!(
                    answer.output.contains(text),
                    "`{command}` does not say `{text}`:\n{}",
                    answer.output
                );
                Ok(())
            }
            Answers(expected) => {
                let answer = self.run(&PINGS.replace("$SOURCES", &SOURCES.join(" ")))?;
                let mut answered: Vec<&str> = answer.output.lines().collect();
                answered.sort_by_key(|source| SOURCES.iter().position(|known| known == source));
                ensure!(answered == *expected, "answered were {answered:?}, and not {expected:?}");
                Ok(())
            }
            Entries(expected) => self.compare_entries(expected),
            Restart(command) => self.debian.restart(command),
            FilteredBeforeNetwork => {
                let link = self.json("cat /run/link-before-network")?;
                let is_up =
                    link[0]["flags"].as_array().context("a link without flags")?.contains(&"UP".into());
                ensure!(!is_up, "wan0 was up already: {link}");
                let status = self.json("cat /run/status-before-network")?;
                let interface = &status["interfaces"][0];
                ensure!(
                    interface["interface"] == "wan0" && interface["state"] == "attached",
                    "wan0 was not filtered: {status}"
                );
                Ok(())
            }
        }
    }

    fn compare_entries(&mut self, expected: &[&str]) -> Result<()> {
        let now = Instant::now();
        let mut found = Vec::new();
        for action in ["allow", "block"] {
            let list = self.json(&format!("filter-ctl {action} list --json"))?;
            for entry in list["entries"].as_array().context("no entries")? {
                let prefix = entry["prefix"].as_str().context("an entry without a prefix")?;
                let reason = entry["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
                let left_s = entry["expires_in_s"].as_f64();
                found.push(format!(
                    "{action} {prefix}{reason}{}",
                    if left_s.is_some() { ", ends" } else { "" }
                ));
                let Some(left_s) = left_s else { continue };
                if let Some((before_s, then)) = self.left.insert(prefix.to_owned(), (left_s, now)) {
                    let passed_s = now.duration_since(then).as_secs_f64();
                    ensure!(
                        (before_s - left_s - passed_s).abs() < SLACK_S,
                        "{prefix} had {before_s} s left, and has {left_s} s after {passed_s:.0} s"
                    );
                }
            }
        }
        found.sort();
        ensure!(found == expected, "the entries are {found:#?}\nand not {expected:#?}");
        Ok(())
    }

    fn json(&mut self, command: &str) -> Result<Value> {
        let answer = self.run(command)?;
        serde_json::from_str(&answer.output).with_context(|| format!("`{command}` wrote {}", answer.output))
    }

    /// Runs a command that must succeed.
    fn run(&mut self, command: &str) -> Result<Answer> {
        let answer = self.debian.run(command)?;
        if answer.code == 0 {
            return Ok(answer);
        }
        bail!("`{command}`: exit code {}\n{}{}", answer.code, answer.output, answer.errors)
    }
}
