//! Offers figures over HTTP, to few at a time and each for a short time, so that whoever connects costs little, whatever he
//! does. No connection is used twice, and nothing but a request's head is read.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Figures;
use super::listen::{Address, Listener};
use super::shared::Shared;
use super::text::{CLASSIC_TYPE, OPENMETRICS_TYPE, wants_openmetrics};
use crate::host::signals::Ending;

/// Connections at once: one for each of many scrapers. Of each some 20 KiB are kept, beside the text that all share.
const AT_ONCE: usize = 64;

/// Bytes of a request's head; some scrapers send a long `Accept`, and cookies are for nothing. hyper takes no less.
const LONGEST_HEAD: usize = 8 << 10;

/// How long a request's head may take: it fits in one segment.
const HEAD: Duration = Duration::from_secs(2);

/// How long a connection may take in all: twice what Prometheus waits by default.
const CONNECTION: Duration = Duration::from_secs(20);

/// Longest wait for the lock in collecting: half of what Prometheus waits for an answer by default, so that it gets the reason
/// in place of none.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Pause after a connection that could not be taken, for want of descriptors, which passes.
const PAUSE: Duration = Duration::from_millis(500);

/// Offers what `collect` collects until SIGTERM or SIGINT; `is_ready` is called once somebody could ask.
///
/// # Errors
///
/// If it can't be listened there.
pub fn run(
    address: &Address,
    collect: impl Fn() -> Result<Figures> + Send + Sync + 'static,
    is_ready: impl FnOnce(),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .context("could not set up the I/O")?;
    let ended = runtime.block_on(async {
        let mut ending = Ending::catch()?;
        let listener = Listener::bind(address).await?;
        is_ready();
        tokio::select! {
            () = serve(&listener, Arc::new(Shared::new(collect))) => {}
            () = ending.wait() => {}
        }
        Ok(())
    });
    // A collection that waits for the lock ends with the process.
    runtime.shutdown_background();
    ended
}

/// Takes connections, for ever.
pub async fn serve(listener: &Listener, shared: Arc<Shared>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let taken = match listener {
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| admit(stream, &turns, &shared))
            }
            Listener::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| admit(stream, &turns, &shared))
            }
        };
        if taken.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// Answers a connection beside the others, or closes it.
fn admit<S>(stream: S, turns: &Arc<Semaphore>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    shared.taken.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let service = service_fn(|request| answer(request, &shared));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LONGEST_HEAD).keep_alive(false);
        // A client that says nonsense, stalls or goes away is no concern of anybody's.
        let _ = timeout(CONNECTION, http.serve_connection(TokioIo::new(stream), service)).await;
        drop(turn);
    });
}

async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(if request.uri().path() != "/metrics" {
        said(StatusCode::NOT_FOUND, "the figures are at /metrics")
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "figures can only be got");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else if !request.body().is_end_stream() {
        said(StatusCode::PAYLOAD_TOO_LARGE, "whoever asks for figures has nothing to send")
    } else {
        let accepted: Vec<&str> =
            request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        match &*shared.snapshot().await {
            Ok(texts) if wants_openmetrics(&accepted.join(",")) => {
                response(StatusCode::OK, OPENMETRICS_TYPE, texts.openmetrics.clone())
            }
            Ok(texts) => response(StatusCode::OK, CLASSIC_TYPE, texts.classic.clone()),
            Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    })
}

/// A sentence for people.
fn said(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{sentence}\n").into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Of the same address there are two texts.
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}
