//! The binary: all is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    filter_ctl::main()
}
