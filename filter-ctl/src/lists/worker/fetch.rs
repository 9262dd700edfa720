//! Fetching a list by https. Redirects are followed by hand, so that each step is checked, and headers that hold
//! credentials stay with the server that they are meant for.
//!
//! There is no limit on the time of looking up a name: ureq would need a thread for it, which the jail has none of. The
//! resolver has its own limits (resolv.conf(5), `timeout` and `attempts`), and the parent has one for everything.

use std::io::Read;

use ureq::http::{Response, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, Proxy};

use super::url::{Address, shown};
use super::{Failure, FailureKind, Limits, Source, roots};

/// Redirects that are followed: publishers need one or two, to a file's newest version and to a mirror.
const MOST_REDIRECTS: usize = 5;

/// Most bytes of a server's headers.
const LARGEST_HEADERS: usize = 64 << 10;

/// Longest `ETag` or `Last-Modified` that is kept.
const LONGEST_KEPT: usize = 500;

/// What a server has.
pub enum Fetched {
    /// Nothing new.
    NotModified,
    /// A list.
    New(New),
}

/// A list, whose bytes are still to come.
pub struct New {
    /// Its bytes, packed if they are.
    pub body: Box<dyn Read>,
    /// How many bytes the server announced.
    pub length: Option<u64>,
    /// To ask with next time.
    pub etag: Option<String>,
    /// To ask with next time.
    pub last_modified: Option<String>,
}

/// Asks the server for a list.
///
/// # Errors
///
/// A [`Failure`] if there is none to read.
pub fn open(source: &Source, limits: &Limits) -> Result<Fetched, Failure> {
    let Source::Url { url, headers, etag, last_modified, insecure_http } = source else {
        return Err(Failure::new(FailureKind::Refused, "there is no URL to fetch"));
    };
    let mut address = Address::parse(url, *insecure_http)?;
    let mut headers = headers.as_slice();
    let agent = agent(&address, limits)?;
    for _ in 0..=MOST_REDIRECTS {
        let mut request = agent.get(address.uri());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(last_modified) = last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, last_modified);
        }
        let shown = shown(&address.uri().to_string());
        let response = request.call().map_err(|error| failure(&shown, &error))?;
        let location = response.headers().get(header::LOCATION);
        match (response.status().as_u16(), location) {
            (200, _) => return new(response, &shown, limits).map(Fetched::New),
            (304, _) if etag.is_some() || last_modified.is_some() => return Ok(Fetched::NotModified),
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                let location = location.to_str().map_err(|_| {
                    let message = format!("{shown} leads on to what is no URL; ask its publisher");
                    Failure::new(FailureKind::Redirect, message)
                })?;
                let next = address.redirected(location, *insecure_http)?;
                if !next.is_same_server(&address) {
                    headers = &[];
                }
                address = next;
            }
            _ => return Err(status(&response, &shown)),
        }
    }
    let message = format!(
        "{} leads on and on, over {MOST_REDIRECTS} times; give the address that it is to end at",
        shown(url)
    );
    Err(Failure::new(FailureKind::Redirect, message))
}

fn agent(address: &Address, limits: &Limits) -> Result<Agent, Failure> {
    // This host itself is asked directly, and needs no certificates unless it is by https.
    let proxy = if address.is_loopback() { None } else { Proxy::try_from_env() };
    let tls = match roots::read() {
        Ok(roots) => TlsConfig::builder().root_certs(roots).build(),
        Err(failure) if address.uri().scheme_str() == Some("https") => return Err(failure),
        Err(_) => TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[])).build(),
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .tls_config(tls)
        .timeout_connect(Some(limits.connect))
        .timeout_send_request(Some(limits.patience))
        .timeout_recv_response(Some(limits.patience))
        .timeout_recv_body(Some(limits.transfer))
        .timeout_per_read(Some(limits.patience))
        .max_response_header_size(LARGEST_HEADERS)
        .max_idle_connections(0)
        .accept_encoding("gzip")
        .user_agent(concat!("filter-ctl/", env!("CARGO_PKG_VERSION")));
    Ok(config.build().new_agent())
}

