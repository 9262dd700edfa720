//! The daemon follows the decisions of Debian's CrowdSec, and no server, whatever it says, has it let go of what others
//! hold or of what was never deleted. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use filter_tests::lab::{Finished, Host, Running, bridge, eventually, fails, join};
use serde_json::Value;

/// Where CrowdSec has all its files, on the lab's host, which nobody else sees.
const DIRECTORY: &str = "/run/crowdsec";
const KEY_FILE: &str = "/run/key";
const EVENTS: &str = "/run/events";

/// A server that filters `flt0`, and its client at the other end.
fn lab() -> (Host, Host) {
    let (server, client) = (Host::new("server").unwrap(), Host::new("client").unwrap());
    join(&server, "flt0", &client, "eth0").unwrap();
    server.ip("addr add 192.0.2.1/24 dev flt0").unwrap();
    client.ip("addr add 192.0.2.66/24 dev eth0").unwrap();
    server.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    server.ctl(&["block", "add", "203.0.113.7", "--reason", "not CrowdSec's"]).done();
    (server, client)
}

/// The daemon, which asks at this URL.
fn daemon(host: &Host, url: &str, key: &str) -> Running {
    write_key(host, key);
    let mut command = host.filter_ctl(&["run", "--proof-interval", "100ms", "--crowdsec-interval", "100ms"]);
    command.args(["--crowdsec", url, "--crowdsec-key-file", KEY_FILE, "--hook", "cat >> /run/events"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(host.spawn(command).unwrap())
}

fn write_key(host: &Host, key: &str) {
    host.run(|| {
        fs::write(KEY_FILE, key).unwrap();
        fs::set_permissions(KEY_FILE, Permissions::from_mode(0o600)).unwrap();
    });
}

/// What is blocked, by prefix: owner, seconds that are left, reason.
fn blocked(host: &Host) -> BTreeMap<String, (String, Option<u64>, String)> {
    let listed = host.ctl(&["block", "list", "--json"]).done().json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |entry: &Value| {
        let held = (text(&entry["owner"]), entry["expires_in_s"].as_u64(), text(&entry["reason"]));
        (text(&entry["prefix"]), held)
    };
    listed["entries"].as_array().unwrap().iter().map(entry).collect()
}

/// Whether CrowdSec's owner holds a prefix for about so long, and why.
fn is_held(host: &Host, prefix: &str, left_s: u64, reason: &str) -> bool {
    blocked(host).get(prefix).is_some_and(|(owner, left, why)| {
        owner == "crowdsec"
            && why == reason
            && left.is_some_and(|left| (left_s.saturating_sub(60)..=left_s + 1).contains(&left))
    })
}

fn is_blocked(host: &Host, prefix: &str) -> bool {
    blocked(host).contains_key(prefix)
}

/// What the daemon says of CrowdSec.
fn state(host: &Host) -> Value {
    host.ctl(&["status", "--json"]).json()["daemon"]["crowdsec"].clone()
}

/// Waits until so many more questions were answered, or failed.
#[track_caller]
fn after_more(host: &Host, what: &str, questions: u64) {
    let number = || state(host)[what].as_u64().unwrap_or(0);
    let before = number();
    until(host, &format!("{questions} more {what}"), || number() >= before + questions);
}

#[track_caller]
fn until(host: &Host, what: &str, condition: impl FnMut() -> bool) {
    eventually(what, condition).unwrap_or_else(|error| {
        panic!("{error:#}: {:?} {} {}", blocked(host), state(host), host.read(EVENTS).unwrap_or_default())
    });
}

/// CrowdSec's local API alone: without an agent, a hub, and its makers' server.
struct Lapi<'h> {
    host: &'h Host,
    server: Option<Running>,
}

impl<'h> Lapi<'h> {
    fn start(host: &'h Host) -> Self {
        let etc = bridge("crowdsec").join("etc/crowdsec");
        host.run(|| {
            for directory in ["data", "hub", "notifications", "plugins"] {
                fs::create_dir_all(format!("{DIRECTORY}/{directory}")).unwrap();
            }
            for name in ["profiles.yaml", "simulation.yaml"] {
                fs::copy(etc.join(name), format!("{DIRECTORY}/{name}")).unwrap();
            }
            let config = CONFIG.replace("DIR", DIRECTORY);
            for (name, text) in [
                ("hub/.index.json", "{}"),
                ("console.yaml", ""),
                ("client.yaml", ""),
                ("config.yaml", &config),
            ] {
                fs::write(format!("{DIRECTORY}/{name}"), text).unwrap();
            }
        });
        let mut lapi = Self { host, server: None };
        let client = format!("{DIRECTORY}/client.yaml");
        lapi.cscli(&["machines", "add", "lab", "--password", "lab", "--force", "-f", &client]);
        lapi.up();
        lapi
    }

    fn up(&mut self) {
        let mut command = Command::new(bridge("crowdsec").join("usr/bin/crowdsec"));
        command.args(["-c", &format!("{DIRECTORY}/config.yaml"), "-no-cs", "-no-capi"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(Running(self.host.spawn(command).unwrap()));
        eventually("CrowdSec listens", || self.host.run(|| TcpStream::connect("127.0.0.1:8080").is_ok()))
            .unwrap();
    }

    fn down(&mut self) {
        self.server = None;
    }

    fn cscli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(bridge("crowdsec").join("usr/bin/cscli"));
        command.args(["-c", &format!("{DIRECTORY}/config.yaml"), "-o", "raw"]).args(arguments);
        command.stdin(Stdio::null());
        Finished::from(self.host.output(command).unwrap()).done().stdout.trim().to_owned()
    }
}

const CONFIG: &str = "
common: {daemonize: false, log_media: stdout, log_level: info, log_dir: DIR, working_dir: .}
config_paths:
  config_dir: DIR
  data_dir: DIR/data
  simulation_path: DIR/simulation.yaml
  hub_dir: DIR/hub
  index_path: DIR/hub/.index.json
  notification_dir: DIR/notifications
  plugin_dir: DIR/plugins
db_config: {log_level: info, type: sqlite, db_path: DIR/data/crowdsec.db, flush: {max_items: 5000, max_age: 7d}}
api:
  client: {credentials_path: DIR/client.yaml}
  server: {listen_uri: '127.0.0.1:8080', profiles_path: DIR/profiles.yaml, console_path: DIR/console.yaml}
prometheus: {enabled: false}
";

#[test]
fn what_crowdsec_decides_is_blocked_for_as_long_as_it_says() {
    let (server, _client) = lab();
    let mut lapi = Lapi::start(&server);
    let key = lapi.cscli(&["bouncers", "add", "filter-ctl"]);
    assert!(key.len() >= 32, "{key}");
    lapi.cscli(&["decisions", "add", "--ip", "198.51.100.1", "--duration", "4h", "--reason", "ssh bf"]);
    let filtering = daemon(&server, "http://127.0.0.1:8080/", &key);
    until(&server, "what was decided before is blocked", || {
        is_held(&server, "198.51.100.1/32", 4 * 3600, "ssh bf")
    });

    lapi.cscli(&["decisions", "add", "--range", "2001:db8:5::/48", "--duration", "1h", "--reason", "http"]);
    until(&server, "a range is blocked", || is_held(&server, "2001:db8:5::/48", 3600, "http"));
    // A longer decision takes over, and a shorter one does not.
    for (duration, reason) in [("1h", "shorter"), ("8h", "longer")] {
        lapi.cscli(&["decisions", "add", "--ip", "198.51.100.1", "--duration", duration, "--reason", reason]);
    }
    until(&server, "the longer is told", || is_held(&server, "198.51.100.1/32", 8 * 3600, "longer"));
    lapi.cscli(&["decisions", "delete", "--ip", "198.51.100.1"]);
    until(&server, "it is let go", || !is_blocked(&server, "198.51.100.1/32"));
    assert!(is_blocked(&server, "2001:db8:5::/48"));
    // One that ends by itself, in the kernel and by the server's word.
    lapi.cscli(&["decisions", "add", "--ip", "198.51.100.2", "--duration", "3s"]);
    until(&server, "it is blocked", || is_blocked(&server, "198.51.100.2/32"));
    until(&server, "it has ended", || !is_blocked(&server, "198.51.100.2/32"));

    // Without the daemon it stays, and the next one takes it up; what was deleted meanwhile goes.
    lapi.cscli(&["decisions", "add", "--ip", "198.51.100.3", "--duration", "2h", "--reason", "x"]);
    until(&server, "it is blocked", || is_held(&server, "198.51.100.3/32", 7200, "x"));
    filtering.end("TERM");
    assert!(is_held(&server, "2001:db8:5::/48", 3600, "http"));
    lapi.cscli(&["decisions", "delete", "--ip", "198.51.100.3"]);
    let filtering = daemon(&server, "http://127.0.0.1:8080", &key);
    until(&server, "the deletion is made up for", || !is_blocked(&server, "198.51.100.3/32"));
    assert!(is_held(&server, "2001:db8:5::/48", 3600, "http"));
    let seen = fs::read_to_string(format!("/proc/{}/cmdline", filtering.0.id())).unwrap();
    assert!(!seen.contains(&key), "the key is in the command line");

    // Without the server it stays as well, and what is decided until it is back is made up for.
    lapi.down();
    after_more(&server, "failed", 3);
    assert!(is_held(&server, "2001:db8:5::/48", 3600, "http"));
    let metrics = server.ctl(&["metrics"]).done().stdout;
    assert!(metrics.contains("xdp_filter_crowdsec_errors_total "), "{metrics}");
    assert!(metrics.contains("xdp_filter_events_total{event=\"crowdsec_failed\"} "), "{metrics}");
    lapi.up();
    lapi.cscli(&["decisions", "add", "--ip", "198.51.100.4", "--duration", "2h", "--reason", "x"]);
    until(&server, "it is blocked", || is_held(&server, "198.51.100.4/32", 7200, "x"));
    until(&server, "that is told", || {
        server.read(EVENTS).is_ok_and(|all| all.contains("crowdsec_recovered"))
    });

    // A key that is taken back, and another one, without a restart.
    lapi.cscli(&["bouncers", "delete", "filter-ctl"]);
    until(&server, "the key is refused", || {
        state(&server)["trouble"].as_str().is_some_and(|trouble| trouble.contains("does not take the key"))
    });
    write_key(&server, &lapi.cscli(&["bouncers", "add", "another"]));
    until(&server, "the other is taken", || state(&server)["trouble"].is_null());
    assert_eq!(blocked(&server)["203.0.113.7/32"].0, "manual");
    let told = server.read(EVENTS).unwrap() + &server.ctl(&["audit", "--json"]).done().stdout;
    assert!(!told.contains(&key), "the key is told");
    filtering.end("TERM");
    assert_eq!(server.ctl(&["verify"]).code, Some(0));
}

/// How the made-up server answers.
#[derive(Clone)]
enum Answer {
    /// With a status and a body.
    Text(u16, String),
    /// With this, again and again, until nobody reads it; and how long it waits in between.
    Endless(&'static str, Duration),
    /// By hanging up.
    Nothing,
}

/// A server that says whatever the test wants, and remembers what it was asked.
#[derive(Clone)]
struct Liar {
    url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn start(host: &Host) -> Self {
        let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}", listener.local_addr().unwrap());
        let liar = Self { url, answer: Arc::new(Mutex::new(Answer::Nothing)), asked: Arc::default() };
        let its = liar.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let its = its.clone();
                thread::spawn(move || its.serve(stream.unwrap()));
            }
        });
        liar
    }

    fn serve(&self, mut stream: TcpStream) {
        let reader = BufReader::new(stream.try_clone().unwrap());
        let head: Vec<String> =
            reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let answer = self.answer.lock().unwrap().clone();
        self.asked.lock().unwrap().push(head.join("\n"));
        // Whoever hangs up is no concern of this server's.
        let _ = match answer {
            Answer::Nothing => Ok(()),
            Answer::Text(status, body) => write!(
                stream,
                "HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ),
            Answer::Endless(text, pause) => {
                let _ = stream.write_all(b"HTTP/1.1 200 x\r\nConnection: close\r\n\r\n{\"new\":[");
                while stream.write_all(text.as_bytes()).is_ok() {
                    thread::sleep(pause);
                }
                Ok(())
            }
        };
    }

    fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Answers with decisions, and with prefixes that were deleted.
    fn tell(&self, new: &[(&str, &str)], deleted: &[&str]) {
        let decision = |value: &str, duration: &str| {
            format!(
                "{{\"duration\":\"{duration}\",\"id\":1,\"origin\":\"x\",\"scenario\":\"scan\",\"scope\":\"Range\",\
                 \"type\":\"ban\",\"value\":\"{value}\"}}"
            )
        };
        let new: Vec<String> = new.iter().map(|(value, duration)| decision(value, duration)).collect();
        let deleted: Vec<String> = deleted.iter().map(|value| decision(value, "-1s")).collect();
        let text = format!("{{\"new\":[{}],\"deleted\":[{}]}}", new.join(","), deleted.join(","));
        self.say(Answer::Text(200, text));
    }

    /// Whether the last question was about everything.
    fn was_asked_for_all(&self) -> bool {
        self.asked.lock().unwrap().last().is_some_and(|head| head.contains("startup=true"))
    }
}

