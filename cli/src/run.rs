//! `oxv run`: from the command line to the program's exit code.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use crate::args::{MachineArgs, MachineKind, RunArgs};
use crate::build::{Progress, gather_reporting};
use crate::console::{Terminals, say};
use crate::error::{Error, Result, size};
use crate::gather::elf;
use crate::gather::tree::{Kind, Source, Tree};
use crate::image::{self, Image};
use crate::qemu::{self, Machine};
use crate::report::Symbols;
use crate::session;

const MIB: u64 = 1 << 20;
/// Without `--memory`, for small images.
const DEFAULT_MEMORY: u64 = 512 * MIB;
/// What the kernel's own structures and the smallest program take beside kernel and image.
const LEAST_MEMORY: u64 = 5 * MIB / 2;
/// What kernel, firmware and the gaps between need of the memory below the devices.
const BESIDE_IMAGE: u64 = 472 * MIB;

/// Runs `oxv run`; returns the exit status.
///
/// # Errors
/// All there are.
pub(crate) fn run(args: &RunArgs) -> Result<u8> {
    let started = Instant::now();
    // Values first: they cost nothing to check.
    let cpus = args.machine.cpus()?;
    let memory = args.machine.memory_bytes()?;
    let seed = args.machine.torture_seed()?;
    let (image, tree) = prepare(args)?;
    let kernel = qemu::kernel()?;
    let memory = choose_memory(memory, args.machine.machine, &image, &kernel)?;
    let (accel, why) = qemu::accelerator(args.machine.accel)?;
    let terminals = Terminals::of_this_process();
    let machine = Machine {
        qemu: qemu::emulator(),
        kind: args.machine.machine,
        image: image.path.clone(),
        memory,
        cpus,
        accel,
        command_line: qemu::command_line(terminals, args.verbose, args.boot_times, &kernel_words(&args.machine, seed)),
        gdb: args.machine.gdb,
        balloon: args.machine.balloon,
        qmp: args.machine.qmp.clone(),
        kernel,
    };
    if args.dry_run {
        println!("{}", machine.shell_command());
        return Ok(0);
    }
    announce(args, &machine, &image, &why, started);
    let show_log = args.verbose || args.machine.watchdog.is_some();
    let options = session::Options { terminals, verbose: args.verbose, show_log, boot_times: args.boot_times, started };
    let symbols = Symbols { kernel: machine.kernel.clone(), files: tree.as_ref().map(host_files).unwrap_or_default() };
    let ending = session::run(&machine, options, &symbols);
    if let Some(seed) = seed.filter(|_| !matches!(ending, Ok(0))) {
        say(&format!("this was --torture={seed:#x}"));
    }
    ending
}

/// What the machine's options add to the kernel's command line.
fn kernel_words(machine: &MachineArgs, torture_seed: Option<u64>) -> Vec<String> {
    let torture = torture_seed.map(|seed| format!("torture={seed:#x}"));
    let fail = machine.torture_fail.map(|one_in| format!("torture_fail={one_in}"));
    let watchdog = machine.watchdog.map(|seconds| format!("watchdog={seconds}"));
    let no_patch = machine.no_syscall_patch.then(|| "no_syscall_patch".to_owned());
    machine.append.iter().cloned().chain(no_patch).chain(torture).chain(fail).chain(watchdog).collect()
}

/// The image to boot, and what it was made from.
fn prepare(args: &RunArgs) -> Result<(Image, Option<Tree>)> {
    if let Some(path) = &args.image {
        return image::open(path).map(|(image, _)| (image, None));
    }
    let gathered = gather_reporting(&args.gather, &args.program, args.verbose)?;
    let progress = Progress::start("writing the image");
    let image = image::cached(&gathered.tree, &mut |done, total| progress.update(done, total));
    progress.end();
    Ok((image?, Some(gathered.tree)))
}

/// The machine's memory: what was asked for, if it can do, or enough.
fn choose_memory(given: Option<u64>, kind: MachineKind, image: &Image, kernel: &Path) -> Result<u64> {
    let largest = kind.low_memory() - BESIDE_IMAGE;
    if image.size > largest {
        let cause = format!("it has {}, and at most {} can be loaded", size(image.size), size(largest));
        return Err(Error::BadImage { path: image.path.clone(), cause });
    }
    let kernel = std::fs::File::open(kernel).ok().and_then(|file| elf::parse(file).ok()).map_or(4 * MIB, |elf| elf.memory);
    let needed = (image.size + kernel + LEAST_MEMORY).next_multiple_of(MIB);
    match given {
        Some(given) if given < needed => Err(Error::MemoryTooSmall { given, image: image.size, needed }),
        Some(given) => Ok(given.next_multiple_of(MIB)),
        None => Ok(DEFAULT_MEMORY.max((image.size * 2 + DEFAULT_MEMORY / 2).next_multiple_of(64 * MIB))),
    }
}

fn announce(args: &RunArgs, machine: &Machine, image: &Image, why: &str, started: Instant) {
    if args.verbose {
        let origin = if image.cached { "ready" } else { "new" };
        say(&format!("image {} ({origin}, {})", image.path.display(), size(image.size)));
        say(&format!("kernel {}", machine.kernel.display()));
        say(&format!("accelerator: {why}; {} virtual CPUs, {} of memory", machine.cpus, size(machine.memory)));
    }
    if args.boot_times {
        say(&format!("image ready after {} ms ({})", started.elapsed().as_millis(), if image.cached { "cached" } else { "written" }));
    }
    if let Some(port) = machine.gdb {
        say(&format!("waiting for gdb: gdb {} -ex 'target remote :{port}'", machine.kernel.display()));
    }
}

fn host_files(tree: &Tree) -> HashMap<std::path::PathBuf, std::path::PathBuf> {
    let hosts = tree.iter().filter_map(|(guest, node)| match &node.kind {
        Kind::File(Source::Host { path, .. }) => Some((guest.to_owned(), path.clone())),
        Kind::Symlink(_) => tree.host_file(guest).map(|host| (guest.to_owned(), host.to_owned())),
        _ => None,
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64) -> Image {
        Image { path: "/x".into(), size, cached: true }
    }

    #[test]
    fn memory_grows_with_the_image_and_too_little_is_refused() {
        let choose = |given, size| choose_memory(given, MachineKind::Microvm, &image(size), Path::new("/none"));
        assert_eq!(choose(None, MIB).expect("default"), DEFAULT_MEMORY);
        assert!(choose(None, 1000 * MIB).expect("large") > 2000 * MIB);
        assert!(matches!(choose(Some(7 * MIB), MIB), Err(Error::MemoryTooSmall { .. })));
        assert_eq!(choose(Some(16 * MIB), MIB).expect("small"), 16 * MIB);
        assert!(matches!(choose(None, 3000 * MIB), Err(Error::BadImage { .. })));
        assert!(choose(None, 2600 * MIB).is_ok());
        assert!(matches!(choose_memory(None, MachineKind::Q35, &image(2000 * MIB), Path::new("/none")), Err(Error::BadImage { .. })));
    }
}
