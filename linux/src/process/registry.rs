//! All processes and threads by number.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use sync::RwLock;

use super::{Process, Task};
use crate::fdtable::FdTable;

/// Largest process or thread number, as `/proc/sys/kernel/pid_max` says.
pub const PID_MAX: u32 = 4_194_304;

pub(super) static PROCESSES: RwLock<BTreeMap<u32, Arc<Process>>> = RwLock::new(BTreeMap::new());
pub(super) static TASKS: RwLock<BTreeMap<u32, Arc<Task>>> = RwLock::new(BTreeMap::new());
static LAST_TID: AtomicU32 = AtomicU32::new(0);

/// A process or thread number that nobody has.
#[must_use]
pub fn new_tid() -> u32 {
    loop {
        let last = LAST_TID.fetch_add(1, Ordering::Relaxed);
        if last >= PID_MAX - 1 {
            LAST_TID.store(300, Ordering::Relaxed);
        }
        let tid = last % PID_MAX + 1;
        if !TASKS.read().contains_key(&tid) && !PROCESSES.read().contains_key(&tid) {
            return tid;
        }
    }
}

/// The process `pid`.
#[must_use]
pub fn find_process(pid: u32) -> Option<Arc<Process>> {
    PROCESSES.read().get(&pid).cloned()
}

/// The thread `tid`, of whatever process.
#[must_use]
pub fn find_task(tid: u32) -> Option<Arc<Task>> {
    TASKS.read().get(&tid).cloned()
}

/// All processes, in order of their numbers.
#[must_use]
pub fn all_processes() -> Vec<Arc<Process>> {
    PROCESSES.read().values().cloned().collect()
}

/// The tables of descriptors of all threads, each once.
#[must_use]
pub fn all_tables() -> Vec<Arc<FdTable>> {
    let tasks: Vec<_> = TASKS.read().values().cloned().collect();
    let tables = tasks.iter().filter_map(|task| task.files.get());
    let by_number: BTreeMap<_, _> = tables.map(|table| (table.number(), table)).collect();
    by_number.into_values().collect()
}

/// How many threads live in all processes.
#[must_use]
pub fn task_count() -> usize {
    TASKS.read().len()
}

/// Forgets an ended process.
pub(crate) fn remove_process(pid: u32) {
    let process = PROCESSES.write().remove(&pid);
    if let Some(process) = process {
        let place = process.place.lock().take();
        drop(place);
    }
}
