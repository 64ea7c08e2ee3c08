//! The command line: what `oxv --help` prints and what the parser accepts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Result};

const AFTER_HELP: &str = "\
Examples:
  oxv run -- /bin/echo hello
  oxv run --smp 4 --memory 1G -- python3 script.py
  seq 1000 | oxv run -- sort -n -r > sorted
  oxv build -o app.img -- redis-server --port 6379
  oxv run --image app.img

`oxv run --help` explains how a program's files are found.";

const EXIT_STATUS: &str = "\
Exit status:
  The program's own; 128+N if signal N ended it.
  125 oxv itself failed, 126 the program cannot be run, 127 it (or its interpreter or a library) was not found.";

const RUN_HELP: &str = "\
What goes into the image:
  The program, looked up in PATH, with its ELF interpreter and all shared libraries, found as ld.so finds them
  (RPATH, RUNPATH, LD_LIBRARY_PATH from --env, /etc/ld.so.cache, default directories). For a script: the
  program on its '#!' line, and with '#!/usr/bin/env NAME' also NAME.
  If a Debian package owns the program: that package's files, those of the packages it depends on (not of
  'Essential' packages; without documentation and translations) and /bin/sh. So `python3` and `perl` find their
  modules. Other programs that it starts need `--package`, such as `--package coreutils`.
  If no package owns it and it is PREFIX/bin/NAME (as in /usr/local or ~/.pyenv): PREFIX/lib/NAME* where that
  exists, without its test suite, and without site-packages if these are more than 128M.
  Arguments that name existing files, and directories below the current one, unless --no-auto-add is given.
  From /etc: passwd, group, hosts, nsswitch.conf, localtime and the like.

Inside:
  The program runs as root, in a directory of the same name as the current one, with a small environment (PATH,
  HOME, USER, LANG, TERM). Files can be written anywhere; what is written is in memory and is lost at the end.
  When standard input and output are a terminal, Ctrl-C and the other keys go to the program.
  Ctrl-A x ends oxv at once; Ctrl-A Ctrl-A sends one Ctrl-A.

Environment variables:
  OXV_KERNEL      the kernel file to boot
  OXV_QEMU        the emulator to start (qemu-system-x86_64)
  OXV_CACHE_SIZE  limit for cached images in ~/.cache/oxv (4G)

Exit status:
  The program's own; 128+N if signal N ended it.
  125 oxv itself failed, 126 the program cannot be run, 127 it (or its interpreter or a library) was not found.";

/// Run one unmodified Linux program in a small virtual machine of its own, in ring 0, without Linux.
#[derive(Debug, Parser)]
#[command(name = "oxv", version, after_help = AFTER_HELP, after_long_help = format!("{AFTER_HELP}\n\n{EXIT_STATUS}"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program and return its exit code
    #[command(after_long_help = RUN_HELP)]
    Run(RunArgs),
    /// Write a program and everything it needs into an image file
    #[command(after_long_help = RUN_HELP)]
    Build(BuildArgs),
    /// Run oxv's own tests (options and test names as in `cargo xtask test --help`)
    #[command(disable_help_flag = true)]
    Test(TestArgs),
}

/// Handled by the `./oxv` script in the source tree; here only so that `--help` lists it.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) gather: GatherArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Boot an image written by `oxv build` instead of gathering a program
    #[arg(long, value_name = "FILE", conflicts_with_all = ["program", "add", "rootfs", "env", "cwd", "package", "no_auto_add"])]
    pub(crate) image: Option<PathBuf>,
    /// Show what is gathered, which accelerator is used, and the kernel log
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Print how long each step of the start took
    #[arg(long)]
    pub(crate) boot_times: bool,
    /// Print the emulator's command line instead of starting it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM", required_unless_present = "image")]
    pub(crate) program: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) gather: GatherArgs,
    /// Where to write the image (EROFS format)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Show what is gathered
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM", required = true)]
    pub(crate) program: Vec<String>,
}

/// What goes into the image and how the program starts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct GatherArgs {
    /// Add a file or directory; `--add .` adds the current directory
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub(crate) add: Vec<String>,
    /// Add an installed Debian package and what it depends on
    #[arg(long, value_name = "NAME")]
    pub(crate) package: Vec<String>,
    /// Take everything from this root file system (directory or tar file) instead of this machine
    #[arg(long, value_name = "DIR|TAR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Set an environment variable; without `=VALUE` take it from here
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Directory to start in [default: the current one, or / with --rootfs]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Do not add files that the program's arguments name
    #[arg(long)]
    pub(crate) no_auto_add: bool,
}

