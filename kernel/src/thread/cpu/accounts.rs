//! Accounts: who is charged for the time that passes, and who is shown it.
//!
//! [`Local::account`] is the full account, [`Local::charge_briefly`] that of a brief turn (see the module above). [`cpu_time_ns`] reads a thread's from any CPU.

use super::{Local, Shared, mischief, shared};
use crate::percpu;
use crate::thread::{Thread, real_time};
use crate::{clock, torture};
use arch_x86_64::cpu as processor;
use core::sync::atomic::Ordering;
use platform::clock::steal::StealTime;

/// A timer interrupt so late means that the host had stopped this virtual CPU.
const LATE_NS: u64 = 10_000_000;

impl Local {
    /// How long this CPU stood still since the last account, because the host ran something else: that is not charged. The host says
    /// so, or the hardware timer shows it.
    fn stopped_ns(&mut self, now: u64) -> u64 {
        match self.steal.and_then(StealTime::stolen_ns) {
            Some(stolen) => {
                let since = stolen.saturating_sub(core::mem::replace(&mut self.stolen_ns, stolen));
                since.min(now.saturating_sub(self.queue.charged_ns()))
            }
            None => self.late_ns(now),
        }
    }

    /// The same without an account: the hardware timer is late by as much (its interrupt is never held up for long: nothing here turns interrupts off for
    /// milliseconds), so less than [`LATE_NS`] passes unnoticed, and a thread is never charged less than it ran.
    fn late_ns(&self, now: u64) -> u64 {
        let due = self.missed_ns.max(self.queue.charged_ns());
        match now.checked_sub(due) {
            Some(late) if self.missed_ns != 0 && late >= LATE_NS => late,
            _ => 0,
        }
    }

    /// Brings the accounts up to date; `current` is the running thread. Returns the time.
    pub(super) fn account(&mut self, shared: &Shared, current: &Thread) -> u64 {
        let tsc = processor::rdtsc();
        let now = clock::at_tsc(tsc);
        let is_idle = self.is_idle(current);
        shared.begin_charge();
        let stopped = self.stopped_ns(now);
        if stopped != 0 {
            self.queue.account_stopped(stopped);
        }
        self.queue.account((!is_idle).then_some(current), now);
        shared.end_charge(tsc);
        if self.queue.holds_real_time() {
            real_time::note_held();
        }
        self.missed_ns = 0;
        // If the timer fires soon, turns may be brief until it does.
        let calm = !is_idle && self.fires_soon(now) && !(torture::is_on() && mischief::disturbs());
        self.brief_until_tsc = if calm { tsc + self.brief_ticks } else { 0 };
        now
    }

    /// Charges `current` for a brief turn that ends at `tsc`.
    #[inline(always)]
    pub(super) fn charge_briefly(&mut self, shared: &Shared, current: &Thread, tsc: u64) {
        let ticks = tsc.wrapping_sub(shared.since_tsc.load(Ordering::Relaxed));
        shared.begin_charge();
        self.queue.charge_briefly(current, (ticks * self.ns_per_tick) >> 32);
        shared.end_charge(tsc);
    }
}

impl Shared {
    #[inline(always)]
    fn begin_charge(&self) {
        self.since_tsc.store(0, Ordering::Release);
    }

    #[inline(always)]
    fn end_charge(&self, tsc: u64) {
        self.since_tsc.store(tsc, Ordering::Release);
    }
}

/// `thread` comes to run: what it waited since it became ready.
#[inline(always)]
pub(super) fn end_ready(thread: &Thread, tsc: u64) {
    // Counters of two CPUs may differ by a little: then this is negative, which evens out.
    let waited = tsc.wrapping_sub(thread.ready_tsc.load(Ordering::Relaxed));
    thread.ready_ticks.store(thread.ready_ticks.load(Ordering::Relaxed).wrapping_add(waited), Ordering::Relaxed);
}

/// See [`Thread::cpu_time_ns`]. A running thread's share since it was last charged is added, by its CPU's word for that: if the
/// word stands still while the account is read, both belong together.
pub(in crate::thread) fn cpu_time_ns(thread: &Thread) -> u64 {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let cpu = thread.cpu();
        let since = shared(cpu).since_tsc.load(Ordering::Acquire);
        let accounted = thread.entity.cpu_time_ns();
        let runs = percpu::current_of(cpu).cast::<Thread>() == core::ptr::from_ref(thread);
        core::sync::atomic::fence(Ordering::Acquire);
        if since != 0 && since == shared(cpu).since_tsc.load(Ordering::Relaxed) && cpu == thread.cpu() {
            let now = processor::rdtsc();
            return accounted + if runs { clock::at_tsc(now).saturating_sub(clock::at_tsc(since)) } else { 0 };
        }
    }
    thread.entity.cpu_time_ns()
}

/// When this CPU's accounts were last brought up to date, in monotonic nanoseconds. Context: any.
pub(in crate::thread) fn last_pass_ns() -> u64 {
    match shared(percpu::cpu_id()).since_tsc.load(Ordering::Relaxed) {
        0 => clock::monotonic_ns(),
        tsc => clock::at_tsc(tsc),
    }
}
