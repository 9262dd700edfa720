//! What is wanted survives crashes, full disks, lost parts and other owners; and the daemon keeps it so. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use filter_ctl::control::Control;
use filter_ctl::kernel::Lock;
use filter_ctl::policy::{Action, Key, Prefix};
use filter_tests::kernel_side::{author, open, pins, place, test_run};
use filter_tests::lab::{Finished, Host, Running, eventually, fails, filter_ctl_path};
use serde_json::Value;

const XDP_DROP: u32 = 1;
const STATE: &str = "/var/lib/filter-ctl";
const PIN_ROOT: &str = "/sys/fs/bpf/filter-ctl";

/// Entries that every test of crashes leaves alone.
const STABLE: &str = "203.0.113.7";

/// A host that filters `flt0` with one entry, in small tables.
fn filtering() -> Host {
    let host = Host::new("server").unwrap();
    host.ip("link add flt0 type veth peer name peer0").unwrap();
    host.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    host.ctl(&["block", "add", STABLE, "--reason", "must stay"]).done();
    host
}

/// A frame from an IPv4 address, as `explain` makes it.
fn frame_from(source: &str) -> Vec<u8> {
    filter_ctl::kernel::explain::frame_from(source.parse().unwrap())
}

fn is_dropped(host: &Host, source: &str) -> bool {
    let frame = frame_from(source);
    host.run(|| test_run("flt0", &frame)).unwrap() == XDP_DROP
}

/// All that is wrong, as `verify` finds it.
#[track_caller]
fn all_is_well(host: &Host, when: &str) {
    let verified = host.ctl(&["verify"]);
    assert_eq!(verified.code, Some(0), "{when}: {}{}", verified.stdout, verified.stderr);
}

/// Owners by prefix, of the block entries, as the store has them and the kernel enforces them.
fn held(host: &Host) -> BTreeMap<String, BTreeSet<String>> {
    host.run(|| {
        let control = Control::open(&place(), author()).unwrap();
        let entries = control.filter().entries().unwrap();
        let held = entries.into_iter().map(|(_, entry)| {
            let holds = control.store().unwrap().holds(&entry.key).unwrap();
            let owners = holds.iter().map(|hold| hold.owner.as_str().to_owned()).collect();
            (entry.key.prefix.to_string(), owners)
        });
        held.collect()
    })
}

#[test]
fn a_prefix_is_free_when_its_last_holder_lets_go() {
    let host = filtering();
    host.ctl(&["block", "add", "192.0.2.0/24", "--ttl", "1h", "--reason", "flood"]).done();
    let second =
        host.ctl(&["block", "add", "192.0.2.0/24", "--owner", "fail2ban", "--reason", "sshd"]).done();
    assert!(second.stderr.contains("also held by manual, for 1h"), "{second:?}");
    let shown = host.ctl(&["show", "192.0.2.0/24", "--json"]).done().json();
    let holders = shown["covering"][0]["holders"].as_array().unwrap();
    let said: Vec<_> = holders
        .iter()
        .map(|h| {
            (h["owner"].as_str().unwrap(), h["reason"].as_str().unwrap(), h["creator"].as_str().unwrap())
        })
        .collect();
    assert_eq!(said, [("fail2ban", "sshd", "root"), ("manual", "flood", "root")]);
    assert!(
        holders[0]["expires_in_s"].is_null() && holders[1]["expires_in_s"].as_u64().unwrap() > 3500,
        "{shown}"
    );

    let gone = host.ctl(&["block", "del", "192.0.2.0/24"]).done();
    assert!(gone.stderr.contains("still held by fail2ban"), "{gone:?}");
    assert!(is_dropped(&host, "192.0.2.1"));
    let nothing = host.ctl(&["block", "del", "192.0.2.0/24"]);
    fails(&nothing, 5, &["no block entry 192.0.2.0/24 of this owner", "still held by fail2ban"]);
    host.ctl(&["block", "del", "192.0.2.0/24", "--owner", "fail2ban"]).done();
    assert!(!is_dropped(&host, "192.0.2.1"));

    host.ctl(&["block", "add", "192.0.2.0/24"]).done();
    host.ctl(&["block", "add", "192.0.2.0/24", "--owner", "auto"]).done();
    host.ctl(&["block", "del", "192.0.2.0/24", "--any-owner"]).done();
    assert!(!is_dropped(&host, "192.0.2.1"));
    host.ctl(&["block", "add", "192.0.2.1", "192.0.2.2", "--owner", "auto"]).done();
    let flushed = host.ctl(&["block", "flush", "--owner", "auto"]).done();
    assert!(flushed.stdout.contains("entries of auto: 2 entries"), "{flushed:?}");
    assert!(is_dropped(&host, STABLE));
    fails(&host.ctl(&["block", "add", "192.0.2.1", "--owner", "canary"]), 2, &["nobody acts for it"]);
    fails(&host.ctl(&["block", "add", "192.0.2.1", "--owner", "a b"]), 2, &["can't be an owner"]);
    all_is_well(&host, "at the end");
}

