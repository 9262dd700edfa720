//! Names, directories and pins on the BPF file system.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// bpffs refuses dots in names, and an interface name can't hold a colon, so `eth0.7` is pinned as `eth0:7`.
pub(super) fn pin_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// The name that [`pin_name`] made this of.
pub(super) fn interface_name(pin: &str) -> String {
    pin.replace(':', ".")
}

/// Names of the interfaces that have a pin in a directory, sorted; none where there is no directory.
pub(super) fn interfaces_in(directory: &Path) -> Result<Vec<String>> {
    let context = || format!("could not list {}", directory.display());
    let pins = match fs::read_dir(directory) {
        Ok(pins) => pins,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(context),
    };
    let names = pins.map(|pin| Ok(interface_name(&pin.with_context(context)?.file_name().to_string_lossy())));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Removes a pin; does nothing where there is none.
pub(super) fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove the pin {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Gives a pin another name, in the place of what may have it: one step.
pub(super) fn rename_pin(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("could not rename the pin {}", from.display()))
}

/// Makes a directory, with access for root only; does nothing where there is one.
pub(super) fn create_directory(directory: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("could not create {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a directory that holds no directories; does nothing where there is none.
pub(super) fn remove_directory(directory: &Path) -> Result<()> {
    remove_tree(directory, 0)
}

/// Removes a directory with what it holds, at most `depth` directories deep; does nothing where there is none.
pub(super) fn remove_tree(directory: &Path, depth: u32) -> Result<()> {
    let context = || format!("could not remove {}", directory.display());
    let files = match fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(context),
    };
    for file in files {
        let file = file.with_context(context)?;
        let path = file.path();
        if depth > 0 && file.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&path, depth - 1)?;
        } else {
            fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    fs::remove_dir(directory).with_context(context)
}

/// Gives what is pinned at `from` a second name; does nothing where that is taken already.
pub(super) fn link_pin(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("could not pin {} a second time", from.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_have_no_dots_and_are_reversible() {
        for interface in ["eth0", "eth0.100", "bond0.4.7", "a-b_c"] {
            let pin = pin_name(interface);
            assert!(!pin.contains('.'));
            assert_eq!(interface_name(&pin), interface);
        }
    }
}
