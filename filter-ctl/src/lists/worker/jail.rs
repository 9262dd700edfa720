//! Giving up all privileges: what the child does first, while it has one thread, and has read nothing. What of it a kernel
//! lacks, or a service manager has taken already, is passed over; at the end it is looked at whether enough holds.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, Scope, path_beneath_rules,
};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, dumpable_behavior, getegid, geteuid, getppid,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, SecureComputingMode, capabilities, clear_ambient_capability_set,
    no_new_privs, remove_capability_from_bounding_set, secure_computing_mode, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{calls, roots};

/// What the child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Reading what the parent sends: no files, no network.
    File,
    /// Fetching: the network, and files that it takes to look up a name and to tell a server by.
    Url,
}

impl Place {
    /// The word for it on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Url => "url",
        }
    }
}

/// Address space, in bytes. Four million IPv4 entries take 72 MB and as many IPv6 entries 135 MB, both more than twice that
/// for a moment while vectors grow; lives and comments 200 MB, exceptions as much, a window of zstd 128 MiB, and program and
/// libraries 50 MB. More would only let a hostile list take more from the host.
const ADDRESS_SPACE: u64 = 1 << 30;

/// Seconds of the processor: a list of the largest size takes some ten.
const CPU_S: u64 = 300;

/// Descriptors: the pipes, a connection, and a few for a moment while a name is looked up.
const DESCRIPTORS: u64 = 32;

/// `nobody`, as everywhere since NFS; it owns nothing.
const NOBODY: u32 = 65534;

/// What looking up a name reads (nsswitch.conf(5), resolv.conf(5), gai.conf(5)), with the libraries that glibc loads for it.
const LOOKUP: [&str; 15] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/nscd",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// Gives up all privileges for good.
///
/// # Errors
///
/// If not enough holds: then nothing may be read.
pub fn close(place: Place) -> Result<()> {
    let parent = getppid();
    limit()?;
    // The files are opened while they can be, for rules are about files and not about paths.
    let walls = walls(place).context("Landlock")?;
    for bit in 0..u64::BITS {
        // Without CAP_SETPCAP it stays as it is; without programs to start it is of no use.
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    become_nobody()?;
    drop_capabilities()?;
    set_no_new_privs(true).context("no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("PR_SET_DUMPABLE")?;
    // After the user is another one, which resets it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("PR_SET_PDEATHSIG")?;
    ensure!(getppid() == parent, "the parent is gone");
    walls.restrict_self().context("Landlock")?;
    filter_calls(place).context("seccomp; a unit needs SystemCallFilter=seccomp for it")?;
    verify(place)
}

fn limit() -> Result<()> {
    for (resource, most) in [
        (Resource::As, ADDRESS_SPACE),
        (Resource::Cpu, CPU_S),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Nofile, DESCRIPTORS),
    ] {
        // Whoever started this may have set less.
        let hard = rustix::process::getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) }).context("limits")?;
    }
    Ok(())
}

/// Landlock, as much as the kernel has: files since 5.13, ports since 6.7, signals and abstract sockets since 6.12.
fn walls(place: Place) -> Result<RulesetCreated> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?;
    Ok(match place {
        Place::File => rules.handle_access(AccessNet::from_all(ABI::V6))?.create()?,
        Place::Url => {
            let (file, directories) = roots::named();
            let paths =
                LOOKUP.iter().chain(&roots::BUNDLES).map(PathBuf::from).chain(file).chain(directories);
            let access = AccessFs::ReadFile | AccessFs::ReadDir;
            rules.handle_access(AccessNet::BindTcp)?.create()?.add_rules(path_beneath_rules(paths, access))?
        }
    })
}

/// Becomes nobody, if this process may choose; a daemon without `CAP_SETUID` stays who it is, without capabilities.
fn become_nobody() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let may = capabilities(None).context("capabilities")?.effective;
    if !may.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        return Ok(());
    }
    let done = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid));
    match done {
        Ok(()) => {
            ensure!((geteuid(), getegid()) == (uid, gid), "this is still not nobody");
            Ok(())
        }
        // A user namespace that has no such user, or that forbids setgroups.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => Ok(()),
        Err(error) => bail!("becoming nobody: {error}"),
    }
}

fn drop_capabilities() -> Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("capset")?;
    // Empty by now: nothing is ambient that is not permitted.
    let _ = clear_ambient_capability_set();
    Ok(())
}

fn filter_calls(place: Place) -> Result<()> {
    let pid = std::process::id();
    let program = match place {
        Place::File => calls::of_computing(pid),
        Place::Url => calls::of_fetching(pid),
    }?;
    if let Some(foreign) = calls::foreign() {
        seccompiler::apply_filter(&foreign)?;
    }
    Ok(seccompiler::apply_filter(&program)?)
}

/// Looks whether the jail is closed, rather than to believe it.
fn verify(place: Place) -> Result<()> {
    let held = capabilities(None).context("capabilities")?;
    let all = held.effective | held.permitted | held.inheritable;
    ensure!(all.is_empty(), "capabilities are left: {all:?}");
    ensure!(no_new_privs()?, "no_new_privs is not set");
    ensure!(secure_computing_mode()? == SecureComputingMode::Filter, "no filter of system calls");
    ensure!(dumpable_behavior()? == DumpableBehavior::NotDumpable, "others may look into this process");
    ensure!(place == Place::Url || std::fs::File::open("/").is_err(), "files can be opened");
    ensure!(std::fs::File::create("/dev/null").is_err(), "files can be written");
    Ok(())
}
