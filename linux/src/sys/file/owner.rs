//! Who is told by a signal that a file is ready: `F_SETOWN`, `F_SETSIG`, `O_ASYNC` (`fcntl(2)`, "Managing signals").
//!
//! Few files have an owner, so owners stand in a table of their own, by open file description, and leave it when that is closed. While
//! `O_ASYNC` is set, the entry is registered with the file's wait queues.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_abi::Errno;
use linux_abi::signal::{SigInfo, Signal, code};
use sync::{Mutex, Notify, Registration};
use vfs::file::OpenFile;
use vfs::types::{Events, OpenFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::dnotify;
use crate::ctx::SysResult;
use crate::process::{Process, all_processes, find_process, find_task};
use crate::user_ptr::UserPtr;

const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;

const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_MSG: i32 = 3;
const POLL_ERR: i32 = 4;
const POLL_HUP: i32 = 6;

/// `struct f_owner_ex`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OwnerEx {
    kind: i32,
    id: i32,
}

#[derive(Clone, Copy, Default)]
struct Settings {
    owner: OwnerEx,
    /// 0: `SIGIO` without details.
    signal: u32,
    descriptor: i32,
}

/// What is known of one open file.
struct Watch {
    me: Weak<Watch>,
    file: Weak<OpenFile>,
    settings: Mutex<Settings>,
    /// With the file's own queues, while `O_ASYNC` is set.
    registrations: Mutex<Vec<Registration>>,
    /// With the queue for urgent data, where there is one.
    urgent: Mutex<Option<Registration>>,
}

/// Tells the owner of urgent data.
struct Urgent(Weak<Watch>);

static WATCHES: Mutex<BTreeMap<usize, Arc<Watch>>> = Mutex::new(BTreeMap::new());

/// The entry of `file`, if it has one.
fn find(file: &OpenFile) -> Option<Arc<Watch>> {
    WATCHES.lock().get(&file.id()).cloned()
}

/// The entry of `file`, made if it has none.
fn get(file: &Arc<OpenFile>) -> Arc<Watch> {
    let mut watches = WATCHES.lock();
    if let Some(watch) = watches.get(&file.id()) {
        return watch.clone();
    }
    let made = Arc::new_cyclic(|me| Watch {
        me: me.clone(),
        file: Arc::downgrade(file),
        settings: Mutex::new(Settings::default()),
        registrations: Mutex::new(Vec::new()),
        urgent: Mutex::new(None),
    });
    watches.insert(file.id(), made.clone());
    drop(watches);
    let registration = file.file().urgent_queue().map(|queue| queue.register(Arc::new(Urgent(made.me.clone()))));
    *made.urgent.lock() = registration;
    file.on_close(Box::new(|id| {
        let gone = WATCHES.lock().remove(&id);
        drop(gone);
        dnotify::file_closed(id);
    }));
    made
}

fn settings(file: &OpenFile) -> Settings {
    find(file).map_or_else(Settings::default, |watch| *watch.settings.lock())
}

/// `F_GETOWN`: a process, or a process group as a negative number.
pub(super) fn owner(file: &OpenFile) -> i32 {
    let OwnerEx { kind, id } = settings(file).owner;
    if kind == F_OWNER_PGRP { -id } else { id }
}

/// `F_SETOWN`.
///
/// # Errors
/// `ESRCH` when there is no such process or group, `EINVAL` for a number that has no opposite.
pub(super) fn set_owner(file: &Arc<OpenFile>, id: i32) -> Result<(), Errno> {
    let group = id < 0;
    let id = id.checked_abs().ok_or(Errno::EINVAL)?;
    set(file, OwnerEx { kind: if group { F_OWNER_PGRP } else { F_OWNER_PID }, id })
}

/// `F_GETOWN_EX`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn owner_ex(file: &OpenFile, out: UserPtr<OwnerEx>) -> SysResult {
    out.write(&settings(file).owner).map(|()| 0)
}

/// `F_SETOWN_EX`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EFAULT`.
pub(super) fn set_owner_ex(file: &Arc<OpenFile>, from: UserPtr<OwnerEx>) -> SysResult {
    let owner = from.read()?;
    if !matches!(owner.kind, F_OWNER_TID | F_OWNER_PID | F_OWNER_PGRP) {
        return Err(Errno::EINVAL);
    }
    set(file, owner).map(|()| 0)
}

fn set(file: &Arc<OpenFile>, owner: OwnerEx) -> Result<(), Errno> {
    let exists = match owner {
        OwnerEx { id: 0, .. } => true,
        OwnerEx { kind: F_OWNER_TID, id } => find_task(id as u32).is_some(),
        OwnerEx { kind: F_OWNER_PID, id } => find_process(id as u32).is_some(),
        OwnerEx { id, .. } => all_processes().iter().any(|process| process.process_group() == id as u32),
    };
    if !exists {
        return Err(Errno::ESRCH);
    }
    get(file).settings.lock().owner = owner;
    Ok(())
}

