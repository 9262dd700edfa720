//! Figures are true, in the form that Prometheus reads, and offered to whoever asks, whatever others do meanwhile. Needs root,
//! and promtool of Debian's prometheus, unpacked.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use filter_ctl::kernel::Lock;
use filter_tests::kernel_side::pins;
use filter_tests::lab::{Finished, Host, Running, bridge, eventually, fails, join};

const TCP: &str = "127.0.0.1:9743";
const TCP_V6: &str = "[::1]:9743";
const SOCKET: &str = "/run/figures.sock";
const ON_SOCKET: &str = "unix:/run/figures.sock";
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: lab\r\n\r\n";

/// A server that filters `flt0`, and its client at the other end.
fn lab() -> (Host, Host) {
    let (server, client) = (Host::new("server").unwrap(), Host::new("client").unwrap());
    join(&server, "flt0", &client, "eth0").unwrap();
    server.ip("addr add 192.0.2.1/24 dev flt0").unwrap();
    for address in ["192.0.2.2", "192.0.2.66", "192.0.2.77"] {
        client.ip(&format!("addr add {address}/24 dev eth0")).unwrap();
    }
    server.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    (server, client)
}

/// Starts filter-ctl.
fn start(host: &Host, arguments: &[&str]) -> Running {
    let mut command = host.filter_ctl(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(host.spawn(command).unwrap())
}

/// The daemon, once it has proven the filter.
fn daemon(host: &Host, arguments: &[&str]) -> Running {
    let daemon = start(host, &[&["run", "--proof-interval", "100ms"], arguments].concat());
    let proofs = || host.ctl(&["status", "--json"]).json()["daemon"]["proofs"].as_u64();
    eventually("the daemon has proven the filter", || proofs() > Some(0)).unwrap();
    daemon
}

/// A number of a process' `/proc/PID/status`.
fn of_process(process: &Running, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What is both read and written.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// Connects to where figures are offered.
fn connect(host: &Host, address: &str) -> std::io::Result<Box<dyn Stream>> {
    /// Beyond which a test fails rather than waits.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));
    host.run(|| {
        Ok(match address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(PATIENCE)?;
                Box::new(stream) as Box<dyn Stream>
            }
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(PATIENCE)?;
                Box::new(stream)
            }
        })
    })
}

