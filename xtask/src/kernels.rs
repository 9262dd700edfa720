//! Debian's kernels, and a static busybox: found and fetched through an apt of our own, so that the system's
//! apt knows nothing of them, and unpacked into the user's cache. How they are booted is `guest`'s matter.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{Run, step};
use crate::setup;

/// Where Debian's kernels are: stable releases and their security updates, 5.10 to 6.12, and the backports of
/// the newest, which keep every series since. A release that is archived one day is only reported missing.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];
/// How long a resolved kernel is used before apt is asked for a newer one. Security updates come weekly.
const RESOLVED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Signs all of [`SUITES`]; part of every Debian.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
pub struct Kernel {
    /// The series it was asked for by, as "6.1".
    pub series: String,
    /// The compressed image, as the boot loader takes it.
    pub image: PathBuf,
    /// The directory with its modules, somewhere below.
    pub modules: PathBuf,
}

/// The cache, and the apt that fills it.
pub struct Kernels {
    cache: PathBuf,
    is_updated: Cell<bool>,
}

impl Kernels {
    /// Opens the cache. Nothing is fetched yet.
    pub fn open() -> Result<Self> {
        let cache = setup::cache_directory("vm")?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        Ok(Self { cache, is_updated: Cell::new(false) })
    }

    /// Debian's newest cloud kernel of `series`.
    pub fn kernel(&self, series: &str) -> Result<Kernel> {
        let packages = self.resolve(series)?;
        let directory = self.unpacked(&packages[0], &packages)?;
        let image = find(&directory, &|path| file_name(path).starts_with("vmlinuz"))
            .with_context(|| format!("no vmlinuz in the packages {packages:?}"))?;
        Ok(Kernel { series: series.to_owned(), image, modules: directory })
    }

    /// A busybox without shared libraries.
    pub fn busybox(&self) -> Result<PathBuf> {
        let directory = self.unpacked("busybox", &["busybox-static".to_owned()])?;
        find(&directory, &|path| path.ends_with("bin/busybox")).context("no busybox in busybox-static")
    }

    /// The packages that make up the newest kernel of `series`, the image's first; asked for once a day.
    fn resolve(&self, series: &str) -> Result<Vec<String>> {
        let note = self.cache.join(format!("newest-{series}"));
        let noted = fs::read_to_string(&note).ok().map(|text| text.lines().map(str::to_owned).collect());
        let is_fresh = || {
            let age = fs::metadata(&note).and_then(|m| m.modified()).ok()?.elapsed().ok()?;
            Some(age < RESOLVED_FOR)
        };
        match (noted, is_fresh()) {
            (Some(packages), Some(true)) => Ok(packages),
            (noted, _) => match (self.ask_apt(series), noted) {
                (Ok(packages), _) => {
                    fs::write(&note, packages.join("\n"))?;
                    Ok(packages)
                }
                (Err(error), Some(packages)) => {
                    eprintln!("    using the {series} kernel of an earlier day: {error:#}");
                    Ok(packages)
                }
                (Err(error), None) => Err(error),
            },
        }
    }

    fn ask_apt(&self, series: &str) -> Result<Vec<String>> {
        self.update()?;
        let names = self.apt("apt-cache").args(["pkgnames", "linux-"]).read()?;
        let names: Vec<&str> = names.lines().collect();
        let images = images(&names, series);
        ensure!(
            !images.is_empty(),
            "no cloud kernel {series} in Debian's {}\n  next: choose another, as 5.10, 6.1, 6.12, 6.18",
            SUITES.join(", "),
        );
        let table = self.apt("apt-cache").arg("madison").args(images).read()?;
        let image = newest(&table).with_context(|| format!("apt-cache madison wrote:\n{table}"))?;
        Ok(parts(&names, image))
    }

    /// `packages`, fetched and unpacked into the directory `name` of the cache, where they stay.
    fn unpacked(&self, name: &str, packages: &[String]) -> Result<PathBuf> {
        let directory = self.cache.join(name);
        if directory.is_dir() {
            return Ok(directory);
        }
        self.update()?;
        // Filled under another name, so that an interrupted one is not taken for whole.
        let partial = self.cache.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        step(&format!("fetching and unpacking {}", packages.join(" ")), || {
            let mut download = self.apt("apt-get").args(["--quiet=2", "download"]).args(packages);
            download.command().current_dir(&partial);
            download.next("is the package mirror in reach? `apt-get update`").run_quietly()?;
            for entry in fs::read_dir(&partial)? {
                let package = entry?.path();
                Run::new("dpkg-deb").arg("--extract").args([&package, &partial]).run()?;
                fs::remove_file(package)?;
            }
            Ok(())
        })?;
        fs::rename(&partial, &directory)?;
        Ok(directory)
    }

    /// Fetches the package lists, once a run.
    fn update(&self) -> Result<()> {
        if self.is_updated.replace(true) {
            return Ok(());
        }
        step("fetching the lists of Debian's kernels", || {
            let apt = self.cache.join("apt");
            fs::create_dir_all(apt.join("state/lists/partial"))?;
            fs::create_dir_all(apt.join("cache/archives/partial"))?;
            fs::write(apt.join("state/status"), "")?;
            fs::write(apt.join("sources.list"), sources(&index_targets()?)?)?;
            fs::write(apt.join("apt.conf"), configuration(&apt))?;
            // One suite may be gone; a kernel that then can't be found is named by whoever asks for it.
            if self.apt("apt-get").arg("update").run_quietly().is_err() {
                eprintln!("    some lists could not be fetched; going on with the others");
            }
            Ok(())
        })
    }