#[test]
fn an_allow_punches_its_hole_in_whichever_order_things_come_and_go() {
    // Allow inside block inside allow inside block; every order of two changes is met by a random walk, against what
    // the README's order says: an allow that covers wins, whatever the lengths.
    let host = filtering();
    let nest =
        [("block", "10.0.0.0/8"), ("allow", "10.1.0.0/16"), ("block", "10.1.2.0/24"), ("allow", "10.1.2.3")];
    let mut random = filter_tests::seeded();
    let mut there: BTreeSet<(usize, &str)> = BTreeSet::new();
    for step in 0..80 {
        let (index, owner) = (random.usize(..nest.len()), ["manual", "fail2ban"][random.usize(..2)]);
        let (action, prefix) = nest[index];
        if there.remove(&(index, owner)) {
            host.ctl(&[action, "del", prefix, "--owner", owner]).done();
        } else {
            there.insert((index, owner));
            host.ctl(&[action, "add", prefix, "--owner", owner, "--force"]).done();
        }
        for source in ["10.9.9.9", "10.1.9.9", "10.1.2.9", "10.1.2.3"] {
            let covers = |action: &str| {
                let host_prefix = Prefix::parse(source, false).unwrap();
                there.iter().any(|(index, _)| {
                    nest[*index].0 == action
                        && Prefix::parse(nest[*index].1, false).unwrap().covers(&host_prefix)
                })
            };
            assert_eq!(
                is_dropped(&host, source),
                covers("block") && !covers("allow"),
                "step {step}: {source}, {there:?}"
            );
        }
    }
    all_is_well(&host, "at the end");
}

/// Trials of the loop of kills: within two minutes in every run of the tests, and as many as are asked for by hand.
fn trials() -> usize {
    std::env::var("FILTER_KILLS").map_or(1000, |text| text.parse().unwrap())
}

/// Prefixes that come and go while commands are killed.
fn group(number: usize) -> Vec<String> {
    (0..8).map(|n| format!("198.18.{number}.{}/32", 16 * n)).collect()
}

#[test]
fn killing_commands_anywhere_loses_and_resurrects_nothing() {
    const GROUPS: usize = 6;
    let host = filtering();
    let mut random = filter_tests::seeded();
    // By group and owner, whether its prefixes are held: what was done for certain.
    let mut model: BTreeSet<(usize, &str)> = BTreeSet::new();
    let mut killed = [0usize; 2];
    // How long a command takes on this machine decides where kills fall.
    let longest = Duration::from_millis(25);
    for trial in 0..trials() {
        let (number, owner) = (random.usize(..GROUPS), ["manual", "fail2ban", "auto"][random.usize(..3)]);
        let is_held = model.contains(&(number, owner));
        let verb = if is_held { "del" } else { "add" };
        let prefixes = group(number);
        let mut arguments = vec!["block", verb, "--owner", owner];
        arguments.extend(prefixes.iter().map(String::as_str));
        let mut child = host.spawn(host.filter_ctl(&arguments)).unwrap();
        thread::sleep(longest.mul_f64(random.f64()));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(is_dropped(&host, STABLE), "trial {trial}");

        let held = held(&host);
        let of_group = |number: usize, owner: &str| {
            let is_held = |prefix: &String| held.get(prefix).is_some_and(|owners| owners.contains(owner));
            group(number).iter().filter(|prefix| is_held(prefix)).count()
        };
        let now = of_group(number, owner);
        assert!(now == 0 || now == prefixes.len(), "trial {trial}: {verb} was half made: {now} prefixes");
        let is_made = (now > 0) != is_held;
        if ended.success() {
            assert!(is_made, "trial {trial}: {verb} {owner} said that it was done");
        } else {
            killed[usize::from(is_made)] += 1;
        }
        if is_made {
            if is_held {
                model.remove(&(number, owner));
            } else {
                model.insert((number, owner));
            }
        }
        for other in 0..GROUPS {
            for owner in ["manual", "fail2ban", "auto"] {
                let wanted = if model.contains(&(other, owner)) { group(other).len() } else { 0 };
                assert_eq!(of_group(other, owner), wanted, "trial {trial}: group {other} of {owner}");
            }
        }
        assert!(held.contains_key("203.0.113.7/32"), "trial {trial}");
        if trial % 50 == 0 {
            all_is_well(&host, &format!("trial {trial}"));
        }
    }
    println!("killed before they were decided: {}, after: {}", killed[0], killed[1]);
    assert!(killed[0] > 0 && killed[1] > 0, "{killed:?}: the kills fall on one side only");
    all_is_well(&host, "at the end");
}

