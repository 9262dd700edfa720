//! The scenarios on the wire: frames over veth into a filtered interface, in native and in generic mode, and
//! real sockets. Needs root. Run by `cargo xtask test wire`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use filter_common::{Reason, Verdict};
use filter_ctl::policy::Prefix;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::kernel_side::enforce;
use filter_tests::lab::{Host, eventually, join};
use filter_tests::packets::{Port, SHORTEST};
use filter_tests::scenarios::{Scenario, all};
use serde_json::Value;

/// The filtered interface, and the other end of its cable.
const FILTERED: &str = "flt0";
const PEER: &str = "peer0";

/// A server that filters what comes in, and the network it is connected to.
struct Lab {
    server: Host,
    network: Host,
}

impl Lab {
    fn new(mode: &str) -> Self {
        let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
        join(&server, FILTERED, &network, PEER).unwrap();
        // Room for the longest scenario, in what one page holds.
        server.ip(&format!("link set {FILTERED} mtu 3000")).unwrap();
        network.ip(&format!("link set {PEER} mtu 3000")).unwrap();
        server.ctl(&["load", FILTERED, "--mode", mode]).done();
        let status = server.ctl(&["status", "--json"]).done().json();
        assert_eq!(status["interfaces"][0]["mode"], mode);
        Self { server, network }
    }

    /// Addresses on both ends, and each other's link addresses, so that no ARP or neighbour discovery is sent.
    fn with_addresses(self) -> Self {
        let mac = |host: &Host, device: &str| {
            let shown: Value =
                serde_json::from_str(&host.ip(&format!("-j link show {device}")).unwrap()).unwrap();
            shown[0]["address"].as_str().unwrap().to_owned()
        };
        let (server_mac, network_mac) = (mac(&self.server, FILTERED), mac(&self.network, PEER));
        // Otherwise each IPv6 address joins a multicast group, and says so at some time.
        self.network.ip(&format!("link set {PEER} arp off")).unwrap();
        self.server.ip(&format!("addr add 192.0.2.1/24 dev {FILTERED}")).unwrap();
        self.server.ip(&format!("addr add 2001:db8::1/64 dev {FILTERED} nodad")).unwrap();
        for route in ["203.0.113.0/24", "2001:db8:bad::/48"] {
            self.server.ip(&format!("route add {route} dev {FILTERED}")).unwrap();
        }
        for address in [GOOD_V4, BAD_V4] {
            self.network.ip(&format!("addr add {address}/24 dev {PEER}")).unwrap();
            self.server.ip(&format!("neigh add {address} lladdr {network_mac} dev {FILTERED}")).unwrap();
        }
        for address in [GOOD_V6, BAD_V6] {
            self.network.ip(&format!("addr add {address}/64 dev {PEER} nodad")).unwrap();
            self.server.ip(&format!("neigh add {address} lladdr {network_mac} dev {FILTERED}")).unwrap();
        }
        for address in ["192.0.2.1", "2001:db8::1"] {
            self.network.ip(&format!("neigh replace {address} lladdr {server_mac} dev {PEER}")).unwrap();
        }
        self
    }

    /// What `stats` says of the filtered interface: packets and bytes by verdict and reason.
    fn reasons(&self) -> BTreeMap<String, (u64, u64)> {
        let stats = self.server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
        let mut by_reason = BTreeMap::new();
        for row in stats["interfaces"][0]["reasons"].as_array().unwrap() {
            let (number, text) =
                (|name: &str| row[name].as_u64().unwrap(), |name: &str| row[name].as_str().unwrap());
            let key = format!("{}: {}", text("verdict"), text("reason"));
            assert_eq!(by_reason.insert(key, (number("packets"), number("bytes"))), None, "a row twice");
        }
        by_reason
    }

    /// The packets and bytes that `stats` ascribes to an entry.
    fn entry(&self, prefix: &str) -> (u64, u64) {
        let stats = self.server.ctl(&["stats", "--over", "0s", "--top", "100", "--json"]).done().json();
        let entries = stats["entries"].as_array().unwrap().clone();
        let entry = entries.iter().find(|entry| entry["prefix"] == prefix);
        entry.map_or((0, 0), |entry| (entry["packets"].as_u64().unwrap(), entry["bytes"].as_u64().unwrap()))
    }
}

