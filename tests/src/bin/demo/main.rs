//! x
mod traffic;
use filter_tests::lab::{Host, join};
use filter_tests::flood::*;
use std::time::*;
use std::net::*;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let kind = if args[1] == "syn" { Kind::Syn } else { Kind::Udp };
    let queues = args[2].as_str();
    pin(&[1])?;
    let server = Host::new("server")?;
    let internet = Host::new("internet")?;
    if queues == "1" { join(&server, "ingress0", &internet, "wan0")?; } else {
        panic!();
    }
    server.ip("address add 192.0.2.1/24 dev ingress0")?;
    server.ip("route add default via 192.0.2.254")?;
    internet.ip("address add 192.0.2.254/24 dev wan0")?;
    server.ip("address add 2001:db8:1::1/64 dev ingress0 nodad")?;
    server.ip("route add default via 2001:db8:1::fe")?;
    internet.ip("address add 2001:db8:1::fe/64 dev wan0 nodad")?;
    let mut pairs = vec![];
    for i in 1..=9 { let a: IpAddr = format!("198.51.100.{i}").parse()?; internet.ip(&format!("address add {a}/32 dev lo"))?; pairs.push((a, "192.0.2.1:80".parse()?)); }
    for i in 1..=3 { let a: IpAddr = format!("2001:db8:c::{i}").parse()?; internet.ip(&format!("address add {a}/128 dev lo nodad"))?; pairs.push((a, "[2001:db8:1::1]:80".parse()?)); }
    server.sh("ethtool", ["-K", "ingress0", "gro", "on"])?;
    traffic::serve(&server, 80)?;
    internet.run(|| pin(&[0]))?;
    server.run(|| std::fs::write("/sys/class/net/ingress0/queues/rx-0/rps_cpus", "2"))?;
    internet.run(|| std::fs::write("/sys/class/net/wan0/queues/rx-0/rps_cpus", "1"))?;
    let clients = traffic::Clients::start(&internet, &pairs);
    let p = |t: &str| filter_ctl::policy::Prefix::parse(t, false).unwrap();
    let waves = [Wave { kind, target: "192.0.2.1:80".parse()?, sources: vec![p("203.0.113.0/24"), p("198.18.66.0/23")] },
      Wave { kind, target: "[2001:db8:1::1]:80".parse()?, sources: vec![p("2001:db8:bad::/48")] }];
    let flood = Flood::new(&internet, "wan0", &server, "ingress0", &waves)?;
    let rx = || server.read("/sys/class/net/ingress0/statistics/rx_packets".into()).unwrap().parse::<u64>().unwrap();
    let look = |what: &str, s: u64| {
        let sent = || flood.sent().unwrap().iter().map(|x| x.1).sum::<u64>();
        let (a, f) = clients.tally(); let r = rx(); let se = sent(); let l = flood.lost().unwrap();
        let stat0 = std::fs::read_to_string("/proc/stat").unwrap();
        let t = Instant::now();
        std::thread::sleep(Duration::from_secs(s));
        let d = t.elapsed().as_secs_f64();
        let (a2, f2) = clients.tally();
        println!("{what:20} answered {:.0}/s failed {:.1}/s  sent {:.0}/s rx {:.0}/s lost {:.0}/s", (a2-a) as f64/d, (f2-f) as f64/d, (sent()-se) as f64/d, (rx()-r) as f64/d, (flood.lost().unwrap() - l) as f64/d);
        let stat1 = std::fs::read_to_string("/proc/stat").unwrap();
        for (x, y) in stat0.lines().zip(stat1.lines()).skip(1).take(2) {
            let g = |s: &str| s.split_whitespace().skip(1).map(|x| x.parse::<u64>().unwrap()).collect::<Vec<_>>();
            let (x, y) = (g(x), g(y));
            println!("     user {} sys {} idle {} softirq {}", y[0]-x[0], y[2]-x[2], y[3]-x[3], y[6]-x[6]);
        }
    };
    look("quiet", 2);
    let run = flood.start(0, Duration::from_secs(60));
    look("flood", 1);
    look("flood", 2);
    look("flood", 2);
    let prof = std::env::var("PERF").is_ok();
    if prof { std::process::Command::new("perf").args(["record","-a","-g","-o","/tmp/perf3.d","sleep","1"]).status()?; }
    print!("{:?}", server.ctl(&["load", "ingress0"]));
    look("loaded", 1);
    look("loaded", 3);
    print!("{:?}", server.ctl(&["block", "add", "203.0.113.0/24", "198.18.66.0/23", "2001:db8:bad::/48"]));
    look("blocked", 1);
    look("blocked", 2);
    look("blocked", 2);
    println!("{}", server.ctl(&["stats"]).stdout);
    run.stop()?;
    look("ended", 2);
    print!("{:?}", server.ctl(&["unload", "--all"]));
    Ok(())
}
