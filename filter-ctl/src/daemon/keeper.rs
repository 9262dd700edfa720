//! What the daemon does by itself: bring up or take over, clear away, prove, mend, follow devices, sample, copy the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Config;
use super::event::{Event, EventKind};
use super::hooks::Hooks;
use super::lists::{self, Told};
use super::log::Log;
use super::record::Recording;
use super::state::{CrowdsecState, DaemonState};
use crate::control::{self, Author, Control, Finding, Place};
use crate::holds::{Change, Hold};
use crate::host::{monotonic_now, monotonic_now_s, users};
use crate::kernel::held::HeldLinks;
use crate::kernel::interface::State;
use crate::kernel::maps::Maps;
use crate::kernel::pins::{NotLoaded, TablesGone};
use crate::kernel::proof;
use crate::kernel::upgrade::{Outcome, Upgraded, upgrade};
use crate::policy::{Action, Deadline, Owner, ReasonText};
use crate::store::history::History;
use crate::store::{Actor, Kept, Listed, Via, backup, wall_now_s};

/// How long devices that are named are waited for at the start; those that come later are followed.
const AT_START: Duration = Duration::ZERO;

/// How long hooks may still work when the daemon ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Proofs between two copies of a store that changed, and between two notes of what the clocks show.
const PROOFS_A_COPY: u64 = 12;

/// The daemon's own work. Each part is done by one thread at a time.
pub struct Keeper {
    place: Place,
    run_directory: PathBuf,
    verbose: bool,
    log: Arc<Log>,
    hooks: Mutex<Option<Hooks>>,
    history: Mutex<Option<History>>,
    held: Mutex<HeldLinks>,
    recording: Mutex<Option<Recording>>,
    memory: Mutex<Memory>,
}

/// What the keeper remembers.
struct Memory {
    state: DaemonState,
    /// What was wrong when last looked, as it was told.
    wrong: BTreeSet<String>,
    /// Why the history can't be written, as it was told.
    history_trouble: Option<String>,
    /// Devices that were filtered when last looked, by name and index.
    filtered: BTreeSet<(String, u32)>,
    /// The store's change that its copy has.
    copied: Option<u64>,
    last_proof: Instant,
    /// How often each list failed, as it was told; nothing before it was looked for the first time.
    failures: Option<Told>,
    /// Why lists can't be looked at, as it was told.
    lists_trouble: Option<String>,
    /// Why the never-block set can't be followed, as it was told.
    never_trouble: Option<String>,
    /// When lists were fetched of which that could not be written down.
    unnoted: BTreeMap<String, Instant>,
}

