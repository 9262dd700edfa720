//! Events for programs and web services of the operator's. Whatever they do, the daemon never waits for them.
//!
//! Each hook has a queue and a thread of its own, so that one that hangs holds back no other.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::event::{Event, EventKind};

/// Who is told of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookConfig {
    /// Programs to start. An absolute path without blanks is started as it is, anything else by `/bin/sh -c`.
    pub commands: Vec<String>,
    /// URLs to which events are sent by POST. They may hold secrets, so only their hosts are ever shown.
    pub webhooks: Vec<String>,
}

/// How long and how often a hook is tried.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    command: Duration,
    request: Duration,
    /// Before the second and the third try of a webhook.
    pauses: [Duration; 2],
}

/// A command has time for a mail or a message, and a request for a slow server; the pauses outlast the restart of a
/// service. All tries of an event take 20 s, so a queue behind a dead server is given up in 20 minutes.
const BOUNDS: Bounds = Bounds {
    command: Duration::from_secs(10),
    request: Duration::from_secs(5),
    pauses: [Duration::from_secs(1), Duration::from_secs(4)],
};
/// Events that wait for a hook. One change of all 63 interfaces fits; more would come too late to be of use.
const QUEUE: usize = 64;

/// What became of the events, over all hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// Events that a hook took.
    pub delivered: u64,
    /// Events given up after the last try.
    pub failed: u64,
    /// Events that found a full queue.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// An event as hooks get it.
#[derive(Debug)]
struct Message {
    kind: EventKind,
    json: String,
}

#[derive(Debug)]
struct Queue {
    sender: SyncSender<Arc<Message>>,
    /// Events that did not fit since that was last said.
    dropped: Arc<AtomicU64>,
    /// Disconnected once the thread has ended.
    ended: Receiver<()>,
}

/// The hooks, and a thread for each.
#[derive(Debug)]
pub struct Hooks {
    queues: Vec<Queue>,
    counters: Arc<Counters>,
}

impl Hooks {
    /// Starts the threads. `report` is given an [`EventKind::HookFailed`] for each event that a hook was not told
    /// of; it is called by those threads, and must not send it to hooks.
    ///
    /// # Errors
    ///
    /// If a thread can't be started.
    pub fn start(config: &HookConfig, report: impl Fn(&Event) + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_within(config, BOUNDS, Arc::new(report))
    }

    fn start_within(config: &HookConfig, bounds: Bounds, report: Arc<Report>) -> io::Result<Self> {
        let commands = config.commands.iter().map(|command| Target::Command(command.clone()));
        let webhooks = config.webhooks.iter().map(|url| Target::Webhook(url.clone(), agent(bounds)));
        let counters = Arc::new(Counters::default());
        let queue = |target: Target| {
            let (sender, receiver) = sync_channel(QUEUE);
            let (running, ended) = sync_channel(1);
            let dropped = Arc::new(AtomicU64::new(0));
            let hook = Hook {
                target,
                bounds,
                report: Arc::clone(&report),
                counters: Arc::clone(&counters),
                dropped: Arc::clone(&dropped),
            };
            thread::Builder::new().name("hook".into()).spawn(move || {
                receiver.iter().for_each(|message: Arc<Message>| hook.handle(&message));
                drop(running);
            })?;
            Ok(Queue { sender, dropped, ended })
        };
        let queues = commands.chain(webhooks).map(queue).collect::<io::Result<_>>()?;
        Ok(Self { queues, counters })
    }

