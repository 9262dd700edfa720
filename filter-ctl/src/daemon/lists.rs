//! Lists on a schedule: each is fetched again when it is time, a tenth earlier or later, so that not all hosts come at once.
//! And the never-block set follows what this host has and needs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use anyhow::Result;

use super::event::{Event, EventKind};
use super::keeper::Keeper;
use crate::control::Control;
use crate::feeds::{Asked, Caller, Outcome, Updated, apply_never};
use crate::kernel::builds::OtherBuild;
use crate::kernel::pins::NotLoaded;
use crate::store::{Listed, wall_now_s};

/// What part of the time between two fetches passes at least after one that failed; and that time in seconds, at most.
const RETRY: (u64, u64) = (10, 3600);

/// How long a list waits of which it could not be written down that it was fetched.
pub(super) const UNNOTED: Duration = Duration::from_secs(600);

/// What was told of lists: how often each failed.
pub type Told = BTreeMap<String, u64>;

impl Keeper {
    /// Fetches the lists for which it is time, tells what became of them, and brings the never-block set up to date.
    pub fn refresh_lists(&self) {
        match self.refresh_due() {
            Ok(()) => {}
            // What is wrong with the filter is told by proofs.
            Err(error) if error.is::<NotLoaded>() || error.is::<OtherBuild>() => {}
            Err(error) => {
                let what = format!("lists could not be looked at: {error:#}");
                self.found_of_lists(Some(what));
                return;
            }
        }
        self.found_of_lists(None);
    }

    fn refresh_due(&self) -> Result<()> {
        let lists = self.lists()?;
        self.tell_failures(&lists);
        let now_s = wall_now_s();
        for due in lists.iter().filter(|list| is_due(list, now_s) && !self.is_waiting(list)) {
            let author = self.author(&format!("list update {}", due.name));
            let caller = Caller { place: self.place(), author, ssh_peers: &[] };
            // That it failed is written down with the list, and told below.
            if let Ok(updated) = caller.update(&due.name, &Asked::default(), &mut |_| {}) {
                self.tell_taken(&updated);
            }
            // Where even that can't be written down, the server must not be asked again at once.
            let after = self.lists()?.into_iter().find(|list| list.name == due.name);
            let is_noted = |list: &Listed| list.checked_s != due.checked_s || list.troubles != due.troubles;
            self.wait_for(&due.name, after.is_some_and(|list| !is_noted(&list)));
        }
        self.tell_failures(&self.lists()?);
        Ok(())
    }

    fn lists(&self) -> Result<Vec<Listed>> {
        Control::open(self.place(), self.author("run"))?.readable_store()?.lists()
    }

    /// Brings the never-block set to what this host has and needs now.
    pub fn follow_never(&self) {
        let followed = Control::open(self.place(), self.author("run")).and_then(|mut control| {
            let has_lists = control.store().is_ok_and(|store| !store.view().lists.is_empty());
            if has_lists { apply_never(&mut control, &[]).map(drop) } else { Ok(()) }
        });
        match followed {
            Err(error) if error.is::<NotLoaded>() || error.is::<OtherBuild>() => self.found_of_never(None),
            Err(error) => {
                self.found_of_never(Some(format!("what no list may block could not be followed: {error:#}")))
            }
            Ok(()) => self.found_of_never(None),
        }
    }

    fn tell_taken(&self, updated: &Updated) {
        let Some(change) = updated.change.as_ref().filter(|_| updated.outcome == Outcome::Taken) else {
            return;
        };
        let what = format!(
            "{}: generation {} is in force: {} added, {} removed",
            updated.list,
            change.generation.unwrap_or_default(),
            change.added,
            change.removed
        );
        self.tell(&Event::new(EventKind::ListTaken, &what).with("list", &updated.list));
    }

