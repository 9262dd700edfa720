//! What the exit code says. The numbers are an interface: scripts branch on them.

use std::process::ExitCode;

use thiserror::Error;

use crate::kernel::builds::OtherBuild;
use crate::kernel::filter::PartlyApplied;
use crate::kernel::pins::{NotLoaded, TablesGone};
use crate::policy::{OwnerError, PrefixError, ReasonTextError, TtlError};

/// There is no list of this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "there is no list `{name}`; `filter-ctl list ls` shows those there are. What a list left that the store lost, \
     `filter-ctl block flush --owner list:{name}` removes",
    name = .0.escape_debug()
)]
pub struct NoSuchList(pub String);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Done = 0,
    /// Failed; nothing was changed, or the message says what was.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The filter, or the named interface, is not loaded.
    NotLoaded = 3,
    /// Enforced but not durable, or only partly applied.
    Partly = 4,
    /// Nothing matched.
    NothingMatched = 5,
}

impl Exit {
    /// The exit of this code; a failure where there is none.
    pub fn from_code(code: u8) -> Self {
        let all =
            [Self::Done, Self::Failed, Self::Usage, Self::NotLoaded, Self::Partly, Self::NothingMatched];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }

    /// The exit that an error stands for.
    pub fn of(error: &anyhow::Error) -> Self {
        if is_closed_pipe(error) {
            Self::Done
        } else if error.is::<NotLoaded>() || error.is::<OtherBuild>() {
            Self::NotLoaded
        } else if error.is::<NoSuchList>() {
            Self::NothingMatched
        } else if error.is::<PartlyApplied>() || error.is::<Unreported>() || error.is::<TablesGone>() {
            Self::Partly
        } else if error.is::<UsageError>()
            || error.is::<OwnerError>()
            || error.is::<PrefixError>()
            || error.is::<TtlError>()
            || error.is::<ReasonTextError>()
        {
            Self::Usage
        } else {
            Self::Failed
        }
    }
}

/// Whether the reader of standard output went away, which is how `| head` ends a command, and not a fault.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotPrinted>().is_some_and(|error| error.0.kind() == std::io::ErrorKind::BrokenPipe)
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Standard output can't be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write to standard output: {0}")]
pub struct NotPrinted(pub std::io::Error);

/// The change was made, but its report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the change was made, but it could not be reported: {0:#}")]
pub struct Unreported(pub anyhow::Error);

/// The command line makes no sense, in a way that clap can't see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