#[test]
fn no_answer_lets_go_of_more_than_it_names() {
    let (server, client) = lab();
    let liar = Liar::start(&server);
    liar.tell(
        &[("198.51.100.1/32", "1h"), ("2001:db8:5::/48", "1h"), ("192.0.2.0/24", "1h"), ("0.0.0.0/0", "1h")],
        &[],
    );
    let filtering = daemon(&server, &liar.url, "s3cret");
    let both =
        || ["198.51.100.1/32", "2001:db8:5::/48"].iter().all(|prefix| is_held(&server, prefix, 3600, "scan"));
    until(&server, "both are blocked", both);
    let first = liar.asked.lock().unwrap()[0].clone();
    assert!(first.starts_with("GET /v1/decisions/stream?startup=true HTTP/1.1"), "{first}");
    let first = first.to_ascii_lowercase();
    assert!(first.contains("x-api-key: s3cret") && first.contains("user-agent: filter-ctl/"), "{first}");
    until(&server, "only news are asked for", || !liar.was_asked_for_all());
    // This host and everybody are not blocked, and that is told once.
    assert_eq!(blocked(&server).len(), 3);
    let skipped = || server.read(EVENTS).unwrap_or_default().matches("\"crowdsec_skipped\"").count();
    until(&server, "both are told", || skipped() == 2);
    after_more(&server, "asked", 3);
    assert_eq!(skipped(), 2);

    for (what, answer) in [
        ("null", Answer::Text(200, r#"{"new":null,"deleted":null}"#.into())),
        ("nothing", Answer::Text(200, r#"{"new":[],"deleted":[]}"#.into())),
        (
            "unknown",
            Answer::Text(
                200,
                r#"{"new":[{"type":"captcha","scope":"Ip","value":"198.51.100.1","duration":"1h"}]}"#.into(),
            ),
        ),
    ] {
        liar.say(answer);
        after_more(&server, "asked", 3);
        assert!(both() && state(&server)["trouble"].is_null(), "{what}: {}", state(&server));
    }
    let many: Vec<String> = (0..3000).map(|n| format!("10.1.{}.{}/32", n / 256, n % 256)).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|prefix| (prefix.as_str(), "1h")).collect();
    let cut = r#"{"deleted":[{"type":"ban","scope":"Ip","value":"198.51.100.1","duration":"-1h"}],"new":[{"type":"ban","#;
    for (what, answer) in [
        ("garbage", Answer::Text(200, "<html>welcome</html>".into())),
        ("cut", Answer::Text(200, cut.into())),
        (
            "error",
            Answer::Text(500, r#"{"deleted":[{"type":"ban","scope":"Ip","value":"198.51.100.1"}]}"#.into()),
        ),
        ("redirect", Answer::Text(302, String::new())),
        ("hang up", Answer::Nothing),
        ("more than fits", {
            liar.tell(&many, &["198.51.100.1/32"]);
            liar.answer.lock().unwrap().clone()
        }),
    ] {
        liar.say(answer);
        after_more(&server, "failed", 2);
        assert!(both(), "{what}: {:?}", blocked(&server));
        assert!(liar.was_asked_for_all(), "{what}");
        assert!(state(&server)["trouble"].is_string(), "{what}");
        assert_eq!(blocked(&server).len(), 3, "{what}");
    }

    // After failures all is asked for; and an answer of less than all, which says that it is all, deletes nothing.
    liar.tell(&[("198.51.100.1/32", "1h")], &[]);
    after_more(&server, "asked", 3);
    assert!(both() && state(&server)["trouble"].is_null());
    // What has ended is let go, and what was deleted and decided anew is not.
    liar.tell(&[("198.51.100.1/32", "-3s"), ("2001:db8:5::/48", "2h")], &["2001:db8:5::/48"]);
    until(&server, "one ended", || !is_blocked(&server, "198.51.100.1/32"));
    until(&server, "the other is new", || is_held(&server, "2001:db8:5::/48", 7200, "scan"));

    // Who is connected by SSH is blocked once he is not.
    let listener = server.run(|| TcpListener::bind("192.0.2.1:22").unwrap());
    let socket = client.run(|| TcpStream::connect("192.0.2.1:22").unwrap());
    let accepted = listener.accept().unwrap();
    liar.tell(&[("192.0.2.66/32", "1h")], &[]);
    until(&server, "that is told", || skipped() == 3);
    liar.tell(&[], &[]);
    after_more(&server, "asked", 3);
    assert!(!is_blocked(&server, "192.0.2.66/32"));
    drop((socket, accepted));
    until(&server, "it is blocked", || is_held(&server, "192.0.2.66/32", 3600, "scan"));

    // A server that never comes to an end keeps nobody waiting: not proofs, not commands, not the daemon's end.
    liar.say(Answer::Endless(" ", Duration::from_millis(50)));
    until(&server, "it is asked", || {
        state(&server)["asked"].as_u64() < u64::try_from(liar.asked.lock().unwrap().len()).ok()
    });
    let proofs = || server.ctl(&["status", "--json"]).json()["daemon"]["proofs"].as_u64().unwrap();
    let before = proofs();
    until(&server, "proofs go on", || proofs() > before + 3);
    server.ctl(&["block", "add", "203.0.113.8"]).done();
    filtering.end("TERM");
    assert!(is_blocked(&server, "192.0.2.66/32"));
    assert_eq!(server.ctl(&["verify"]).code, Some(0));
}

#[test]
fn a_key_is_neither_shown_nor_sent_in_the_clear() {
    let (server, _client) = lab();
    for url in ["http://192.0.2.66:8080", "https://a@lapi.example", "x"] {
        fails(&server.ctl(&["run", "--crowdsec", url, "--crowdsec-key-file", KEY_FILE]), 2, &[url]);
    }
    fails(&server.ctl(&["run", "--crowdsec", "http://127.0.0.1:1"]), 2, &["--crowdsec-key-file"]);
    let liar = Liar::start(&server);
    liar.tell(&[], &[]);
    let _filtering = daemon(&server, &liar.url, "s3cret");
    after_more(&server, "asked", 1);
    server.run(|| fs::set_permissions(KEY_FILE, Permissions::from_mode(0o644)).unwrap());
    until(&server, "the file is refused", || {
        state(&server)["trouble"].as_str().is_some_and(|trouble| trouble.contains("chmod 600"))
    });
    server.run(|| fs::set_permissions(KEY_FILE, Permissions::from_mode(0o600)).unwrap());
    until(&server, "it is read again", || state(&server)["trouble"].is_null());
}
