//! `oxv`: runs one unmodified Linux program in a unikernel.
//!
//! The way of `oxv run`: `args.rs` (command line) → `run.rs` → `gather/` (which files) → `image.rs` (EROFS, cached) → `qemu.rs`
//! (the machine) → `session.rs` (streams, signals, the end) → exit code. `error.rs` has every failure with its remedy.

mod args;
mod build;
mod console;
mod control;
mod error;
mod exec;
mod gather;
mod image;
mod kvm;
mod orphan;
mod pump;
mod qemu;
mod report;
mod run;
mod session;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, TestArgs};

/// Failures of oxv itself, as with env(1) and timeout(1).
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed stream.
            let _ = error.print();
            return if error.use_stderr() { OWN_FAILURE.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Build(args) => build::build(args),
        Command::Test(args) => return refuse_test(args),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            console::restore();
            console::say(&error.to_string());
            if let Some(remedy) = error.remedy() {
                console::print(&format!("     {remedy}"));
            }
            error.exit_code().into()
        }
    }
}

/// The tests belong to the source tree, not to this program.
fn refuse_test(args: &TestArgs) -> ExitCode {
    let words = args.arguments.join(" ");
    console::say("the tests are in the source tree");
    console::print(format!("     run there: ./oxv test {words}").trim_end());
    OWN_FAILURE.into()
}