const GOOD_V4: &str = "192.0.2.2";
const BAD_V4: &str = "203.0.113.77";
const GOOD_V6: &str = "2001:db8::2";
const BAD_V6: &str = "2001:db8:bad::2";

/// The key of [`Lab::reasons`].
fn key(reason: Reason, verdict: Verdict) -> String {
    format!("{}: {}", verdict.name(), reason.name())
}

/// Differences that are not zero.
fn moved(
    before: &BTreeMap<String, (u64, u64)>,
    after: &BTreeMap<String, (u64, u64)>,
) -> BTreeMap<String, (u64, u64)> {
    let difference = |(name, (packets, bytes)): (&String, &(u64, u64))| {
        (name.clone(), {
            // A tolerated fault has a row only once it has passed.
            let (packets_before, bytes_before) = before.get(name).copied().unwrap_or_default();
            (packets - packets_before, bytes - bytes_before)
        })
    };
    after.iter().map(difference).filter(|(_, moved)| *moved != (0, 0)).collect()
}

fn scenarios_on_the_wire(mode: &str) {
    let lab = Lab::new(mode);
    let mut sender = lab.network.run(|| Port::open(PEER).unwrap());
    let mut receiver = lab.server.run(|| Port::open(FILTERED).unwrap());
    let mut tried = 0;
    for scenario in all().into_iter().filter(|scenario| scenario.frame.len() >= SHORTEST) {
        let Scenario { policy, tolerated, .. } = scenario;
        lab.server.run(move || enforce(policy, tolerated)).unwrap();
        let before = lab.reasons();
        let arrived = sender.send_and_see(&mut receiver, &scenario.frame).unwrap();
        let moved = moved(&before, &lab.reasons());

        let mut want =
            BTreeMap::from([(key(scenario.reason, scenario.verdict()), (1, scenario.frame.len() as u64))]);
        // The frame that follows each to mark its end is neither IP nor ARP.
        let marker = want.entry(key(Reason::NonIp, Verdict::Pass)).or_default();
        *marker = (marker.0 + 1, marker.1 + Port::MARKER_LENGTH as u64);
        assert_eq!(moved, want, "{} ({mode})", scenario.name);
        let passes = scenario.verdict() == Verdict::Pass;
        assert_eq!(arrived, usize::from(passes), "frames that came through: {} ({mode})", scenario.name);
        tried += 1;
    }
    assert!(tried > 250, "only {tried} scenarios were tried");
}

#[test]
fn every_scenario_on_the_wire_in_native_mode() {
    scenarios_on_the_wire("native");
}

#[test]
fn every_scenario_on_the_wire_in_generic_mode() {
    scenarios_on_the_wire("generic");
}