/// Sends a request, and returns all that is answered; nothing of a connection that is closed or refused.
fn asked(host: &Host, address: &str, request: &[u8]) -> String {
    let Ok(mut stream) = connect(host, address) else { return String::new() };
    // Whoever is refused may be so before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// The figures, with this `Accept`.
#[track_caller]
fn got(host: &Host, address: &str, accept: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: lab\r\nAccept: {accept}\r\n\r\n");
    let mut answer = String::new();
    eventually("the figures are got", || {
        answer = asked(host, address, request.as_bytes());
        answer.starts_with("HTTP/1.1 200")
    })
    .unwrap_or_else(|error| panic!("{error:#}: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse(), Ok(body.len()));
    let is_openmetrics = head.contains("content-type: application/openmetrics-text; version=1.0.0");
    assert_eq!(is_openmetrics, body.ends_with("# EOF\n"), "{head}");
    assert!(is_openmetrics || head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The value of a series.
fn figure(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("xdp_filter_")?.strip_prefix(series)?.trim().parse().ok())
}

fn promtool(arguments: &[&str], input: &str) -> Finished {
    let mut command = Command::new(bridge("prometheus").join("usr/bin/promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    running.wait_with_output().unwrap().into()
}

/// Prometheus' own linter has nothing to say.
#[track_caller]
fn is_flawless(text: &str) {
    let checked = promtool(&["check", "metrics"], text);
    assert_eq!((checked.code, &*checked.stdout, &*checked.stderr), (Some(0), "", ""), "{text}");
}

fn printed(host: &Host) -> String {
    let printed = host.ctl(&["metrics"]).done().stdout;
    is_flawless(&printed);
    printed
}

/// Sends UDP datagrams with so many bytes of payload.
fn send(client: &Host, source: &str, times: usize, payload: usize) {
    client.run(|| {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        for _ in 0..times {
            // What came of the one before, such as an unreachable port, is no concern of this one's.
            while socket.send_to(&vec![7; payload], "192.0.2.1:9").is_err() {}
        }
    });
}

#[test]
fn figures_are_what_was_sent_and_promtool_has_nothing_to_say() {
    let (server, client) = lab();
    let empty = printed(&server);
    for (series, value) in [
        ("loaded", 1.0),
        ("entries{family=\"ipv4\"}", 0.0),
        ("max_entries{family=\"ipv4\"}", 2000.0),
        ("map_entries{map=\"interfaces\"}", 1.0),
        ("map_max_entries{map=\"notes\"}", 8191.0),
        ("packets_total{device=\"flt0\",action=\"drop\",reason=\"blocked\"}", 0.0),
        ("attached{device=\"flt0\",mode=\"native\"}", 1.0),
        ("drift", 0.0),
        ("store_usable", 1.0),
        ("daemon_running", 0.0),
    ] {
        assert_eq!(figure(&empty, series), Some(value), "{series}: {empty}");
    }
    // Array of 2,501 elements of 64 bytes, and what the kernel keeps of a map.
    let memory = figure(&empty, "map_memory_bytes{map=\"entries\"}").unwrap();
    assert!((160_064.0..180_000.0).contains(&memory), "{memory}");
    assert!(!empty.contains("source_"), "{empty}");
    let release = server.sh("uname", ["-r"]).unwrap();
    assert!(empty.contains(&format!("kernel=\"{}\"", release.trim())), "{empty}");

    server.ctl(&["block", "add", "192.0.2.66", "--reason", "one"]).done();
    server.ctl(&["allow", "add", "2001:db8::/32", "--reason", "another"]).done();
    server.run(|| fs::write("/run/feed", "192.0.2.77\n198.51.100.0/24\n").unwrap());
    server.ctl(&["list", "add", "feed", "--file", "/run/feed", "--refresh", "1h"]).done();
    server.run(|| fs::write("/run/feed", "").unwrap());
    fails(&server.ctl(&["list", "update", "feed"]), 1, &["empty"]);
    for (source, times, payload) in [("192.0.2.66", 5, 100), ("192.0.2.77", 3, 1000), ("192.0.2.2", 4, 10)] {
        send(&client, source, times, payload);
    }
    // Ethernet, IPv4 and UDP are 42 bytes.
    let wanted = [
        ("packets_total{device=\"flt0\",action=\"drop\",reason=\"blocked\"}", 8.0),
        ("bytes_total{device=\"flt0\",action=\"drop\",reason=\"blocked\"}", 5.0 * 142.0 + 3.0 * 1042.0),
        ("packets_total{device=\"flt0\",action=\"pass\",reason=\"no_match\"}", 4.0),
        ("bytes_total{device=\"flt0\",action=\"pass\",reason=\"no_match\"}", 4.0 * 52.0),
        ("source_packets_total{source=\"feed\"}", 3.0),
        ("source_bytes_total{source=\"feed\"}", 3.0 * 1042.0),
        ("source_entries{source=\"feed\"}", 2.0),
        ("source_generation{source=\"feed\"}", 1.0),
        ("source_errors_total{source=\"feed\"}", 1.0),
        ("source_failing{source=\"feed\"}", 1.0),
        ("source_refresh_interval_seconds{source=\"feed\"}", 3600.0),
        ("entries{family=\"ipv4\"}", 3.0),
        ("entries{family=\"ipv6\"}", 1.0),
        ("entries_in_force{action=\"block\"}", 3.0),
        ("entries_in_force{action=\"allow\"}", 1.0),
        ("map_entries{map=\"entries\"}", 4.0),
        ("map_entries{map=\"notes\"}", 3.0),
    ];
    let mut text = String::new();
    let is_so = |text: &str| wanted.iter().all(|(series, value)| figure(text, series) == Some(*value));
    eventually("all that was sent is counted", || {
        text = printed(&server);
        is_so(&text)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {text}"));
    // A tolerated fault, which no frame had, is no row of its own; all others are there.
    assert_eq!(figure(&text, "packets_total{device=\"flt0\",action=\"pass\",reason=\"udp_length\"}"), None);
    let success = figure(&text, "source_last_success_timestamp_seconds{source=\"feed\"}").unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 600.0..=now).contains(&success), "{success}");
    // No figure tells an address.
    assert!(!text.contains("192.0.2") && !text.contains("198.51"), "{text}");
}

#[test]
fn what_is_not_loaded_is_told_and_not_made_up() {
    let host = Host::new("server").unwrap();
    let nothing = printed(&host);
    assert_eq!([figure(&nothing, "loaded"), figure(&nothing, "store_usable")], [Some(0.0), Some(1.0)]);
    assert!(!nothing.contains("packets_total") && !nothing.contains("attached"), "{nothing}");
    assert!(!host.run(|| Path::new("/var/lib/filter-ctl").exists()), "a store was made by looking");

    host.ip("link add flt0 type veth peer name peer0").unwrap();
    host.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    host.run(|| fs::write("/run/feed", "198.51.100.0/24\n").unwrap());
    host.ctl(&["list", "add", "feed", "--file", "/run/feed"]).done();
    let attached =
        |text: &str, mode: &str| figure(text, &format!("attached{{device=\"flt0\",mode=\"{mode}\"}}"));
    // As after a boot: what is to be filtered is known, and is not.
    host.sh("rm", ["-r", "/sys/fs/bpf/filter-ctl"]).unwrap();
    let _offered = start(&host, &["metrics", "--listen", TCP]);
    for text in [printed(&host), got(&host, TCP, "*/*")] {
        assert_eq!([attached(&text, "native"), figure(&text, "loaded")], [Some(0.0), Some(0.0)], "{text}");
        assert_eq!(figure(&text, "source_entries{source=\"feed\"}"), Some(1.0));
        assert!(!text.contains("packets_total"), "{text}");
    }
    host.ctl(&["restore"]).done();
    eventually("it is filtered again", || attached(&got(&host, TCP, "*/*"), "native") == Some(1.0)).unwrap();
    // Not wanted, not missed.
    host.ctl(&["unload", "--all"]).done();
    assert_eq!(attached(&printed(&host), "native"), None);
    // A store that can't be used is no reason to say nothing.
    host.ctl(&["load", "flt0"]).done();
    host.sh("chmod", ["777", "/var/lib/filter-ctl"]).unwrap();
    let text = printed(&host);
    assert_eq!([figure(&text, "store_usable"), attached(&text, "native")], [Some(0.0), Some(1.0)], "{text}");
}

#[test]
fn alerts_are_raised_when_they_should_be_on_figures_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = |path: &str| root.join(path).to_str().unwrap().to_owned();
    let rules = path("../filter-ctl/prometheus/alerts.yml");
    promtool(&["check", "rules", &rules], "").done();
    promtool(&["test", "rules", &path("prometheus/alerts.test.yml")], "").done();

    let (server, _client) = lab();
    server.run(|| {
        fs::write("/run/key", "x").unwrap();
        fs::set_permissions("/run/key", std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write("/run/feed", "198.51.100.0/24\n").unwrap();
    });
    server.ctl(&["list", "add", "feed", "--file", "/run/feed", "--refresh", "1h"]).done();
    let nobody = ["--crowdsec", "http://127.0.0.1:1", "--crowdsec-key-file", "/run/key"];
    let _daemon = daemon(&server, &[&["--metrics-listen", TCP_V6], &nobody[..]].concat());
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rules = fs::read_to_string(rules).unwrap();
    let mut named: BTreeSet<&str> =
        rules.split(|c| !is_name(c)).filter(|word| word.starts_with("xdp_filter_")).collect();
    assert!(named.len() > 15, "{named:?}");
    // From the second collection on.
    named.insert("xdp_filter_last_collection_duration_seconds");
    let mut text = String::new();
    eventually("every figure of an alert is there", || {
        text = got(&server, TCP_V6, "*/*");
        let is_there = |name: &&str| text.lines().any(|line| line.split([' ', '{']).next() == Some(*name));
        named.iter().all(is_there)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {named:?} {text}"));
    is_flawless(&text);
    for series in ["daemon_running", "events_total{event=\"started\"}", "last_collection_duration_seconds"] {
        assert!(figure(&text, series) > Some(0.0), "{series}: {text}");
    }
}

#[test]
fn daemon_and_command_answer_on_both_listeners_as_they_are_asked() {
    let (server, _client) = lab();
    let _daemon = daemon(&server, &["--metrics-listen", ON_SOCKET]);
    let _command = start(&server, &["metrics", "--listen", TCP]);
    for address in [TCP, ON_SOCKET] {
        let classic = got(&server, address, "text/plain");
        is_flawless(&classic);
        let openmetrics = got(
            &server,
            address,
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1",
        );
        for text in [&classic, &openmetrics] {
            assert_eq!(figure(text, "attached{device=\"flt0\",mode=\"native\"}"), Some(1.0), "{text}");
            assert_eq!(figure(text, "daemon_running"), Some(1.0));
        }
        assert!(classic.contains("# TYPE xdp_filter_packets_total counter\n") && !classic.contains("# UNIT"));
        assert!(openmetrics.contains("# TYPE xdp_filter_packets counter\n"));
        for (request, words) in [
            ("HEAD /metrics HTTP/1.1\r\nHost: lab\r\n\r\n", &["200 OK", "content-length: "][..]),
            ("GET /metrics HTTP/1.0\r\n\r\n", &["200 OK", "# HELP"]),
            ("GET /metrics?name=x HTTP/1.1\r\nHost: lab\r\n\r\n", &["200 OK"]),
            ("GET / HTTP/1.1\r\nHost: lab\r\n\r\n", &["404", "/metrics"]),
            ("GET /metrics/../etc/passwd HTTP/1.1\r\nHost: lab\r\n\r\n", &["404"]),
            ("POST /other HTTP/1.1\r\nHost: lab\r\n\r\n", &["404"]),
            (
                "POST /metrics HTTP/1.1\r\nHost: lab\r\nContent-Length: 0\r\n\r\n",
                &["405", "allow: GET, HEAD"],
            ),
            ("DELETE /metrics HTTP/1.1\r\nHost: lab\r\n\r\n", &["405"]),
            ("GET /metrics HTTP/1.1\r\nHost: lab\r\nContent-Length: 9\r\n\r\nsomething", &["413"]),
            ("GET /metrics HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n", &["413"]),
        ] {
            let answer = asked(&server, address, request.as_bytes());
            assert!(words.iter().all(|word| answer.contains(word)), "{request}{answer}");
            assert!(answer.contains("connection: close") || request.contains("HTTP/1.0"), "{answer}");
            assert_eq!(request.starts_with("HEAD"), answer.ends_with("\r\n\r\n"), "{request}{answer}");
        }
    }
}

#[test]
fn others_than_this_host_are_not_listened_to() {
    let host = Host::new("server").unwrap();
    for (address, why) in [
        ("0.0.0.0:9743", "have a proxy"),
        ("[::]:9743", "loopback"),
        ("192.0.2.1:9743", "loopback"),
        ("localhost:9743", "IP:PORT"),
        ("unix:relative", "absolute"),
    ] {
        fails(&host.ctl(&["metrics", "--listen", address]), 2, &[address, why]);
        fails(&host.ctl(&["run", "--metrics-listen", address]), 2, &[address, why]);
    }
    // What is there and no socket is left alone.
    host.run(|| fs::write(SOCKET, "precious").unwrap());
    fails(&host.ctl(&["metrics", "--listen", ON_SOCKET]), 1, &[SOCKET, "in use"]);
    assert_eq!(host.read(SOCKET).unwrap(), "precious");
    let directory = PathBuf::from(SOCKET).with_file_name("none").join("x");
    let nowhere = format!("unix:{}", directory.display());
    fails(&host.ctl(&["metrics", "--listen", &nowhere]), 1, &["No such file"]);
}

#[test]
fn a_socket_is_taken_from_who_died_and_from_nobody_else() {
    let (server, _client) = lab();
    let first = daemon(&server, &["--metrics-listen", ON_SOCKET]);
    got(&server, ON_SOCKET, "*/*");
    assert_eq!(server.sh("stat", ["-c", "%a", SOCKET]).unwrap().trim(), "660");
    fails(&server.ctl(&["metrics", "--listen", ON_SOCKET]), 1, &["another program listens there already"]);
    got(&server, ON_SOCKET, "*/*");
    first.end("KILL");
    assert!(server.run(|| Path::new(SOCKET).exists()));
    assert_eq!(asked(&server, ON_SOCKET, GET.as_bytes()), "");
    let second = daemon(&server, &["--metrics-listen", ON_SOCKET]);
    assert_eq!(figure(&got(&server, ON_SOCKET, "*/*"), "daemon_running"), Some(1.0));
    second.end("TERM");
    assert!(!server.run(|| Path::new(SOCKET).exists()));

    // A daemon that can't listen keeps the filter all the same, tells, and listens once it can.
    let command = start(&server, &["metrics", "--listen", TCP]);
    got(&server, TCP, "*/*");
    let _daemon = daemon(&server, &["--metrics-listen", TCP, "--hook", "cat >> /run/events"]);
    let told = || server.read("/run/events").unwrap_or_default().contains("metrics_unusable");
    eventually("it tells that it can't listen", told).unwrap();
    command.end("TERM");
    eventually("it listens", || {
        let text = asked(&server, TCP, GET.as_bytes());
        figure(&text, "events_total{event=\"metrics_unusable\"}") == Some(1.0)
    })
    .unwrap();
}

#[test]
fn who_stalls_or_talks_nonsense_keeps_nobody_waiting() {
    let (server, _client) = lab();
    let daemon = daemon(&server, &["--metrics-listen", TCP]);
    let before = got(&server, TCP, "*/*");
    let (memory_kb, threads) = (of_process(&daemon, "VmRSS"), of_process(&daemon, "Threads"));
    // Half of all turns: those who send a byte, and those who never read what they asked for.
    let mut stalled: Vec<_> = (0..16).map(|_| connect(&server, TCP).unwrap()).collect();
    stalled.iter_mut().for_each(|stream| stream.write_all(b"G").unwrap());
    let mut unread: Vec<_> = (0..16).map(|_| connect(&server, TCP).unwrap()).collect();
    unread.iter_mut().for_each(|stream| stream.write_all(GET.as_bytes()).unwrap());
    assert!(asked(&server, TCP, GET.as_bytes()).starts_with("HTTP/1.1 200"), "others are answered");

    for (nonsense, answer) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (b"GET\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), ""),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)).into_bytes(), ""),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(7 << 10)).into_bytes(), "HTTP/1.1 404"),
        (format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500)).into_bytes(), "HTTP/1.1 431"),
        (vec![0; 1 << 20], ""),
    ] {
        let said = asked(&server, TCP, &nonsense);
        assert!(said.starts_with(answer) && !said.starts_with("HTTP/1.1 200"), "{said}");
        assert!(asked(&server, TCP, GET.as_bytes()).starts_with("HTTP/1.1 200"), "others are answered");
    }

    // Each is answered as a whole, or not at all, and a collection is for all who ask within a second.
    let collections = |text: &str| figure(text, "collections_total").unwrap();
    let (began, count) = (Instant::now(), collections(&got(&server, TCP, "*/*")));
    let answers: Vec<String> = thread::scope(|scope| {
        let asking: Vec<_> = (0..200).map(|_| scope.spawn(|| asked(&server, TCP, GET.as_bytes()))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let whole = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert!(whole >= 16, "{whole} of 200 were answered");
    let counts = answers.iter().filter_map(|answer| figure(answer, "collections_total"));
    assert_eq!(counts.clone().count(), whole);
    let most = counts.fold(count, f64::max);
    assert!(most - count <= began.elapsed().as_secs_f64() + 1.0, "{most} collections after {count}");

    // More than are answered at once: the first wait for their time to end, all others are closed at once.
    let idle: Vec<_> = (0..200).map(|_| connect(&server, TCP).unwrap()).collect();
    let busy = (of_process(&daemon, "VmRSS"), of_process(&daemon, "Threads"));
    let refused = |text: &str| figure(text, "connections_refused_total").unwrap();
    let mut after = String::new();
    // What is told may have been collected a second ago.
    eventually("the refused are counted", || {
        after = got(&server, TCP, "*/*");
        refused(&after) - refused(&before) >= 200.0 - 64.0
    })
    .unwrap();
    drop((idle, stalled, unread));
    assert!(figure(&after, "connections_total") > figure(&before, "connections_total"));
    assert!(
        busy.0 < memory_kb + (16 << 10) && busy.1 <= threads + 4,
        "{busy:?} after {memory_kb} KiB, {threads}"
    );
    // And the daemon's own work went on.
    assert!(figure(&after, "proofs_total") > figure(&before, "proofs_total"), "{after}");
    assert_eq!(figure(&after, "alarms"), Some(0.0), "{after}");
}

#[test]
fn a_collection_that_fails_says_why_and_the_daemon_goes_on() {
    let (server, _client) = lab();
    let _daemon = daemon(&server, &["--lock-wait", "200ms", "--metrics-listen", ON_SOCKET]);
    got(&server, ON_SOCKET, "*/*");
    let lock = server.run(|| Lock::acquire(&pins(), Duration::from_secs(20)).unwrap());
    let mut answer = String::new();
    eventually("it can't be collected", || {
        answer = asked(&server, ON_SOCKET, GET.as_bytes());
        answer.starts_with("HTTP/1.1 503")
    })
    .unwrap();
    assert!(answer.contains("has held the lock"), "{answer}");
    drop(lock);
    let text = got(&server, ON_SOCKET, "*/*");
    assert!(figure(&text, "collections_failed_total") >= Some(1.0), "{text}");
    let proofs = figure(&text, "proofs_total");
    eventually("proofs go on", || figure(&got(&server, ON_SOCKET, "*/*"), "proofs_total") > proofs).unwrap();
}
