//! /proc: processes (`process.rs`) and the system (`system.rs`), as synthetic trees.
//!
//! The content is made when it is read. What a real Linux has beyond this is absent rather than faked: of the network, all but local sockets.

mod holder;
mod maps;
mod mounts;
mod net;
mod pagemap;
mod process;
pub(crate) mod system;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use linux_abi::Errno;
use vfs::synth::{Directory, Entry, Joined, SynthInode, mount};
use vfs::types::{Name, PROC_MAGIC};
use vfs::{FileKind, Inode, OpenFile};

use crate::entry::with_task;
use crate::process::{Process, all_processes, find_process, find_task};
use crate::sys::file::now;

const DEV: u64 = 0x15;

/// The root of /proc.
#[must_use]
pub fn make() -> Arc<dyn Inode> {
    let root = Joined(Arc::new(system::root()), Arc::new(Processes));
    mount(Arc::new(root), DEV, PROC_MAGIC, now)
}

/// The process whose directory below /proc `file` has open.
pub(crate) fn process_of(file: &OpenFile) -> Option<&Arc<Process>> {
    let inode: &dyn Any = &**file.inode();
    inode.downcast_ref::<SynthInode>()?.downcast::<process::OfProcess>().map(|directory| &directory.process)
}

/// A decimal number without leading zeros or signs.
fn number(name: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(name).ok()?;
    let value: u32 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

fn named(number: u32) -> Name {
    Box::from(number.to_string().as_bytes())
}

/// The directories of processes, and the links to the caller's own.
struct Processes;

impl Directory for Processes {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        match name {
            b"self" => Some(Entry::Link(Arc::new(|| {
                with_task(|task| task.process().pid().to_string().into_bytes()).ok_or(Errno::ENOENT)
            }))),
            b"thread-self" => Some(Entry::Link(Arc::new(|| {
                with_task(|task| format!("{}/task/{}", task.process().pid(), task.tid()).into_bytes()).ok_or(Errno::ENOENT)
            }))),
            _ => {
                let number = number(name)?;
                // A thread's number works too, though it is not listed.
                let process = find_process(number).or_else(|| find_task(number).map(|task| task.process_ref().clone()))?;
                Some(Entry::Directory(process::directory(process)))
            }
        }
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        let links = ["self", "thread-self"].map(|name| (Box::from(name.as_bytes()), FileKind::Symlink));
        let processes = all_processes().into_iter().map(|process| (named(process.pid()), FileKind::Directory));
        links.into_iter().chain(processes).collect()
    }
}
