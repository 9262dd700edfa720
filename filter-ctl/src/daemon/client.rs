//! A command's side of the socket: hands a command to the daemon, if there is one that takes it.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::sockopt::socket_peercred;

use super::protocol::{Answer, GO, LONGEST_LINE, Named, Request, receive, send};
use crate::cli::{
    Cli, Command, EntryCommand, Global, ListCommand, MalformedCommand, NeverCommand, RecordCommand,
};
use crate::exit::Exit;
use crate::host::sockets::connect_at_once;
use crate::host::ssh;
use crate::kernel::program::build;
use crate::output::{Output, Style};

/// How long the daemon may take to say that it is ready, before the command is done without it.
const READY: Duration = Duration::from_secs(2);

/// How long it may take for what it has begun, beside the wait for the lock: a million entries take seconds.
const DONE: Duration = Duration::from_secs(120);

/// Longest time over which the daemon looks at rates for somebody.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Most that is read from standard input, in bytes.
const MOST_INPUT: u64 = 512 << 20;

/// What a command is to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes entries.
    Block,
    /// It changes something else.
    Change,
    /// It only looks.
    Look,
    /// It is never handed on.
    Own,
}

/// What `command` is to the daemon.
pub fn kind_of(command: &Command) -> Kind {
    match command {
        Command::Block(EntryCommand::List) | Command::Allow(EntryCommand::List) => Kind::Look,
        Command::Block(EntryCommand::Add(args)) if args.force || args.cut_ssh => Kind::Change,
        Command::Block(EntryCommand::Import(_)) | Command::Allow(EntryCommand::Import(_)) => Kind::Own,
        Command::Block(_) => Kind::Block,
        Command::Allow(_) | Command::Load(_) | Command::Resize(_) => Kind::Change,
        // It must work whatever becomes of the daemon.
        Command::Unload(_) => Kind::Own,
        Command::Malformed(MalformedCommand::List) => Kind::Look,
        Command::Malformed(_) => Kind::Change,
        Command::Stats(args) if args.watch.is_some() || args.over > LONGEST_LOOK => Kind::Own,
        // It takes long, or turns the recording on.
        Command::Top(args) if args.for_time.is_some() => Kind::Own,
        // It would read a file with the daemon's rights.
        Command::Explain(args) if args.pcap.is_some() || args.offline => Kind::Own,
        // They write what no text is, or as long as they are let.
        Command::Record(RecordCommand::Follow(_) | RecordCommand::Save(_)) => Kind::Own,
        Command::Record(RecordCommand::Show(_) | RecordCommand::Summary(_)) => Kind::Look,
        Command::Record(RecordCommand::Passed(_)) => Kind::Change,
        Command::Status | Command::Stats(_) | Command::Show(_) | Command::Explain(_) => Kind::Look,
        Command::Audit(_) | Command::History(_) | Command::Verify | Command::Top(_) => Kind::Look,
        Command::Metrics(args) if args.listen.is_some() => Kind::Own,
        Command::Metrics(_) => Kind::Look,
        // These must work while the daemon doesn't, or are of another build than it.
        Command::Restore(_) | Command::Run(_) | Command::Repair | Command::Upgrade | Command::Debug(_) => {
            Kind::Own
        }
        Command::Completions { .. } => Kind::Own,
        Command::List(ListCommand::Ls | ListCommand::Show { .. }) => Kind::Look,
        Command::Never(NeverCommand::List) | Command::Export(_) => Kind::Look,
        // They take long, show how far they are, or read a file with the daemon's rights.
        Command::List(_) => Kind::Own,
        Command::Never(_) => Kind::Change,
    }
}

/// What names the filter that these options mean.
pub fn named(global: &Global) -> Named {
    let numbers = || {
        let network = std::fs::metadata("/proc/self/ns/net").ok()?;
        let root = std::fs::metadata(&global.pin_root).ok();
        Some([
            network.ino(),
            root.as_ref().map_or(0, MetadataExt::dev),
            root.as_ref().map_or(0, MetadataExt::ino),
        ])
    };
    let is_root = rustix::process::geteuid().is_root();
    Named {
        pin_root: global.pin_root.clone(),
        state: global.state_directory(),
        numbers: is_root.then(numbers).flatten(),
    }
}

/// What became of a command that was to be handed over.
pub enum Handed {
    /// The daemon did it.
    Done(Exit),
    /// No daemon took it: the command does it itself, with what was read of standard input.
    Own(Option<Vec<u8>>),
}

