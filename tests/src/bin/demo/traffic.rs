//! The good traffic: a service, and clients that ask it and count what they get.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use filter_tests::lab::Host;
use socket2::{Domain, Socket, Type};

/// Threads of the service, so that a request that hangs does not stop the others.
const WORKERS: usize = 8;

/// How long a client waits for a connection, and then for the answer, before it gives up: what somebody in
/// front of a browser may bear, and longer than TCP's first retransmission, which is after one second.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time from one request of a client to the next. Few enough that the clients leave most of a CPU to the
/// service, and a client does not run out of ports (28,232) during the demo.
const INTERVAL: Duration = Duration::from_millis(10);

const QUESTION: &str = "how are you?\n";
const ANSWER: &str = "fine\n";

/// Starts a service on this port of a host, over IPv4 and IPv6. It ends with the process.
pub fn serve(host: &Host, port: u16) -> Result<()> {
    host.run(move || {
        let listener = TcpListener::bind(("::", port)).context("could not start the service")?;
        for _ in 0..WORKERS {
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                for connection in listener.incoming() {
                    // What fails here is the client's loss, and counted there.
                    let _ = connection.and_then(answer);
                }
            });
        }
        Ok(())
    })
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    BufReader::new(&connection).read_line(&mut String::new())?;
    connection.write_all(ANSWER.as_bytes())
}

/// Requests so far.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Clients that ask all the time, until this is dropped.
#[derive(Debug)]
pub struct Clients {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts a client a pair of addresses: its own, and that of the service.
    pub fn start(host: &Host, pairs: &[(IpAddr, SocketAddr)]) -> Self {
        let (tally, stop) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
        let threads = pairs.iter().map(|&(own, service)| {
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            host.run(move || {
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let next = Instant::now() + INTERVAL;
                        let count = if ask(own, service).is_ok() { &tally.answered } else { &tally.failed };
                        count.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                })
            })
        });
        Self { threads: threads.collect(), tally, stop }
    }

    /// Requests answered and failed so far.
    pub fn tally(&self) -> (u64, u64) {
        (self.tally.answered.load(Ordering::Relaxed), self.tally.failed.load(Ordering::Relaxed))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One request over a connection of its own.
fn ask(own: IpAddr, service: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect_timeout(&service.into(), PATIENCE)?;
    let mut connection = TcpStream::from(socket);
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(QUESTION.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer != ANSWER {
        bail!("answered with {answer:?}");
    }
    Ok(())
}