#[test]
fn commands_may_be_killed_at_every_write_and_call() {
    let host = filtering();
    let mut killed = 0;
    for verb in ["add", "del"] {
        for call in [
            "pwrite64",
            "fdatasync",
            "fsync",
            "ftruncate",
            "flock",
            "openat",
            "mmap",
            "bpf",
            "rename",
            "unlink",
        ] {
            // Of calls that come in dozens, one in so many.
            let step = match call {
                "bpf" | "openat" | "mmap" => 7,
                _ => 1,
            };
            for position in (1..).step_by(step) {
                let when = format!("{verb}, {call} {position}");
                if verb == "del" {
                    host.ctl(&["block", "add", "192.0.2.0/24", "192.0.2.9"]).done();
                }
                let mut command = Command::new("strace");
                let inject = format!("inject={call}:signal=KILL:when={position}");
                command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
                command.arg(filter_ctl_path()).args(["block", verb, "192.0.2.0/24", "192.0.2.9"]);
                let ended = Finished::from(host.output(command).unwrap());
                assert!(is_dropped(&host, STABLE), "{when}");
                let held = held(&host);
                let there = ["192.0.2.0/24", "192.0.2.9/32"]
                    .iter()
                    .filter(|prefix| held.contains_key(**prefix))
                    .count();
                assert!(there == 0 || there == 2, "{when}: half made");
                assert_eq!(is_dropped(&host, "192.0.2.9"), there == 2, "{when}");
                all_is_well(&host, &when);
                let is_over = ended.code == Some(0);
                assert!(!is_over || (there == 2) == (verb == "add"), "{when}");
                host.ctl(&["block", "del", "192.0.2.0/24", "192.0.2.9"]);
                if is_over {
                    break;
                }
                killed += 1;
            }
        }
    }
    assert!(killed > 60, "only {killed} commands were killed");
}

/// The store can't be used, in this way, and then it can again.
fn without_a_store(host: &Host, words: &[&str], recover: impl Fn()) {
    let added = host.ctl(&["block", "add", "198.51.100.7", "--reason", "enforced all the same"]);
    fails(&added, 4, words);
    assert!(added.stdout.contains("added: block 198.51.100.7/32"), "{added:?}");
    assert!(is_dropped(host, "198.51.100.7") && is_dropped(host, STABLE));
    assert_eq!(host.ctl(&["status"]).code, Some(4));
    assert_eq!(host.ctl(&["verify"]).code, Some(4));
    // What was there before can be removed as well.
    fails(&host.ctl(&["block", "del", STABLE]), 4, words);
    assert!(!is_dropped(host, STABLE));
    recover();
    all_is_well(host, "with the store again");
    assert_eq!(host.ctl(&["status"]).code, Some(0));
    // It is written down now: it outlives the kernel's tables.
    host.ctl(&["unload", "--all"]).done();
    host.ctl(&["load", "flt0"]).done();
    assert!(is_dropped(host, "198.51.100.7") && !is_dropped(host, STABLE));
    let listed = host.ctl(&["block", "list", "--json"]).done().json();
    assert_eq!(listed["entries"][0]["reason"], "enforced all the same");
}

#[test]
fn on_a_full_disk_entries_are_enforced_and_written_down_later() {
    let host = filtering();
    let fill = || {
        let mut filler = std::fs::File::create("/var/lib/filler").unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    };
    host.sh("mount", ["-o", "remount,size=2m", "/var/lib"]).unwrap();
    host.run(fill);
    without_a_store(&host, &["can't be used", "full"], || {
        host.run(|| std::fs::remove_file("/var/lib/filler")).unwrap();
    });
}

#[test]
fn on_a_read_only_disk_entries_are_enforced_and_written_down_later() {
    let host = filtering();
    host.sh("mount", ["-o", "remount,ro", "/var/lib"]).unwrap();
    without_a_store(&host, &["can't be used", "readonly"], || {
        host.sh("mount", ["-o", "remount,rw", "/var/lib"]).unwrap();
    });
}

#[test]
fn with_a_state_directory_that_others_may_write_entries_are_enforced_all_the_same() {
    let host = filtering();
    host.sh("chmod", ["777", STATE]).unwrap();
    without_a_store(&host, &["can't be used", "chmod 700"], || {
        host.sh("chmod", ["700", STATE]).unwrap();
    });
}

#[test]
fn a_damaged_store_is_made_anew_from_its_copy_and_what_is_enforced() {
    let host = filtering();
    host.ctl(&["block", "add", "192.0.2.7", "--owner", "fail2ban"]).done();
    host.ctl(&["block", "add", "192.0.2.7", "--ttl", "1h"]).done();
    for spoil in [
        "dd if=/dev/urandom of=/var/lib/filter-ctl/state.db bs=1 seek=60 count=9000 conv=notrunc status=none",
        "truncate -s 5000 /var/lib/filter-ctl/state.db",
        "truncate -s 0 /var/lib/filter-ctl/state.db",
        "rm /var/lib/filter-ctl/state.db",
        "rm -r /var/lib/filter-ctl",
    ] {
        host.sh("sh", ["-c", spoil]).unwrap();
        let added = host.ctl(&["block", "add", "198.51.100.9"]);
        assert!(matches!(added.code, Some(0 | 4)), "{spoil}: {added:?}");
        assert!(is_dropped(&host, "198.51.100.9"), "{spoil}");
        let repaired = host.ctl(&["repair"]);
        assert_eq!(repaired.code, Some(0), "{spoil}: {repaired:?}");
        all_is_well(&host, spoil);
        let held = held(&host);
        for prefix in ["203.0.113.7/32", "192.0.2.7/32", "198.51.100.9/32"] {
            assert!(held.contains_key(prefix), "{spoil}: {prefix}");
        }
        assert!(held["192.0.2.7/32"].contains("fail2ban"), "{spoil}");
        host.ctl(&["block", "del", "198.51.100.9"]).done();
    }
}

