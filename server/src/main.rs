//! The program `saequel`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(saequel_server::main())
}