    /// Hands an event to all hooks. Never waits; a hook whose queue is full is not told, which is counted and
    /// reported.
    pub fn send(&self, event: &Event) {
        let Ok(json) = event.json() else { return };
        let message = Arc::new(Message { kind: event.kind(), json });
        for queue in &self.queues {
            // A thread only ends when its sender is gone, or by a panic; then nobody is told either.
            if queue.sender.try_send(Arc::clone(&message)).is_err() {
                queue.dropped.fetch_add(1, Ordering::Relaxed);
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What became of events so far.
    pub fn counts(&self) -> HookCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { delivered, failed, dropped } = &*self.counters;
        HookCounts { delivered: of(delivered), failed: of(failed), dropped: of(dropped) }
    }

    /// Takes no more events and waits until those in the queues are handled, but at most this long. Says whether
    /// all were.
    pub fn finish(self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let (senders, ended): (Vec<_>, Vec<_>) =
            self.queues.into_iter().map(|queue| (queue.sender, queue.ended)).unzip();
        drop(senders);
        ended.iter().all(|ended| {
            let left = until.saturating_duration_since(Instant::now());
            ended.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
        })
    }
}

type Report = dyn Fn(&Event) + Send + Sync;

/// Where a hook leads.
#[derive(Debug)]
enum Target {
    Command(String),
    Webhook(String, ureq::Agent),
}

/// What a hook's thread has.
struct Hook {
    target: Target,
    bounds: Bounds,
    report: Arc<Report>,
    counters: Arc<Counters>,
    dropped: Arc<AtomicU64>,
}

impl Hook {
    fn handle(&self, message: &Message) {
        let told = match &self.target {
            Target::Command(command) => run(command, message, self.bounds.command),
            Target::Webhook(url, agent) => self.post(agent, url, message),
        };
        match told {
            Ok(()) => self.counters.delivered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.fail(&format!("{} was not told of {}: {error:#}", self.name(), message.kind.name()));
                self.counters.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let why = format!("its queue of {QUEUE} was full");
            self.fail(&format!("{} was not told of {dropped} events: {why}", self.name()));
        }
    }

    fn fail(&self, message: &str) {
        (self.report)(&Event::new(EventKind::HookFailed, message).with("hook", &self.name()));
    }

    /// The command, or the webhook's host: its path may be a secret.
    fn name(&self) -> String {
        match &self.target {
            Target::Command(command) => command.clone(),
            Target::Webhook(url, _) => {
                // Without a scheme, all of it would be taken for a host.
                let url = url.parse::<ureq::http::Uri>().ok().filter(|url| url.scheme().is_some());
                format!("webhook {}", url.as_ref().and_then(|url| url.host()).unwrap_or("without a host"))
            }
        }
    }

    /// Posts the event, up to three times.
    fn post(&self, agent: &ureq::Agent, url: &str, message: &Message) -> Result<()> {
        for pause in self.bounds.pauses {
            if post_once(agent, url, message).is_ok() {
                return Ok(());
            }
            thread::sleep(pause);
        }
        let tries = self.bounds.pauses.len() + 1;
        post_once(agent, url, message).with_context(|| format!("given up after {tries} tries"))
    }
}

fn agent(bounds: Bounds) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(bounds.request))
        .http_status_as_error(false)
        // A redirect turns POST into GET, so following one would tell nobody.
        .max_redirects(0)
        // Events are rare: a connection kept would be closed by the time it is wanted.
        .max_idle_connections(0)
        .user_agent(concat!("filter-ctl/", env!("CARGO_PKG_VERSION")));
    config.build().new_agent()
}

fn post_once(agent: &ureq::Agent, url: &str, message: &Message) -> Result<()> {
    match agent.post(url).content_type("application/json").send(&message.json) {
        // What the server says beside the status is not read.
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => bail!("the server answered with status {}", response.status()),
        // These name the URL.
        Err(ureq::Error::BadUri(_) | ureq::Error::Http(_)) => bail!("its URL makes no sense"),
        Err(error) => Err(error.into()),
    }
}

/// Starts a command with the event as its standard input, and waits for it. It is tried once: what it has done before
/// it failed is its own. Its output goes nowhere, so it can't fill anything.
fn run(command: &str, message: &Message, time: Duration) -> Result<()> {
    // A file, and no pipe: nobody waits for a command that doesn't read.
    let mut input = File::from(rustix::fs::memfd_create("event", MemfdFlags::CLOEXEC)?);
    input.write_all(message.json.as_bytes())?;
    input.rewind()?;
    let is_path = Path::new(command).is_absolute() && !command.contains(char::is_whitespace);
    let mut process = Command::new(if is_path { command } else { "/bin/sh" });
    if !is_path {
        process.args(["-c", command]);
    }
    process.env("FILTER_EVENT", message.kind.name());
    process.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own, so that what it starts ends with it when its time is over.
    let child = process.process_group(0).spawn().context("it could not be started")?;
    let status = wait(child, time)?;
    if status.success() { Ok(()) } else { bail!("it ended with {status}") }
}

/// Waits for a process, and kills its group when it takes too long.
fn wait(mut child: Child, time: Duration) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no process id")?;
    let until = Instant::now() + time;
    let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()));
            let left = left.map_err(|_| rustix::io::Errno::INVAL)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready.map(|ready| ready > 0),
            }
        }
    });
    if ended != Ok(true) {
        // Not reaped yet, so the id is still its own.
        kill_process_group(pid, Signal::KILL).context("it could not be killed")?;
    }
    let status = child.wait()?;
    match ended {
        Ok(true) => Ok(status),
        Ok(false) => bail!("it was killed after {}", humantime::format_duration(time)),
        Err(error) => Err(error).context("it could not be waited for"),
    }
}
