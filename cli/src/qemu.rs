//! The emulator: its command line, the accelerator, and starting it with the guest's ports on sockets.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::args::{Accel, Balloon, MachineKind};
use crate::console::{self, Terminals};
use crate::control::ToGuest;
use crate::error::{Error, Result};
use crate::{kvm, orphan};

const DEFAULT_QEMU: &str = "qemu-system-x86_64";
/// Where `cargo xtask build` leaves the kernel, from `target/release/`.
const KERNEL_IN_TARGET: &str = "../kernel/x86_64-unknown-linux-gnu/kernel/oxv-kernel";
/// Free memory is reported to the host, and what the host holds comes back when the program needs it.
const BALLOON: &str = "id=balloon,free-page-reporting=on,deflate-on-oom=on";
/// The ports of the virtio console device, in the guest's numbering.
const PORTS: [&str; 4] = ["control", "stdin", "stdout", "stderr"];

impl MachineKind {
    /// The emulator's name for it, without what no program here needs.
    const fn emulators(self) -> &'static str {
        match self {
            Self::Microvm => "microvm,acpi=on,rtc=on,pit=on,isa-serial=on,pic=on",
            Self::MicrovmPcie => "microvm,acpi=on,rtc=on,pit=on,isa-serial=on,pic=on,pcie=on",
            Self::Q35 => "q35,sata=off,smbus=off,vmport=off",
            Self::Pc => "pc,smbus=off,vmport=off",
        }
    }

    /// The emulator's name for a kind of virtio device there: on the bus, of the modern kind; else at an address of its own.
    fn device(self, kind: &str) -> String {
        match self {
            Self::Microvm => format!("virtio-{kind}-device"),
            Self::MicrovmPcie | Self::Q35 | Self::Pc => format!("virtio-{kind}-pci,disable-legacy=on"),
        }
    }

    /// Bytes of memory below the devices' addresses, in which kernel and image must be, whatever the size of the machine.
    pub(crate) const fn low_memory(self) -> u64 {
        const GIB: u64 = 1 << 30;
        match self {
            Self::Q35 => 2 * GIB,
            Self::Microvm | Self::MicrovmPcie | Self::Pc => 3 * GIB,
        }
    }
}

/// One virtual machine to be started.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) qemu: OsString,
    pub(crate) kind: MachineKind,
    pub(crate) kernel: PathBuf,
    pub(crate) image: PathBuf,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    pub(crate) accel: Accel,
    pub(crate) command_line: String,
    pub(crate) gdb: Option<u16>,
    pub(crate) balloon: Balloon,
    pub(crate) qmp: Option<PathBuf>,
}

/// The host's ends of a running machine's ports.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) control: UnixStream,
    pub(crate) stdin: UnixStream,
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: UnixStream,
    /// COM1: the kernel log.
    pub(crate) com1: UnixStream,
}

/// What a port of the machine is connected to, as QEMU's `-chardev` without the id.
type Wiring<'a> = &'a dyn Fn(&str) -> String;

