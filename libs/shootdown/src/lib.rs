//! TLB shootdown without hardware: which CPUs must be told that entries have changed, and how one waits until they have heard.
//!
//! Key types: [`CpuState`] (which translations a CPU may have), [`Round`] and [`Asked`] (CPUs that were asked, and count themselves out). The kernel's
//! `tlb.rs` adds the interrupts, the batches of requests and the sleep. Its `barrier.rs` has rounds of its own, in which a CPU answers by having been interrupted.
//!
//! # Theory
//! A CPU has translations of the kernel and of the one space whose root is in its CR3 (loading CR3 drops the others). Its state word says
//! which root that is, whether the CPU is idle, and whether it must flush before it runs a thread again.
//!
//! *Who must be told.* The requester has changed entries, then (fence, [`announce`]) reads the states. A CPU that loads a root first shows
//! `ANY_ROOT`, which stands for every root (sequentially consistent), then loads, then shows the root itself. So either the requester sees that
//! the CPU may have the root, or the CPU walks the tables after the change. A CPU with another root is left alone. An idle one is
//! marked in its state word, which is also where it stops being idle: it cannot run a thread without seeing the mark. It runs
//! kernel code only meanwhile, and never uses a stale translation of the program's half. Of the kernel's half it does: who unlocks a mutex follows records on
//! the stacks of those that wait, which the idle thread does, too. So a request about every root interrupts it.
//!
//! *Tables.* It may walk tables speculatively, though. When tables are freed, an idle CPU with their root is interrupted, too: it changes
//! to the kernel's own root, as does a CPU that runs a kernel thread, and so is left alone from then on. Roots are never freed.
//!
//! *Rounds.* The requester counts itself ([`Round::begin`]), so that the number cannot reach zero before all have been asked; marks each CPU and
//! counts it ([`Round::ask`]), and counts itself out. A CPU takes its mark ([`Asked::take`]), flushes, and counts itself out ([`Round::answer`]):
//! whoever does so last wakes the requester. The mark is taken once, so that an interrupt which nobody sent counts nobody out twice.
//! Marking releases what was published of the round, taking acquires it; counting out releases the flush, and the requester's look at the number
//! acquires it.
#![cfg_attr(not(any(test, loom)), no_std)]

#[cfg(all(test, loom))]
mod loom_tests;

use lockfree::shim::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// Flags of a state, below the root's address.
const IDLE: u64 = 1;
const MUST_FLUSH: u64 = 2;
const ANY_ROOT: u64 = 4;
const ROOT: u64 = !0xfff;

/// Whether page tables are about to be freed, and not only pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// No table goes away.
    PagesOnly,
    /// Some do.
    Tables,
}

/// What a request needs of a CPU.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing: it has no such translation, or flushes before it could use one.
    Nothing,
    /// It must be interrupted, and flush.
    Interrupt,
}

/// Which translations a CPU may have. Changed by the CPU itself, but for the mark of an idle one.
#[derive(Debug)]
#[repr(align(64))]
pub struct CpuState(AtomicU64);

impl CpuState {
    /// A busy CPU with no root.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The same, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What a request about the tables with this `root` (0: whatever root) needs of the CPU. An idle one for which it is enough is marked.
    /// After [`announce`].
    pub fn needs(&self, root: u64, freed: Freed) -> Needs {
        let mut state = self.0.load(Ordering::SeqCst);
        loop {
            if state & ANY_ROOT == 0 && root != 0 && state & ROOT != root {
                return Needs::Nothing;
            }
            if state & IDLE == 0 || root == 0 || freed == Freed::Tables {
                return Needs::Interrupt;
            }
            match self.0.compare_exchange(state, state | MUST_FLUSH, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Needs::Nothing,
                Err(now) => state = now,
            }
        }
    }

    /// Has `load` load a root, which drops the translations of the one before. By the CPU itself, busy, with interrupts off.
    #[inline]
    pub fn change_root(&self, root: u64, load: impl FnOnce()) {
        self.0.swap(ANY_ROOT, Ordering::SeqCst);
        #[cfg(loom)]
        fence(Ordering::SeqCst);
        load();
        self.0.store(root, Ordering::Release);
    }

