//! Asks CrowdSec's local API for decisions, and has its owner hold what they name. Whatever that server does or says, the
//! filter goes on, and what is held stays until its deadline.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::event::{Event, EventKind};
use super::keeper::Keeper;
use super::state::CrowdsecState;
use crate::control::Control;
use crate::guard;
use crate::holds::Change;
use crate::host::{self, monotonic_now};
use crate::lists::crowdsec::{Decisions, OWNER};
use crate::lists::format::crowdsec::{Stream, read_stream};
use crate::lists::holes::Holes;
use crate::policy::{Action, Prefix};
use crate::store::wall_now_s;

/// How long an answer may take, all of it: the whole of a large list comes in seconds.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a connection may take.
const CONNECTION: Duration = Duration::from_secs(5);

/// Longest answer in bytes: over 300,000 decisions, more than tables have room for unless they are made larger.
const LONGEST_ANSWER: u64 = 64 << 20;

/// After so long all decisions are asked for again: what another with the same key was told is not told again, and of
/// several decisions of one value the longest may have been lifted, which is not told at all.
const ANEW: Duration = Duration::from_secs(3600);

/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest key in bytes; CrowdSec makes 32 or 43.
const LONGEST_KEY: u64 = 512;

/// Dangers and refused decisions that are told one by one.
const MOST_TOLD: usize = 20;

/// CrowdSec's local API, by its URL: by TLS, or on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapi(String);

impl Lapi {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// Why it is refused, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url: ureq::http::Uri = text.parse().map_err(|_| "is no URL".to_owned())?;
        let host = url.host().filter(|host| !host.is_empty()).ok_or("names no host")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_here =
            bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if is_here => {}
            Some("http") => return Err("must be https, since anybody on the way could read the key".into()),
            _ => return Err("must begin with https:// or http://".into()),
        }
        if url.query().is_some() || url.authority().is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err("must be no more than a host, a port and a path".into());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    fn stream(&self, is_startup: bool) -> String {
        format!("{}/v1/decisions/stream?startup={is_startup}", self.0)
    }
}

/// Whom to ask, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrowdsecConfig {
    /// The local API.
    pub lapi: Lapi,
    /// The file with the key by which it knows this host.
    pub key_file: PathBuf,
    /// Time between two questions.
    pub interval: Duration,
}

/// Asks again and again, for ever. Each time on a thread of its own, since it may wait for the server and the lock.
pub async fn follow(keeper: Arc<Keeper>, config: CrowdsecConfig) {
    let interval = config.interval;
    let client = Arc::new(Mutex::new(Client::new(config)));
    loop {
        let (client, its) = (Arc::clone(&client), Arc::clone(&keeper));
        let asked = tokio::task::spawn_blocking(move || {
            client.lock().unwrap_or_else(PoisonError::into_inner).ask(&its)
        });
        let pause = asked.await.unwrap_or_else(|_| {
            let what = "a part of the daemon failed that asks CrowdSec; it goes on";
            keeper.tell(&Event::new(EventKind::CrowdsecFailed, what));
            interval
        });
        tokio::time::sleep(pause).await;
    }
}

struct Client {
    config: CrowdsecConfig,
    agent: ureq::Agent,
    decisions: Decisions,
    /// When all decisions were last told and taken; none after a failure.
    whole: Option<Instant>,
    failures_in_a_row: u32,
    state: CrowdsecState,
}

impl Client {
    fn new(config: CrowdsecConfig) -> Self {
        let agent = agent(ANSWER);
        let (decisions, state) = (Decisions::default(), CrowdsecState::default());
        Self { config, agent, decisions, whole: None, failures_in_a_row: 0, state }
    }

