//! Part D, second half: how long the commands take that change one entry, with many loaded.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use filter_tests::lab::{Host, join};

use crate::Extent;
use crate::lookups::thousands;
use crate::product;
use crate::programs::Set;
use crate::results::{Measure, Point, Results};
use crate::set::Kind;

/// How many times a run that does nothing an addition may take.
const ASKED: f64 = 3.0;

/// Additions that are started at once.
const AT_ONCE: usize = 100;

/// Prefixes that are in no set of the bench: RFC 5737, RFC 2544 and RFC 3849.
const ADDED: [(&str, &str); 3] = [
    ("an IPv4 address", "192.0.2.99"),
    ("an IPv4 /16", "198.19.0.0/16"),
    ("an IPv6 /64", "2001:db8:0:1::/64"),
];

/// Measures them.
pub fn measure(results: &mut Results, extent: &Extent) {
    let set = Set { kind: Kind::MixedV4, size: extent.many };
    let name = format!("block add with {} loaded", thousands(set.size));
    results.attempt(&name.clone(), |results| {
        let (host, other) = (Host::new("filter")?, Host::new("other")?);
        join(&host, "in0", &other, "out0")?;
        product::load_with(&host, "in0", set)?;
        one_at_a_time(results, extent, &host, &name)?;
        at_once(results, &host, &name)
    });
}

fn one_at_a_time(results: &mut Results, extent: &Extent, host: &Host, name: &str) -> Result<()> {
    for (what, prefix) in ADDED {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..extent.commands {
            theirs.push(timed(host, &["--version"])?);
            ours.push(timed(host, &["block", "add", prefix, "--force"])?);
            product::done(host.ctl(&["block", "del", prefix]))?;
        }
        results.point(Point {
            part: 'D',
            what: format!("{name}, {what}"),
            peer: "filter-ctl --version".to_owned(),
            unit: "ms",
            measure: Measure::Cost,
            ours,
            theirs,
            asked: Some(ASKED),
            aim: None,
        });
    }
    Ok(())
}

/// Milliseconds from starting a command to its end; it must succeed.
fn timed(host: &Host, arguments: &[&str]) -> Result<f64> {
    let command = host.filter_ctl(arguments);
    // Within the host's thread, so that handing the task over is not measured.
    let (took_ms, output) = host.run(move || {
        let mut command = command;
        let start = Instant::now();
        let output = command.output();
        (start.elapsed().as_secs_f64() * 1e3, output)
    });
    product::done(output?.into())?;
    Ok(took_ms)
}

fn at_once(results: &mut Results, host: &Host, name: &str) -> Result<()> {
    let start = Instant::now();
    let children: Result<Vec<Child>> = (0..AT_ONCE)
        .map(|number| {
            let mut command = host.filter_ctl(&["block", "add", &format!("198.18.0.{number}"), "--force"]);
            command.stdout(Stdio::null());
            host.spawn(command)
        })
        .collect();
    let outputs = children?.into_iter().map(Child::wait_with_output).collect::<Result<Vec<_>, _>>()?;
    let took_s = start.elapsed().as_secs_f64();
    let failed: Vec<String> = outputs
        .iter()
        .filter(|output| !output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
        .collect();
    results.figure('D', format!("{name}, {AT_ONCE} at once, failed"), "commands", vec![failed.len() as f64]);
    results.figure('D', format!("{name}, {AT_ONCE} at once, all done"), "s", vec![took_s]);
    ensure!(
        failed.is_empty(),
        "{} of {AT_ONCE} additions at once failed, the first: {}",
        failed.len(),
        failed[0]
    );
    Ok(())
}
