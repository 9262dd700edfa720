//! Another build of filter-ctl, made from the one under test without compiling anything: with programs that do the same,
//! and are others to the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::lab::filter_ctl_path;

/// `EM_BPF` of linux/elf.h, where it stands in an ELF file of 64 bits after the magic number.
const MACHINE: (usize, [u8; 2]) = (18, 247u16.to_le_bytes());

/// `SHF_EXECINSTR`: the section holds instructions.
const EXECUTABLE: usize = 4;

/// `dst = imm` on 64 bits, and on 32 with the upper half zeroed: the same for numbers that are not negative.
const MOVE_64: u8 = 0xb7;
const MOVE_32: u8 = 0xb4;

/// Length of an instruction.
const INSTRUCTION: usize = 8;

/// Writes another build of filter-ctl to `path`: in each program of its BPF objects, constants are loaded by another
/// instruction.
///
/// # Errors
///
/// If the binary holds no BPF object in which that can be done, or a file can't be read or written.
pub fn another_build(path: &Path) -> Result<()> {
    let mut binary = fs::read(filter_ctl_path())?;
    let mut changed = 0;
    let mut from = 0;
    while let Some(found) = binary[from..].windows(4).position(|bytes| bytes == b"\x7fELF") {
        let start = from + found;
        from = start + 4;
        let (offset, machine) = MACHINE;
        if binary.get(start + offset..start + offset + machine.len()) == Some(&machine) {
            changed += change_programs(&mut binary[start..]).context("a BPF object can't be read")?;
        }
    }
    ensure!(changed > 0, "no program could be changed");
    // Whoever runs the one that is there goes on running it.
    let new = path.with_extension(std::process::id().to_string());
    fs::write(&new, binary)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, path)?)
}

/// Changes the programs of the ELF file at the start of these bytes. Returns the number of instructions that were changed.
fn change_programs(elf: &mut [u8]) -> Option<usize> {
    let number = |elf: &[u8], at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (headers, size) = (number(elf, 0x28, 8)?, number(elf, 0x3a, 2)?);
    let count = number(elf, 0x3c, 2)?;
    let mut changed = 0;
    for header in (0..count).map(|section| headers + section * size) {
        if number(elf, header + 0x08, 8)? & EXECUTABLE == 0 {
            continue;
        }
        let (start, length) = (number(elf, header + 0x18, 8)?, number(elf, header + 0x20, 8)?);
        for instruction in elf.get_mut(start..start + length)?.chunks_exact_mut(INSTRUCTION) {
            // The second half of a load of 64 bits has opcode 0, and is none of these.
            if instruction[0] == MOVE_64 && instruction[7] < 0x80 {
                instruction[0] = MOVE_32;
                changed += 1;
            }
        }
    }
    Some(changed)
}
