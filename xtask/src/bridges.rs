//! The programs that filter-ctl works with, as Debian has them: fail2ban, CrowdSec, and Prometheus for its promtool. Unpacked
//! into the user's cache and not installed, since their packages start services, and CrowdSec's registers with a server of its
//! makers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{Run, step};
use crate::setup;

/// The packages, by the directory that each is unpacked into. What they need besides is python3, which brings SQLite.
const PACKAGES: [&str; 3] = ["fail2ban", "crowdsec", "prometheus"];
/// The variable that tells tests where they are.
pub const VARIABLE: &str = "FILTER_BRIDGES";

/// Fetches what is missing, and returns the directory that has a directory for each.
pub fn ensure() -> Result<PathBuf> {
    let cache = setup::cache_directory("bridges")?;
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !cache.join(package).is_dir()).collect();
    if missing.is_empty() {
        return Ok(cache);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    step(&format!("fetching and unpacking {}, once for all clones", missing.join(" ")), || {
        for package in missing {
            // Filled under another name, so that an interrupted one is not taken for whole.
            let partial = cache.join(format!("{package}.partial"));
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            if !download(package, &partial).succeeds() {
                setup::apt_get(&["update"]).run_quietly()?;
                download(package, &partial).run_quietly()?;
            }
            for entry in fs::read_dir(&partial)? {
                let file = entry?.path();
                Run::new("dpkg-deb").arg("--extract").args([&file, &partial]).run()?;
                fs::remove_file(file)?;
            }
            fs::rename(&partial, cache.join(package))?;
        }
        Ok(())
    })?;
    Ok(cache)
}

fn download(package: &str, directory: &Path) -> Run {
    let mut download = Run::new("apt-get").args(["--quiet=2", "download", package]);
    download.command().current_dir(directory);
    download.next("is the package mirror in reach? `apt-get update`")
}
