//! Root certificates: the system's store, in which operators have their own too. Never a list built into the program, so
//! that what an operator distrusts is not trusted here.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use super::{Failure, FailureKind};

/// Where systems keep all certificates in one file: Debian, Fedora and RHEL, openSUSE, Alpine.
pub const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Most bytes of a file of certificates; a whole store has 250 kB.
const LARGEST: u64 = 16 << 20;

/// Most files of a directory of certificates; a whole store has some hundred, each under two names.
const MOST_FILES: usize = 4096;

/// The variables that lead elsewhere, as of OpenSSL: a file, and directories.
pub fn named() -> (Option<PathBuf>, Vec<PathBuf>) {
    let file = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let directories = std::env::var_os("SSL_CERT_DIR").filter(|path| !path.is_empty());
    (file, directories.map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default())
}

/// Reads the certificates that the system trusts.
///
/// # Errors
///
/// A [`Failure`] if there are none.
pub fn read() -> Result<RootCerts, Failure> {
    let mut certificates = Vec::new();
    let (file, directories) = named();
    if let Some(file) = &file {
        add(file, &mut certificates)
            .map_err(|error| fail(&format!("SSL_CERT_FILE, {}, can't be read: {error}", file.display())))?;
    }
    for directory in &directories {
        let files = std::fs::read_dir(directory).map_err(|error| {
            fail(&format!("SSL_CERT_DIR, {}, can't be read: {error}", directory.display()))
        })?;
        for file in files.flatten().take(MOST_FILES) {
            // Links lead to files that are gone, and beside certificates there are other things.
            let _ = add(&file.path(), &mut certificates);
        }
    }
    if file.is_none() && directories.is_empty() {
        for bundle in BUNDLES {
            if add(Path::new(bundle), &mut certificates).is_ok() && !certificates.is_empty() {
                break;
            }
        }
    }
    if certificates.is_empty() {
        return Err(fail("there are no root certificates to tell servers by"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn add(path: &Path, certificates: &mut Vec<Certificate<'static>>) -> std::io::Result<()> {
    let mut pem = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut pem)?;
    let items = parse_pem(&pem).filter_map(Result::ok);
    certificates.extend(items.filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    }));
    Ok(())
}

fn fail(what: &str) -> Failure {
    let message =
        format!("{what}; install the package ca-certificates, or name a file of them in SSL_CERT_FILE");
    Failure::new(FailureKind::Tls, message)
}
