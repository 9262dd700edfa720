//! Hooks against real processes, and real servers on the loopback device.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use super::*;

const SHORT: Bounds = Bounds {
    command: Duration::from_millis(500),
    request: Duration::from_millis(500),
    pauses: [Duration::from_millis(10), Duration::from_millis(20)],
};
/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(30);

fn start(commands: &[&str], webhooks: &[String], bounds: Bounds) -> (Hooks, Receiver<Event>) {
    let (sender, reports) = channel();
    let config = HookConfig {
        commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        webhooks: webhooks.to_vec(),
    };
    let report = move |event: &Event| sender.send(event.clone()).unwrap();
    (Hooks::start_within(&config, bounds, Arc::new(report)).unwrap(), reports)
}

/// Sends one event to these hooks, and returns what came of it.
fn told(commands: &[&str], webhooks: &[String], bounds: Bounds) -> (HookCounts, Vec<String>) {
    let (hooks, reports) = start(commands, webhooks, bounds);
    let counters = Arc::clone(&hooks.counters);
    hooks.send(&Event::new(EventKind::Drift, "two entries are missing").with("missing", "2"));
    assert!(hooks.finish(LONG));
    let counts = Hooks { queues: Vec::new(), counters }.counts();
    (counts, reports.iter().map(|event| event.message().to_owned()).collect())
}

const DELIVERED: HookCounts = HookCounts { delivered: 1, failed: 0, dropped: 0 };
const FAILED: HookCounts = HookCounts { delivered: 0, failed: 1, dropped: 0 };

/// A server that gives these statuses, one a connection, and then never answers. Returns its URL and what it is sent.
fn server(statuses: &'static [u16]) -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook/s3cret", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        let (mut statuses, mut open) = (statuses.iter(), Vec::new());
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            match statuses.next() {
                Some(status) => answer(stream, *status, &sender),
                None => open.push(stream),
            }
        }
    });
    (url, requests)
}

fn answer(mut stream: TcpStream, status: u16, requests: &Sender<(String, String)>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    // A client that has its answer may hang up at once.
    let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = requests.send((head, String::from_utf8(body).unwrap()));
}

#[test]
fn a_webhook_is_sent_the_event_as_json() {
    let (url, requests) = server(&[204]);
    assert_eq!(told(&[], &[url], Bounds { request: LONG, ..SHORT }), (DELIVERED, vec![]));
    let (head, body) = requests.recv_timeout(LONG).unwrap();
    assert!(head.starts_with("POST /hook/s3cret HTTP/1.1"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&json["event"], &json["fields"]["missing"]), (&"drift".into(), &"2".into()));
}

#[test]
fn a_webhook_is_tried_three_times() {
    let patient = Bounds { request: LONG, ..SHORT };
    let (url, requests) = server(&[503, 500, 200]);
    assert_eq!(told(&[], &[url], patient), (DELIVERED, vec![]));
    assert_eq!(requests.try_iter().count(), 3);
    let (url, requests) = server(&[503, 302, 404, 200]);
    let (counts, reports) = told(&[], &[url], patient);
    assert_eq!((counts, requests.try_iter().count()), (FAILED, 3));
    assert!(reports[0].contains("webhook 127.0.0.1 was not told of drift"), "{reports:?}");
    assert!(reports[0].contains("after 3 tries") && reports[0].contains("404"), "{reports:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_and_its_secret_kept() {
    let (silent, _requests) = server(&[]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in
        [silent, format!("http://{closed}/s3cret"), "s3cret".into(), format!("http://u:s3cret@{closed}/")]
    {
        let (counts, reports) = told(&[], std::slice::from_ref(&url), SHORT);
        assert_eq!((counts, reports.len()), (FAILED, 1), "{url}");
        assert!(!reports[0].contains("s3cret"), "{reports:?}");
    }
}

#[test]
fn a_command_gets_the_event_and_its_kind() {
    let directory = std::env::temp_dir().join(format!("filter-ctl-hook-{}", std::process::id()));
    let got = directory.display();
    std::fs::create_dir_all(&directory).unwrap();
    let command = format!("cat > {got}/event && test $FILTER_EVENT = drift");
    let outcome = told(&[&command], &[], Bounds { command: LONG, ..SHORT });
    let json = std::fs::read_to_string(directory.join("event")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(outcome, (DELIVERED, vec![]));
    assert!(json.contains("two entries are missing"), "{json}");
}

#[test]
fn a_path_is_started_without_a_shell() {
    assert_eq!(told(&["/bin/true"], &[], Bounds { command: LONG, ..SHORT }), (DELIVERED, vec![]));
    let (counts, reports) = told(&["/nonexistent/$(reboot)"], &[], SHORT);
    assert_eq!(counts, FAILED);
    assert!(reports[0].contains("could not be started"), "{reports:?}");
}

#[test]
fn a_command_that_fails_is_tried_once_and_told() {
    let (counts, reports) = told(&["exit 7"], &[], Bounds { command: LONG, ..SHORT });
    assert_eq!((counts, reports.len()), (FAILED, 1));
    assert!(reports[0].contains("exit status: 7"), "{reports:?}");
}

#[test]
fn a_command_that_hangs_or_floods_its_output_is_killed() {
    for command in ["sleep 1000 & sleep 1000; true", "yes & yes >&2"] {
        let (counts, reports) = told(&[command], &[], SHORT);
        assert_eq!(counts, FAILED, "{command}");
        assert!(reports[0].contains("killed after 500ms"), "{reports:?}");
    }
}

#[test]
fn what_does_not_fit_is_counted_and_told_and_others_are_not_held_back() {
    let slow = Bounds { command: LONG, ..SHORT };
    let fifo = std::env::temp_dir().join(format!("filter-ctl-hook-fifo-{}", std::process::id()));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // The first event waits until somebody reads, so that the queue fills up.
    let waits = format!("echo > {}", fifo.display());
    let (hooks, reports) = start(&[&waits, "/bin/true"], &[], slow);
    let event = Event::new(EventKind::Drift, "x");
    let sent = QUEUE as u64 + 1;
    for number in 1..=sent {
        hooks.send(&event);
        while hooks.counts().delivered < number {
            thread::yield_now();
        }
    }
    // The other had all of them, while this one has at most one in hand and a full queue.
    while hooks.counts().dropped == 0 {
        hooks.send(&event);
    }
    let dropped = hooks.counts().dropped;
    let reader = File::open(&fifo).unwrap();
    let report = reports.recv_timeout(LONG).unwrap();
    assert!(report.message().contains("its queue of 64 was full"), "{report:?}");
    assert!(dropped >= 1);
    assert!(hooks.finish(LONG));
    drop(reader);
    std::fs::remove_file(&fifo).unwrap();
}