    /// The CPU has loaded a root that nobody's request is about (the kernel's), idle or not. By the CPU itself, with interrupts off.
    pub fn has_left_root(&self, kernel_root: u64) {
        let shown = |state: u64| Some(state & !ROOT | kernel_root);
        let _always = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, shown);
    }

    /// The root shown. For the CPU itself.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & ROOT
    }

    /// The CPU runs no thread from now on. By the CPU itself, with interrupts off.
    pub fn enter_idle(&self) {
        // Nobody else changes the word of a busy CPU.
        let state = self.0.load(Ordering::Relaxed);
        self.0.store(state | IDLE, Ordering::Release);
    }

    /// The CPU is about to run a thread again. Returns whether it must flush before. By the CPU itself, with interrupts off.
    #[must_use]
    pub fn leave_idle(&self) -> bool {
        self.0.fetch_and(!(IDLE | MUST_FLUSH), Ordering::AcqRel) & MUST_FLUSH != 0
    }
}

impl Default for CpuState {
    fn default() -> Self {
        Self::new()
    }
}

/// Orders the requester's changes of entries before its look at the states.
#[inline]
pub fn announce() {
    fence(Ordering::SeqCst);
}

/// The mark of a CPU that was asked to flush.
#[derive(Debug)]
#[repr(align(64))]
pub struct Asked(AtomicBool);

impl Asked {
    /// Not asked.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Not asked, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Whether the CPU was asked and has not taken the mark yet; it is asked no more then. By the CPU itself.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self::new()
    }
}

/// CPUs that were asked and have not answered. One requester at a time has rounds made.
#[derive(Debug)]
pub struct Round(AtomicUsize);

impl Round {
    /// None.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// None, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// The requester begins: it counts until [`Round::all_asked`].
    pub fn begin(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// Asks a CPU, which is interrupted next.
    pub fn ask(&self, cpu: &Asked) {
        self.0.fetch_add(1, Ordering::AcqRel);
        cpu.0.store(true, Ordering::Release);
    }

    /// The requester has asked all.
    pub fn all_asked(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether all have answered.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// A CPU that took its mark has flushed. Returns whether it was the last to be waited for, and so has to wake the requester.
    #[must_use]
    pub fn answer(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const A: u64 = 0x1000;
    const B: u64 = 0x2000;

    #[test]
    fn only_those_with_the_root_are_told() {
        let cpu = CpuState::new();
        cpu.change_root(A, || {});
        assert_eq!((cpu.root(), cpu.needs(B, Freed::Tables), cpu.needs(A, Freed::PagesOnly)), (A, Needs::Nothing, Needs::Interrupt));
        assert_eq!(cpu.needs(0, Freed::PagesOnly), Needs::Interrupt, "a request for all roots");
        cpu.change_root(B, || assert_eq!(cpu.needs(A, Freed::PagesOnly), Needs::Interrupt, "it may have either meanwhile"));
        assert_eq!(cpu.needs(A, Freed::PagesOnly), Needs::Nothing);
    }

    #[test]
    fn an_idle_cpu_flushes_later_or_leaves_the_root() {
        let cpu = CpuState::new();
        cpu.change_root(A, || {});
        cpu.enter_idle();
        assert_eq!(cpu.needs(B, Freed::PagesOnly), Needs::Nothing);
        assert!(!cpu.leave_idle());
        cpu.enter_idle();
        assert_eq!(cpu.needs(A, Freed::PagesOnly), Needs::Nothing);
        assert!(cpu.leave_idle() && !cpu.leave_idle());
        cpu.enter_idle();
        assert_eq!(cpu.needs(A, Freed::Tables), Needs::Interrupt);
        cpu.has_left_root(B);
        assert_eq!((cpu.needs(A, Freed::Tables), cpu.needs(B, Freed::PagesOnly)), (Needs::Nothing, Needs::Nothing));
        assert_eq!(cpu.needs(0, Freed::PagesOnly), Needs::Interrupt, "the kernel's half it uses");
        assert!(cpu.leave_idle(), "still idle, and marked by the request before");
    }

    #[test]
    fn the_last_answer_ends_the_round_and_a_stray_interrupt_none() {
        let (round, cpus) = (Round::new(), [Asked::new(), Asked::new()]);
        assert!(round.is_over() && !cpus[0].take());
        round.begin();
        cpus.iter().for_each(|cpu| round.ask(cpu));
        assert!(cpus[0].take() && !round.answer() && !cpus[0].take());
        round.all_asked();
        assert!(!round.is_over() && cpus[1].take() && round.answer() && round.is_over());
    }
}
