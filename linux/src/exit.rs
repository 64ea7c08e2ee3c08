//! The end of threads and processes.

use alloc::sync::Arc;

use addr::{VirtAddr, layout};
use kernel::mm::AddressSpace;
use kernel::power;
use kernel::thread;
use linux_abi::Errno;
use linux_abi::raw::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use linux_abi::sched::RobustListHead;

use crate::family;
use crate::process::{self, ExitStatus, Process, Task};
use crate::sys::{file, futex, ipc};
use crate::terminal;
use crate::user_ptr::UserPtr;

/// Process number of the first program; when it ends the machine is switched off.
pub(crate) const FIRST_PID: u32 = 1;
/// Longest robust list that is followed (Linux's limit).
const ROBUST_LIST_LIMIT: usize = 2048;

/// Ends the calling thread; with the last thread its process ends too.
pub(crate) fn end_thread(task: &Task) -> ! {
    leave_memory(task);
    leave_belongings(task);
    let process = task.process();
    if process.remove_task(task) == 0 {
        end_of_process(process);
    }
    thread::exit()
}

/// What others wait for in the memory that the thread leaves, by ending or by `execve`: once.
pub(crate) fn leave_memory(task: &Task) {
    release_robust_futexes(task);
    task.set_robust_list(0);
    futex::abandon_all(task);
    announce_end(task);
    task.set_clear_child_tid(0);
}

/// What the thread had in common with others goes on without it, and what nobody else has ends. While it is listed, so that who finds itself
/// alone is alone there, too (`execve`).
pub(crate) fn leave_belongings(task: &Task) {
    let process = task.process();
    if let Some(list) = task.undo.leave() {
        ipc::undo_semaphores(process.pid(), &list);
    }
    if let Some(files) = task.files.leave() {
        file::close_table(process.pid(), &files);
    }
    if let Some(fs) = task.fs.leave() {
        fs.let_go();
    }
}

/// Ends the calling thread's process with `status`, unless another thread has decided that before.
pub(crate) fn end_process(task: &Task, status: ExitStatus) -> ! {
    let process = task.process();
    let decided = process.begin_exit(status);
    if process.pid() == FIRST_PID {
        power_off(decided);
    }
    end_thread(task)
}

/// The last thread is gone: what remains is an exit status for the parent.
fn end_of_process(process: &Process) {
    let status = process.exit_status().unwrap_or(ExitStatus::Exited(0));
    if process.pid() == FIRST_PID {
        power_off(status);
    }
    process.signals.leave();
    if process.session() == process.pid() {
        terminal::leader_ended(process);
    }
    process.executable.write().running = None;
    process.timers.delete_all();
    leave_space(process, process.space());
    family::bury(process);
}

/// `process` does not use `space` any more. Its memory is given back, unless another process lives in it (`CLONE_VM`).
pub(crate) fn leave_space(process: &Process, space: Arc<AddressSpace>) {
    process.family.release_maker();
    let shares = |other: &Arc<Process>| {
        other.pid() != process.pid() && !other.family.has_ended() && Arc::ptr_eq(&other.space(), &space)
    };
    if !process::all_processes().iter().any(shares) {
        retire(space);
    }
}

/// Gives back the memory of a program that has ended or was replaced, now: others may still refer to its space for a while. The last
/// of them frees the rest, but for the root table, which a CPU may still have loaded and which the next space uses.
pub(crate) fn retire(space: Arc<AddressSpace>) {
    file::leave_aio(&space);
    if let Err(error) = space.unmap(VirtAddr(0), layout::USER_MAX) {
        log::warn!("the memory of an ended program was not given back: {error}");
    }
}

fn power_off(status: ExitStatus) -> ! {
    power::exit(match status {
        ExitStatus::Exited(code) => power::ExitStatus::Exited(code),
        ExitStatus::Signalled(signal) | ExitStatus::Dumped(signal) => power::ExitStatus::Signalled(signal.number() as u8),
    })
}

/// CLONE_CHILD_CLEARTID, set_tid_address(2): `pthread_join` waits for this.
fn announce_end(task: &Task) {
    let address = task.clear_child_tid();
    if address == 0 {
        return;
    }
    // A bad address is the program's business; there is nobody left to tell.
    if UserPtr::<u32>::new(address).store(0).is_ok() {
        let _nobody = futex::wake_address(address, 1);
    }
}

/// Walks the robust list (get_robust_list(2)): marks the futexes that this thread holds as orphaned and wakes a waiter of each.
fn release_robust_futexes(task: &Task) {
    let head_at = task.robust_list();
    if head_at == 0 {
        return;
    }
    let Ok(head) = UserPtr::<RobustListHead>::new(head_at).read() else { return };
    let pending = RobustEntry(head.list_op_pending);
    let mut entry = RobustEntry(head.next);
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry.address() == head_at {
            break;
        }
        // Before the word is given up: then somebody else may free the entry.
        let next = UserPtr::<u64>::new(entry.address()).read();
        if entry.address() != pending.address() && orphan(task, entry, head.futex_offset, Place::OnList).is_err() {
            return;
        }
        match next {
            Ok(next) => entry = RobustEntry(next),
            Err(_) => return,
        }
    }
    if pending.address() != 0 {
        // Whether that succeeds does not matter any more.
        let _done = orphan(task, pending, head.futex_offset, Place::Pending);
    }
}

/// An address of a robust list. Bit 0 says that the futex is one with priority inheritance.
#[derive(Clone, Copy)]
struct RobustEntry(u64);

impl RobustEntry {
    fn address(self) -> u64 {
        self.0 & !1
    }

    fn inherits_priority(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Where an entry was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    OnList,
    /// The thread was about to put it on the list or to take it off.
    Pending,
}

/// Marks the futex of `entry` as one whose owner died, if the thread owns it, and wakes a waiter.
///
/// # Errors
/// `EFAULT`, `EINVAL`: the list is not to be trusted any further.
fn orphan(task: &Task, entry: RobustEntry, offset: i64, place: Place) -> Result<(), Errno> {
    let address = entry.address().wrapping_add_signed(offset);
    let word = UserPtr::<u32>::new(address);
    let mut value = word.load()?;
    if place == Place::Pending && !entry.inherits_priority() && value == 0 {
        // Unlocked, but the waiter has not been woken yet.
        return futex::wake_address(address, 1).map(drop);
    }
    while value & FUTEX_TID_MASK == task.tid() {
        let found = word.compare_exchange(value, value & FUTEX_WAITERS | FUTEX_OWNER_DIED)?;
        if found != value {
            value = found;
            continue;
        }
        // Those who wait to own it are woken by `abandon_all`.
        if value & FUTEX_WAITERS != 0 && !entry.inherits_priority() {
            let _nobody = futex::wake_address(address, 1)?;
        }
        break;
    }
    Ok(())
}
