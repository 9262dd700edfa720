//! The figures of those whose prefixes are enforced: lists, and CrowdSec.

use anyhow::Result;

use super::filter::whole;
use super::{Figures, Labels, alone, label};
use crate::control::ListHits;
use crate::daemon::state::CrowdsecState;
use crate::lists::settings::owner_of;
use crate::policy::Owner;
use crate::store::{Listed, Store};

/// What lists hold, how old they are, and, where that is known, what they did. Adds nothing where the store can't be read.
pub fn lists(figures: &mut Figures, store: Option<&Store>, hits: Option<&[(Owner, ListHits)]>) -> Result<()> {
    let Some(store) = store else { return Ok(()) };
    let listed = store.lists()?;
    if listed.is_empty() {
        return Ok(());
    }
    let labels = |list: &Listed| -> Labels { vec![label("source", &list.name)] };
    let (mut entries, mut packets, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for list in &listed {
        let in_force = store.generations(list)?.into_iter().find(|kept| Some(kept.number) == list.generation);
        entries.push((labels(list), in_force.map_or(0, |kept| whole(kept.entries))));
        let owner = owner_of(&list.name)?;
        if let Some((_, hits)) = hits.unwrap_or_default().iter().find(|(of, _)| *of == owner) {
            packets.push((labels(list), hits.packets));
            bytes.push((labels(list), hits.bytes));
        }
    }
    let mut each = |name, help, value: fn(&Listed) -> i64| {
        figures.gauges(name, help, listed.iter().map(|list| (labels(list), value(list))));
    };
    let help = "The generation of the list that is in force; zero if none is";
    each("source_generation", help, |list| list.generation.unwrap_or(0));
    let help = "When the list was last found up to date, since 1970; zero if it never was";
    each("source_last_success_timestamp_seconds", help, |list| list.checked_s.unwrap_or(0));
    let help = "Whether the list could not be brought up to date when that was last tried";
    each("source_failing", help, |list| list.trouble.is_some().into());
    let help =
        "Whether an operator holds the list at a generation, so that it is not brought up to date by itself";
    each("source_held", help, |list| list.is_held.into());
    let scheduled = listed.iter().filter_map(|list| Some((labels(list), whole(list.settings.refresh_s?))));
    let help = "Time between two fetches of the list by the daemon, where it fetches it by itself";
    figures.gauges("source_refresh_interval_seconds", help, scheduled);
    let errors = listed.iter().map(|list| (labels(list), list.troubles));
    let help = "Times that the list could not be fetched or read, or was out of bounds, since it was added";
    figures.counters("source_errors", help, errors);
    figures.gauges("source_entries", "Prefixes of the list's generation in force", entries);
    let help = "Frames from addresses that the list holds, decided by entries";
    figures.counters("source_packets", help, packets);
    figures.counters("source_bytes", "Lengths of these frames", bytes);
    Ok(())
}

/// How it goes with CrowdSec.
pub fn crowdsec(figures: &mut Figures, state: &CrowdsecState) {
    let help = "Questions to CrowdSec, since the daemon started";
    figures.counters("crowdsec_requests", help, alone(state.asked));
    let help =
        "Questions to CrowdSec that failed, or whose answer could not be enforced, since the daemon started";
    figures.counters("crowdsec_errors", help, alone(state.failed));
    let help = "When an answer of CrowdSec's was last enforced, since 1970; zero before the first";
    let answered_s = state.answered_at_s.unwrap_or(0);
    figures.gauges("crowdsec_last_success_timestamp_seconds", help, alone(answered_s));
}
