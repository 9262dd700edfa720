//! Servers that lie, drip and bomb; what comes of it, without the jail.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::answer::{self, Trouble};
use super::child;
use super::frame::End;
use super::{Answer, Failure, FailureKind, Job, Limits, List, Source};
use crate::lists::format::Options;

/// What a server says to one connection, of which it is told the number.
type Say = dyn Fn(usize, &mut TcpStream) + Send;

/// A server on this host, until the test ends.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(say: impl Fn(usize, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/list?key=s3cret", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (say, seen): (Box<Say>, _) = (Box::new(say), Arc::clone(&requests));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().take(20).enumerate() {
                let Ok(mut stream) = stream else { return };
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    request.extend(byte);
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&request).to_lowercase());
                say(number, &mut stream);
            }
        });
        Self { url, requests }
    }

    /// Says the same to everybody, and hangs up.
    fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, stream| drop(stream.write_all(&answer)))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
}

fn sized(body: &[u8]) -> Vec<u8> {
    answer(&format!("200 OK\r\nContent-Length: {}", body.len()), body)
}

fn job(url: &str) -> Job {
    Job {
        source: Source::Url {
            url: url.to_owned(),
            headers: vec![("Authorization".into(), "Bearer s3cret".into())],
            etag: None,
            last_modified: None,
            insecure_http: false,
        },
        options: Options::default(),
        limits: Limits {
            packed: 1 << 20,
            text: 1 << 20,
            connect: Duration::from_secs(5),
            patience: Duration::from_millis(400),
            least_rate: 1000,
            transfer: Duration::from_secs(5),
        },
        time_limit: Duration::from_secs(10),
    }
}

fn carry_out(job: &Job, input: &[u8]) -> Result<Answer, Failure> {
    let mut out = Vec::new();
    let end = child::carry_out(job, input, &mut out).unwrap_or_else(End::Failed);
    child::send_end(&mut out, end).unwrap();
    answer::receive(&mut &out[..], &mut |_| {}).map_err(|trouble| match trouble {
        Trouble::Failed(failure) => {
            assert!(!failure.message.contains("s3cret"), "{failure}");
            failure
        }
        other => panic!("{other:?}"),
    })
}