fn new(response: Response<Body>, shown: &str, limits: &Limits) -> Result<New, Failure> {
    let kept = |name| {
        let text = response.headers().get(name)?.to_str().ok()?;
        (text.len() <= LONGEST_KEPT && !text.bytes().any(|byte| byte.is_ascii_control()))
            .then(|| text.to_owned())
    };
    let (etag, last_modified) = (kept(header::ETAG), kept(header::LAST_MODIFIED));
    let length = response.body().content_length();
    if let Some(length) = length.filter(|length| *length > limits.packed) {
        let message =
            format!("{shown} has {length} bytes, over {}; allow more if it is to be so", limits.packed);
        return Err(Failure::new(FailureKind::TooLarge, message));
    }
    // What is read is counted elsewhere.
    let body = response.into_body().into_with_config().limit(u64::MAX).reader();
    Ok(New { body: Box::new(body), length, etag, last_modified })
}

fn status(response: &Response<Body>, shown: &str) -> Failure {
    let status = response.status();
    let retry = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after_s = retry.and_then(|retry| retry.trim().parse::<u64>().ok());
    let later = match (retry_after_s, retry) {
        (Some(seconds), _) => format!("try again after {seconds} s, as it asks for"),
        (None, Some(date)) => format!("try again after {date}, as it asks for"),
        (None, None) => "try again later".to_owned(),
    };
    let next = match status.as_u16() {
        401 | 403 => "it wants credentials, or other ones; check those of this list".to_owned(),
        404 | 410 => "there is no such list, or no more; check the address with its publisher".to_owned(),
        304 => "it says that the list is what it was, though nobody asked; ask its publisher".to_owned(),
        407 => "the proxy wants credentials; check the variable https_proxy".to_owned(),
        429 => format!("it is asked too often; {later}, and less often"),
        500..=599 => format!("the server has a problem of its own; {later}"),
        _ => "that is no list; check the address with its publisher".to_owned(),
    };
    let kind = FailureKind::Status { code: status.as_u16(), retry_after_s };
    Failure::new(kind, format!("{shown} answered with status {status}: {next}"))
}

/// What an error before the first byte of a list means. Errors that name URLs are not shown, for their queries.
fn failure(shown: &str, error: &ureq::Error) -> Failure {
    use ureq::Error;
    let (kind, what) = match error {
        Error::Timeout(which) => {
            (FailureKind::TooSlow, format!("it took too long ({which}); try again later"))
        }
        Error::HostNotFound => (FailureKind::Unreachable, "there is no such host; check the name".to_owned()),
        Error::Tls(_) | Error::Rustls(_) | Error::Pem(_) => (FailureKind::Tls, untrusted(error)),
        // What rustls says of a handshake comes as an error of reading.
        Error::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            (FailureKind::Tls, untrusted(cause))
        }
        Error::Io(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            (FailureKind::CutShort, "the server hung up before it answered; try again later".to_owned())
        }
        Error::Io(cause) => (FailureKind::Unreachable, format!("{cause}; check the name and the network")),
        Error::LargeResponseHeader(..) => {
            (FailureKind::TooLarge, "its headers never end; check the address with its publisher".to_owned())
        }
        Error::Protocol(_) => {
            (FailureKind::Unreachable, format!("it does not speak HTTP: {error}; check the address"))
        }
        Error::Http(_) | Error::BadUri(_) => (
            FailureKind::Refused,
            "its URL or a header of it makes no sense; check those of this list".to_owned(),
        ),
        Error::InvalidProxyUrl | Error::ConnectProxyFailed(_) => {
            (FailureKind::Unreachable, format!("{error}; check the variable https_proxy"))
        }
        _ => (FailureKind::Unreachable, format!("{error}; try again later")),
    };
    Failure::new(kind, format!("{shown}: {what}"))
}

fn untrusted(error: &dyn std::error::Error) -> String {
    let next = "check the clock of this host, and that its certificates hold the server's authority";
    format!("the server could not prove who it is: {error}; {next}")
}
