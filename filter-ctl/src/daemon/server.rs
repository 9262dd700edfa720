//! The daemon's side of the socket: who may do what, and doing it as the command would.

use std::cell::RefCell;
use std::io::{self, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::FromArgMatches as _;
use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::Config;
use super::client::{Kind, kind_of, named, takes_input};
use super::protocol::{Answer, GO, LONGEST_LINE, Request, receive, send};
use crate::cli::{Cli, definition};
use crate::commands::Session;
use crate::host::sockets::listen_in_place;
use crate::host::users;
use crate::kernel::program::build;
use crate::output::Output;
use crate::store::{Actor, Via};

/// Commands of root's that are worked on at once; the lock lets one through at a time, and the others wait.
const AT_ONCE: usize = 32;

/// And of all others: each may take memory for [`MOST_OF_OTHERS`].
const OTHERS_AT_ONCE: usize = 8;

/// What is said to who is in no group that may do anything.
const NOT_ALLOWED: &str = "the daemon does not allow this: ask root, or be in one of its groups";

/// How long a client may be silent before it is taken for gone.
const SILENCE: Duration = Duration::from_secs(5);

/// Longest first line of a client, in bytes: a command line is 2 MiB at most.
const LONGEST_REQUEST: u64 = 4 << 20;

/// Most bytes of standard input that are taken, and most of output that are sent.
const MOST_INPUT: u64 = 512 << 20;

/// And from those who are not root: half a million prefixes.
const MOST_OF_OTHERS: u64 = 16 << 20;

/// Longest that anybody but root has the daemon wait for the lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const MOST_OUTPUT: usize = (LONGEST_LINE / 4) as usize;

/// Listens on the socket, to which everybody may connect: who may do what is asked of the kernel, for each.
pub fn listen(config: &Config) -> Result<UnixListener> {
    let path = &config.socket;
    let is_shared = config.read_group.is_some() || config.block_group.is_some();
    let mode = if is_shared { 0o666 } else { 0o600 };
    // What is there a daemon left that died: this one has the lock.
    listen_in_place(path, mode).with_context(|| format!("could not listen on {}", path.display()))
}

/// Takes connections, for ever.
pub async fn accept(listener: UnixListener, config: Arc<Config>) {
    let (turns, turns_of_others) =
        (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(OTHERS_AT_ONCE)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, which pass.
            tokio::time::sleep(SILENCE / 10).await;
            continue;
        };
        // Whoever may do nothing takes nobody's turn; nor does anybody take root's.
        let is_root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
        let turn = match (is_root, stream.peer_cred().is_ok_and(|peer| may_ask(&peer, &config))) {
            (true, _) => Arc::clone(&turns).try_acquire_owned(),
            (false, true) => Arc::clone(&turns_of_others).try_acquire_owned(),
            (false, false) => {
                let _ =
                    stream.into_std().map(|stream| refuse(&stream, &Answer::Forbidden(NOT_ALLOWED.into())));
                continue;
            }
        };
        let Ok(turn) = turn else {
            let _ = stream.into_std().map(|stream| refuse(&stream, &Answer::NotMine("is busy".into())));
            continue;
        };
        let config = Arc::clone(&config);
        tokio::task::spawn_blocking(move || {
            // A client that says nonsense or goes away is no concern of anybody's.
            let _ =
                stream.into_std().map_err(anyhow::Error::from).and_then(|stream| converse(&stream, &config));
            drop(turn);
        });
    }
}

/// Whether a peer may ask for anything at all.
fn may_ask(peer: &tokio::net::unix::UCred, config: &Config) -> bool {
    let groups = [config.read_group, config.block_group];
    let user = users::user_name(peer.uid());
    groups.into_iter().flatten().any(|group| users::is_in_group(user.as_deref(), peer.gid(), group))
}

/// Answers without having listened.
fn refuse(mut stream: &UnixStream, answer: &Answer) -> Result<()> {
    // A line fits in any socket's buffer, so that this waits for nobody.
    send(&mut stream, answer)
}

/// A stream that is read until a moment, and no longer.
struct Until<'s> {
    stream: &'s UnixStream,
    moment: Instant,
}

