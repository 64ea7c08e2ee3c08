//! The end of threads and processes.

use alloc::sync::Arc;

use addr::{VirtAddr, layout};
use kernel::mm::AddressSpace;
use kernel::power;
use kernel::thread;
use linux_abi::raw::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use linux_abi::sched::RobustListHead;

use crate::family;
use crate::process::{ExitStatus, Process, Task};
use crate::sys::futex;
use crate::user_ptr::UserPtr;

/// Process number of the first program; when it ends the machine is switched off.
pub(crate) const FIRST_PID: u32 = 1;
/// Longest robust list that is followed (Linux's limit).
const ROBUST_LIST_LIMIT: usize = 2048;

/// Ends the calling thread; with the last thread its process ends too.
pub(crate) fn end_thread(task: &Task) -> ! {
    leave_memory(task);
    let process = task.process();
    if process.remove_task(task) == 0 {
        end_of_process(process);
    }
    thread::exit()
}

/// What others wait for in the memory that the thread leaves, by ending or by `execve`.
pub(crate) fn leave_memory(task: &Task) {
    release_robust_futexes(task);
    announce_end(task);
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
    process.files.close_all();
    process.timers.delete_all();
    if process.family.borrows_memory() {
        process.family.release_parent();
    } else {
        retire(process.space());
    }
    family::bury(process);
}

/// Gives back the memory of a program that has ended or was replaced. The tables themselves stay: a CPU that has run nothing but
/// kernel threads since may still have them loaded.
pub(crate) fn retire(space: Arc<AddressSpace>) {
    if let Err(error) = space.unmap(VirtAddr(0), layout::USER_MAX) {
        log::warn!("the memory of an ended program was not given back: {error}");
    }
    core::mem::forget(space);
}

fn power_off(status: ExitStatus) -> ! {
    power::exit(match status {
        ExitStatus::Exited(code) => power::ExitStatus::Exited(code),
        ExitStatus::Signalled(signal) => power::ExitStatus::Signalled(signal.number() as u8),
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
    let futex_of = |entry: u64| (entry & !1).wrapping_add_signed(head.futex_offset);
    let mut entry = head.next;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry & !1 == head_at || entry == 0 {
            break;
        }
        let next = UserPtr::<u64>::new(entry & !1).read();
        if entry != head.list_op_pending {
            orphan(task, futex_of(entry));
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => return,
        }
    }
    if head.list_op_pending != 0 {
        orphan(task, futex_of(head.list_op_pending));
    }
}

fn orphan(task: &Task, address: u64) {
    let word = UserPtr::<u32>::new(address);
    let Ok(mut value) = word.load() else { return };
    while value & FUTEX_TID_MASK == task.tid() {
        let new = value & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        match word.compare_exchange(value, new) {
            Ok(found) if found == value => {
                if value & FUTEX_WAITERS != 0 {
                    let _nobody = futex::wake_address(address, 1);
                }
                return;
            }
            Ok(found) => value = found,
            Err(_) => return,
        }
    }
}