#[test]
fn each_pin_that_is_taken_away_is_missed_and_put_back() {
    let host = filtering();
    let all = host.sh("find", [PIN_ROOT, "-type", "f"]).unwrap();
    let pins: Vec<&str> = all.lines().collect();
    assert!(pins.len() > 15, "{all}");
    for pin in pins {
        host.run(|| std::fs::remove_file(pin)).unwrap();
        let is_link = pin.contains("/links/");
        let shown = host.ctl(&["status"]);
        let verified = host.ctl(&["verify"]);
        let is_noticed = [&shown, &verified].iter().any(|finished| finished.code != Some(0));
        assert!(is_noticed, "{pin}: {shown:?} {verified:?}");
        if !is_link {
            // What packets meet does not depend on it.
            assert!(runs_xdp(&host, "flt0"), "{pin}");
        }
        let repaired = host.ctl(&["repair"]);
        assert_eq!(repaired.code, Some(0), "{pin}: {repaired:?}");
        all_is_well(&host, pin);
        assert!(is_dropped(&host, STABLE), "{pin}");
        assert_eq!(host.ctl(&["status"]).code, Some(0), "{pin}");
    }
}

#[test]
fn tables_that_are_pinned_nowhere_are_told_from_none() {
    let host = filtering();
    host.run(|| std::fs::remove_dir_all(pins().abi())).unwrap();
    for arguments in [&["status"][..], &["block", "add", "192.0.2.1"], &["verify"]] {
        fails(
            &host.ctl(arguments),
            4,
            &["flt0: filtered by entries whose tables somebody unpinned", "filter-ctl repair"],
        );
    }
    assert!(runs_xdp(&host, "flt0"));
    host.ctl(&["repair"]).done();
    assert!(is_dropped(&host, STABLE));
    all_is_well(&host, "repaired");
}

fn runs_xdp(host: &Host, device: &str) -> bool {
    let shown: Value = serde_json::from_str(&host.ip(&format!("-j link show {device}")).unwrap()).unwrap();
    shown[0].get("xdp").is_some()
}

#[test]
fn entries_that_somebody_else_changed_are_found_at_once_and_put_right() {
    let host = filtering();
    // Another writer, with the right words and without the store.
    host.run(|| {
        let mut filter = open().unwrap();
        let key = Key { action: Action::Block, prefix: Prefix::parse(STABLE, false).unwrap() };
        filter.bring(vec![filter_ctl::plan::Target::Gone(key)]).unwrap();
    });
    assert!(!is_dropped(&host, STABLE));
    fails(&host.ctl(&["status"]), 4, &["somebody else changed them", "filter-ctl repair"]);
    let verified = host.ctl(&["verify"]);
    assert!(
        verified.code == Some(4) && verified.stdout.contains("block 203.0.113.7/32 is not enforced"),
        "{verified:?}"
    );
    host.ctl(&["repair"]).done();
    assert!(is_dropped(&host, STABLE));
    assert_eq!(host.ctl(&["status"]).code, Some(0));
}