/// Sends datagrams from an address of the network, and returns how many frames' bytes that makes.
fn send_datagrams(lab: &Lab, from: &str, to: &str, count: usize) {
    let (from, to): (SocketAddr, SocketAddr) = (socket(from, 0), socket(to, 5353));
    lab.network.run(move || {
        let socket = UdpSocket::bind(from).unwrap();
        for number in 0..count {
            socket.send_to(&number.to_be_bytes(), to).unwrap();
        }
    });
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn datagrams_are_dropped_and_counted_exactly(mode: &str) {
    const COUNT: usize = 1000;
    // Ethernet, IP, UDP, and the eight bytes sent.
    const V4_BYTES: u64 = 14 + 20 + 8 + 8;
    const V6_BYTES: u64 = 14 + 40 + 8 + 8;
    let lab = Lab::new(mode).with_addresses();
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "2001:db8:bad::/48", "--force"]).done();
    let received = lab.server.run(|| {
        let socket = UdpSocket::bind("[::]:5353").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    });
    let before = lab.reasons();
    let count = COUNT as u64;
    let mut from = BTreeMap::new();
    // Few at a time, so that the socket's buffer never overflows: what is counted here must be what the filter passed.
    for _ in 0..COUNT / 50 {
        for (source, destination) in
            [(GOOD_V4, "192.0.2.1"), (BAD_V4, "192.0.2.1"), (GOOD_V6, "2001:db8::1"), (BAD_V6, "2001:db8::1")]
        {
            send_datagrams(&lab, source, destination, 50);
        }
        for _ in 0..100 {
            let (_, source) = received.recv_from(&mut [0; 64]).expect("all good datagrams arrive");
            *from.entry(source.ip().to_canonical().to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(from, BTreeMap::from([(GOOD_V4.into(), COUNT), (GOOD_V6.into(), COUNT)]));
    let want = BTreeMap::from([
        ("drop: blocked".to_owned(), (2 * count, count * (V4_BYTES + V6_BYTES))),
        ("pass: no_match".to_owned(), (2 * count, count * (V4_BYTES + V6_BYTES))),
    ]);
    assert_eq!(moved(&before, &lab.reasons()), want);
    assert_eq!(lab.entry("203.0.113.0/24"), (count, count * V4_BYTES));
    assert_eq!(lab.entry("2001:db8:bad::/48"), (count, count * V6_BYTES));
}

#[test]
fn datagrams_are_dropped_and_counted_exactly_in_native_mode() {
    datagrams_are_dropped_and_counted_exactly("native");
}

#[test]
fn datagrams_are_dropped_and_counted_exactly_in_generic_mode() {
    datagrams_are_dropped_and_counted_exactly("generic");
}

/// Connects from an address of the network to the server and back; `None` if no answer comes in time.
fn request(lab: &Lab, from: &str, to: &str, patience: Duration) -> Option<Vec<u8>> {
    let (from, to) = (from.to_owned(), socket(to, 8080));
    lab.network.run(move || {
        // The standard library can't bind before it connects; a route with that source address does the same.
        let family = if to.is_ipv4() { "-4" } else { "-6" };
        let prefix = if to.is_ipv4() { "32" } else { "128" };
        let route = format!("{family} route replace {}/{prefix} dev {PEER} src {from}", to.ip());
        let status = std::process::Command::new("ip").args(route.split(' ')).status().unwrap();
        assert!(status.success(), "ip {route}");
        let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.write_all(b"ping").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    })
}

fn a_tcp_service_answers_good_clients_only(mode: &str) {
    let lab = Lab::new(mode).with_addresses();
    let listener = lab.server.run(|| TcpListener::bind("[::]:8080").unwrap());
    let service = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).unwrap();
            if question == *b"stop" {
                break;
            }
            stream.write_all(b"pong").unwrap();
        }
    });
    // Patient with those who are to be answered, on however loaded a machine; the others can only be waited for.
    let (long, short) = (Duration::from_secs(15), Duration::from_millis(500));
    let everyone =
        [(GOOD_V4, "192.0.2.1"), (BAD_V4, "192.0.2.1"), (GOOD_V6, "2001:db8::1"), (BAD_V6, "2001:db8::1")];
    let expect = |answered: [bool; 4], when: &str| {
        for ((from, to), answered) in everyone.into_iter().zip(answered) {
            let answer = request(&lab, from, to, if answered { long } else { short });
            assert_eq!(answer.as_deref() == Some(b"pong"), answered, "{from}, {when}");
        }
    };

    expect([true; 4], "before any block");
    lab.server.ctl(&["block", "add", BAD_V4, BAD_V6]).done();
    expect([true, false, true, false], "two sources are blocked");
    lab.server.ctl(&["allow", "add", BAD_V6]).done();
    expect([true, false, true, true], "one of them is allowed");
    lab.server.ctl(&["block", "del", BAD_V4]).done();
    expect([true; 4], "the other block is removed");

    lab.server.run(|| TcpStream::connect("[::1]:8080").unwrap().write_all(b"stop").unwrap());
    service.join().unwrap();
}

#[test]
fn a_tcp_service_answers_good_clients_only_in_native_mode() {
    a_tcp_service_answers_good_clients_only("native");
}

#[test]
fn a_tcp_service_answers_good_clients_only_in_generic_mode() {
    a_tcp_service_answers_good_clients_only("generic");
}

