//! `import`: entries from a file in any format of lists, once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::entries::{owner, refuse_dangers, tell, warnings};
use super::{Session, exit_of, reported};
use crate::cli::{ImportArgs, ReadingArgs};
use crate::exit::{Exit, UsageError};
use crate::holds::{Change, Effect, Hold};
use crate::host::{self, monotonic_now};
use crate::lists::block;
use crate::lists::format::Options;
use crate::lists::guards::{Arrived, Bounds, Refusal, Wide, refusals};
use crate::lists::reading::Refused;
use crate::lists::worker::{self, Answer, Job, Limits, List};
use crate::output::{self};
use crate::policy::{Action, Deadline, Key, Prefix, ReasonText};