    /// Asks once, does what is answered, and says how long to wait.
    fn ask(&mut self, keeper: &Keeper) -> Duration {
        let is_startup = self.whole.is_none_or(|whole| whole.elapsed() > ANEW);
        self.state.asked += 1;
        // What was answered and not taken would not be told again: then all is asked for.
        let trouble = match self.take(keeper, is_startup) {
            Ok(()) => {
                if is_startup {
                    self.whole = Some(Instant::now());
                }
                self.state.answered_at_s = Some(wall_now_s());
                self.failures_in_a_row = 0;
                None
            }
            Err(error) => {
                self.whole = None;
                self.state.failed += 1;
                self.failures_in_a_row += 1;
                Some(format!("CrowdSec's decisions are not followed, and what is blocked stays: {error:#}"))
            }
        };
        let before = std::mem::replace(&mut self.state.trouble, trouble.clone());
        match (before, trouble) {
            (before, Some(trouble)) if before.as_ref() != Some(&trouble) => {
                keeper.tell(&Event::new(EventKind::CrowdsecFailed, &trouble));
            }
            (Some(_), None) => {
                let what = "CrowdSec's decisions are followed again";
                keeper.tell(&Event::new(EventKind::CrowdsecRecovered, what));
            }
            _ => {}
        }
        keeper.note_crowdsec(&self.state);
        pause(self.config.interval, self.failures_in_a_row)
    }

    fn take(&mut self, keeper: &Keeper, is_startup: bool) -> Result<()> {
        let stream = self.fetch(is_startup)?;
        if stream.refusals > 0 {
            let first: Vec<String> = stream.refused.iter().take(MOST_TOLD).map(ToString::to_string).collect();
            let what =
                format!("{} of CrowdSec's decisions make no sense: {}", stream.refusals, first.join("; "));
            keeper.tell(&Event::new(EventKind::CrowdsecSkipped, &what));
        }
        let addresses = host::network::addresses()?;
        let ssh_peers = host::ssh::peers()?;
        let control = Control::open(keeper.place(), keeper.author("crowdsec"))?;
        let never = control.store().map_or_else(|_| Ok(Vec::new()), |store| store.never())?;
        drop(control);
        let holes: Holes = never.iter().map(|never| never.prefix).collect();
        let harms = |prefixes: &[Prefix]| {
            let dangers = guard::dangers(Action::Block, prefixes, &addresses, &ssh_peers);
            let mut harms: Vec<(Prefix, String)> =
                dangers.into_iter().map(|danger| (danger.prefix, danger.to_string())).collect();
            for prefix in prefixes {
                let known = harms.iter().any(|(harmful, _)| harmful == prefix);
                if let Some(hole) = holes.overlapping(prefix).first().filter(|_| !known) {
                    harms.push((*prefix, format!("{prefix} concerns {hole}, which no list may block")));
                }
            }
            harms
        };
        let applied = self.decisions.answer(&stream, monotonic_now(), harms);
        let told = applied.put_off.iter().take(MOST_TOLD);
        for harm in told {
            let what = format!("a decision of CrowdSec's is put off for as long as this is so: {harm}");
            keeper.tell(&Event::new(EventKind::CrowdsecSkipped, &what).with("owner", OWNER));
        }
        let change = Change::Set(applied.wishes);
        if change.keys().is_empty() {
            return Ok(());
        }
        let what = format!("crowdsec ({} new, {} deleted)", stream.new.len(), stream.deleted.len());
        let mut control = Control::open(keeper.place(), keeper.author(&what))?;
        control.change(change)?;
        Ok(())
    }

    fn fetch(&self, is_startup: bool) -> Result<Stream> {
        // Read each time, so that a new key needs no restart.
        let key = read_key(&self.config.key_file)?;
        fetch(&self.agent, &self.config.lapi.stream(is_startup), &key, LONGEST_ANSWER)
    }
}

fn agent(answer: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(answer))
        .timeout_connect(Some(CONNECTION))
        .http_status_as_error(false)
        // Nobody else is shown the key.
        .max_redirects(0)
        .proxy(None)
        // CrowdSec wants a name and a version.
        .user_agent(concat!("filter-ctl/", env!("CARGO_PKG_VERSION")));
    config.build().new_agent()
}

fn fetch(agent: &ureq::Agent, url: &str, key: &str, longest: u64) -> Result<Stream> {
    let response = agent.get(url).header("X-Api-Key", key).call();
    let response = response.with_context(|| format!("{url} does not answer"))?;
    match response.status().as_u16() {
        200 => {}
        401 | 403 => bail!("{url} does not take the key: `cscli bouncers list`"),
        status => bail!("{url} answers with status {status}"),
    }
    let body = response.into_body().into_with_config().limit(longest).reader();
    read_stream(body).with_context(|| format!("{url} answers with something else than decisions"))
}

