//! Debian's fail2ban blocks with filter-ctl, by the action file that comes with it. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use filter_tests::lab::{Finished, Host, bridge, eventually, filter_ctl_path, join};
use serde_json::Value;

/// The action under test.
const ACTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../filter-ctl/fail2ban/filter-ctl.conf");

/// Where fail2ban has all its files, on the lab's host, which nobody else sees.
const DIRECTORY: &str = "/run/f2b";

/// Two jails: one for half an hour, and one for ever, whose name is too long for an owner.
const TIMED: &str = "door";
const BANTIME_S: u64 = 1800;
const FOR_EVER: &str = "a door with a long name";

/// The owner that stands for the long name: its start, and its checksum.
const FOR_EVER_OWNER: &str = "f2b-a_door_wi-3614591969";

/// What fail2ban says where an action failed, and trying it again did.
const FAILED: &str = "Failed to execute";

const FILTER: &str = "[Definition]\nfailregex = ^\\s*refused <ADDR>$\ndatepattern = ^EPOCH\n";

/// The log that a jail reads. fail2ban takes a blank in a path for its end.
fn log_of(jail: &str) -> String {
    format!("{DIRECTORY}/{}.log", jail.replace(' ', "-"))
}

fn jails() -> String {
    let jail = |name: &str, bantime: &str| {
        format!(
            "[{name}]\nenabled = true\nfilter = refused\nlogpath = {}\nbackend = polling\n\
             maxretry = 1\nbantime = {bantime}\nignoreself = false\n\
             action = filter-ctl[filter_ctl=\"{}\"]\n",
            log_of(name),
            filter_ctl_path().display()
        )
    };
    jail(TIMED, &BANTIME_S.to_string()) + &jail(FOR_EVER, "-1")
}

/// A server that filters `flt0`, and its client at the other end.
fn lab() -> (Host, Host) {
    let (server, client) = (Host::new("server").unwrap(), Host::new("client").unwrap());
    join(&server, "flt0", &client, "eth0").unwrap();
    server.ip("addr add 192.0.2.1/24 dev flt0").unwrap();
    server.ip("addr add 2001:db8::1/64 dev flt0 nodad").unwrap();
    for address in ["192.0.2.2/24", "192.0.2.66/24"] {
        client.ip(&format!("addr add {address} dev eth0")).unwrap();
    }
    client.ip("addr add 2001:db8::66/64 dev eth0 nodad").unwrap();
    server.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    server.ctl(&["block", "add", "203.0.113.7", "--reason", "not fail2ban's"]).done();
    (server, client)
}

/// A fail2ban with its own configuration, socket, database and logs, which ends with the test.
struct Fail2ban<'h> {
    host: &'h Host,
    server: Child,
}

impl<'h> Fail2ban<'h> {
    fn start(host: &'h Host) -> Self {
        host.run(|| {
            for directory in ["filter.d", "action.d"] {
                fs::create_dir_all(format!("{DIRECTORY}/{directory}")).unwrap();
            }
            let own = format!(
                "[Definition]\nloglevel = INFO\nlogtarget = {DIRECTORY}/fail2ban.log\nsyslogsocket = auto\n\
                 socket = {DIRECTORY}/sock\npidfile = {DIRECTORY}/pid\ndbfile = {DIRECTORY}/db\n\
                 dbpurgeage = 1d\ndbmaxmatches = 10\n"
            );
            for (name, text) in [
                ("fail2ban.conf", own),
                ("jail.conf", jails()),
                ("filter.d/refused.conf", FILTER.into()),
                ("action.d/filter-ctl.conf", fs::read_to_string(ACTION).unwrap()),
            ] {
                fs::write(format!("{DIRECTORY}/{name}"), text).unwrap();
            }
            for jail in [TIMED, FOR_EVER] {
                fs::OpenOptions::new().create(true).append(true).open(log_of(jail)).unwrap();
            }
        });
        let mut command = program("fail2ban-server");
        // Where one was killed, its socket is in the way of the next but for -x.
        command.args(["-x", "-f", "start"]).stdout(Stdio::null()).stderr(Stdio::null());
        let fail2ban = Self { host, server: host.spawn(command).unwrap() };
        let is_up = || fail2ban.client(&["status", FOR_EVER]).code == Some(0);
        eventually("fail2ban answers", is_up).unwrap_or_else(|error| panic!("{error:#}: {}", fail2ban.log()));
        fail2ban
    }

    fn client(&self, arguments: &[&str]) -> Finished {
        let mut command = program("fail2ban-client");
        command.args(arguments).stdin(Stdio::null());
        self.host.output(command).unwrap().into()
    }

    fn log(&self) -> String {
        self.host.read(&format!("{DIRECTORY}/fail2ban.log")).unwrap_or_default()
    }

