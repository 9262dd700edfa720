//! The parent's side: starts the child, feeds it, receives its answer within a time, and sees to it that it ends.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::answer::{self, Trouble};
use super::child::LARGEST_JOB;
use super::jail::Place;
use super::{Answer, Failure, FailureKind, Job, Progress, Source, WORD, clean};

/// This program, even when its file was replaced meanwhile.
const MYSELF: &str = "/proc/self/exe";

/// What the child may know of the environment: certificates of the operator's, and the way out.
const KEPT: [&str; 10] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Bytes of the child's complaints that are kept: a panic's message and more.
const MOST_COMPLAINTS: usize = 8 << 10;

/// How often somebody who waits for a file looks whether anybody still wants it.
const LOOK: Duration = Duration::from_millis(100);

/// How long a child that has hung up may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Fetches or reads a list in a child of its own, and waits for it. `input` is the open file, for [`Source::Stdin`].
///
/// # Errors
///
/// A [`Failure`] if there is no list to be had.
pub fn run(job: &Job, input: Option<File>, on_progress: &mut dyn FnMut(Progress)) -> Result<Answer, Failure> {
    run_program(Path::new(MYSELF), job, input, on_progress)
}

/// As [`run`], with another program as the child: for tests, which are not this program themselves.
///
/// # Errors
///
/// A [`Failure`] if there is no list to be had.
pub fn run_program(
    program: &Path,
    job: &Job,
    input: Option<File>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Answer, Failure> {
    let place = if job.source == Source::Stdin { Place::File } else { Place::Url };
    let mut line =
        serde_json::to_vec(job).map_err(|_| Failure::new(FailureKind::Refused, "the job makes no sense"))?;
    line.push(b'\n');
    if line.len() as u64 > LARGEST_JOB {
        return Err(Failure::new(FailureKind::Refused, "the URL and its headers are too long; shorten them"));
    }
    let until = Instant::now() + job.time_limit;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut running = Running::start(program, place)?;
        let Pipes { stdin, stdout, stderr } = running.pipes()?;
        let feeding = scope.spawn(|| feed(stdin, &line, input, job.limits.packed, &stop));
        let listening = scope.spawn(|| complaints(stderr));
        let answer = answer::receive(&mut BufReader::new(Timed { stdout, until }), on_progress);
        let status = running.end(if matches!(answer, Err(Trouble::Ended)) { GRACE } else { Duration::ZERO });
        stop.store(true, Ordering::Relaxed);
        let fed = feeding.join().unwrap_or(Ok(false));
        let complaints = listening.join().unwrap_or_default();
        match (answer, fed) {
            (_, Err(error)) => {
                Err(Failure::new(FailureKind::Input, format!("the list can't be read: {error}")))
            }
            // Whatever it says: it has not seen all of the file.
            (Ok(_), Ok(false)) => Err(died(status, &complaints)),
            (Ok(answer), Ok(true)) => Ok(answer),
            (Err(Trouble::Failed(failure)), _) => Err(failure),
            (Err(Trouble::Ended), _) => Err(died(status, &complaints)),
            (Err(Trouble::TimedOut), _) => {
                let message = format!(
                    "the list took over {} s and was given up; allow more time",
                    job.time_limit.as_secs()
                );
                Err(Failure::new(FailureKind::TimeLimit, message))
            }
        }
    })
}

/// Why a child is gone that had said nothing.
fn died(status: Option<ExitStatus>, complaints: &str) -> Failure {
    let signal = status.and_then(|status| status.signal());
    let last = clean(complaints.trim().lines().last().unwrap_or_default(), 300);
    let why = match signal {
        _ if complaints.contains("memory allocation of") => {
            "it had not memory enough, for the list is too large; use a smaller one".to_owned()
        }
        Some(libc::SIGKILL) => {
            "it was killed, as the kernel does when memory is at an end; look at its log".to_owned()
        }
        Some(libc::SIGXCPU) => "it computed for too long; use a smaller list".to_owned(),
        Some(libc::SIGSYS) => "it made a system call that it may not; please report this".to_owned(),
        Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGABRT) => {
            format!("it crashed ({last}); please report this, with the list")
        }
        Some(signal) => format!("signal {signal} ended it; try again"),
        None if last.is_empty() => "it ended without a word; please report this".to_owned(),
        None => format!("it ended early ({last}); please report this"),
    };
    Failure::new(FailureKind::Died, format!("the process that reads the list is gone: {why}"))
}

struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// A child that is killed and waited for, whatever happens.
struct Running(Child);

impl Running {
    fn start(program: &Path, place: Place) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.arg0("filter-ctl").args([WORD, place.word()]).current_dir("/").env_clear();
        command.envs(KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            let message =
                format!("the process that reads lists can't be started: {error}; is /proc mounted?");
            Failure::new(FailureKind::Jail, message)
        })?;
        Ok(Self(child))
    }

    fn pipes(&mut self) -> Result<Pipes, Failure> {
        let Child { stdin, stdout, stderr, .. } = &mut self.0;
        let pipes = stdin.take().zip(stdout.take()).zip(stderr.take());
        let pipes = pipes.map(|((stdin, stdout), stderr)| Pipes { stdin, stdout, stderr });
        pipes.ok_or_else(|| {
            Failure::new(FailureKind::Jail, "the process that reads lists has no pipes; try again")
        })
    }

    /// Gives it time to end by itself, then ends it. How it ended, if it did by itself.
    fn end(&mut self, grace: Duration) -> Option<ExitStatus> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let has_ended = pid
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .is_some_and(|pidfd| is_ready(&pidfd, PollFlags::IN, Instant::now() + grace).unwrap_or(false));
        if !has_ended {
            let _ = self.0.kill();
        }
        self.0.wait().ok().filter(|_| has_ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing to one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's answer, until its time is over.
struct Timed {
    stdout: ChildStdout,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !is_ready(&self.stdout, PollFlags::IN, self.until)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stdout.read(buffer)
    }
}

/// Waits until something can be read or written, or has ended.
fn is_ready(what: &impl AsFd, flags: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left =
            Timespec::try_from(until.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(what, flags)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Sends the job and the file. Whether the child took all, or as much of a file that is too large as shows that it is.
fn feed(
    mut child: ChildStdin,
    line: &[u8],
    input: Option<File>,
    most: u64,
    stop: &AtomicBool,
) -> io::Result<bool> {
    if child.write_all(line).is_err() {
        return Ok(false);
    }
    let Some(mut input) = input.map(|input| input.take(most.saturating_add(1))) else { return Ok(true) };
    let mut buffer = vec![0; 64 << 10];
    loop {
        // A pipe may never have anything.
        while !is_ready(input.get_ref(), PollFlags::IN, Instant::now() + LOOK)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
        }
        match input.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) if child.write_all(&buffer[..read]).is_ok() => {}
            // It needs no more, for what it has seen will not do.
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the child complains of, read to its end so that it never waits, and kept up to a bound.
fn complaints(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4 << 10];
    while let Ok(read) = stderr.read(&mut buffer)
        && read > 0
    {
        let room = MOST_COMPLAINTS.saturating_sub(kept.len());
        kept.extend(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
