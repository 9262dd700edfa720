//! The child that fetches and reads lists, as a process: what it may no longer do, that it ends with its parent, and what
//! becomes of it when a list is hostile. Needs root, so that there are privileges to give up.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use filter_ctl::lists::block;
use filter_ctl::lists::format::Options;
use filter_ctl::lists::worker::{Answer, Failure, FailureKind, Job, Limits, Source, WORD, run_program};
use filter_tests::lab::{eventually, filter_ctl_path};

fn job(source: Source) -> Job {
    let (options, limits) = (Options::default(), Limits::default());
    Job { source, options, limits, time_limit: Duration::from_secs(60) }
}

fn at(url: String) -> Source {
    Source::Url { url, headers: Vec::new(), etag: None, last_modified: None, insecure_http: false }
}

/// A file that has no name.
fn file(content: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("list-{}-{:?}", std::process::id(), thread::current().id()));
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

fn read(content: &[u8]) -> Result<Answer, Failure> {
    run_program(&filter_ctl_path(), &job(Source::Stdin), Some(file(content)), &mut |_| {})
}

/// A script in place of the child, for as long as the test runs.
struct Script(PathBuf);

impl Script {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn fails(&self, job: &Job, content: &[u8]) -> Failure {
        run_program(&self.0, job, Some(file(content)), &mut |_| {}).unwrap_err()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A child that waits for its job.
struct Waiting {
    child: Child,
    stdin: ChildStdin,
}

impl Waiting {
    fn start(place: &str) -> Self {
        let mut command = Command::new(filter_ctl_path());
        command.args([WORD, place]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        eventually("the jail is closed", || field(child.id(), "Seccomp_filters").as_deref() == Some("2"))
            .unwrap();
        Self { child, stdin }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `/proc/PID/status`.
fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    line.map(|line| line.replace('\t', " "))
}

fn is_alive(pid: u32) -> bool {
    field(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

#[test]
fn nothing_is_left_in_the_jail() {
    for place in ["file", "url"] {
        let waiting = Waiting::start(place);
        let pid = waiting.child.id();
        for (name, want) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Uid", "65534 65534 65534 65534"),
            ("Gid", "65534 65534 65534 65534"),
            ("Groups", ""),
            ("Threads", "1"),
        ] {
            assert_eq!(field(pid, name).as_deref(), Some(want), "{place}: {name}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        for (name, want) in [("Max file size", "0"), ("Max processes", "0"), ("Max open files", "32")] {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert_eq!(line.split_whitespace().next(), Some(want), "{place}: {name}");
        }
    }
}

#[test]
fn the_child_dies_with_its_parent_and_has_only_its_pipes() {
    // The shell leaves it a descriptor too many.
    let script =
        format!("exec 3<&0 5</dev/null; {} {WORD} file <&3 & echo $!; wait", filter_ctl_path().display());
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    eventually("the jail is closed", || field(pid, "Seccomp_filters").as_deref() == Some("2")).unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|entry| entry.file_name());
    let mut open: Vec<_> = open.collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    // Its standard input stays open all the while, here.
    let stdin = shell.stdin.take();
    shell.kill().unwrap();
    shell.wait().unwrap();
    eventually("the child is gone", || !is_alive(pid)).unwrap();
    drop(stdin);
}

#[test]
fn a_list_of_two_million_stays_small() {
    let mut waiting = Waiting::start("file");
    let mut line = serde_json::to_vec(&job(Source::Stdin)).unwrap();
    line.push(b'\n');
    waiting.stdin.write_all(&line).unwrap();
    // Its answer is read, so that it never waits.
    let mut stdout = waiting.child.stdout.take().unwrap();
    let answer = thread::spawn(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).map(|_| all.len())
    });
    let mut text = String::new();
    for number in 0..2_000_000u32 {
        text.push_str(&format!("{}\n", Ipv4Addr::from(number.wrapping_mul(2_654_435_761))));
    }
    waiting.stdin.write_all(text.as_bytes()).unwrap();
    // It has read all but what is in the pipe, and waits for more.
    let peak = field(waiting.child.id(), "VmHWM").unwrap();
    let peak_kb: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!((30_000..200_000).contains(&peak_kb), "{peak}");
    let Waiting { child, .. } = &mut waiting;
    let pid = child.id();
    assert!(is_alive(pid));
    drop(waiting);
    assert!(answer.join().unwrap().unwrap() < 1 << 20, "nothing but progress is sent before the end");
}

#[test]
fn a_list_is_read_and_checked() {
    let text: String = (0..20_000u32).map(|number| format!("{}\n", Ipv4Addr::from(number << 8))).collect();
    let Answer::Read(list) = read(format!("{text}nonsense\n2001:db8::/32\n").as_bytes()).unwrap() else {
        panic!()
    };
    let entries: usize = list.blocks.iter().map(|bytes| block::decode(bytes).unwrap().items.len()).sum();
    assert_eq!((entries, list.summary.prefixes, list.summary.refusals), (20_001, 20_001, 1));
    assert_eq!(list.summary.refused[0].line, 20_001);
}

#[test]
fn servers_and_names_are_reached_from_the_jail_and_files_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().take(2).flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"x\"\r\n\r\n192.0.2.1\n");
        }
    });
    for host in ["127.0.0.1", "localhost"] {
        let job = job(at(format!("http://{host}:{port}/list")));
        let Answer::Read(list) = run_program(&filter_ctl_path(), &job, None, &mut |_| {}).unwrap() else {
            panic!()
        };
        assert_eq!((list.summary.prefixes, list.summary.etag.as_deref()), (1, Some("\"x\"")), "{host}");
    }
    for url in ["file:///etc/passwd", "/etc/passwd"] {
        let failure = run_program(&filter_ctl_path(), &job(at(url.into())), None, &mut |_| {}).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    }
}