/// Needs live frames in test-runs (5.18), of which the flood's sender is made.
#[test]
fn a_flood_from_hundreds_of_sources_is_counted_to_the_frame() {
    const FRAMES: u32 = 300_000;
    const V4_LENGTH: u64 = 60;
    const V6_LENGTH: u64 = 62;
    let lab = Lab::new("native");
    let prefix = |text: &str| Prefix::parse(text, false).unwrap();
    let waves = [
        ("192.0.2.1:53", vec![prefix("203.0.113.0/24"), prefix("198.18.66.0/23")]),
        ("[2001:db8::1]:53", vec![prefix("2001:db8:bad::/48")]),
    ]
    .map(|(target, sources)| Wave { kind: Kind::Udp, target: target.parse().unwrap(), sources });
    let flood = Flood::new((&lab.network, PEER), (&lab.server, FILTERED), &waves).unwrap();
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "198.18.66.0/23", "2001:db8:bad::/48"]).done();
    let before = lab.reasons();
    flood.send(FRAMES).unwrap();

    let sent = flood.sent().unwrap();
    assert_eq!(sent.iter().map(|(_, frames)| frames).sum::<u64>(), u64::from(FRAMES));
    let mut bytes = 0;
    for (prefix, frames) in sent {
        let length = if prefix.address().is_ipv4() { V4_LENGTH } else { V6_LENGTH };
        assert!(frames > 0, "{prefix} sent nothing");
        assert_eq!(lab.entry(&prefix.to_string()), (frames, frames * length), "{prefix}");
        bytes += frames * length;
    }
    let want = BTreeMap::from([("drop: blocked".to_owned(), (FRAMES.into(), bytes))]);
    assert_eq!(moved(&before, &lab.reasons()), want);
}

#[test]
fn frames_beyond_a_page_are_dropped_and_counted_whole() {
    const PAYLOAD: usize = 8000;
    const LENGTH: u64 = 14 + 20 + 8 + PAYLOAD as u64;
    let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
    join(&server, FILTERED, &network, PEER).unwrap();
    server.ip(&format!("link set {FILTERED} mtu 9000")).unwrap();
    network.ip(&format!("link set {PEER} mtu 9000")).unwrap();
    server.ctl(&["load", FILTERED]).done();
    let lab = Lab { server, network }.with_addresses();
    lab.server.ctl(&["block", "add", BAD_V4]).done();
    let received = lab.server.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    });
    let before = lab.reasons();
    for from in [BAD_V4, GOOD_V4] {
        let (from, to) = (socket(from, 0), socket("192.0.2.1", 5353));
        lab.network.run(move || UdpSocket::bind(from).unwrap().send_to(&[7; PAYLOAD], to).unwrap());
    }
    let (length, source) = received.recv_from(&mut [0; 9000]).unwrap();
    assert_eq!((length, source.ip().to_string().as_str()), (PAYLOAD, GOOD_V4));
    let want = BTreeMap::from([
        ("drop: blocked".to_owned(), (1, LENGTH)),
        ("pass: no_match".to_owned(), (1, LENGTH)),
    ]);
    assert_eq!(moved(&before, &lab.reasons()), want);
}

#[test]
fn interfaces_are_counted_apart() {
    let lab = Lab::new("native");
    join(&lab.server, "flt1", &lab.network, "peer1").unwrap();
    lab.server.ctl(&["load", "flt1", "--mode", "generic"]).done();
    let frame = all().into_iter().find(|scenario| scenario.name == "IPv4, no entries").unwrap().frame;
    for (device, count) in [(PEER, 3), ("peer1", 5)] {
        let mut port = lab.network.run(move || Port::open(device).unwrap());
        (0..count).for_each(|_| port.send(&frame).unwrap());
    }
    let totals = || {
        let stats = lab.server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
        let interfaces = stats["interfaces"].as_array().unwrap().clone();
        let total = |interface: &Value| {
            (interface["interface"].as_str().unwrap().to_owned(), interface["passed"]["packets"].as_u64())
        };
        interfaces.iter().map(total).collect::<Vec<_>>()
    };
    eventually("all frames are counted", || totals() == [("flt0".into(), Some(3)), ("flt1".into(), Some(5))])
        .unwrap();
}

#[test]
fn a_block_ends_on_the_wire_without_any_process() {
    let lab = Lab::new("native").with_addresses();
    let server = lab.server.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket
    });
    let arrives = || {
        send_datagrams(&lab, GOOD_V4, "192.0.2.1", 1);
        server.recv_from(&mut [0; 64]).is_ok()
    };
    eventually("a datagram arrives", arrives).unwrap();
    lab.server.ctl(&["block", "add", GOOD_V4, "--ttl", "5s"]).done();
    // Those sent before may still be under way.
    eventually("a datagram is dropped", || !arrives()).unwrap();
    eventually("the block ends", arrives).unwrap();
    // It is still there until a command clears it away, and says what it is.
    let listed = lab.server.ctl(&["block", "list", "--json"]).done().json();
    assert_eq!(listed["entries"][0]["expires_in_s"], 0);
}
