//! URLs: which may be fetched, where a redirect leads, and how they are shown. Pure.

use std::net::IpAddr;

use ureq::http::Uri;

use super::{Failure, FailureKind, clean};

/// Most characters of a URL that are shown.
const LONGEST_SHOWN: usize = 200;

/// Most bytes of a URL, as servers take them (RFC 9110, 4.1).
const LONGEST: usize = 8000;

/// A URL for people: without what may be a secret, which is its user, and all that follows the question mark.
pub fn shown(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (rest, query) = match url.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (url, ""),
    };
    let start = rest.find("//").map_or(0, |at| at + 2);
    let (scheme, rest) = rest.split_at(start);
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("…@{host}"));
    let shown = clean(&format!("{scheme}{authority}{path}"), LONGEST_SHOWN);
    format!("{shown}{query}")
}

/// A URL that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    uri: Uri,
}

impl Address {
    /// Reads a URL and says why it may not be fetched.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of kind [`FailureKind::Refused`].
    pub fn parse(url: &str, insecure_http: bool) -> Result<Self, Failure> {
        let refuse = |why: &str| Err(Failure::new(FailureKind::Refused, format!("{}: {why}", shown(url))));
        let Some(uri) = url.parse::<Uri>().ok().filter(|_| url.len() <= LONGEST) else {
            return refuse("this is no URL; give one such as https://example.net/list.txt");
        };
        let Some((authority, host)) = uri.authority().zip(uri.host()).filter(|(_, host)| !host.is_empty())
        else {
            return refuse("it names no host; give a URL such as https://example.net/list.txt");
        };
        if authority.as_str().contains('@') {
            return refuse(
                "a URL may hold no user or password, for it is shown and kept; put a header such as `Authorization: …` into a file, for --headers-file",
            );
        }
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if insecure_http || is_loopback(host) => {}
            Some("http") => {
                return refuse(
                    "without encryption everybody on the way can change the list; use https, or allow http for this list",
                );
            }
            _ => return refuse("only https can be fetched; give a file by its path"),
        }
        Ok(Self { uri })
    }

    /// Where a redirect from here leads.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of kind [`FailureKind::Redirect`] if nobody may follow it.
    pub fn redirected(&self, location: &str, insecure_http: bool) -> Result<Self, Failure> {
        let refuse = |why: &str| {
            let (from, to) = (shown(&self.uri.to_string()), shown(location));
            Failure::new(FailureKind::Redirect, format!("{from} leads on to {to}: {why}"))
        };
        let to = self.joined(location);
        let is_http = to.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"));
        if self.is_encrypted() && is_http {
            return Err(refuse(
                "that would give up encryption; ask the publisher for an address that stays with https",
            ));
        }
        let next = Self::parse(&to, insecure_http).map_err(|failure| refuse(&failure.message))?;
        if next.is_loopback() && !self.is_loopback() {
            return Err(refuse("a server elsewhere may not have this host asked"));
        }
        Ok(next)
    }

    fn joined(&self, location: &str) -> String {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = self.uri.scheme_str().unwrap_or("https");
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let path = self.uri.path();
        let before_colon = location.split([':', '/', '?']).next().unwrap_or_default();
        if location[before_colon.len()..].starts_with(':') && !before_colon.is_empty() {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{host}{location}")
        } else if location.is_empty() || location.starts_with('?') {
            format!("{scheme}://{host}{path}{location}")
        } else {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{scheme}://{host}{directory}/{location}")
        }
    }

    /// The URL.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether both are the same server: scheme, host and port.
    pub fn is_same_server(&self, other: &Self) -> bool {
        let server = |address: &Self| {
            let port = address.uri.port_u16().unwrap_or(if address.is_encrypted() { 443 } else { 80 });
            (address.is_encrypted(), address.uri.host().map(str::to_ascii_lowercase), port)
        };
        server(self) == server(other)
    }

    /// Whether it leads to this host itself.
    pub fn is_loopback(&self) -> bool {
        self.uri.host().is_some_and(is_loopback)
    }

    fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (url, want) in [
            ("https://example.net/list.txt", "https://example.net/list.txt"),
            ("https://example.net/list?key=s3cret&x=?", "https://example.net/list?…"),
            ("https://me:s3cret@example.net/a@b?k", "https://…@example.net/a@b?…"),
            ("https://me:s3c@ret@example.net", "https://…@example.net"),
            ("https://example.net?s3cret", "https://example.net?…"),
            ("https://example.net/a#s3cret", "https://example.net/a"),
            ("/a?s3cret", "/a?…"),
            ("https://example.net/\u{1b}[2J\u{202e}a", "https://example.net/[2Ja"),
            ("", ""),
        ] {
            assert_eq!(shown(url), want);
        }
        assert!(shown(&format!("https://example.net/{}", "x".repeat(9000))).len() <= LONGEST_SHOWN);
    }

    #[test]
    fn only_what_is_encrypted_or_here_is_fetched() {
        for url in [
            "https://example.net/a?b",
            "http://127.0.0.1:80/",
            "http://[::1]/x",
            "HTTPS://Example.net",
            "http://localhost/",
        ] {
            assert!(Address::parse(url, false).is_ok(), "{url}");
        }
        for (url, why) in [
            ("http://example.net/", "encryption"),
            ("http://127.0.0.1.example.net/", "encryption"),
            ("https://me:s3cret@example.net/", "no user or password"),
            ("ftp://example.net/", "only https"),
            ("file:///etc/shadow", "no"),
            ("/etc/shadow", "no host"),
            ("example.net", "only https"),
            ("https:///a", "no"),
            ("https://exa mple.net/", "no URL"),
            ("", "no URL"),
        ] {
            let failure = Address::parse(url, false).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused);
            assert!(failure.message.contains(why) && !failure.message.contains("s3cret"), "{url}: {failure}");
        }
        assert!(Address::parse("http://example.net/", true).is_ok());
    }

    #[test]
    fn redirects_lead_where_they_say_or_are_refused() {
        let from = Address::parse("https://example.net/a/b?c", false).unwrap();
        for (location, want) in [
            ("https://other.example/x", "https://other.example/x"),
            ("//other.example/x", "https://other.example/x"),
            ("/x?y", "https://example.net/x?y"),
            ("x", "https://example.net/a/x"),
            ("?y", "https://example.net/a/b?y"),
            ("/x:y#z", "https://example.net/x:y"),
        ] {
            assert_eq!(from.redirected(location, true).unwrap().uri.to_string(), want);
        }
        for (location, why) in [
            ("http://example.net/", "give up encryption"),
            ("HTTP://example.net/", "give up encryption"),
            ("file:///etc/shadow", "leads on to"),
            ("https://127.0.0.1/", "may not have this host asked"),
            ("https://me:s3cret@other.example/?s3cret", "no user or password"),
            ("https://exa mple/", "no URL"),
        ] {
            let failure = from.redirected(location, true).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Redirect);
            assert!(
                failure.message.contains(why) && !failure.message.contains("s3cret"),
                "{location}: {failure}"
            );
        }
        assert!(from.is_same_server(&from.redirected("https://EXAMPLE.net:443/", false).unwrap()));
        assert!(!from.is_same_server(&from.redirected("https://example.net:444/", false).unwrap()));
    }
}
