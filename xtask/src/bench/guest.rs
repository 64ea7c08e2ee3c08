//! The two systems under test.

use super::apps::{self, App};
use super::machine::{Clock, Machine, all_lines};
use super::{initramfs, programs, sizes, work_dir};
use crate::{build, paths, run};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long one program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(300);

/// A system that boots static programs.
pub(super) trait Guest {
    /// For messages.
    fn name(&self) -> &'static str;
    /// Whether its numbers may be kept for later runs.
    fn is_reference(&self) -> bool;
    /// Names the kernel.
    fn kernel(&self) -> &Path;
    /// The command that boots and runs `program`, its output on standard output.
    fn command(&self, program: &Path, machine: Machine) -> Result<Command>;
    /// Runs the programs one after the other; for each the lines it printed.
    fn batch(&self, programs: &[&PathBuf], machine: Machine) -> Result<Vec<Vec<String>>>;
    /// Runs what people run, out of an image of [`App::image`]; the lines it printed.
    fn app(&self, app: &App, name: &str, image: &Path) -> Result<Vec<String>>;
    /// What the loaded kernel occupies, in bytes.
    fn kernel_size(&self) -> Result<f64>;
    /// Size of the file system image with this program alone.
    fn image_size(&self, program: &Path) -> Result<f64>;
}

/// The emulator, with wall time.
const QEMU: &str = "qemu-system-x86_64";

/// oxv, started by its own host program.
pub(super) struct Oxv {
    kernel: PathBuf,
    counting_qemu: PathBuf,
}

impl Oxv {
    /// Builds kernel and host program.
    ///
    /// # Errors
    /// When they cannot be built.
    pub(super) fn prepare() -> Result<Self> {
        let kernel = build::kernel(&build::Options { dev: false })?;
        run::check(run::cargo().args(["build", "--quiet", "--release", "--package", "cli"]))?;
        Ok(Self { kernel, counting_qemu: counting_qemu()? })
    }

    /// `oxv run` but for the program.
    fn machine(&self, machine: Machine) -> Command {
        let mut command = Command::new(paths::oxv());
        command.env("OXV_KERNEL", &self.kernel);
        if machine.clock == Clock::Instructions {
            command.env("OXV_QEMU", &self.counting_qemu);
        }
        command.args(["run", "--accel", "tcg", "--smp"]).arg(machine.cpus.to_string());
        command.arg("--memory").arg(format!("{}M", machine.memory_mib));
        command
    }
}