impl Machine {
    /// The emulator's arguments with its ports connected as `wiring` says.
    fn arguments(&self, wiring: Wiring<'_>) -> Vec<OsString> {
        let mut list: Vec<OsString> = Vec::new();
        let mut add = |words: &[&dyn AsRef<OsStr>]| list.extend(words.iter().map(|w| w.as_ref().to_owned()));
        // In emulation `rep movsb` takes its bytes one by one. C libraries copy with vector registers unless the processor praises it.
        let (accel, cpu) = if self.accel == Accel::Kvm { ("kvm", "max") } else { ("tcg,thread=multi", "max,erms=off") };
        add(&[&"-M", &self.kind.emulators(), &"-accel", &accel, &"-cpu", &cpu]);
        add(&[&"-nodefaults", &"-no-user-config", &"-display", &"none", &"-no-reboot"]);
        add(&[&"-m", &format!("{}K", self.memory / 1024), &"-smp", &self.cpus.to_string()]);
        add(&[&"-kernel", &self.kernel, &"-initrd", &self.image, &"-append", &self.command_line]);
        add(&[&"-global", &"virtio-mmio.force-legacy=false"]);
        add(&[&"-chardev", &chardev("com1", wiring), &"-serial", &"chardev:com1"]);
        add(&[&"-device", &"isa-debug-exit,iobase=0xf4,iosize=0x04", &"-device", &self.kind.device("rng")]);
        // On a bus: an interrupt for the configuration and one for each of a port's two queues, which are two more than there are ports.
        let vectors = if self.kind == MachineKind::Microvm { String::new() } else { format!(",max_ports=8,vectors={}", 1 + 2 * (8 + 1)) };
        add(&[&"-device", &format!("{},id=vs{vectors}", self.kind.device("serial"))]);
        for (index, port) in PORTS.iter().enumerate() {
            add(&[&"-chardev", &chardev(port, wiring)]);
            add(&[&"-device", &format!("virtserialport,bus=vs.0,nr={},chardev={port},name={port}", index + 1)]);
        }
        if self.balloon == Balloon::On {
            add(&[&"-device", &format!("{},{BALLOON}", self.kind.device("balloon"))]);
        }
        if let Some(path) = &self.qmp {
            // A comma in an option's value is written twice.
            let path = path.to_string_lossy().replace(',', ",,");
            add(&[&"-qmp", &format!("unix:{path},server=on,wait=off")]);
        }
        if let Some(port) = self.gdb {
            add(&[&"-gdb", &format!("tcp:127.0.0.1:{port}"), &"-S"]);
        }
        list
    }

    /// A command line to copy into a shell: kernel log on standard error, no input, no exit code.
    pub(crate) fn shell_command(&self) -> String {
        let wiring = |port: &str| match port {
            "stdout" => "file,path=/dev/stdout".into(),
            "stderr" | "com1" => "file,path=/dev/stderr".into(),
            _ => "null".to_owned(),
        };
        let words = std::iter::once(self.qemu.clone()).chain(self.arguments(&wiring));
        words.map(|word| shell_quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// Starts the machine in a process group of its own, so that a Ctrl-C at our terminal does not end it.
    ///
    /// # Errors
    /// `QemuMissing`, `QemuStart`, `System`.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut theirs: Vec<(&str, UnixStream)> = Vec::new();
        let mut pair = |port| {
            let (ours, other) = UnixStream::pair()?;
            inherit(&other)?;
            theirs.push((port, other));
            io::Result::Ok(ours)
        };
        let mut connect = |port| pair(port).map_err(Error::system("make a socket pair"));
        let [com1, control, stdin, stdout, stderr] =
            [connect("com1")?, connect("control")?, connect("stdin")?, connect("stdout")?, connect("stderr")?];
        let wiring = |port: &str| {
            let fd = theirs.iter().find(|(name, _)| *name == port).map(|(_, socket)| socket.as_raw_fd());
            format!("socket,fd={}", fd.expect("every port was connected above"))
        };
        let mut command = Command::new(&self.qemu);
        command.args(self.arguments(&wiring)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = orphan::die_with_parent(command.process_group(0)).spawn();
        let child = child.map_err(|source| self.start_error(source))?;
        Ok(Running { child, control, stdin, stdout, stderr, com1 })
    }

    fn start_error(&self, source: io::Error) -> Error {
        let name = self.qemu.to_string_lossy().into_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Error::QemuMissing { name },
            _ => Error::QemuStart { name, source },
        }
    }
}

fn chardev(port: &str, wiring: Wiring<'_>) -> String {
    let connection = wiring(port);
    let (backend, options) = connection.split_once(',').unwrap_or((&connection, ""));
    let comma = if options.is_empty() { "" } else { "," };
    format!("{backend},id={port}{comma}{options}")
}

/// Lets a file descriptor survive exec.
fn inherit(socket: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?)
}

/// The emulator to start: OXV_QEMU, or the usual name.
pub(crate) fn emulator() -> OsString {
    std::env::var_os("OXV_QEMU").filter(|v| !v.is_empty()).unwrap_or_else(|| DEFAULT_QEMU.into())
}