impl io::Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        (&*self.stream).read(buffer)
    }
}

fn converse(stream: &UnixStream, config: &Config) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(SILENCE))?;
    let peer = socket_peercred(stream).context("the kernel does not say who connected")?;
    let (uid, pid) = (peer.uid.as_raw(), u32::try_from(peer.pid.as_raw_nonzero().get())?);
    let actor =
        Actor { uid, user: users::user_name(uid), login: users::login_of(pid), pid, via: Via::Socket };
    let mut reader = BufReader::new(Until { stream, moment: Instant::now() + SILENCE });
    let mut writer = stream;
    let request: Request = receive(&mut reader, LONGEST_REQUEST)?;
    let cli = match admitted(&request, &actor, peer.gid.as_raw(), config) {
        Ok(cli) => cli,
        Err(answer) => return send(&mut writer, &answer),
    };
    let input = match request.input {
        Some(length) => {
            let most = if uid == 0 { MOST_INPUT } else { MOST_OF_OTHERS };
            ensure!(
                takes_input(&cli.command) && length <= most,
                "standard input is too long, or for nothing"
            );
            let mut input = Vec::new();
            reader.by_ref().take(length).read_to_end(&mut input)?;
            ensure!(input.len() as u64 == length, "standard input ended early");
            Some(input)
        }
        None => None,
    };
    send(&mut writer, &Answer::Ready)?;
    let mut go = [0; GO.len()];
    reader.read_exact(&mut go)?;
    ensure!(go == *GO.as_bytes(), "the client did not say go");

    let (out, err) = (Kept::default(), Kept::default());
    let session = Session {
        global: &cli.global,
        out: Output::new(Box::new(out.clone()), Box::new(err.clone()), request.style),
        actor,
        command: crate::command_line(request.arguments.iter().cloned()),
        ssh_peers: if uid == 0 { request.ssh_peers } else { Vec::new() },
        // Never the daemon's own.
        input: Some(input.unwrap_or_default()),
    };
    let exit = crate::carry_out(&session, &cli.command);
    send(&mut writer, &Answer::Done { out: out.text(), err: err.text(), exit: exit as u8 })
}

/// The command, if it is for this daemon and the user may.
fn admitted(request: &Request, actor: &Actor, gid: u32, config: &Config) -> Result<Cli, Answer> {
    let not_mine = |why: &str| Answer::NotMine(why.into());
    if request.build != build() {
        return Err(not_mine("is of another build: restart it"));
    }
    let program = std::iter::once("filter-ctl".to_owned());
    let parsed = definition().try_get_matches_from(program.chain(request.arguments.iter().cloned()));
    let cli = parsed
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|_| not_mine("does not know it"))?;
    let mut global = cli.global.clone();
    (global.pin_root, global.state_dir) =
        (config.place.pins.root().to_owned(), Some(config.place.state.clone()));
    let mine = named(&global);
    let theirs = &request.place;
    if (&theirs.pin_root, &theirs.state) != (&mine.pin_root, &mine.state)
        || theirs.numbers.is_some_and(|numbers| mine.numbers != Some(numbers))
    {
        return Err(not_mine("keeps another filter"));
    }
    let is_in =
        |group: Option<u32>| group.is_some_and(|group| users::is_in_group(actor.user.as_deref(), gid, group));
    let may = match kind_of(&cli.command) {
        _ if actor.uid == 0 => true,
        Kind::Block => is_in(config.block_group),
        Kind::Look => is_in(config.read_group) || is_in(config.block_group),
        Kind::Change | Kind::Own => false,
    };
    if !may {
        return Err(Answer::Forbidden(format!(
            "the daemon does not allow this to {actor}: ask root, or be in its groups"
        )));
    }
    if actor.uid != 0 {
        global.lock_wait = global.lock_wait.min(LOCK_WAIT);
    }
    Ok(Cli { global, command: cli.command })
}

/// What a command printed, up to a bound.
#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.borrow_mut();
        if kept.len() + bytes.len() > MOST_OUTPUT {
            return Err(io::Error::other("more than the daemon sends at once: run the command as root"));
        }
        kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