/// A wrapper that adds the instruction clock, which wants a single emulator thread.
fn counting_qemu() -> Result<PathBuf> {
    let path = work_dir()?.join("qemu-icount");
    let script = format!(
        "#!/bin/sh\nn=$#\nwhile [ $n -gt 0 ]; do\n  a=$(printf %s \"$1\" | sed 's/,thread=multi//'); shift; set -- \"$@\" \"$a\"; n=$((n-1))\ndone\n\
         exec {QEMU} \"$@\" -icount shift=0,sleep=off\n"
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

impl Guest for Oxv {
    fn name(&self) -> &'static str {
        "oxv"
    }

    fn is_reference(&self) -> bool {
        false
    }

    fn kernel(&self) -> &Path {
        &self.kernel
    }

    fn command(&self, program: &Path, machine: Machine) -> Result<Command> {
        let mut command = self.machine(machine);
        command.arg("--").arg(program);
        Ok(command)
    }

    /// One boot each: it runs one program.
    fn batch(&self, programs: &[&PathBuf], machine: Machine) -> Result<Vec<Vec<String>>> {
        let one = |program: &&PathBuf| -> Result<Vec<String>> {
            let lines = all_lines(&mut self.command(program, machine)?, PROGRAM_LIMIT);
            Ok(lines.map_err(|error| eprintln!("oxv: {}: {error:#}", programs::name(program))).unwrap_or_default())
        };
        programs.iter().map(one).collect()
    }

    fn app(&self, _: &App, _: &str, image: &Path) -> Result<Vec<String>> {
        let mut command = self.machine(apps::MACHINE);
        all_lines(command.arg("--image").arg(image), apps::LIMIT)
    }

    fn kernel_size(&self) -> Result<f64> {
        sizes::loadable(&self.kernel)
    }

    fn image_size(&self, program: &Path) -> Result<f64> {
        let image = work_dir()?.join("app.img");
        run::output(Command::new(paths::oxv()).args(["build", "-o"]).arg(&image).arg("--").arg(program))?;
        Ok(image.metadata()?.len() as f64)
    }
}

/// A Debian cloud kernel.
pub(super) struct Linux {
    kernel: PathBuf,
}

impl Linux {
    /// Downloads and unpacks the kernel package, once.
    ///
    /// # Errors
    /// When the package cannot be had.
    pub(super) fn prepare() -> Result<Self> {
        let dir = work_dir()?.join("linux");
        if let Some(kernel) = find_kernel(&dir) {
            return Ok(Self { kernel });
        }
        fs::create_dir_all(&dir)?;
        let package = run::output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = package.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).context("linux-image-cloud-amd64 names no kernel")?;
        run::check(Command::new("apt-get").current_dir(&dir).args(["download", package]))?;
        let file = files(&dir).find(|file| file.extension() == Some("deb".as_ref())).context("apt-get left no package")?;
        run::check(Command::new("dpkg-deb").arg("-x").arg(file).arg(&dir))?;
        Ok(Self { kernel: find_kernel(&dir).context("the package has no /boot/vmlinuz")? })
    }

    fn qemu(&self, initramfs: &Path, machine: Machine) -> Command {
        let mut command = Command::new(QEMU);
        command.args(["-M", "q35", "-cpu", "max,erms=off", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-smp").arg(machine.cpus.to_string());
        command.args(["-serial", "stdio", "-m"]).arg(machine.memory_mib.to_string());
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1 tsc=reliable"]);
        match machine.clock {
            Clock::Real => command.args(["-accel", "tcg,thread=multi"]),
            Clock::Instructions => command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]),
        };
        command
    }
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn find_kernel(dir: &Path) -> Option<PathBuf> {
    files(&dir.join("boot")).find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
}

impl Guest for Linux {
    fn name(&self) -> &'static str {
        "Linux"
    }

    fn is_reference(&self) -> bool {
        true
    }

    fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The program is `/init`.
    fn command(&self, program: &Path, machine: Machine) -> Result<Command> {
        Ok(self.qemu(&initramfs::single(program)?, machine))
    }

    /// One boot for all: `/init` is `bench/linux_init.c`, which runs each program in a process of its own.
    fn batch(&self, programs: &[&PathBuf], machine: Machine) -> Result<Vec<Vec<String>>> {
        let root = initramfs::several(&programs::compile_linux_init()?, programs)?;
        let limit = PROGRAM_LIMIT * programs.len() as u32;
        let lines = all_lines(&mut self.qemu(&root, machine), limit).unwrap_or_default();
        Ok(programs.iter().map(|program| section(&lines, &programs::name(program))).collect())
    }

    fn app(&self, app: &App, name: &str, image: &Path) -> Result<Vec<String>> {
        let root = app.linux_root(name, image)?;
        let lines = all_lines(&mut self.qemu(&root, apps::MACHINE), apps::LIMIT);
        fs::remove_file(root)?;
        Ok(section(&lines?, name))
    }

    /// `init_size` of the boot header: the memory that the unpacked kernel needs from its load address on.
    fn kernel_size(&self) -> Result<f64> {
        let header = fs::read(&self.kernel)?;
        let field = header.get(0x260..0x264).context("the kernel file is too short")?;
        Ok(f64::from(u32::from_le_bytes(field.try_into()?)))
    }

    fn image_size(&self, program: &Path) -> Result<f64> {
        Ok(initramfs::single(program)?.metadata()?.len() as f64)
    }
}

/// What one program printed: between `BEGIN NAME` and `END NAME STATUS`.
fn section(lines: &[String], name: &str) -> Vec<String> {
    let (begin, end) = (format!("BEGIN {name}"), format!("END {name} "));
    let section: Vec<_> = lines.iter().skip_while(|line| !line.ends_with(&begin)).skip(1).take_while(|line| !line.contains("BEGIN ")).cloned().collect();
    match section.iter().find_map(|line| line.split_once(&end).map(|(_, status)| status)) {
        Some("0") => {}
        Some(status) => eprintln!("Linux: {name}: exit status {status}"),
        None => eprintln!("Linux: {name}: it did not end"),
    }
    section
}
