//! What is mounted, as a process sees it: `/proc/PID/mounts`, `mountinfo`, `mountstats`.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::Errno;
use vfs::mount::MountMode;
use vfs::types::{dev_major, dev_minor};

use crate::process::{FsState, Process};

type Result<T> = core::result::Result<T, Errno>;

/// A path in a mount table: blanks and backslashes are written in octal.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out
}

/// Whether a mount or its file system can be written to.
fn access(mode: MountMode) -> &'static str {
    if mode.contains(MountMode::READ_ONLY) { "ro" } else { "rw" }
}

/// The options of a mount.
fn options(mode: MountMode) -> String {
    let option = |bit, text| if mode.contains(bit) { text } else { "" };
    let (set_id, devices) = (option(MountMode::NO_SET_ID, ",nosuid"), option(MountMode::NO_DEVICES, ",nodev"));
    format!("{}{set_id}{devices}{},relatime", access(mode), option(MountMode::NO_EXEC, ",noexec"))
}

/// The directories of a process: those of one of its threads.
fn view_of(process: &Process) -> Result<Arc<FsState>> {
    process.tasks().iter().find_map(|task| task.fs.get()).ok_or(Errno::EINVAL)
}

/// `/proc/PID/mounts`.
pub(super) fn mounts(process: &Process) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let fs = view_of(process)?;
    for entry in fs.mounts.list(&fs.root.read()) {
        out.extend_from_slice(format!("{} ", entry.mount.source).as_bytes());
        out.extend(escape(&entry.path));
        out.extend_from_slice(format!(" {} {} 0 0\n", entry.mount.fs_type, options(entry.mount.mode())).as_bytes());
    }
    Ok(out)
}

/// `/proc/PID/mountstats`.
pub(super) fn mountstats(process: &Process) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let fs = view_of(process)?;
    for entry in fs.mounts.list(&fs.root.read()) {
        out.extend_from_slice(format!("device {} mounted on ", entry.mount.source).as_bytes());
        out.extend(escape(&entry.path));
        out.extend_from_slice(format!(" with fstype {}\n", entry.mount.fs_type).as_bytes());
    }
    Ok(out)
}

/// `/proc/PID/mountinfo`.
pub(super) fn mountinfo(process: &Process) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let fs = view_of(process)?;
    for entry in fs.mounts.list(&fs.root.read()) {
        let (major, minor) = (dev_major(entry.dev), dev_minor(entry.dev));
        out.extend_from_slice(format!("{} {} {major}:{minor} ", entry.mount.id, entry.parent_id).as_bytes());
        out.extend(escape(&entry.mount.root_path()));
        out.push(b' ');
        out.extend(escape(&entry.path));
        let (mode, kind) = (entry.mount.mode(), entry.mount.fs_type);
        out.extend_from_slice(format!(" {} - {kind} {} {}\n", options(mode), entry.mount.source, access(mode)).as_bytes());
    }
    Ok(out)
}