#[test]
fn after_a_boot_the_filter_comes_back_from_the_store() {
    let host = filtering();
    host.ip("link add flt1 type veth peer name peer1").unwrap();
    host.ctl(&["load", "flt1", "--mode", "generic"]).done();
    host.ctl(&["malformed", "pass", "udp_length"]).done();
    host.ctl(&["block", "add", "192.0.2.0/24", "--ttl", "1h", "--owner", "fail2ban"]).done();
    // A reboot takes all that is pinned, and the links with it.
    let reboot = || {
        host.sh("sh", ["-c", &format!("rm -rf {PIN_ROOT}/links/* && rm -rf {PIN_ROOT}")]).unwrap();
        eventually("the links are gone", || !runs_xdp(&host, "flt0") && !runs_xdp(&host, "flt1")).unwrap();
    };
    reboot();
    fails(&host.ctl(&["status"]), 3, &["filter-ctl load"]);
    let restored = host.ctl(&["restore"]).done();
    assert!(
        restored.stdout.contains("flt0: filtering again") && restored.stdout.contains("2 entries are"),
        "{restored:?}"
    );
    assert!(is_dropped(&host, STABLE) && is_dropped(&host, "192.0.2.9"));
    let status = host.ctl(&["status", "--json"]).done().json();
    let modes: Vec<_> =
        status["interfaces"].as_array().unwrap().iter().map(|i| i["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["native", "generic"]);
    assert_eq!(status["entries"]["ipv4"]["limit"], 2000);
    let faults = host.ctl(&["malformed", "list", "--json"]).done().json();
    let tolerated = faults["faults"].as_array().unwrap().iter().find(|fault| fault["reason"] == "udp_length");
    assert_eq!(tolerated.unwrap()["verdict"], "pass");
    all_is_well(&host, "after the first boot");
    assert!(host.ctl(&["restore"]).done().stdout.contains("filtered already"));

    // One device is not there: the others are filtered.
    reboot();
    host.ip("link del flt1").unwrap();
    fails(&host.ctl(&["restore", "--wait", "100ms"]), 4, &["flt1: no such interface yet"]);
    assert!(is_dropped(&host, STABLE));

    // What was unloaded stays so.
    host.ctl(&["unload", "--all"]).done();
    let nothing = host.ctl(&["restore"]).done();
    assert!(nothing.stdout.contains("nothing to restore") && !runs_xdp(&host, "flt0"), "{nothing:?}");
}

/// Takes all that is pinned away, as a reboot does, and makes the store believe that it is of another boot.
fn reboot(host: &Host) {
    host.sh("sh", ["-c", &format!("rm -rf {PIN_ROOT}/links/* && rm -rf {PIN_ROOT}")]).unwrap();
    eventually("the link is gone", || !runs_xdp(host, "flt0")).unwrap();
    host.run(|| {
        let db = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
        db.execute("UPDATE state SET boot = 'another'", []).unwrap();
    });
}

#[test]
fn a_boot_without_a_disk_to_write_to_filters_all_the_same() {
    let host = filtering();
    host.ctl(&["block", "add", "192.0.2.1", "--ttl", "1h"]).done();
    reboot(&host);
    host.sh("mount", ["-o", "remount,ro", "/var/lib"]).unwrap();
    fails(&host.ctl(&["restore"]), 4, &["can't be used"]);
    assert!(is_dropped(&host, STABLE) && is_dropped(&host, "192.0.2.1"));
    let left = host.ctl(&["block", "list", "--json"]).json()["entries"][0]["expires_in_s"].as_u64().unwrap();
    assert!((3500..=3600).contains(&left), "{left}");
    host.sh("mount", ["-o", "remount,rw", "/var/lib"]).unwrap();
    host.ctl(&["block", "add", "192.0.2.2"]).done();
    all_is_well(&host, "with a disk");
    assert!(is_dropped(&host, STABLE) && is_dropped(&host, "192.0.2.1"));
}

#[test]
fn a_restore_may_be_killed_at_every_read_and_write() {
    let host = filtering();
    let many: Vec<String> = (0..200).map(|n| format!("198.18.{n}.0/24")).collect();
    let mut arguments = vec!["block", "add"];
    arguments.extend(many.iter().map(String::as_str));
    host.ctl(&arguments).done();
    let mut killed = 0;
    for (call, step) in
        [("pread64", 3), ("pwrite64", 1), ("mmap", 11), ("bpf", 23), ("rename", 1), ("fdatasync", 1)]
    {
        for position in (1..).step_by(step) {
            reboot(&host);
            let mut command = Command::new("strace");
            let inject = format!("inject={call}:signal=KILL:when={position}");
            command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
            command.arg(filter_ctl_path()).arg("restore");
            let ended = Finished::from(host.output(command).unwrap());
            let when = format!("{call} {position}");
            host.ctl(&["restore"]).done();
            assert!(is_dropped(&host, STABLE) && is_dropped(&host, "198.18.77.9"), "{when}");
            all_is_well(&host, &when);
            if ended.code == Some(0) {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 30, "only {killed} restores were killed");
}

#[test]
fn restores_beside_changes_find_no_damage() {
    const CHANGES: usize = 40;
    let host = filtering();
    let restores: Vec<Child> = (0..8).map(|_| host.spawn(host.filter_ctl(&["restore"])).unwrap()).collect();
    for n in 0..CHANGES {
        host.ctl(&["block", "add", &format!("192.0.2.{n}"), "--owner", "fail2ban"]).done();
        if n % 4 == 0 {
            host.ctl(&["restore"]).done();
            host.ctl(&["audit"]).done();
        }
    }
    for restore in restores {
        let ended = Finished::from(restore.wait_with_output().unwrap()).done();
        assert!(!ended.stderr.contains("damaged"), "{ended:?}");
    }
    assert_eq!(host.sh("sh", ["-c", &format!("ls {STATE} | grep -c damaged || true")]).unwrap().trim(), "0");
    assert_eq!(held(&host).len(), 1 + CHANGES);
    all_is_well(&host, "at the end");
}

#[test]
fn what_can_not_be_restored_is_no_success() {
    let host = filtering();
    // The policy is nothing that anybody wrote: it must not be taken for an empty one, and written over.
    host.run(|| {
        let db = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
        db.execute("INSERT INTO policies (at_s, document) VALUES (0, '{')", []).unwrap();
    });
    fails(&host.ctl(&["malformed", "pass", "udp_length"]), 4, &["damaged", "filter-ctl repair"]);
    host.ctl(&["repair"]).done();
    let policy = host.ctl(&["status", "--json"]).done().json()["policy"].to_string();
    assert!(policy.contains("flt0"), "{policy}");
    // Neither the store nor its copy.
    reboot(&host);
    host.sh(
        "sh",
        ["-c", &format!("for f in state.db backup.db; do head -c 9000 /dev/zero > {STATE}/$f; done")],
    )
    .unwrap();
    fails(&host.ctl(&["restore"]), 4, &["damaged", "begun anew"]);
}

/// A daemon that ends with the test.
struct Daemon(Running);

impl Daemon {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut command = host.filter_ctl(&["run", "--proof-interval", "200ms"]);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let daemon = Self(Running(host.spawn(command).unwrap()));
        eventually("the daemon has proven the filter", || {
            let status = host.ctl(&["status", "--json"]);
            serde_json::from_str::<Value>(&status.stdout)
                .is_ok_and(|status| status["daemon"]["proofs"].as_u64() > Some(0))
        })
        .unwrap();
        daemon
    }

    fn signal(&self, name: &str) {
        self.0.signal(name);
    }
}

/// Stops the daemon at a moment at which it does not hold the lock.
fn stop_without_the_lock(host: &Host, daemon: &Daemon) {
    eventually("the daemon is stopped without the lock", || {
        daemon.signal("STOP");
        let is_free = host.run(|| Lock::acquire(&pins(), Duration::from_millis(20)).is_ok());
        if !is_free {
            daemon.signal("CONT");
        }
        is_free
    })
    .unwrap();
}

#[test]
fn who_holds_the_lock_is_named_and_may_be_killed() {
    let host = filtering();
    let mut daemon = Daemon::start(&host, &[]);
    eventually("the daemon is stopped with the lock", || {
        daemon.signal("STOP");
        let is_held = host.run(|| Lock::acquire(&pins(), Duration::from_millis(5)).is_err());
        if !is_held {
            daemon.signal("CONT");
        }
        is_held
    })
    .unwrap();
    let pid = daemon.0.0.id().to_string();
    let refused = host.ctl(&["block", "add", "192.0.2.1", "--lock-wait", "100ms"]);
    fails(&refused, 1, &[&format!("process {pid} ("), "which is stopped", "end it"]);
    assert!(is_dropped(&host, STABLE));
    // Nobody can keep an operator from taking the filter off.
    let unloaded = host.ctl(&["unload", "--all", "--lock-wait", "100ms"]);
    fails(&unloaded, 4, &["flt0 no longer filtered", &format!("process {pid} (")]);
    assert!(!runs_xdp(&host, "flt0"));
    daemon.0.0.kill().unwrap();
    daemon.0.0.wait().unwrap();
    host.ctl(&["load", "flt0"]).done();
    host.ctl(&["block", "add", "192.0.2.1"]).done();
    all_is_well(&host, "without the daemon");
}

#[test]
fn tables_without_room_for_what_the_store_holds_are_not_put_in_force() {
    let host = filtering();
    host.ctl(&["block", "add", "192.0.2.1", "192.0.2.2"]).done();
    host.ctl(&["unload", "--all"]).done();
    fails(&host.ctl(&["load", "flt0", "--max-ipv4", "2"]), 1, &["at most 2 IPv4 entries"]);
    assert!(!runs_xdp(&host, "flt0") && !host.run(|| pins().root().exists()));
    host.ctl(&["load", "flt0", "--max-ipv4", "3"]).done();
    assert!(is_dropped(&host, STABLE) && is_dropped(&host, "192.0.2.2"));
    all_is_well(&host, "at the end");
}

#[test]
fn what_was_unloaded_without_a_store_stays_so() {
    let host = filtering();
    host.ip("link add flt1 type veth peer name peer1").unwrap();
    host.ctl(&["load", "flt1"]).done();
    let daemon = Daemon::start(&host, &[]);
    let looked_again = || {
        let proofs = || daemon_state(&host)["proofs"].as_u64().unwrap_or(0);
        let before = proofs();
        eventually("it looked again", || proofs() > before + 2).unwrap();
    };
    host.sh("chmod", ["777", STATE]).unwrap();
    fails(&host.ctl(&["unload", "flt1"]), 4, &["chmod 700"]);
    looked_again();
    assert!(!runs_xdp(&host, "flt1") && runs_xdp(&host, "flt0"));
    host.sh("chmod", ["700", STATE]).unwrap();
    looked_again();
    assert!(!runs_xdp(&host, "flt1") && runs_xdp(&host, "flt0"));
    let policy = host.ctl(&["status", "--json"]).json()["policy"].to_string();
    assert!(policy.contains("flt0") && !policy.contains("flt1"), "{policy}");
    // And the last one as well.
    host.sh("chmod", ["777", STATE]).unwrap();
    fails(&host.ctl(&["unload", "--all"]), 4, &["chmod 700"]);
    host.sh("chmod", ["700", STATE]).unwrap();
    drop(daemon);
    assert!(host.ctl(&["restore"]).done().stdout.contains("nothing to restore"));
    assert!(!runs_xdp(&host, "flt0"));
    // Until it is wanted again.
    host.ctl(&["load", "flt0"]).done();
    assert!(is_dropped(&host, STABLE));
    all_is_well(&host, "at the end");
}

#[test]
fn a_daemon_that_dies_before_it_begins_leaves_the_command_to_itself() {
    let host = filtering();
    let socket = "/run/filter-ctl/control.sock";
    let listener = host.run(|| {
        std::fs::create_dir_all("/run/filter-ctl").unwrap();
        std::os::unix::net::UnixListener::bind(socket).unwrap()
    });
    let impostor = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line).unwrap();
        stream.write_all(b"\"ready\"\n").unwrap();
    });
    let added = host.ctl(&["block", "add", "192.0.2.55"]);
    impostor.join().unwrap();
    // Whether the word still went out decides what can be known.
    match added.code {
        Some(0) => assert!(is_dropped(&host, "192.0.2.55"), "{added:?}"),
        _ => fails(&added, 1, &["does not say what came of it"]),
    }
}

