//! The good traffic: a service, and clients that ask it and count what they get.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use filter_tests::lab::Host;
use socket2::{Domain, Socket, Type};

/// Threads of the service, so that a request that hangs does not stop the others.
const WORKERS: usize = 8;

/// How long a client waits from the start of a request to the end of the answer before it gives up: a thousand
/// times what it takes when all is quiet.
const PATIENCE: Duration = Duration::from_millis(500);

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

/// Requests, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Answered in time.
    pub answered: u64,
    /// How long these took together, in microseconds.
    pub waited_us: u64,
    /// Not answered in time, or not at all.
    pub failed: u64,
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            answered: self.answered - earlier.answered,
            waited_us: self.waited_us - earlier.waited_us,
            failed: self.failed - earlier.failed,
        }
    }
}

/// Clients that ask all the time, until this is dropped.
#[derive(Debug)]
pub struct Clients {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts a client a pair of addresses: its own, and that of the service.
    pub fn start(host: &Host, pairs: &[(IpAddr, SocketAddr)]) -> Self {
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), Arc::<AtomicBool>::default());
        let threads = pairs.iter().map(|&(own, service)| {
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            let work = move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let result = ask(own, service);
                    count(&mut tally.lock().expect("no client panics"), &result, start.elapsed());
                    thread::sleep(INTERVAL.saturating_sub(start.elapsed()));
                }
            };
            host.run(|| thread::spawn(work))
        });
        Self { threads: threads.collect(), tally, stop }
    }

    /// Requests so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().expect("no client panics")
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

fn count(tally: &mut Tally, result: &Result<()>, took: Duration) {
    match result {
        Ok(()) => {
            tally.answered += 1;
            tally.waited_us += u64::try_from(took.as_micros()).expect("bounded by PATIENCE");
        }
        Err(_) => tally.failed += 1,
    }
}

/// One request over a connection of its own.
fn ask(own: IpAddr, service: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect_timeout(&service.into(), PATIENCE)?;
    let mut connection = TcpStream::from(socket);
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    connection.set_read_timeout(Some(left))?;
    connection.write_all(QUESTION.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer != ANSWER {
        bail!("answered with {answer:?}");
    }
    Ok(())
}