impl Keeper {
    /// Gets ready, and touches neither filter nor store yet.
    ///
    /// # Errors
    ///
    /// If a hook's thread can't be started.
    pub fn start(config: &Config, run_directory: &Path) -> Result<Self> {
        let log = Arc::new(Log::start());
        let report = {
            let log = Arc::clone(&log);
            move |event: &Event| log.write(event)
        };
        let hooks = Hooks::start(&config.hooks, report).context("could not start a thread for a hook")?;
        let interval_ms = u64::try_from(config.proof_interval.as_millis()).unwrap_or(u64::MAX);
        let state =
            DaemonState { pid: std::process::id(), proof_interval_ms: interval_ms, ..DaemonState::default() };
        let recording = config.record.map(|bounds| Recording::new(&config.place.state, bounds));
        Ok(Self {
            place: config.place.clone(),
            run_directory: run_directory.to_owned(),
            verbose: config.verbose,
            log,
            hooks: Mutex::new(Some(hooks)),
            history: Mutex::new(None),
            held: Mutex::default(),
            recording: Mutex::new(recording),
            memory: Mutex::new(Memory {
                state,
                wrong: BTreeSet::new(),
                history_trouble: None,
                filtered: BTreeSet::new(),
                copied: None,
                last_proof: Instant::now(),
                failures: None,
                lists_trouble: None,
                never_trouble: None,
                unnoted: BTreeMap::new(),
            }),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the filter lies.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Notes how often each list failed. Returns what was noted before.
    pub(super) fn swap_told(&self, failures: Told) -> Option<Told> {
        self.memory().failures.replace(failures)
    }

    /// Tells why lists can't be looked at, once.
    pub(super) fn found_of_lists(&self, trouble: Option<String>) {
        let before = std::mem::replace(&mut self.memory().lists_trouble, trouble.clone());
        if let Some(trouble) = trouble.filter(|trouble| before.as_ref() != Some(trouble)) {
            self.tell(&Event::new(EventKind::ListRefused, &trouble));
        }
    }

    /// Tells why the never-block set can't be followed, once.
    pub(super) fn found_of_never(&self, trouble: Option<String>) {
        let before = std::mem::replace(&mut self.memory().never_trouble, trouble.clone());
        if let Some(trouble) = trouble.filter(|trouble| before.as_ref() != Some(trouble)) {
            self.tell(&Event::new(EventKind::Drift, &trouble));
        }
    }

    /// Whether a list was fetched lately, and that could not be written down.
    pub(super) fn is_waiting(&self, list: &Listed) -> bool {
        self.memory().unnoted.get(&list.name).is_some_and(|at| at.elapsed() < lists::UNNOTED)
    }

    /// Remembers that a list was fetched and that could not be written down, or that it could.
    pub(super) fn wait_for(&self, name: &str, is_unnoted: bool) {
        let mut memory = self.memory();
        if is_unnoted {
            memory.unnoted.insert(name.to_owned(), Instant::now());
        } else {
            memory.unnoted.remove(name);
        }
    }

    /// What the daemon says of itself.
    pub(super) fn state(&self) -> DaemonState {
        self.memory().state.clone()
    }

    /// Remembers how it goes with CrowdSec.
    pub(super) fn note_crowdsec(&self, state: &CrowdsecState) {
        self.memory().state.crowdsec = Some(state.clone());
    }

    /// The daemon, for the audit log, and what it does.
    pub(super) fn author(&self, what: &str) -> Author {
        let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
        let actor = Actor { uid, user: users::user_name(uid), login: None, pid, via: Via::Daemon };
        Author { actor, command: what.to_owned() }
    }

    /// Tells the log and the hooks, and counts.
    pub fn tell(&self, event: &Event) {
        self.log.write(event);
        if let Some(hooks) = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            hooks.send(event);
        }
        *self.memory().state.events.entry(event.kind().name().to_owned()).or_default() += 1;
    }

    /// The daemon's state in a line, for systemd.
    pub fn status(&self) -> String {
        let memory = self.memory();
        match memory.state.alarms.as_slice() {
            [] => format!("filtering; {} proofs, {} drifts", memory.state.proofs, memory.state.drifts),
            alarms => format!("{} wrong: {}", alarms.len(), alarms.join("; ")),
        }
    }

    /// When the last proof was made, or the daemon began.
    pub fn last_proof(&self) -> Instant {
        self.memory().last_proof
    }

    /// Gives hooks a moment for what they were last told.
    pub fn end(&self) {
        // Where it can't be removed, that the process is gone says the same.
        let _ = DaemonState::remove(&self.run_directory);
        if let Some(hooks) = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).take() {
            hooks.finish(LAST_WORDS);
        }
    }

    /// Takes over what is pinned, or brings the filter up from the store.
    pub fn begin(&self) {
        match self.take_over() {
            Ok(interfaces) => {
                let what = format!(
                    "the daemon keeps the filter on {}",
                    if interfaces.is_empty() { "no interface yet".into() } else { interfaces.join(", ") }
                );
                self.tell(&Event::new(EventKind::Started, &what));
            }
            Err(error) => {
                self.found(vec![(EventKind::Drift, format!("the filter could not be taken over: {error:#}"))])
            }
        }
    }

    fn take_over(&self) -> Result<Vec<String>> {
        match upgrade(&self.place.pins, self.place.lock_wait, self.verbose) {
            Ok(upgraded) => self.tell_upgraded(&upgraded),
            Err(error) if error.is::<NotLoaded>() => {}
            // Then the programs that are there go on.
            Err(error) => {
                self.tell(&Event::new(EventKind::Drift, &format!("no upgrade to this build: {error:#}")))
            }
        }
        let author = self.author("run");
        let mut restored = control::restore(&self.place, author.clone(), AT_START, self.verbose)?;
        if let Some(damaged) = restored.damaged.take() {
            self.tell(&Event::new(EventKind::StoreRecovered, &damaged));
        }
        for outcome in restored.interfaces {
            self.tell(
                &Event::new(EventKind::InterfaceFiltered, &format!("{} is filtered", outcome.interface))
                    .with("interface", &outcome.interface),
            );
        }
        let mut control = match Control::open(&self.place, author) {
            Ok(control) => control,
            Err(error) if error.is::<NotLoaded>() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let renewed = control.renew_stale(self.verbose)?;
        for name in renewed {
            self.tell(
                &Event::new(EventKind::Upgraded, &format!("{name}: its program was put in place anew"))
                    .with("interface", &name),
            );
        }
        Ok(control.filter().interfaces()?.into_iter().map(|loaded| loaded.name).collect())
    }

    fn tell_upgraded(&self, upgraded: &Upgraded) {
        for (name, _) in upgraded.interfaces.iter().filter(|(_, outcome)| *outcome == Outcome::Upgraded) {
            let what = format!("{name} runs this build's program now");
            self.tell(&Event::new(EventKind::Upgraded, &what).with("interface", name));
        }
    }

    /// Puts the entries in place with which proofs are made.
    fn place_canaries(control: &mut Control) -> Result<()> {
        for action in [Action::Block, Action::Allow] {
            let keys: Vec<_> = proof::canary_keys().into_iter().filter(|key| key.action == action).collect();
            let is_there = |key| matches!(control.filter().entry(key), Ok(Some(_)));
            if keys.iter().all(is_there) {
                continue;
            }
            let hold = Hold {
                owner: Owner::canary(),
                reason: ReasonText::parse("proves that the filter works")?,
                creator: "filter-ctl".into(),
                created_s: monotonic_now_s().into(),
                until: Deadline::NEVER,
            };
            control.change(Change::Hold { keys, hold })?;
        }
        Ok(())
    }

    /// Clears away what has ended, compares, mends what can be mended without asking, and proves each program.
    pub fn prove(&self) {
        let found = match self.look() {
            Ok(found) => found,
            // Nothing is loaded, and nothing is to be: all is well.
            Err(error) if error.is::<NotLoaded>() => Vec::new(),
            Err(error) => vec![(EventKind::Drift, format!("{error:#}"))],
        };
        self.found(found);
        self.memory().last_proof = Instant::now();
        if let Err(error) = self.state().write(&self.run_directory) {
            self.log.write(&Event::new(EventKind::HistoryUnusable, &format!("{error:#}")));
        }
    }

    fn look(&self) -> Result<Vec<(EventKind, String)>> {
        let mut found = Vec::new();
        let mut is_unproven = false;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for name in held.pin_again(&self.place.pins, self.place.lock_wait)? {
            let what = format!(
                "{name}: somebody took the pin of its link away; it was filtered throughout, and is pinned again"
            );
            self.tell(&Event::new(EventKind::Drift, &what).with("interface", &name));
            self.memory().state.drifts += 1;
        }
        let mut control = self.open_or_restore()?;
        control.expire()?;
        if let Some(unusable) = control.store_trouble() {
            found.push((EventKind::StoreUnusable, unusable.to_string()));
        } else if let Ok(store) = control.store()
            && self.memory().state.proofs.is_multiple_of(PROOFS_A_COPY)
        {
            // What the clocks show is needed by the next boot, and is not worth an alarm.
            let _ = store.note_time();
        }
        if let Some(drift) = control.find_drift()? {
            self.tell(&Event::new(EventKind::Drift, &drift));
            self.memory().state.drifts += 1;
            control.push()?;
            self.tell(&Event::new(
                EventKind::Repaired,
                "the kernel's tables were brought to what the store says",
            ));
        }
        if let Err(error) = Self::place_canaries(&mut control) {
            found.push((EventKind::Drift, format!("the entries for proofs could not be made: {error:#}")));
        }
        self.filter_missing(&mut control, &mut found)?;
        found.extend(
            control
                .verify_interfaces()?
                .into_iter()
                .map(|Finding { what, .. }| (EventKind::InterfaceLost, what)),
        );
        for loaded in control.filter().interfaces()? {
            if let State::Attached { device, .. } = &loaded.state
                && let Err(error) = proof::prove(control.filter(), &loaded.name)
            {
                found.push((EventKind::Drift, format!("the program on {device}: {error:#}")));
                is_unproven = true;
            }
        }
        self.copy_store(&control, &mut found);
        held.hold(&self.place.pins)?;
        let mut memory = self.memory();
        memory.state.proofs += 1;
        if !is_unproven {
            memory.state.proven_s = Some(monotonic_now_s());
        }
        Ok(found)
    }

    /// Opens the filter; where somebody took it away, it is made again from the store.
    fn open_or_restore(&self) -> Result<Control> {
        let missing = match Control::open(&self.place, self.author("run")) {
            Err(error) if error.is::<NotLoaded>() || error.is::<TablesGone>() => error,
            opened => return opened,
        };
        let restored = control::restore(&self.place, self.author("run"), AT_START, self.verbose)?;
        if !restored.is_any {
            return Err(missing);
        }
        self.tell(&Event::new(EventKind::Drift, &format!("{missing:#}")));
        self.tell(&Event::new(
            EventKind::Repaired,
            "tables and programs were made anew from the store; their counters are at zero",
        ));
        self.memory().state.drifts += 1;
        Control::open(&self.place, self.author("run"))
    }

    /// Filters what is to be filtered and is not: devices that appeared, and what somebody else detached.
    fn filter_missing(&self, control: &mut Control, found: &mut Vec<(EventKind, String)>) -> Result<()> {
        for (from, to) in control.follow_renames()? {
            let what = format!("{from} is named {to} now, and filtered as before");
            self.tell(&Event::new(EventKind::InterfaceFiltered, &what).with("interface", &to));
        }
        let stale = control.renew_stale(self.verbose)?;
        for name in stale {
            self.tell(
                &Event::new(
                    EventKind::Drift,
                    &format!("{name} ran another program than the one that is pinned"),
                )
                .with("interface", &name),
            );
            self.tell(
                &Event::new(EventKind::Repaired, &format!("{name}: its program was put in place anew"))
                    .with("interface", &name),
            );
            self.memory().state.drifts += 1;
        }
        for (device, _) in control.unfiltered()? {
            if self.memory().filtered.remove(&(device.name.clone(), device.ifindex)) {
                let what =
                    format!("{} was no longer filtered: somebody else took the filter off", device.name);
                self.tell(&Event::new(EventKind::InterfaceLost, &what).with("interface", &device.name));
                self.memory().state.drifts += 1;
            }
        }
        let (done, failures) = control.filter_missing(self.verbose)?;
        for outcome in done {
            self.tell(
                &Event::new(
                    EventKind::InterfaceFiltered,
                    &format!("{} is filtered from now on", outcome.interface),
                )
                .with("interface", &outcome.interface),
            );
        }
        found.extend(failures.into_iter().map(|failure| (EventKind::InterfaceLost, failure)));
        let filtered = control.filter().interfaces()?.into_iter().filter_map(|loaded| match loaded.state {
            State::Attached { device, ifindex, .. } => Some((device, ifindex)),
            _ => None,
        });
        self.memory().filtered = filtered.collect();
        Ok(())
    }

    fn copy_store(&self, control: &Control, found: &mut Vec<(EventKind, String)>) {
        let Ok(store) = control.store() else { return };
        let change = store.state().change;
        {
            let memory = self.memory();
            if memory.copied == Some(change) || !memory.state.proofs.is_multiple_of(PROOFS_A_COPY) {
                return;
            }
        }
        match backup(store, Kept::Always) {
            Ok(()) => self.memory().copied = Some(change),
            Err(error) => found.push((EventKind::StoreUnusable, format!("{error:#}"))),
        }
    }

    /// Tells what is newly wrong, and what is right again.
    fn found(&self, found: Vec<(EventKind, String)>) {
        let now: BTreeSet<String> = found.iter().map(|(_, what)| what.clone()).collect();
        let before = std::mem::replace(&mut self.memory().wrong, now.clone());
        for (kind, what) in found.iter().filter(|(_, what)| !before.contains(what)) {
            self.memory().state.drifts += 1;
            self.tell(&Event::new(*kind, what));
        }
        for what in before.difference(&now) {
            self.tell(&Event::new(EventKind::Repaired, &format!("no longer so: {what}")));
        }
        self.memory().state.alarms = now.into_iter().collect();
    }

    /// Looks at devices after news of them.
    pub fn follow(&self) {
        let looked = (|| {
            let mut control = Control::open(&self.place, self.author("run"))?;
            let mut found = Vec::new();
            self.filter_missing(&mut control, &mut found)
        })();
        // What is still wrong is told by the next proof, a few seconds from now at most.
        drop(looked);
    }

    /// Looks at the flight recorder, and writes what is worth keeping.
    pub fn record(&self) {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(recording) = recording.as_mut() else { return };
        let had_trouble = recording.state().trouble.is_some();
        // Whoever has the lock is not waited for: the recorder would be overwritten meanwhile.
        let place = Place { lock_wait: Duration::ZERO, ..self.place.clone() };
        recording.look(&place.pins, || Control::open(&place, self.author("run")));
        let state = recording.state().clone();
        // Once: what it says names another file each time.
        if let Some(trouble) = state.trouble.as_ref().filter(|_| !had_trouble) {
            self.tell(&Event::new(EventKind::RecordUnusable, trouble));
        }
        self.memory().state.record = Some(state);
    }

    /// Records a sample of what was counted.
    pub fn sample(&self) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = (|| {
            if history.is_none() {
                let (opened, aside) = History::open(&self.place.state)?;
                if let Some(aside) = aside {
                    let what = format!(
                        "the history was damaged and begun anew; what was there is now {}",
                        aside.path.display()
                    );
                    self.tell(&Event::new(EventKind::HistoryUnusable, &what));
                }
                *history = Some(opened);
            }
            let counts = match Maps::open(&self.place.pins) {
                Ok(maps) => maps.interface_counts()?,
                Err(error) if error.is::<NotLoaded>() => return Ok(()),
                Err(error) => return Err(error),
            };
            history.as_mut().map_or(Ok(()), |history| history.record(wall_now_s(), monotonic_now(), &counts))
        })();
        let trouble = recorded.err().map(|error| format!("{error:#}"));
        if trouble.is_some() {
            *history = None;
        }
        let before = std::mem::replace(&mut self.memory().history_trouble, trouble.clone());
        if let Some(trouble) = trouble.filter(|trouble| before.as_ref() != Some(trouble)) {
            self.tell(&Event::new(EventKind::HistoryUnusable, &trouble));
        }
    }
}
