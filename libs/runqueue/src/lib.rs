//! The scheduler's logic, without hardware: who runs next, for how long, and who may wake whom.
//!
//! - [`RunQueue`]: the ready threads of one CPU, ordered by class and by the measure R.
//! - [`SchedEntity`]: the scheduler's part of a thread; [`Policy`]: what `sched_setscheduler` and `nice` choose.
//! - [`ThreadState`]: the atomic word that decides, across CPUs, who enqueues a thread that is woken.
//! - [`SleepTimers`]: where the timers of a thread are that waits with a deadline.
//! - [`PollFlag`], [`PollWindow`]: whether and how long an idle CPU looks for work before it halts.
//! - [`Balance`]: when a thread moves to another CPU.
//! - [`ModeSamples`], [`ShownTimes`]: user and system time.
//! - [`RealTimeShare`]: what real-time threads leave to all others.
//! - [`measure`]: R in fixed point.
//!
//! Neighbours: `kernel::thread` wires it to timers, interrupts and the context switch. The idea is in
//! Kivity et al., "OSv: optimizing the operating system for virtual machines" (USENIX ATC 2014), section 2.4.
#![cfg_attr(not(any(test, loom)), no_std)]

extern crate alloc;

mod balance;
mod budget;
mod entity;
pub mod measure;
mod modes;
mod poll;
mod queue;
mod sleep;
mod state;

pub use balance::{Balance, IMBALANCE};
pub use budget::RealTimeShare;
pub use entity::{Policy, QUANTUM_NS as RR_QUANTUM_NS, SchedEntity};
pub use modes::{Mode, ModeSamples, Sampled, ShownTimes};
pub use poll::{PollFlag, PollWindow};
pub use queue::{Enqueue, RunQueue, Scheduled};
pub use sleep::{GivenBack, SleepTimers, TIMERS, TimerPlace};
pub use state::{FallAsleep, ThreadState, Unpark};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod simulation;
#[cfg(all(test, not(loom)))]
mod tests;