#[test]
fn a_link_leads_to_no_file_of_root() {
    let directory = std::env::temp_dir().join(format!("certificates-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let (real, link, secret) =
        (directory.join("a.pem"), directory.join("b.pem"), directory.with_extension("secret"));
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let url = "https://127.0.0.1:1/";
    let tell = || {
        let mut command = Command::new(filter_ctl_path());
        command.args([WORD, "url"]).env_remove("SSL_CERT_FILE").env("SSL_CERT_DIR", &directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let line = format!("{}\n", serde_json::to_string(&job(at(url.into()))).unwrap());
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    fs::write(&secret, certificate).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let with_link = tell();
    fs::write(&real, certificate).unwrap();
    let with_file = tell();
    fs::remove_dir_all(&directory).unwrap();
    fs::remove_file(&secret).unwrap();
    assert!(with_link.contains("no root certificates"), "{with_link}");
    assert!(with_file.contains("Unreachable"), "{with_file}");
}

#[test]
fn hostile_lists_fail_in_words() {
    let mut small = job(Source::Stdin);
    small.limits = Limits { packed: 1000, text: 1000, ..Limits::default() };
    let long = "192.0.2.1\n".repeat(1000);
    let failure =
        run_program(&filter_ctl_path(), &small, Some(file(long.as_bytes())), &mut |_| {}).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooLarge, "{failure}");

    // As on a host that has less memory than the list wants.
    let poor = format!("ulimit -v 60000; exec {} \"$@\"", filter_ctl_path().display());
    let many: String = (0..2_000_000u32).map(|number| format!("{}\n", Ipv4Addr::from(number))).collect();
    let failure = Script::new("poor", &poor).fails(&job(Source::Stdin), many.as_bytes());
    assert_eq!(failure.kind, FailureKind::Died);
    assert!(failure.message.contains("memory"), "{failure}");
}

#[test]
fn hostile_children_are_caught() {
    let here = job(Source::Stdin);
    let script = |name: &str, text: &str| Script::new(name, text).fails(&here, b"192.0.2.1\n");
    let garbage = script("garbage", "cat > /dev/null; echo garbage");
    assert_eq!(garbage.kind, FailureKind::Distrusted, "{garbage}");
    let killed = script("killed", "kill -9 $$");
    assert!(killed.kind == FailureKind::Died && killed.message.contains("killed"), "{killed}");
    let silent = script("silent", "printf 'so \\033[2Jsorry' >&2");
    assert!(silent.kind == FailureKind::Died && silent.message.contains("so [2Jsorry"), "{silent}");
    let endless = script("endless", "exec 2>&1; while :; do echo; done");
    assert_eq!(endless.kind, FailureKind::Distrusted, "{endless}");
    let missing = run_program(Path::new("/nonexistent"), &here, Some(file(b"")), &mut |_| {}).unwrap_err();
    assert_eq!(missing.kind, FailureKind::Jail);
}

#[test]
fn time_is_limited_whatever_the_child_waits_for() {
    let mut brief = job(Source::Stdin);
    brief.time_limit = Duration::from_secs(1);
    let start = Instant::now();
    // A pipe that nobody writes to, and a child that reads nothing and says nothing.
    let (read, _write) = std::io::pipe().unwrap();
    let file_of_pipe = File::from(std::os::fd::OwnedFd::from(read));
    let failure = run_program(&filter_ctl_path(), &brief, Some(file_of_pipe), &mut |_| {}).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimeLimit, "{failure}");
    let failure = Script::new("idle", "exec sleep 60").fails(&brief, &vec![b'\n'; 1 << 20]);
    assert_eq!(failure.kind, FailureKind::TimeLimit, "{failure}");
    assert!(start.elapsed() < Duration::from_secs(10));
}
