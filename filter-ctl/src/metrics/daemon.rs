//! The figures of the daemon, as it tells them of itself.

use super::filter::whole;
use super::{Figures, alone, label, sources};
use crate::daemon::event::EventKind;
use crate::daemon::state::{DaemonState, RecordState};
use crate::host::monotonic_now_s;
use crate::store::wall_now_s;

/// What a daemon that runs does, and that none does.
pub fn figures(figures: &mut Figures, daemon: Option<&DaemonState>) {
    figures.gauges("daemon_running", "Whether the daemon runs", alone(daemon.is_some().into()));
    let Some(daemon) = daemon else { return };
    let now_s = monotonic_now_s();
    let help = "What is wrong now, as the daemon found it: `filter-ctl status` says what";
    figures.gauges("alarms", help, alone(whole(daemon.alarms(now_s).len())));
    let help = "Proofs that the programs work, since the daemon started";
    figures.counters("proofs", help, alone(daemon.proofs));
    let proven_s =
        daemon.proven_s.map_or(0, |proven_s| wall_now_s() - i64::from(now_s - proven_s.min(now_s)));
    let help = "When all programs were last proven to work, since 1970; zero before the first time";
    figures.gauges("last_proof_timestamp_seconds", help, alone(proven_s));
    let help = "Times that something was not as it should be, since the daemon started";
    figures.counters("drifts", help, alone(daemon.drifts));
    if let Some(record) = &daemon.record {
        recorded(figures, record);
    }
    if let Some(crowdsec) = &daemon.crowdsec {
        sources::crowdsec(figures, crowdsec);
    }
    let events = EventKind::ALL.iter().map(|kind| {
        let number = daemon.events.get(kind.name()).copied().unwrap_or(0);
        (vec![label("event", kind.name())], number)
    });
    figures.counters("events", "Events, since the daemon started", events);
}

/// What became of the samples that the daemon read.
fn recorded(figures: &mut Figures, record: &RecordState) {
    let help = "Whether what the recorder has can be kept in files; `filter-ctl status` says why not";
    figures.gauges("recorder_files_usable", help, alone(record.trouble.is_none().into()));
    let help = "Samples that the daemon wrote, left out as one of many alike, or lost unread or unwritten, since it started";
    let outcomes = [("written", record.written), ("thinned", record.thinned), ("lost", record.lost)];
    let rows = outcomes.map(|(outcome, number)| (vec![label("outcome", outcome)], number));
    figures.counters("recorder_samples", help, rows);
}