/// The kernel: OXV_KERNEL, beside this program, or in the build tree this program lies in.
///
/// # Errors
/// `KernelMissing` with the places looked at.
pub(crate) fn kernel() -> Result<PathBuf> {
    let mut searched = Vec::new();
    match std::env::var_os("OXV_KERNEL").filter(|v| !v.is_empty()) {
        Some(path) => searched.push(PathBuf::from(path)),
        None => {
            let program = std::env::current_exe().and_then(|p| p.canonicalize()).map_err(Error::system("find this program's file"))?;
            let directory = program.parent().unwrap_or(Path::new("/")).to_owned();
            searched.extend(["oxv-kernel", "../lib/oxv/oxv-kernel", KERNEL_IN_TARGET].map(|p| directory.join(p)));
        }
    }
    match searched.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::KernelMissing { searched }),
    }
}

/// The accelerator to use, and why.
///
/// # Errors
/// `NoKvm` if KVM is demanded and not there.
pub(crate) fn accelerator(wanted: Accel) -> Result<(Accel, String)> {
    if wanted == Accel::Tcg {
        return Ok((Accel::Tcg, "emulation, as demanded".into()));
    }
    match (kvm::check(), wanted) {
        (Ok(()), _) => Ok((Accel::Kvm, "hardware virtualisation (KVM)".into())),
        (Err(cause), Accel::Kvm) => Err(Error::NoKvm { cause }),
        (Err(cause), _) => Ok((Accel::Tcg, format!("emulation ({cause})"))),
    }
}

/// The kernel's command line.
pub(crate) fn command_line(terminals: Terminals, verbose: bool, boot_times: bool, more: &[String]) -> String {
    let mut words = vec![format!("log={}", if verbose { "info" } else { "warn" }), format!("stdio={}", terminals.letters())];
    if boot_times {
        words.push("boot_times=1".into());
    }
    if let Some(ToGuest::WindowSize { rows, columns }) = console::window_size().filter(|_| terminals.stdout) {
        words.push(format!("winsize={rows}x{columns}"));
    }
    words.extend_from_slice(more);
    words.join(" ")
}

fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Takes the emulator's error output apart from the child.
pub(crate) fn take_stderr(child: &mut Child) -> Option<OwnedFd> {
    child.stderr.take().map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            qemu: "qemu".into(),
            kind: MachineKind::Microvm,
            kernel: "/k".into(),
            image: "/my image".into(),
            memory: 64 << 20,
            cpus: 2,
            accel: Accel::Tcg,
            command_line: "log=warn stdio=ppp".into(),
            gdb: None,
            balloon: Balloon::On,
            qmp: None,
        }
    }

    #[test]
    fn the_shell_command_is_quoted_and_complete() {
        let command = machine().shell_command();
        for part in ["-m 65536K", "-smp 2", "-initrd '/my image'", "-append 'log=warn stdio=ppp'", "nr=4,chardev=stderr", "tcg,thread=multi"] {
            assert!(command.contains(part), "{part} in {command}");
        }
        assert!(!command.contains("-gdb") && !command.contains("-qmp"));
    }

    #[test]
    fn devices_are_where_the_machine_can_have_them() {
        let command = machine().shell_command();
        assert!(command.contains("-M microvm,") && command.contains("virtio-serial-device,id=vs") && !command.contains("-pci"));
        for kind in [MachineKind::MicrovmPcie, MachineKind::Q35, MachineKind::Pc] {
            let command = Machine { kind, ..machine() }.shell_command();
            for device in ["virtio-rng-pci", "virtio-serial-pci,disable-legacy=on,id=vs", "virtio-balloon-pci,disable-legacy=on,id=balloon"] {
                assert!(command.contains(device), "{device} in {command}");
            }
        }
    }

    #[test]
    fn the_balloon_can_be_left_out_and_the_control_socket_has_any_name() {
        assert!(machine().shell_command().contains("free-page-reporting=on"));
        let without = Machine { balloon: Balloon::Off, qmp: Some("/tmp/a,b".into()), ..machine() };
        assert!(!without.shell_command().contains("balloon"));
        assert!(without.shell_command().contains("-qmp unix:/tmp/a,,b,server=on,wait=off"));
    }

    #[test]
    fn quoting_survives_quotes() {
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
    }
}