/// Makes process `pid` the owner of a file that has none.
pub(super) fn set_owner_if_none(file: &Arc<OpenFile>, pid: u32) {
    let watch = get(file);
    let mut settings = watch.settings.lock();
    if settings.owner.id == 0 {
        settings.owner = OwnerEx { kind: F_OWNER_PID, id: pid as i32 };
    }
}

/// `F_GETSIG`.
pub(super) fn signal(file: &OpenFile) -> u32 {
    settings(file).signal
}

/// `F_SETSIG`: 0 is `SIGIO` without details.
///
/// # Errors
/// `EINVAL`.
pub(super) fn set_signal(file: &Arc<OpenFile>, number: usize) -> Result<(), Errno> {
    if number > 64 {
        return Err(Errno::EINVAL);
    }
    get(file).settings.lock().signal = number as u32;
    Ok(())
}

/// `O_ASYNC` was set or cleared through `descriptor`.
pub(super) fn async_changed(file: &Arc<OpenFile>, descriptor: i32) {
    if !file.flags().contains(OpenFlags::ASYNC) {
        let ended = find(file).map(|watch| core::mem::take(&mut *watch.registrations.lock()));
        drop(ended);
        return;
    }
    let watch = get(file);
    watch.settings.lock().descriptor = descriptor;
    let Some(notify) = watch.me.upgrade() else { return };
    let mut registrations = Vec::new();
    file.file().poll_queues(&mut |queue| registrations.push(queue.register(notify.clone())));
    let old = core::mem::replace(&mut *watch.registrations.lock(), registrations);
    drop(old);
}

impl Notify for Watch {
    fn notify(&self) {
        let Some(file) = self.file.upgrade() else { return };
        let events = file.file().poll();
        let settings = *self.settings.lock();
        if settings.owner.id != 0 && !events.is_empty() {
            send(&settings, reason(events));
        }
    }
}

impl Notify for Urgent {
    fn notify(&self) {
        let owner = self.0.upgrade().map(|watch| watch.settings.lock().owner);
        if let Some(owner) = owner.filter(|owner| owner.id != 0) {
            deliver(owner, SigInfo::new(Signal::SIGURG, code::SI_KERNEL), Signal::SIGURG);
        }
    }
}

/// `si_code` and `si_band` for what is ready.
fn reason(events: Events) -> (i32, Events) {
    match () {
        () if events.contains(Events::ERR) => (POLL_ERR, Events::ERR),
        () if events.contains(Events::HUP) => (POLL_HUP, Events::HUP | Events::ERR),
        () if events.contains(Events::IN) => (POLL_IN, Events::READABLE),
        () => (POLL_OUT, Events::WRITABLE | Events::WRBAND),
    }
}

/// Tells the owner of `file`, if there is one, that there is news of it, by the name `descriptor`.
pub(super) fn tell_of_message(file: &OpenFile, descriptor: i32) {
    let settings = Settings { descriptor, ..settings(file) };
    if settings.owner.id != 0 {
        send(&settings, (POLL_MSG, Events::READABLE | Events::MSG));
    }
}

/// Sends the owner its signal, with `si_code` and `si_band` if it is one with details.
fn send(settings: &Settings, (code, band): (i32, Events)) {
    let (signal, info) = match Signal::new(settings.signal) {
        Some(signal) => {
            let mut info = SigInfo::new(signal, code);
            info.fields[0] = u64::from(band.bits());
            info.fields[1] = settings.descriptor as u32 as u64;
            (signal, info)
        }
        None => (Signal::SIGIO, SigInfo::new(Signal::SIGIO, code::SI_KERNEL)),
    };
    deliver(settings.owner, info, signal);
}

/// Sends a signal to an owner. A queue that is full loses it, as on Linux when not even SIGIO fits.
fn deliver(owner: OwnerEx, info: SigInfo, signal: Signal) {
    let id = owner.id as u32;
    let to_process = |process: &Process| {
        let _full = process.send_signal(signal, info);
    };
    match owner.kind {
        F_OWNER_TID => {
            if let Some(task) = find_task(id) {
                let _full = task.send_signal(signal, info);
            }
        }
        F_OWNER_PID => {
            if let Some(process) = find_process(id) {
                to_process(&process);
            }
        }
        _ => all_processes().iter().filter(|process| process.process_group() == id).for_each(|process| to_process(process)),
    }
}