    /// Writes what the service behind a jail does when it refuses somebody.
    fn refuse(&self, jail: &str, addresses: &[&str]) {
        self.host.run(|| {
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let lines: String =
                addresses.iter().map(|address| format!("{now_s} refused {address}\n")).collect();
            let mut log = fs::OpenOptions::new().append(true).open(log_of(jail)).unwrap();
            log.write_all(lines.as_bytes()).unwrap();
        });
    }

    #[track_caller]
    fn eventually(&self, what: &str, condition: impl FnMut() -> bool) {
        eventually(what, condition)
            .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", blocked(self.host), self.log()));
    }

    /// Tells it to end, and waits until it has.
    fn stop(mut self) {
        self.client(&["stop"]).done();
        self.server.wait().unwrap();
    }
}

impl Drop for Fail2ban<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// One of fail2ban's programs, which is unpacked and not installed.
fn program(name: &str) -> Command {
    let root: PathBuf = bridge("fail2ban");
    // Debian's own, for which the package is made.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root.join("usr/bin").join(name)).args(["-c", DIRECTORY]);
    command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("FILTER_CTL_PIN_ROOT");
    command
}

/// What is blocked, by prefix: owner and seconds that are left.
fn blocked(host: &Host) -> BTreeMap<String, (String, Option<u64>)> {
    let listed = host.ctl(&["block", "list", "--json"]).json();
    let entry = |entry: &Value| {
        let owner = entry["owner"].as_str().unwrap().to_owned();
        (entry["prefix"].as_str().unwrap().to_owned(), (owner, entry["expires_in_s"].as_u64()))
    };
    listed["entries"].as_array().unwrap().iter().map(entry).collect()
}

fn is_blocked(host: &Host, prefix: &str) -> bool {
    blocked(host).contains_key(prefix)
}

/// Whether an entry is the timed jail's, with most of its time left.
fn is_timed(host: &Host, prefix: &str) -> bool {
    blocked(host).get(prefix).is_some_and(|(owner, left_s)| {
        owner == "f2b-door" && left_s.is_some_and(|left_s| (BANTIME_S - 60..=BANTIME_S).contains(&left_s))
    })
}

/// Packets that an entry dropped.
fn dropped(host: &Host, prefix: &str) -> u64 {
    let shown = host.ctl(&["show", prefix, "--json"]).done().json();
    shown["decides"]["packets"].as_u64().unwrap()
}

#[test]
fn what_fail2ban_bans_is_blocked_until_it_lets_go() {
    let (server, client) = lab();
    let fail2ban = Fail2ban::start(&server);
    // Whoever tries passwords is connected by SSH when he is banned.
    let listener = server.run(|| TcpListener::bind("192.0.2.1:22").unwrap());
    let socket = client.run(|| TcpStream::connect("192.0.2.1:22").unwrap());
    let _accepted = listener.accept().unwrap();

    fail2ban.refuse(TIMED, &["192.0.2.2", "2001:db8::66", "192.0.2.1"]);
    for prefix in ["192.0.2.2/32", "2001:db8::66/128"] {
        fail2ban.eventually(&format!("{prefix} is blocked"), || is_timed(&server, prefix));
    }
    for (from, to, prefix) in [
        ("192.0.2.2:0", "192.0.2.1:9", "192.0.2.2/32"),
        ("[2001:db8::66]:0", "[2001:db8::1]:9", "2001:db8::66/128"),
    ] {
        client.run(|| UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap());
        fail2ban.eventually(&format!("{prefix} is dropped"), || dropped(&server, prefix) > 0);
    }
    drop(socket);
    // This host itself is refused, whoever asks.
    fail2ban.eventually("the refusal is told", || {
        fail2ban.log().contains("192.0.2.1/32 covers 192.0.2.1, an address of this host")
    });
    assert!(!is_blocked(&server, "192.0.2.1/32"));

    fail2ban.refuse(FOR_EVER, &["198.51.100.7", "2001:db8:bad::7"]);
    for prefix in ["198.51.100.7/32", "2001:db8:bad::7/128"] {
        let wanted = (FOR_EVER_OWNER.to_owned(), None);
        fail2ban.eventually(&format!("{prefix} is blocked for ever"), || {
            blocked(&server).get(prefix) == Some(&wanted)
        });
    }

    // One address, then all of one owner, then all; nobody else's.
    fail2ban.client(&["set", TIMED, "unbanip", "192.0.2.2"]).done();
    fail2ban.eventually("it is let go", || !is_blocked(&server, "192.0.2.2/32"));
    assert!(is_timed(&server, "2001:db8::66/128"));
    // What is gone already is no failure.
    server.ctl(&["block", "del", "2001:db8::66", "--owner", "f2b-door"]).done();
    fail2ban.client(&["set", TIMED, "unbanip", "2001:db8::66"]).done();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.66", "198.51.100.0/24"]).done();
    fail2ban.eventually("a range is blocked", || is_timed(&server, "198.51.100.0/24"));
    fail2ban.client(&["unban", "--all"]).done();
    fail2ban.eventually("all is let go", || blocked(&server).len() == 1);
    assert_eq!(blocked(&server)["203.0.113.7/32"].0, "manual");
    let log = fail2ban.log();
    let failures: Vec<&str> = log.lines().filter(|line| line.contains(FAILED)).collect();
    assert!(matches!(failures[..], [refused] if refused.contains("192.0.2.1'")), "{failures:#?}");
}