    fn apt(&self, program: &str) -> Run {
        Run::new(program).env("APT_CONFIG", self.cache.join("apt/apt.conf"))
    }
}

/// What the system's apt knows of its Debian mirrors: lines `CODENAME SITE`.
fn index_targets() -> Result<String> {
    let ask = || {
        Run::new("apt-get")
            .args([
                "indextargets",
                "--format",
                "$(CODENAME) $(SITE)",
                "Created-By: Packages",
                "Origin: Debian",
            ])
            .next("the kernels are Debian's: on another system, run this in a Debian 12 or newer")
            .read()
    };
    let targets = ask()?;
    if !targets.is_empty() {
        return Ok(targets);
    }
    // apt knows an origin only after its first update.
    setup::apt_get(&["update"]).run_quietly()?;
    ask()
}

/// The mirror from which the system's apt has Debian itself.
pub fn debian_mirror() -> Result<String> {
    Ok(mirror(&index_targets()?)?.to_owned())
}

fn mirror(targets: &str) -> Result<&str> {
    site(targets, false).context(
        "the system's apt has no Debian mirror, and the kernels are Debian's\n  \
         next: run this in a Debian 12 or newer",
    )
}

/// The first site in `targets` of security updates, or of what is none.
fn site(targets: &str, is_security: bool) -> Option<&str> {
    let mut pairs = targets.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(codename, _)| codename.ends_with("-security") == is_security).map(|(_, site)| site)
}

/// A sources.list for [`SUITES`] from the mirrors in `targets`.
fn sources(targets: &str) -> Result<String> {
    let mirror = mirror(targets)?;
    // A system without security updates: they lie beside the mirror.
    let security = site(targets, true).map_or_else(|| format!("{mirror}-security"), str::to_owned);
    let mut text = String::new();
    for suite in SUITES {
        text += &format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
        if !suite.contains('-') {
            text += &format!("deb [arch=amd64 signed-by={KEYRING}] {security} {suite}-security main\n");
        }
    }
    Ok(text)
}

/// apt's configuration: everything it reads and writes lies in `apt`.
fn configuration(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        r#"Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{apt}/state";
Dir::State::status "{apt}/state/status";
Dir::Cache "{apt}/cache";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    )
}

/// The signed images of cloud kernels of `series` among the package `names`.
fn images<'a>(names: &[&'a str], series: &str) -> Vec<&'a str> {
    let start = format!("linux-image-{series}.");
    names.iter().copied().filter(|name| name.starts_with(&start) && name.ends_with("-cloud-amd64")).collect()
}

/// The package with the highest version in the lines `NAME | VERSION | SOURCE` of apt-cache madison.
fn newest(table: &str) -> Option<&str> {
    let rows = table.lines().filter_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        Some((columns.next()?, columns.next()?))
    });
    // Versions of one series differ in numbers alone.
    rows.max_by_key(|(_, version)| numbers(version)).map(|(name, _)| name)
}

/// The numbers in `version`, by which versions of one scheme compare.
pub fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// `image` and, since 7.1, the packages into which it was split, as far as they are among `names`.
fn parts(names: &[&str], image: &str) -> Vec<String> {
    let version = image.trim_start_matches("linux-image-");
    let others = ["linux-binary", "linux-modules", "linux-base"].map(|part| format!("{part}-{version}"));
    let others = others.into_iter().filter(|part| names.contains(&part.as_str()));
    std::iter::once(image.to_owned()).chain(others).collect()
}

/// The first file below `directory` that `is_wanted`.
pub fn find(directory: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        let found = if kind.is_dir() { find(&path, is_wanted) } else { is_wanted(&path).then_some(path) };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The last part of `path`.
pub fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().map_or(Cow::Borrowed(""), OsStr::to_string_lossy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_use_the_mirrors_that_the_system_uses() {
        let text = sources("bookworm http://a/debian\nbookworm-security http://b/security\n").unwrap();
        assert!(text.contains("] http://a/debian bullseye main\n"));
        assert!(text.contains("] http://b/security bullseye-security main\n"));
        assert!(text.contains("] http://a/debian trixie-backports main\n"));
        assert!(!text.contains("backports-security"));
    }

    #[test]
    fn a_missing_security_mirror_lies_beside_the_mirror() {
        let text = sources("trixie http://a/debian\n").unwrap();
        assert!(text.contains("] http://a/debian-security trixie-security main\n"));
        assert!(sources("").is_err());
    }

    #[test]
    fn images_are_of_exactly_the_series() {
        let names = [
            "linux-image-6.1-cloud-amd64", // a metapackage
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.12.9+deb13-cloud-amd64",
        ];
        assert_eq!(images(&names, "6.1"), ["linux-image-6.1.0-56-cloud-amd64"]);
    }

    #[test]
    fn newest_compares_numbers() {
        let table = " a-99 | 6.12.99-1 | mirror\n a-118 | 6.12.118-1 | mirror\n a-9 | 6.12.9-3 | mirror\n";
        assert_eq!(newest(table), Some("a-118"));
        assert_eq!(newest(""), None);
    }

    #[test]
    fn a_split_kernel_has_all_its_parts() {
        let names = ["linux-image-7.2.6-cloud-amd64", "linux-binary-7.2.6-cloud-amd64", "linux-base"];
        assert_eq!(
            parts(&names, names[0]),
            ["linux-image-7.2.6-cloud-amd64", "linux-binary-7.2.6-cloud-amd64"]
        );
    }
}