    /// Tells what failed since it was last looked, whoever tried it.
    fn tell_failures(&self, lists: &[Listed]) {
        let now: Told = lists.iter().map(|list| (list.name.clone(), list.troubles)).collect();
        let before = self.swap_told(now);
        for list in lists {
            let Some(trouble) = &list.trouble else { continue };
            let is_new = before.as_ref().is_some_and(|told| told.get(&list.name) < Some(&list.troubles));
            if is_new {
                let what = format!("{} was not taken: {}", list.name, trouble.why);
                let event = Event::new(EventKind::ListRefused, &what).with("list", &list.name);
                self.tell(&event.with("kind", &trouble.kind));
            }
        }
    }
}

/// Whether it is time to fetch a list.
fn is_due(list: &Listed, now_s: i64) -> bool {
    let Some(refresh_s) = list.settings.refresh_s.filter(|_| !list.is_held) else { return false };
    // What is written of trouble goes with the next success, so it is later than the last, whatever the clock says.
    let failed = list.trouble.as_ref().map(|trouble| trouble.at_s);
    let (last_s, wait_s) = match (failed, list.checked_s) {
        (Some(failed_s), _) => (failed_s, (refresh_s / RETRY.0).clamp(60, RETRY.1).min(refresh_s)),
        (None, Some(checked_s)) => (checked_s, refresh_s),
        (None, None) => return true,
    };
    // A clock that went back must not keep a list from being fetched for years.
    let passed_s = u64::try_from(now_s - last_s).unwrap_or(u64::MAX);
    passed_s >= jittered(wait_s, &list.name, last_s)
}

/// A time a tenth shorter or longer, by list and by when it was last fetched; the same however often it is asked.
fn jittered(wait_s: u64, name: &str, last_s: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, last_s, std::process::id()).hash(&mut hasher);
    let span = wait_s / 5;
    wait_s - wait_s / 10 + hasher.finish() % (span + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::guards::Bounds;
    use crate::lists::settings::{Settings, Source};
    use crate::policy::Action;
    use crate::store::{Trouble, Validators};

    fn list(refresh_s: Option<u64>, checked_s: Option<i64>, failed_s: Option<i64>) -> Listed {
        let trouble = failed_s.map(|at_s| Trouble { at_s, kind: "empty".into(), why: "it is empty".into() });
        let settings = Settings {
            action: Action::Block,
            source: Source::File("feed".into()),
            format: None,
            column: None,
            mask: false,
            refresh_s,
            bounds: Bounds::default(),
        };
        Listed {
            id: 1,
            name: "feed".into(),
            settings,
            generation: Some(1),
            is_held: false,
            last: 1,
            validators: Validators::default(),
            checked_s,
            trouble,
            troubles: 0,
            kept: [0; 2],
        }
    }

    #[test]
    fn a_list_is_due_a_tenth_around_its_time() {
        let hourly = list(Some(3600), Some(100_000), None);
        assert!(!is_due(&hourly, 100_000 + 3239) && is_due(&hourly, 100_000 + 3960));
        assert!(is_due(&hourly, 99_999), "the clock went back");
        assert!(is_due(&list(Some(3600), None, None), 0));
        assert!(!is_due(&list(None, Some(0), None), 1_000_000));
        assert!(!is_due(&Listed { is_held: true, ..hourly }, 1_000_000));
    }

    #[test]
    fn what_failed_is_tried_again_sooner_and_not_at_once() {
        let failed = list(Some(36_000), Some(100_000), Some(140_000));
        assert!(!is_due(&failed, 140_000 + 3239) && is_due(&failed, 140_000 + 3960));
        let minutely = list(Some(60), Some(100_000), Some(100_100));
        assert!(!is_due(&minutely, 100_100 + 53) && is_due(&minutely, 100_100 + 66));
        let before_a_clock_went_back = list(Some(3600), Some(100_000), Some(90_000));
        assert!(!is_due(&before_a_clock_went_back, 90_000 + 300));
    }

    #[test]
    fn times_differ_between_fetches() {
        let times: std::collections::BTreeSet<u64> =
            (0..100).map(|at| jittered(36_000, "feed", at)).collect();
        assert!(
            times.len() > 50 && times.iter().all(|wait_s| (32_400..=39_600).contains(wait_s)),
            "{times:?}"
        );
    }
}