fn fetched(job: &Job) -> Box<List> {
    match carry_out(job, &[]) {
        Ok(Answer::Read(list)) => list,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn fails(server: &Server, kind: FailureKind, why: &str) -> Failure {
    let failure = carry_out(&job(&server.url), &[]).unwrap_err();
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.message.contains(why), "{failure}");
    failure
}

#[test]
fn a_list_comes_with_what_to_ask_with_next_time() {
    let server = Server::start(|number, stream| {
        let head = format!(
            "200 OK\r\nETag: \"{number}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 10"
        );
        let _ = stream.write_all(&answer(&head, b"192.0.2.1\n"));
    });
    let mut job = job(&server.url);
    let list = fetched(&job).summary;
    assert_eq!((list.prefixes, list.bytes, list.etag.as_deref()), (1, 10, Some("\"0\"")));
    let Source::Url { etag, last_modified, .. } = &mut job.source else { panic!() };
    (*etag, *last_modified) = (list.etag, list.last_modified);
    assert_eq!(
        fetched(&job).summary.etag.as_deref(),
        Some("\"1\""),
        "of what came, not of what was asked with"
    );
    let requests = server.requests();
    assert!(requests[0].contains("user-agent: filter-ctl/") && !requests[0].contains("if-none-match"));
    assert!(
        requests[1].contains("if-none-match: \"0\"")
            && requests[1].contains("if-modified-since: thu, 01 jan")
    );
}

#[test]
fn not_modified_is_an_answer_to_who_asked() {
    let server = Server::saying(answer("304 Not Modified", b""));
    fails(&server, FailureKind::Status { code: 304, retry_after_s: None }, "nobody asked");
    let mut job = job(&server.url);
    let Source::Url { etag, .. } = &mut job.source else { panic!() };
    *etag = Some("\"x\"".into());
    assert_eq!(carry_out(&job, &[]), Ok(Answer::NotModified));
}

#[test]
fn a_status_says_what_to_do() {
    for (head, code, retry_after_s, why) in [
        ("401 Unauthorized", 401, None, "credentials"),
        ("403 Forbidden", 403, None, "credentials"),
        ("404 Not Found", 404, None, "no such list"),
        ("429 Too Many Requests\r\nRetry-After: 120", 429, Some(120), "after 120 s"),
        ("503 Service Unavailable\r\nRetry-After: Fri, 02 Jan 2026", 503, None, "after Fri, 02"),
        ("500 Internal Server Error", 500, None, "of its own"),
        ("206 Partial Content", 206, None, "no list"),
        ("302 Found", 302, None, "no list"),
    ] {
        let server = Server::saying(answer(&format!("{head}\r\nContent-Length: 2"), b"no"));
        fails(&server, FailureKind::Status { code, retry_after_s }, why);
    }
}

#[test]
fn slow_servers_are_given_up() {
    let drip = Server::start(|_, stream| {
        let _ = stream.write_all(&answer("200 OK\r\nContent-Length: 100000", b""));
        for _ in 0..1000 {
            thread::sleep(Duration::from_millis(10));
            if stream.write_all(b"1").is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    fails(&drip, FailureKind::TooSlow, "bytes a second");
    fails(&Server::start(|_, _| thread::sleep(Duration::from_secs(3))), FailureKind::TooSlow, "too long");
    let silent = Server::start(|_, stream| {
        let _ = stream.write_all(&answer("200 OK\r\nContent-Length: 100", b"192.0.2.1\n"));
        thread::sleep(Duration::from_secs(3));
    });
    fails(&silent, FailureKind::TooSlow, "10 bytes and then nothing");
    let headers = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"A: b\r\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    fails(&headers, FailureKind::TooSlow, "too long");
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[test]
fn what_never_ends_is_cut_off() {
    let endless = |head: &'static str, piece: &'static [u8]| {
        Server::start(move |_, stream| {
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(piece).is_ok() {}
        })
    };
    fails(
        &endless("HTTP/1.1 200 OK\r\n\r\n", b"192.0.2.1\n192.0.2.2\n"),
        FailureKind::TooLarge,
        "as it comes",
    );
    let headers = endless("HTTP/1.1 200 OK\r\n", b"Header: of many\r\n");
    fails(&headers, FailureKind::Unreachable, "too many headers");
    fails(&endless("HTTP/1.1 200 OK\r\nHeader: ", b"long"), FailureKind::TooLarge, "headers never end");
    fails(&endless("", b"garbage and more of it "), FailureKind::Unreachable, "HTTP");
    let huge = Server::saying(answer("200 OK\r\nContent-Length: 99999999999", b"1"));
    fails(&huge, FailureKind::TooLarge, "99999999999 bytes");
}

#[test]
fn less_than_announced_is_no_list_and_more_is_not_read() {
    let short = Server::saying(answer("200 OK\r\nContent-Length: 100", b"192.0.2.1\n"));
    fails(&short, FailureKind::CutShort, "after 10 bytes of the 100");
    let chunks = Server::saying(answer("200 OK\r\nTransfer-Encoding: chunked", b"a\r\n192.0.2.1\n\r\n"));
    fails(&chunks, FailureKind::CutShort, "cut short");
    let long = Server::saying(answer("200 OK\r\nContent-Length: 10", b"192.0.2.1\n192.0.2.2\n"));
    assert_eq!(fetched(&job(&long.url)).summary.prefixes, 1);
    fails(&Server::start(|_, _| ()), FailureKind::CutShort, "hung up");
}

#[test]
fn redirects_keep_secrets_and_end() {
    let list = Server::saying(sized(b"192.0.2.1\n"));
    let (there, asked) = (list.url.clone(), Arc::clone(&list.requests));
    let here = Server::start(move |number, stream| {
        let to = if number == 0 { "/other" } else { &there };
        let _ = stream.write_all(&answer(&format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0"), b""));
    });
    assert_eq!(fetched(&job(&here.url)).summary.prefixes, 1);
    assert!(here.requests().iter().all(|request| request.contains("authorization: bearer s3cret")));
    let asked = asked.lock().unwrap().clone();
    assert!(asked.len() == 1 && !asked[0].contains("authorization"), "{asked:?}");

    let to =
        |to: &str| Server::saying(answer(&format!("301 Moved\r\nLocation: {to}\r\nContent-Length: 0"), b""));
    let round = to("/list");
    fails(&round, FailureKind::Redirect, "on and on");
    assert_eq!(round.requests().len(), 6);
    fails(&to("http://example.net/?s3cret"), FailureKind::Redirect, "encryption");
    fails(&to("file:///etc/shadow"), FailureKind::Redirect, "file:///etc/shadow");
    fails(&to("https://me:s3cret@example.net/"), FailureKind::Redirect, "no user or password");
}

#[test]
fn what_is_no_list_is_told() {
    let page = Server::saying(sized(b"<!doctype html><html>Log in</html>"));
    fails(&page, FailureKind::Unreadable, "an HTML page");
    let failure = carry_out(&job("http://example.net/?s3cret"), &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
}

#[test]
fn packed_lists_are_unpacked_whatever_the_header_says() {
    let gzip = super::unpack::tests::gzip(b"192.0.2.1\n");
    for body in [&gzip[..], &[gzip.clone(), super::unpack::tests::gzip(b"192.0.2.2\n")].concat()] {
        let server = Server::saying(sized(body));
        let list = fetched(&job(&server.url)).summary;
        assert_eq!(list.bytes, body.len() as u64);
    }
    let bomb = super::unpack::tests::gzip(&vec![b'\n'; 64 << 20]);
    fails(&Server::saying(sized(&bomb)), FailureKind::TooLarge, "bytes of text");
    // The server hangs up in the middle of what it announced: that, and not gzip, is to blame.
    let head = format!("200 OK\r\nContent-Length: {}", gzip.len());
    fails(&Server::saying(answer(&head, &gzip[..12])), FailureKind::CutShort, "announced");
}