/// Reads the key from a file that only its owner, this user, may touch.
fn read_key(path: &Path) -> Result<String> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("could not open the key's file {shown}"))?;
    let metadata = file.metadata().with_context(|| format!("could not look at {shown}"))?;
    ensure!(metadata.is_file(), "{shown} is no file");
    let mode = metadata.mode() & 0o777;
    ensure!(
        mode.trailing_zeros() >= 6 && metadata.uid() == rustix::process::geteuid().as_raw(),
        "{shown} may be read or written by others (mode {mode:o}): `chown root {shown}; chmod 600 {shown}`"
    );
    let mut key = String::new();
    file.take(LONGEST_KEY + 1).read_to_string(&mut key).with_context(|| format!("could not read {shown}"))?;
    let key = key.trim();
    let is_key =
        !key.is_empty() && key.len() as u64 <= LONGEST_KEY && key.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(is_key, "{shown} holds no key, which is a word of at most {LONGEST_KEY} bytes");
    Ok(key.to_owned())
}

/// How long to wait: the interval and up to a fifth more or less, so that a fleet does not ask in step; longer after
/// failures.
fn pause(interval: Duration, failures_in_a_row: u32) -> Duration {
    let longest = LONGEST_PAUSE.max(interval);
    let pause = interval.saturating_mul(failures_in_a_row.max(1)).min(longest);
    // Keys of a hash table are random.
    let permille = u32::try_from(RandomState::new().hash_one(0) % 401).unwrap_or_default();
    pause * (800 + permille) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    #[test]
    fn keys_are_sent_by_tls_or_to_this_host() {
        for text in [
            "https://lapi.example:8080/",
            "http://127.0.0.1:8080",
            "http://[::1]:8080/",
            "http://localhost/x",
        ] {
            assert!(Lapi::parse(text).is_ok(), "{text}");
        }
        for text in [
            "http://192.0.2.1:8080",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://127.0.0.1@lapi.example",
            "https://user:word@lapi.example",
            "https://lapi.example/?x=y",
            "ftp://127.0.0.1",
            "127.0.0.1:8080",
            "/",
            "",
        ] {
            assert!(Lapi::parse(text).is_err(), "{text}");
        }
        let url = Lapi::parse("http://[::1]:8080/").unwrap().stream(true);
        assert_eq!(url, "http://[::1]:8080/v1/decisions/stream?startup=true");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("filter-ctl-key-{}", std::process::id()));
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_key(&path)
        };
        assert_eq!(write("s3cret\n", 0o600).unwrap(), "s3cret");
        for (text, mode) in
            [("s3cret", 0o640), ("s3cret", 0o604), ("", 0o600), ("s3 cret", 0o600), ("s3\ncret", 0o600)]
        {
            let error = format!("{:#}", write(text, mode).unwrap_err());
            assert!(!error.contains("cret"), "{error}");
        }
        assert!(write(&"x".repeat(1000), 0o600).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read_key(&path).is_err());
    }

    #[test]
    fn pauses_differ_and_grow_to_a_bound() {
        let of = |failures| (0..50).map(|_| pause(Duration::from_secs(10), failures)).collect::<Vec<_>>();
        let usual = of(0);
        assert!(usual.iter().all(|pause| (8.0..=12.0).contains(&pause.as_secs_f64())));
        assert!(usual.iter().any(|pause| *pause != usual[0]));
        assert!(of(u32::MAX).iter().all(|pause| *pause <= LONGEST_PAUSE * 6 / 5));
        assert!(of(3).iter().all(|pause| pause.as_secs() >= 24));
    }

    /// A server that answers one question with this text, again and again with pauses in between.
    fn asked(text: &'static str, pause: Duration) -> Result<Stream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Lapi::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap().stream(true);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"new\":[");
            while stream.write_all(text.as_bytes()).is_ok() {
                thread::sleep(pause);
            }
        });
        fetch(&agent(Duration::from_millis(300)), &url, "s3cret", 1 << 20)
    }

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let slow = format!("{:#}", asked(" ", Duration::from_millis(10)).unwrap_err());
        assert!(slow.contains("timeout") && !slow.contains("s3cret"), "{slow}");
        let endless = Box::leak(" ".repeat(4096).into_boxed_str());
        assert!(asked(endless, Duration::ZERO).is_err());
        let decision = r#"{"type":"ban","scope":"Ip","value":"192.0.2.1","duration":"1h"},"#;
        assert!(asked(Box::leak(decision.repeat(100).into_boxed_str()), Duration::ZERO).is_err());
    }
}