/// Hands a command to the daemon and prints what it answers.
///
/// # Errors
///
/// If the user may not; or if the daemon took it and does not say what came of it.
pub fn hand_over(cli: &Cli, arguments: &[String]) -> Result<Handed> {
    let kind = kind_of(&cli.command);
    let is_root = rustix::process::geteuid().is_root();
    if kind == Kind::Own || (kind == Kind::Look && is_root) {
        return Ok(Handed::Own(None));
    }
    // Before the daemon is asked: whoever feeds it may be slow.
    let input = if cli.global.socket_path().exists() && takes_input(&cli.command) {
        let mut input = Vec::new();
        let stdin = std::io::stdin().lock();
        stdin.take(MOST_INPUT).read_to_end(&mut input).context("could not read standard input")?;
        Some(input)
    } else {
        None
    };
    let Some(stream) = connected(&cli.global.socket_path()) else { return Ok(Handed::Own(input)) };
    let (mut conversation, input) = match begin(&stream, cli, arguments, input)? {
        Begun::Ready(conversation, input) => (conversation, input),
        Begun::Without(input) => return Ok(Handed::Own(input)),
    };
    if (&stream).write_all(GO.as_bytes()).is_err() {
        // It went away before it did anything.
        return Ok(Handed::Own(input));
    }
    stream.set_read_timeout(Some(DONE + cli.global.lock_wait))?;
    match receive(&mut conversation, LONGEST_LINE) {
        Ok(Answer::Done { out, err, exit }) => {
            // A reader that went away changes nothing about what was done.
            let _ = std::io::stdout().write_all(out.as_bytes());
            let _ = std::io::stderr().write_all(err.as_bytes());
            Ok(Handed::Done(Exit::from_code(exit)))
        }
        Ok(answer) => bail!("the daemon answered {answer:?}, which makes no sense here"),
        Err(error) => Err(error.context(
            "the daemon took the command and does not say what came of it; `filter-ctl audit` and `filter-ctl show` do",
        )),
    }
}

/// How a conversation began.
enum Begun {
    /// The daemon waits for the word.
    Ready(BufReader<UnixStream>, Option<Vec<u8>>),
    /// It won't, or does not answer.
    Without(Option<Vec<u8>>),
}

/// Sends the request and waits until the daemon is ready.
fn begin(stream: &UnixStream, cli: &Cli, arguments: &[String], input: Option<Vec<u8>>) -> Result<Begun> {
    let request = Request {
        build: build(),
        place: named(&cli.global),
        arguments: arguments.to_vec(),
        style: Style::of_stdout(),
        ssh_peers: if rustix::process::geteuid().is_root() {
            ssh::peers().unwrap_or_default()
        } else {
            Vec::new()
        },
        input: input.as_ref().map(|input| input.len() as u64),
    };
    let mut conversation = BufReader::new(stream.try_clone().context("could not share the socket")?);
    // Whoever is refused is told so before anybody listened: what can't be sent is no reason not to hear it.
    let sent = send(&mut &*stream, &request)
        .and_then(|()| Ok((&*stream).write_all(input.as_deref().unwrap_or_default())?));
    let asked = receive(&mut conversation, LONGEST_LINE).or_else(|error| sent.and(Err(error)));
    let why = match asked {
        Ok(Answer::Ready) => return Ok(Begun::Ready(conversation, input)),
        Ok(Answer::Forbidden(why)) => bail!("{why}"),
        Ok(Answer::NotMine(why)) => why,
        Ok(Answer::Done { .. }) => "answers nonsense".into(),
        Err(_) => "does not answer".into(),
    };
    Output::stdio().note(&format!("note: done without the daemon, which {why}"));
    Ok(Begun::Without(input))
}

/// A connection to root's daemon, if there is one. Never waits for one that hangs.
fn connected(path: &Path) -> Option<UnixStream> {
    let socket = connect_at_once(path).ok()?;
    // Whoever else listens there could keep commands from being carried out.
    socket_peercred(&socket).ok().filter(|peer| peer.uid.is_root())?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(READY)).ok()?;
    stream.set_write_timeout(Some(READY)).ok()?;
    Some(stream)
}

/// Whether a command reads prefixes from standard input.
pub fn takes_input(command: &Command) -> bool {
    let prefixes = match command {
        Command::Block(EntryCommand::Add(args)) | Command::Allow(EntryCommand::Add(args)) => &args.prefixes,
        Command::Block(EntryCommand::Del(args)) | Command::Allow(EntryCommand::Del(args)) => &args.prefixes,
        Command::Never(NeverCommand::Add { prefixes, .. } | NeverCommand::Del { prefixes, .. }) => prefixes,
        _ => return false,
    };
    prefixes.iter().any(|prefix| prefix == "-")
}
