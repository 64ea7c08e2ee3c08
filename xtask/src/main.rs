//! The developers' commands: `cargo xtask COMMAND`.
//!
//! One module per command. [`paths`] knows where things are, [`run`] starts processes; the boot tests
//! themselves live in `tests/`, the benchmarks in `bench/`.

mod abi;
mod bench;
mod build;
mod conformance;
mod gdb;
mod lint;
mod paths;
mod quiet;
mod run;
mod soak;
mod test;
mod torture;

use clap::{Parser, Subcommand};

/// Build, test and measure oxv.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the kernel image and print its path.
    Build(build::Options),
    /// Run the tests: host tests, loom models, lint, boot tests. Ends with `N passed, N failed`.
    Test(test::Options),
    /// Run the loom models only.
    Loom(test::Filter),
    /// Run the boot tests only.
    Guest(test::Options),
    /// Boot many times with mixed programs and vCPU counts and compare each outcome.
    SoakBoot(soak::Options),
    /// Run stress programs under `oxv run --torture`, with virtual CPUs stopped from outside.
    Torture(torture::Options),
    /// Make system calls at random under `oxv run --torture`.
    FuzzCalls(torture::Options),
    /// Check the rules that clippy and a disassembler can check.
    Lint(lint::Options),
    /// Measure beside a Linux guest; the metrics are the folders of bench/.
    Bench(bench::Options),
    /// Run a test suite of others on Linux and in oxv; writes doc/conformance.md.
    Conformance(conformance::Options),
    /// Open gdb on a kernel that `oxv run --gdb` started.
    Gdb(gdb::Options),
    /// What continuous integration runs.
    Ci,
    /// Write doc/linux-abi.md from the system-call table.
    Abi,
}

fn main() -> std::process::ExitCode {
    match command(Options::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Build(options) => build::command(&options),
        Command::Test(options) => test::command(&options),
        Command::Loom(filter) => test::loom(&filter),
        Command::Guest(options) => test::guest(&options),
        Command::SoakBoot(options) => soak::command(&options),
        Command::Torture(options) => torture::stress(&options),
        Command::FuzzCalls(options) => torture::fuzz_calls(&options),
        Command::Lint(options) => lint::command(&options),
        Command::Bench(options) => bench::command(&options),
        Command::Conformance(options) => conformance::command(&options),
        Command::Gdb(options) => gdb::command(&options),
        Command::Ci => test::command(&test::Options::default()),
        Command::Abi => abi::command(),
    }
}
