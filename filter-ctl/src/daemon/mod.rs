//! The daemon: keeps the filter as it is to be, proves that it works, records what it counted, and takes changes. The filter
//! does not depend on it: whatever becomes of it, the kernel goes on with what was last written.
//!
//! One thread waits for signals, netlink, time and the socket. All that touches the kernel or the disk is done on threads
//! of its own, which take turns by the lock, as commands do.

pub mod client;
pub mod crowdsec;
pub mod event;
mod figures;
pub mod files;
mod follow;
pub mod hooks;
mod keeper;
mod lists;
pub mod log;
pub mod protocol;
mod record;
mod server;
pub mod state;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use self::crowdsec::CrowdsecConfig;
use self::event::{Event, EventKind};
use self::hooks::HookConfig;
use self::keeper::Keeper;
use crate::control::Place;
use crate::host::signals::Ending;
use crate::kernel::reader::LOOK;
use crate::metrics::listen::Address;

/// Time between two samples of the history.
const SAMPLE: Duration = Duration::from_secs(1);

/// How often it is looked whether a list is to be fetched: the shortest schedule is a minute.
const LISTS: Duration = Duration::from_secs(5);

/// How long netlink's news are gathered before they are looked at: a device that appears makes a dozen of them.
const GATHER: Duration = Duration::from_millis(50);

/// How many intervals a proof may take before the watchdog is not fed any more: a loaded host is slow, a stuck one is not.
const PATIENCE: u32 = 4;

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the filter lies.
    pub place: Place,
    /// The socket.
    pub socket: PathBuf,
    /// Group that may read.
    pub read_group: Option<u32>,
    /// Group that may block.
    pub block_group: Option<u32>,
    /// Who is told of events.
    pub hooks: HookConfig,
    /// Whose decisions are followed.
    pub crowdsec: Option<CrowdsecConfig>,
    /// Where figures are offered.
    pub metrics: Option<Address>,
    /// How large and old the files of what was recorded get; nothing where none are written.
    pub record: Option<files::Bounds>,
    /// Time between two proofs.
    pub proof_interval: Duration,
    /// Whether to keep all of the verifier's log.
    pub verbose: bool,
}

/// Runs until a signal ends it.
///
/// # Errors
///
/// If another daemon runs, or the socket can't be made. That something is wrong with the filter ends it never: it is
/// told, and tried again.
pub fn run(config: Config) -> Result<()> {
    let directory = config.socket.parent().context("the socket's path has no directory")?.to_owned();
    let _only = take_turn(&directory)?;
    let keeper = Arc::new(Keeper::start(&config, &directory)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not set up the daemon's I/O")?;
    let ended = runtime.block_on(serve(config, Arc::clone(&keeper)));
    keeper.tell(&Event::new(EventKind::Stopping, "the daemon ends, and the filter goes on without it"));
    keeper.end();
    // Threads that wait for the lock end with the process.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config, keeper: Arc<Keeper>) -> Result<()> {
    let mut ending = Ending::catch()?;
    let mut reload = signal(SignalKind::hangup()).context("could not wait for SIGHUP")?;

    on_thread(&keeper, Keeper::begin).await;
    let listener = server::listen(&config)?;
    tokio::spawn(server::accept(listener, Arc::new(config.clone())));
    let news = Arc::new(Notify::new());
    tokio::spawn(follow::follow(Arc::clone(&news)));
    if let Some(config) = config.crowdsec.clone() {
        tokio::spawn(crowdsec::follow(Arc::clone(&keeper), config));
    }
    let figures =
        config.metrics.clone().map(|address| tokio::spawn(figures::offer(Arc::clone(&keeper), address)));
    notify(&[NotifyState::Ready, NotifyState::Status(&keeper.status())]);

    let mut proofs = interval(config.proof_interval);
    let mut samples = interval(SAMPLE);
    for timer in [&mut proofs, &mut samples] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let recording = config.record.map(|_| {
        let keeper = Arc::clone(&keeper);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                looks.tick().await;
                on_thread(&keeper, Keeper::record).await;
            }
        })
    });
    let watch = tokio::spawn(watch(Arc::clone(&keeper), config.proof_interval));
    let sampling = tokio::spawn({
        let keeper = Arc::clone(&keeper);
        async move {
            loop {
                samples.tick().await;
                on_thread(&keeper, Keeper::sample).await;
            }
        }
    });
    // Apart: a slow server must not keep the never-block set from being followed.
    let refreshing = [Keeper::refresh_lists, Keeper::follow_never].map(|work: fn(&Keeper)| {
        let keeper = Arc::clone(&keeper);
        let mut lists = interval(LISTS);
        lists.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                lists.tick().await;
                on_thread(&keeper, work).await;
            }
        })
    });
    loop {
        tokio::select! {
            _ = proofs.tick() => on_thread(&keeper, Keeper::prove).await,
            () = news.notified() => {
                tokio::time::sleep(GATHER).await;
                on_thread(&keeper, Keeper::follow).await;
            }
            _ = reload.recv() => {
                let moment = crate::host::monotonic_now().as_micros();
                let moment = i128::try_from(moment).unwrap_or_default();
                notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(moment)]);
                on_thread(&keeper, Keeper::begin).await;
                notify(&[NotifyState::Ready]);
            }
            () = ending.wait() => break,
        }
        notify(&[NotifyState::Status(&keeper.status())]);
    }
    notify(&[NotifyState::Stopping]);
    watch.abort();
    sampling.abort();
    recording.iter().for_each(tokio::task::JoinHandle::abort);
    refreshing.iter().for_each(tokio::task::JoinHandle::abort);
    if let Some(figures) = figures {
        figures.abort();
        // Until its socket is gone.
        let _ = figures.await;
    }
    // What would be connected to next is nobody.
    let _ = fs::remove_file(&config.socket);
    Ok(())
}

/// Feeds systemd's watchdog as long as proofs are made.
async fn watch(keeper: Arc<Keeper>, proof_interval: Duration) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut feed = interval(limit / 3);
    loop {
        feed.tick().await;
        if keeper.last_proof() + proof_interval * PATIENCE + limit > Instant::now() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Tells systemd, where it started this process. That it can't be told is for it to notice.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Does something that may wait for the lock, the disk or the kernel.
async fn on_thread(keeper: &Arc<Keeper>, what: fn(&Keeper)) {
    let its = Arc::clone(keeper);
    if tokio::task::spawn_blocking(move || what(&its)).await.is_err() {
        keeper.tell(&Event::new(EventKind::Drift, "a part of the daemon failed; it goes on"));
    }
}

/// Makes the run directory and takes the lock that only one daemon has.
fn take_turn(directory: &Path) -> Result<File> {
    let context = || format!("could not make {}", directory.display());
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let path = directory.join("daemon.lock");
    let options =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = options.with_context(|| format!("could not open {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        bail!("another daemon runs already, as process {}; nothing was changed", pid.trim());
    }
    file.set_len(0).and_then(|()| file.rewind()).with_context(context)?;
    writeln!(file, "{}", std::process::id()).with_context(context)?;
    Ok(file)
}