/// The virtual machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// Memory, as in 64M or 2G; a plain number counts MiB [default: 512M, more for large images]
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Virtual CPUs, 1 to 64
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) smp: String,
    /// The kind of machine: `microvm` starts fastest; the others have PCI, on `pc` without memory-mapped configuration
    #[arg(long, value_enum, default_value_t = MachineKind::Microvm)]
    pub(crate) machine: MachineKind,
    /// `kvm` hardware virtualisation, `tcg` emulation, `auto` the first where this machine really offers it
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// `on`: memory that the program gives back is the host's again, and the host can ask for more (see --qmp); `off`: no balloon device
    #[arg(long, value_enum, default_value_t = Balloon::On)]
    pub(crate) balloon: Balloon,
    /// Let the emulator listen for QMP commands, as `balloon`, on this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: Option<PathBuf>,
    /// Wait for gdb on this TCP port before the first instruction
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "1234")]
    pub(crate) gdb: Option<u16>,
    /// Preempt, delay, migrate and wake at random, so that races show; SEED repeats the mixture
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "random")]
    pub(crate) torture: Option<String>,
    /// With --torture: let one in N allocations fail
    #[arg(long, value_name = "N", requires = "torture")]
    pub(crate) torture_fail: Option<u32>,
    /// Report a virtual CPU that makes no headway for so long, and free one that the program blocks
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub(crate) watchdog: Option<u32>,
    /// Leave the program's `syscall` instructions as they are, however often they are executed
    #[arg(long)]
    pub(crate) no_syscall_patch: bool,
    /// Pass further words to the kernel's command line
    #[arg(long, value_name = "WORD")]
    pub(crate) append: Vec<String>,
}

/// How the virtual machine's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    Auto,
    Kvm,
    Tcg,
}

/// Which of the emulator's machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MachineKind {
    /// No buses: devices at fixed addresses.
    Microvm,
    /// The same with a PCI Express bus, on which the devices are.
    MicrovmPcie,
    /// A PC of the kind that clouds offer: PCI Express.
    Q35,
    /// An older PC: PCI.
    Pc,
}

/// Whether the machine has a memory balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Balloon {
    On,
    Off,
}

impl MachineArgs {
    /// The number of virtual CPUs.
    ///
    /// # Errors
    /// `BadValue` outside 1..=64.
    pub(crate) fn cpus(&self) -> Result<u32> {
        match self.smp.parse() {
            Ok(n @ 1..=64) => Ok(n),
            _ => Err(Error::BadValue {
                what: "--smp value",
                value: self.smp.clone(),
                cause: "oxv supports 1 to 64 virtual CPUs".into(),
            }),
        }
    }

    /// The seed of `--torture`, if it was given; a new one if it has no value.
    ///
    /// # Errors
    /// `BadValue` for anything that is not a number.
    pub(crate) fn torture_seed(&self) -> Result<Option<u64>> {
        let parse = |text: &str| match text.strip_prefix("0x") {
            _ if text == "random" => Some(u64::from(std::process::id()) << 32 ^ since_epoch_ns()),
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let bad = |text: &str| Error::BadValue { what: "--torture seed", value: text.into(), cause: "a seed is a number".into() };
        self.torture.as_deref().map(|text| parse(text).ok_or_else(|| bad(text))).transpose()
    }

    /// The memory size in bytes, if one was given.
    ///
    /// # Errors
    /// `BadValue` for anything that is not a size.
    pub(crate) fn memory_bytes(&self) -> Result<Option<u64>> {
        self.memory.as_deref().map(|text| parse_size("--memory size", text)).transpose()
    }
}

fn since_epoch_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Reads a size such as `64M`, `2G`, `65536K`; a plain number counts MiB.
pub(crate) fn parse_size(what: &'static str, text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "M" | "MB" | "MIB" => Some(20),
        "K" | "KB" | "KIB" => Some(10),
        "G" | "GB" | "GIB" => Some(30),
        _ => None,
    };
    let bytes = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| Error::BadValue {
        what,
        value: text.into(),
        cause: "a size is a number with K, M or G, as in 64M or 2G".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_take_suffixes_and_plain_numbers_count_mebibytes() {
        let size = |text| parse_size("size", text).ok();
        assert_eq!(size("64"), Some(64 << 20));
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("2g"), Some(2 << 30));
        assert_eq!(size("512K"), Some(512 << 10));
        for bad in ["", "M", "0", "-1", "1.5G", "12X", "99999999999999999999"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_torture_seed_is_a_number_or_new() {
        let seed = |options: &[&str]| {
            let line = ["oxv", "run"].iter().chain(options).chain(&["--", "true"]).copied();
            let Command::Run(run) = Cli::try_parse_from(line).expect("parses").command else { panic!("not run") };
            run.machine.torture_seed()
        };
        assert!(matches!(seed(&[]), Ok(None)));
        assert!(matches!(seed(&["--torture=0x1f"]), Ok(Some(0x1f))));
        assert!(matches!(seed(&["--torture=12"]), Ok(Some(12))));
        assert!(matches!(seed(&["--torture"]), Ok(Some(_))));
        assert!(seed(&["--torture=often"]).is_err());
    }

    #[test]
    fn cpu_counts_outside_1_to_64_are_refused() {
        for (text, ok) in [("1", true), ("64", true), ("0", false), ("65", false), ("1000", false), ("x", false)] {
            let cli = Cli::try_parse_from(["oxv", "run", "--smp", text, "--", "true"]).expect("parses");
            let Command::Run(run) = cli.command else { panic!("not run") };
            assert_eq!(run.machine.cpus().is_ok(), ok, "{text}");
        }
    }
}