fn daemon_state(host: &Host) -> Value {
    host.ctl(&["status", "--json"]).json()["daemon"].clone()
}

#[test]
fn with_the_daemon_changes_go_through_it_and_without_it_they_are_made_all_the_same() {
    let host = filtering();
    let mut daemon = Daemon::start(&host, &[]);
    let through = |host: &Host| {
        host.ctl(&["audit", "--last", "1", "--json"]).done().json()["changes"][0]["actor"]["via"].clone()
    };
    let added = host.ctl(&["block", "add", "192.0.2.1", "--json"]).done().json();
    assert_eq!(
        (added["added"][0]["prefix"].as_str(), through(&host).as_str()),
        (Some("192.0.2.1/32"), Some("socket"))
    );
    // Standard input goes with it, and so do errors and exit codes.
    let mut command = host.filter_ctl(&["block", "add", "-"]);
    command.stdin(Stdio::piped());
    let mut child = host.spawn(command).unwrap();
    child.stdin.take().unwrap().write_all(b"192.0.2.2\n192.0.2.3 # three\n").unwrap();
    let ended = Finished::from(child.wait_with_output().unwrap()).done();
    assert_eq!(
        ended.stdout,
        "added: block 192.0.2.2/32, until removed\nadded: block 192.0.2.3/32, until removed\n"
    );
    fails(&host.ctl(&["block", "del", "192.0.2.99"]), 5, &["no block entry 192.0.2.99/32"]);
    fails(&host.ctl(&["block", "add", "0.0.0.0/0"]), 1, &["every address"]);
    // A second one is refused.
    fails(&host.ctl(&["run"]), 1, &["another daemon runs already", &daemon.0.0.id().to_string()]);

    // One that hangs keeps nobody waiting, and does not do later what was done without it.
    stop_without_the_lock(&host, &daemon);
    let without = host.ctl(&["block", "add", "192.0.2.4"]).done();
    assert!(without.stderr.contains("done without the daemon, which does not answer"), "{without:?}");
    host.ctl(&["block", "del", "192.0.2.4"]).done();
    assert!(!is_dropped(&host, "192.0.2.4"));
    daemon.signal("CONT");
    let proofs = daemon_state(&host)["proofs"].as_u64().unwrap();
    eventually("it proves again", || daemon_state(&host)["proofs"].as_u64().unwrap() > proofs + 2).unwrap();
    assert!(!is_dropped(&host, "192.0.2.4"), "the daemon did what nobody waited for");

    // Killed, it leaves a filter that goes on, and the next takes over.
    daemon.0.0.kill().unwrap();
    daemon.0.0.wait().unwrap();
    assert!(is_dropped(&host, "192.0.2.1") && is_dropped(&host, STABLE));
    host.ctl(&["block", "add", "192.0.2.5"]).done();
    assert_eq!(through(&host), "command");
    let daemon = Daemon::start(&host, &[]);
    assert!(is_dropped(&host, "192.0.2.5"));
    // Told to end, it leaves the filter too.
    daemon.signal("TERM");
    eventually("the daemon has ended", || daemon_state(&host).is_null()).unwrap();
    assert!(runs_xdp(&host, "flt0"));
    all_is_well(&host, "without a daemon");
    let listed = host.ctl(&["block", "list", "--json"]).done().json();
    let owners: BTreeSet<&str> =
        listed["entries"].as_array().unwrap().iter().map(|e| e["owner"].as_str().unwrap()).collect();
    assert_eq!(owners, BTreeSet::from(["manual"]), "what proves the filter is no entry of the operator's");
}

