//! placeholder
use serde::{Deserialize, Serialize};
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format { /// x
Plain }
/// x
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options { /// x
pub format: Option<Format>, /// x
pub mask: bool, /// x
pub column: Option<String> }