#[test]
fn bans_outlive_fail2ban_and_are_taken_up_again() {
    let (server, _client) = lab();
    let fail2ban = Fail2ban::start(&server);
    fail2ban.refuse(TIMED, &["192.0.2.66"]);
    fail2ban.refuse(FOR_EVER, &["2001:db8:bad::7"]);
    fail2ban.eventually("both are blocked", || blocked(&server).len() == 3);

    // Killed, it leaves them; started again, it bans again, which changes nothing.
    drop(fail2ban);
    assert!(is_timed(&server, "192.0.2.66/32") && is_blocked(&server, "2001:db8:bad::7/128"));
    let fail2ban = Fail2ban::start(&server);
    fail2ban.eventually("it has banned again", || fail2ban.log().matches(" Ban ").count() == 4);
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.67"]).done();
    fail2ban.eventually("it went on", || is_timed(&server, "192.0.2.67/32"));
    assert!(is_timed(&server, "192.0.2.66/32") && is_blocked(&server, "2001:db8:bad::7/128"));

    // Stopped, it lets go, and takes them up when it starts.
    fail2ban.stop();
    assert_eq!(blocked(&server).len(), 1, "{:?}", blocked(&server));
    let fail2ban = Fail2ban::start(&server);
    fail2ban.eventually("all are blocked again", || {
        is_timed(&server, "192.0.2.66/32")
            && is_timed(&server, "192.0.2.67/32")
            && blocked(&server).get("2001:db8:bad::7/128") == Some(&(FOR_EVER_OWNER.into(), None))
    });
    assert!(!fail2ban.log().contains(FAILED), "{}", fail2ban.log());
}

#[test]
fn bans_are_enforced_with_and_without_the_daemon_the_store_and_the_filter() {
    let (server, _client) = lab();
    let fail2ban = Fail2ban::start(&server);
    let via = || {
        server.ctl(&["audit", "--last", "1", "--json"]).done().json()["changes"][0]["actor"]["via"].clone()
    };
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.70"]).done();
    fail2ban.eventually("it is blocked without the daemon", || is_timed(&server, "192.0.2.70/32"));
    assert_eq!(via(), "command");

    let mut command = server.filter_ctl(&["run"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = server.spawn(command).unwrap();
    eventually("the daemon listens", || server.read("/run/filter-ctl/state.json").is_ok()).unwrap();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.71"]).done();
    fail2ban.eventually("it is blocked by the daemon", || is_timed(&server, "192.0.2.71/32"));
    fail2ban.eventually("the daemon did it", || via() == "socket");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.72"]).done();
    fail2ban.eventually("it is blocked after the daemon", || is_timed(&server, "192.0.2.72/32"));

    // Enforced and not written down is enforced.
    server.sh("mount", ["-o", "remount,ro", "/var/lib"]).unwrap();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.73"]).done();
    fail2ban.eventually("it is blocked without the store", || is_timed(&server, "192.0.2.73/32"));
    fail2ban.client(&["set", TIMED, "unbanip", "192.0.2.73"]).done();
    fail2ban.eventually("it is let go without the store", || !is_blocked(&server, "192.0.2.73/32"));
    server.sh("mount", ["-o", "remount,rw", "/var/lib"]).unwrap();
    assert!(!fail2ban.log().contains(FAILED), "{}", fail2ban.log());

    // Without a filter there is nobody to block; what was blocked comes back with it, and so does who is banned then.
    server.ctl(&["unload", "--all"]).done();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.74"]).done();
    fail2ban.eventually("the failure is told", || fail2ban.log().contains(FAILED));
    server.ctl(&["load", "flt0"]).done();
    fail2ban.client(&["set", TIMED, "banip", "192.0.2.75"]).done();
    fail2ban.eventually("it is blocked once there is a filter", || is_timed(&server, "192.0.2.75/32"));
    assert!(is_timed(&server, "192.0.2.70/32"));
    fail2ban.stop();
    assert_eq!(blocked(&server).len(), 1, "{:?}", blocked(&server));
}