#[test]
fn the_daemon_finds_what_somebody_else_did_and_puts_it_right() {
    let host = filtering();
    let log = "/run/events";
    let daemon = Daemon::start(&host, &["--hook", "cat >> /run/events"]);
    let events = |kind: &str| {
        let text = host.run(|| std::fs::read_to_string(log)).unwrap_or_default();
        text.lines().filter(|line| line.contains(&format!("\"event\":\"{kind}\""))).count()
    };
    // An entry.
    host.run(|| {
        let mut filter = open().unwrap();
        let key = Key { action: Action::Block, prefix: Prefix::parse(STABLE, false).unwrap() };
        filter.bring(vec![filter_ctl::plan::Target::Gone(key)]).unwrap();
    });
    eventually("the entry is enforced again", || is_dropped(&host, STABLE)).unwrap();
    eventually("it was told", || events("drift") > 0 && events("repaired") > 0).unwrap();
    // The pin of the link, and all that is pinned: the daemon holds the link, so that not a packet passes.
    let program = || {
        let shown: Value = serde_json::from_str(&host.ip("-j link show flt0").unwrap()).unwrap();
        shown[0]["xdp"]["prog"]["id"].as_u64()
    };
    let before = program();
    host.run(|| std::fs::remove_file(pins().link("flt0"))).unwrap();
    eventually("the link is pinned again", || {
        assert!(runs_xdp(&host, "flt0"));
        host.run(|| pins().link("flt0").exists())
    })
    .unwrap();
    assert_eq!(program(), before);
    host.sh("rm", ["-r", PIN_ROOT]).unwrap();
    eventually("all is pinned again", || {
        assert!(runs_xdp(&host, "flt0"));
        host.ctl(&["verify"]).code == Some(0)
    })
    .unwrap();
    assert!(is_dropped(&host, STABLE));
    assert!(daemon_state(&host)["drifts"].as_u64().unwrap() >= 3);
    eventually("all is well", || host.ctl(&["status"]).code == Some(0)).unwrap();
    drop(daemon);
    all_is_well(&host, "at the end");
}

