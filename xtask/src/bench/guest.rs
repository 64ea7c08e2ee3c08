//! The two systems under test.

use super::{sizes, work_dir};
use crate::{build, paths, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How the emulator counts time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Wall time.
    Real,
    /// One nanosecond per instruction.
    Instructions,
}

/// A system that boots one static program.
pub(super) trait Guest {
    /// For messages.
    fn name(&self) -> &'static str;
    /// The command that boots and runs `program` with `memory_mib`, its output on standard output.
    fn command(&self, program: &Path, memory_mib: u64, clock: Clock) -> Result<Command>;
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
    pub(super) fn prepare() -> Result<Self> {
        let kernel = build::kernel(&build::Options { dev: false })?;
        run::check(run::cargo().args(["build", "--quiet", "--release", "--package", "cli"]))?;
        Ok(Self { kernel, counting_qemu: counting_qemu()? })
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

    fn command(&self, program: &Path, memory_mib: u64, clock: Clock) -> Result<Command> {
        let mut command = Command::new(paths::oxv());
        command.env("OXV_KERNEL", &self.kernel);
        if clock == Clock::Instructions {
            command.env("OXV_QEMU", &self.counting_qemu);
        }
        command.args(["run", "--accel", "tcg", "--smp", "1", "--memory"]).arg(format!("{memory_mib}M")).arg("--").arg(program);
        Ok(command)
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

/// A Debian cloud kernel with the program as `/init`.
pub(super) struct Linux {
    kernel: PathBuf,
}

impl Linux {
    /// Downloads and unpacks the kernel package, once.
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

    fn command(&self, program: &Path, memory_mib: u64, clock: Clock) -> Result<Command> {
        let initramfs = initramfs(program)?;
        let mut command = Command::new(QEMU);
        command.args(["-M", "q35", "-cpu", "max,erms=off", "-accel", "tcg", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-serial", "stdio", "-m"]).arg(memory_mib.to_string());
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1 tsc=reliable"]);
        if clock == Clock::Instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        Ok(command)
    }

    /// `init_size` of the boot header: the memory that the unpacked kernel needs from its load address on.
    fn kernel_size(&self) -> Result<f64> {
        let header = fs::read(&self.kernel)?;
        let field = header.get(0x260..0x264).context("the kernel file is too short")?;
        Ok(f64::from(u32::from_le_bytes(field.try_into()?)))
    }

    fn image_size(&self, program: &Path) -> Result<f64> {
        Ok(initramfs(program)?.metadata()?.len() as f64)
    }
}

/// A cpio archive (newc) with `/dev/console` and the program as `/init`.
fn initramfs(program: &Path) -> Result<PathBuf> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut archive = Vec::new();
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, "init", 0o100_755, (0, 0), &bytes);
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    let path = program.with_extension("cpio");
    fs::write(&path, archive)?;
    Ok(path)
}

/// Appends one file: a header of thirteen 8-digit hexadecimal fields, the name, the data, each padded to 4 bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let inode = archive.len() as u32;
    let fields = [inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A run's result line and how long it took to appear.
pub(super) struct Line {
    /// The number after `RESULT name`.
    pub(super) value: f64,
    /// From the start of the emulator.
    pub(super) after: Duration,
}

/// Runs a command until it prints `RESULT NAME VALUE`, then ends it.
///
/// # Errors
/// When the line does not come in time.
pub(super) fn result_line(command: &mut Command, name: &str, limit: Duration) -> Result<Line> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start the guest")?;
    let line = wait_for_line(&mut child, name, start, limit);
    finish(&mut child);
    line
}

fn wait_for_line(child: &mut Child, name: &str, start: Instant, limit: Duration) -> Result<Line> {
    let stdout = child.stdout.take().context("standard output was piped")?;
    let (sender, lines) = mpsc::channel();
    let wanted = format!("RESULT {name} ");
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let value = line.split_once(&wanted).and_then(|(_, rest)| rest.trim().parse().ok());
            if value.is_some_and(|value: f64| sender.send((value, start.elapsed())).is_err()) {
                break;
            }
        }
    });
    match lines.recv_timeout(limit) {
        Ok((value, after)) => Ok(Line { value, after }),
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("no result after {} s", limit.as_secs()),
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("it ended without a result"),
    }
}

/// Lets the guest end by itself for a moment, then ends it.
fn finish(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(Command::new("kill").arg(child.id().to_string()).status());
    std::thread::sleep(Duration::from_millis(300));
    drop(child.kill());
    drop(child.wait());
}
