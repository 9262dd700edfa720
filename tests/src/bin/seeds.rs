//! Writes the scenarios' frames into a directory, as inputs from which the fuzzer starts.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use filter_tests::scenarios::all;

fn main() -> Result<()> {
    let directory = PathBuf::from(std::env::args_os().nth(1).context("usage: seeds DIRECTORY")?);
    std::fs::create_dir_all(&directory)?;
    for (number, scenario) in all().iter().enumerate() {
        let chooser = u16::try_from(number)?.to_be_bytes();
        std::fs::write(
            directory.join(format!("scenario-{number}")),
            [&chooser, &scenario.frame[..]].concat(),
        )?;
    }
    Ok(())
}