#[test]
fn the_daemon_follows_interfaces_that_come_go_and_are_renamed() {
    let host = Host::new("server").unwrap();
    host.ctl(&["load", "wan*", "--max-ipv4", "1000", "--max-ipv6", "100"]).done();
    host.ctl(&["block", "add", STABLE]).done();
    let daemon = Daemon::start(&host, &[]);
    host.ip("link add wan0 type veth peer name peer0").unwrap();
    eventually("the new interface is filtered", || runs_xdp(&host, "wan0")).unwrap();
    host.ip("link add eth7 type veth peer name peer7").unwrap();
    host.ip("link set wan0 name ext0").unwrap();
    let names = || -> BTreeSet<String> {
        let status = host.ctl(&["status", "--json"]).json();
        status["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["interface"].as_str().unwrap().to_owned())
            .collect()
    };
    eventually("its new name is known", || names() == BTreeSet::from(["ext0".to_owned()])).unwrap();
    assert!(runs_xdp(&host, "ext0") && !runs_xdp(&host, "eth7"));
    host.ip("link del ext0").unwrap();
    host.ip("link add wan1 type veth peer name peer1").unwrap();
    host.ip("link add ext0 type veth peer name peer2").unwrap();
    eventually("both that came are filtered", || runs_xdp(&host, "wan1") && runs_xdp(&host, "ext0")).unwrap();
    // What was unloaded is not filtered again.
    host.ctl(&["unload", "wan1"]).done();
    let proofs = daemon_state(&host)["proofs"].as_u64().unwrap();
    eventually("it looked again", || daemon_state(&host)["proofs"].as_u64().unwrap() > proofs + 2).unwrap();
    assert!(!runs_xdp(&host, "wan1") && runs_xdp(&host, "ext0"));
    drop(daemon);
}

#[test]
fn groups_may_read_or_block_and_no_more() {
    const NOBODY: u32 = 65_534;
    let host = filtering();
    host.sh("sh", ["-c", "printf 'readers:x:4001:\nblockers:x:4002:\n' > /run/group && cat /etc/group >> /run/group && mount --bind /run/group /etc/group"]).unwrap();
    let program = Path::new("/run/filter-ctl-copy");
    host.run(|| std::fs::copy(filter_ctl_path(), program)).unwrap();
    let _daemon = Daemon::start(&host, &["--read-group", "readers", "--block-group", "blockers"]);
    let as_group = |gid: u32, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).uid(NOBODY).gid(gid).stdin(Stdio::null());
        Finished::from(host.output(command).unwrap())
    };
    assert!(as_group(4001, &["block", "list"]).done().stdout.contains("203.0.113.7/32"));
    as_group(4001, &["status"]).done();
    fails(&as_group(4001, &["block", "add", "192.0.2.1"]), 1, &["does not allow this"]);
    as_group(4002, &["block", "add", "192.0.2.1"]).done();
    assert!(is_dropped(&host, "192.0.2.1"));
    let audit = host.ctl(&["audit", "--last", "1", "--json"]).done().json();
    assert_eq!(audit["changes"][0]["actor"]["uid"], NOBODY, "{audit}");
    for forbidden in [
        &["malformed", "pass", "udp_length"][..],
        &["allow", "add", "192.0.2.1"],
        &["block", "add", "192.0.2.9", "--force"],
        &["block", "add", "192.0.2.9", "--cut-ssh"],
    ] {
        fails(&as_group(4002, forbidden), 1, &["does not allow this"]);
    }
    fails(&as_group(4002, &["unload", "flt0"]), 1, &["run it as root"]);
    assert!(runs_xdp(&host, "flt0"));
    // The daemon reads no file for them.
    fails(&as_group(4002, &["explain", "--pcap", "/etc/shadow:1"]), 1, &["denied"]);
    fails(&as_group(NOBODY, &["status"]), 1, &["does not allow this"]);
}
