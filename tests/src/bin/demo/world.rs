//! The two hosts of the demo, what joins them, and who sends what. Addresses are from what RFC 5737,
//! RFC 2544 and RFC 3849 keep for such things.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use filter_ctl::policy::Prefix;
use filter_tests::flood::{Flood, Kind, Wave, pin};
use filter_tests::lab::{Host, join};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::traffic::{self, Clients};

/// The server's interface, on which everything comes in.
pub const INGRESS: &str = "ingress0";
/// The other end of the wire.
const WAN: &str = "wan0";

/// The service, over IPv4 and IPv6.
const SERVICE_PORT: u16 = 80;
const SERVER: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// The server's way to everybody.
const GATEWAY: [&str; 2] = ["192.0.2.254", "2001:db8:1::fe"];

/// Good clients: most over IPv4, as on the internet of today. Each has an address of its own.
pub const CLIENTS: [usize; 2] = [9, 3];

/// Where the flood comes from.
pub const FLOOD: [&str; 3] = ["203.0.113.0/24", "198.18.66.0/23", "2001:db8:bad::/48"];

/// Frames that show that the flood works: one of each family would do.
const FIRST_FRAMES: u32 = 10;

/// The hosts.
///
/// The internet, with its clients, its flood, the wire and the server's network card, has one CPU, and the server
/// another, on which its network stack and the service run: the card hands on what XDP passes (RPS). So the server
/// is hurt by what its stack has to handle, not by the making of the flood.
pub struct World {
    pub server: Host,
    internet: Host,
    internet_cpu: usize,
}

impl World {
    /// Makes the hosts and starts the service.
    pub fn new() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        // On a single one the scheduler shares out time fairly, and the flood gets too little to hurt.
        let two = "it needs two CPUs: one for the server, and one for the flood";
        let (internet_cpu, server_cpu) = (cpus.next().context(two)?, cpus.next().context(two)?);
        pin(&[server_cpu])?;
        let (server, internet) =
            (Host::new("server")?.on_cpu(server_cpu), Host::new("internet")?.on_cpu(internet_cpu));

        join(&server, INGRESS, &internet, WAN)?;
        // Until XDP does it, GRO is what lets a veth take frames from a flood.
        server.sh("ethtool", ["-K", INGRESS, "gro", "on"])?;
        steer(&server, INGRESS, server_cpu)?;
        steer(&internet, WAN, internet_cpu)?;
        let world = Self { server, internet, internet_cpu };
        world.address()?;
        traffic::serve(&world.server, SERVICE_PORT)?;
        Ok(world)
    }

    /// Gives everybody addresses and routes. Neighbours are fixed: their resolution is not what is measured.
    fn address(&self) -> Result<()> {
        let (server_mac, internet_mac) = (mac(&self.server, INGRESS)?, mac(&self.internet, WAN)?);
        for ((server, gateway), length) in SERVER.into_iter().zip(GATEWAY).zip([24, 64]) {
            self.server.ip(&format!("address add {server}/{length} dev {INGRESS} nodad"))?;
            self.internet.ip(&format!("address add {gateway}/{length} dev {WAN} nodad"))?;
            self.server.ip(&format!("neighbour add {gateway} lladdr {internet_mac} dev {INGRESS}"))?;
            self.internet.ip(&format!("neighbour add {server} lladdr {server_mac} dev {WAN}"))?;
            self.server.ip(&format!("route add default via {gateway}"))?;
        }
        for (client, _) in pairs() {
            self.internet.ip(&format!("address add {client} dev {WAN} nodad"))?;
        }
        Ok(())
    }

    /// Starts the good clients.
    pub fn clients(&self) -> Clients {
        Clients::start(&self.internet, &pairs())
    }

    /// The CPU that the flood is made on.
    pub fn internet_cpu(&self) -> usize {
        self.internet_cpu
    }

    /// The flood: requests for connections with the service. It has sent its first frames, so that one that can't
    /// is noticed before the story begins.
    pub fn flood(&self) -> Result<Flood<'_>> {
        let sources = FLOOD.map(|text| Prefix::parse(text, false).expect("a prefix"));
        let wave = |target: SocketAddr| Wave {
            kind: Kind::Syn,
            target,
            sources: sources
                .into_iter()
                .filter(|source| source.address().is_ipv4() == target.is_ipv4())
                .collect(),
        };
        let flood = Flood::new((&self.internet, WAN), (&self.server, INGRESS), &services().map(wave))?;
        flood.send(FIRST_FRAMES)?;
        Ok(flood)
    }
}

fn services() -> [SocketAddr; 2] {
    SERVER.map(|address| SocketAddr::new(address.parse().expect("an address"), SERVICE_PORT))
}

/// The clients' addresses, and the service that each asks.
fn pairs() -> Vec<(IpAddr, SocketAddr)> {
    let [v4, v6] = services();
    let v4 = (1..=CLIENTS[0]).map(move |number| (format!("198.51.100.{number}"), v4));
    let v6 = (1..=CLIENTS[1]).map(move |number| (format!("2001:db8:c::{number:x}"), v6));
    v4.chain(v6).map(|(client, service)| (client.parse().expect("an address"), service)).collect()
}

fn mac(host: &Host, device: &str) -> Result<String> {
    host.read(&format!("/sys/class/net/{device}/address"))
}

/// Has the packets that come in on a device handled by one CPU.
fn steer(host: &Host, device: &str, cpu: usize) -> Result<()> {
    // A bitmap in groups of 32.
    let mut mask = format!("{:x}", 1u32 << (cpu % 32));
    (0..cpu / 32).try_for_each(|_| mask.write_str(",00000000"))?;
    let path = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
    host.run(move || std::fs::write(&path, mask).with_context(|| format!("could not write {path}")))
}
