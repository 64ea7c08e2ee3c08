//! System calls by subject. `table.rs` says which function answers which number.

pub mod adjust;
pub mod denied;
pub mod event;
pub mod file;
pub mod futex;
pub mod info;
pub mod ipc;
pub mod membarrier;
pub mod mm;
pub mod pidfd;
pub mod policy;
mod prctl;
pub mod process;
pub mod remote;
pub mod sched;
pub mod signal;
pub mod socket;
pub mod thread;
pub mod time;
pub mod userfault;
