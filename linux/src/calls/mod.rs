//! Patched call sites: `syscall` instructions that are executed often become jumps (linux-abi.md §3; the logic is the crate `call_sites`).
//!
//! # Theory
//! *Who is looked at.* The entry code counts `syscall` instructions in per-CPU counters, by the last byte of the return address; no lock, no
//! compare, and whoever comes when a counter runs out is the one that is looked at: an often executed one, most likely. It goes to
//! the patcher thread ([`patcher`]), which decides, makes stubs and rewrites the site (`kernel/src/text_poke.rs`).
//!
//! *What is rewritten.* Only private mappings of files that may be executed and not written. The space gets a copy of the page; the file's
//! pages stay. Stubs lie in pages of their own, `[oxv-calls]` in `/proc/self/maps`, executable and not writable.
//!
//! *Locks.* Each address space has [`Sites`]. `turn` belongs to who changes code of the space, from the first look at it to the last byte, or
//! takes part of the mappings away ([`around`]), or copies the space ([`fork`]): so a child has either all of a change, with the table
//! to go with it, or nothing. `table` is taken for a look at the table by whoever meets a breakpoint or delivers a signal, while a change may be
//! under way. A site is in the table, and its stub is written, before its first byte changes.
//!
//! *Threads in the middle.* There are none, see `call_sites`: what changes is one instruction. A thread that has executed the old one, however long ago
//! and in whatever saved context, goes on behind it, in bytes that never change. A thread that has met the breakpoint of a change goes
//! on in the stub, or, if that change is over and was the way back, executes what stands there now ([`at_breakpoint`]).
//!
//! *Filters.* [`Sites::spans`] only grow. Who changes mappings asks them without a lock, before and after: a change of code that was
//! decided on before the mapping went is then seen by one of the two looks. The second is for a look at [`Sites::growth`] if that has
//! not changed since before the first: who is still growing a span looks at the mapping afterwards.

#![expect(unsafe_code, reason = "defines a link-time symbol")]

mod leaf;
mod patcher;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arch_x86_64::{TrapFrame, percpu};
use call_sites::{Point, Table};
use kernel::mm::AddressSpace;
use kernel::thread;
use linux_abi::Errno;
use sync::Mutex;

use crate::user_ptr;

pub(crate) use patcher::start;

/// Site spans that are kept apart.
const SPANS: usize = 4;
/// How many `syscall` instructions make a site worth a look, unless the kernel's command line says otherwise.
const OFTEN: u8 = 64;

/// How often a counter runs out; 0: sites are not looked at.
static THRESHOLD: AtomicU8 = AtomicU8::new(0);

/// What became of call sites, for `/proc/oxv/calls`.
struct Counters {
    numbers: AtomicU64,
    comparisons: AtomicU64,
    rejected: AtomicU64,
    restored: AtomicU64,
    breakpoints: AtomicU64,
}

static COUNTERS: Counters = Counters {
    numbers: AtomicU64::new(0),
    comparisons: AtomicU64::new(0),
    rejected: AtomicU64::new(0),
    restored: AtomicU64::new(0),
    breakpoints: AtomicU64::new(0),
};

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The text of `/proc/oxv/calls`.
pub(crate) fn statistics() -> String {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    format!(
        "threshold {}\npatched_number {}\npatched_compare {}\nrejected {}\nrestored {}\nbreakpoints {}\n",
        THRESHOLD.load(Ordering::Relaxed),
        get(&COUNTERS.numbers),
        get(&COUNTERS.comparisons),
        get(&COUNTERS.rejected),
        get(&COUNTERS.restored),
        get(&COUNTERS.breakpoints),
    )
}

/// Addresses from `start` to `end`; empty while `end` is 0.
struct Span {
    start: AtomicU64,
    end: AtomicU64,
}

/// The call sites of an address space. Every program's space has one from its beginning.
pub(crate) struct Sites {
    turn: Mutex<()>,
    table: Mutex<Table>,
    /// In use from the first on.
    spans: [Span; SPANS],
    /// How often a span has grown.
    growth: AtomicU64,
}

impl Sites {
    fn new(table: Table) -> Self {
        let spans = [const { Span { start: AtomicU64::new(0), end: AtomicU64::new(0) } }; SPANS];
        Self { turn: Mutex::new(()), table: Mutex::new(table), spans, growth: AtomicU64::new(0) }
    }

    fn of(space: &AddressSpace) -> Option<&Self> {
        space.personality()
    }

    /// Whether anything in `range` may be a site or a stub.
    fn may_concern(&self, range: &Range<u64>) -> bool {
        for span in &self.spans {
            // The end first: who sees it grown also sees the start that was stored before.
            let end = span.end.load(Ordering::SeqCst);
            if end == 0 {
                return false;
            }
            if range.start < end && span.start.load(Ordering::Relaxed) < range.end {
                return true;
            }
        }
        false
    }

    /// Whether there is a site at all.
    fn any(&self) -> bool {
        self.spans[0].end.load(Ordering::Relaxed) != 0
    }

    /// Adds a range to the spans: to one that it touches, to an empty one, else to the last. The caller has its turn.
    fn cover(&self, range: &Range<u64>) {
        let of = |span: &Span| span.start.load(Ordering::Relaxed)..span.end.load(Ordering::Relaxed);
        let fits = |span: &&Span| {
            let now = of(span);
            now.end == 0 || now.start <= range.end && range.start <= now.end
        };
        let span = self.spans.iter().find(fits).unwrap_or(&self.spans[SPANS - 1]);
        let now = of(span);
        let start = if now.end == 0 { range.start } else { now.start.min(range.start) };
        span.start.store(start, Ordering::Relaxed);
        span.end.store(now.end.max(range.end), Ordering::SeqCst);
        self.growth.fetch_add(1, Ordering::SeqCst);
    }

    fn copy_spans(&self, from: &Self) {
        for span in &from.spans {
            let range = span.start.load(Ordering::Relaxed)..span.end.load(Ordering::Relaxed);
            if range.end != 0 {
                self.cover(&range);
            }
        }
    }
}

/// Gives a new space its sites: none.
pub(crate) fn prepare(space: &AddressSpace) {
    space.set_personality(Sites::new(Table::new()));
}

/// A copy of `space` for a child process, with its sites.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn fork(space: &AddressSpace) -> Result<Arc<AddressSpace>, Errno> {
    let Some(sites) = Sites::of(space) else { return space.fork() };
    let _nothing_changes = sites.turn.lock();
    let child = space.fork()?;
    let copy = Sites::new(sites.table.lock().clone());
    copy.copy_spans(sites);
    child.set_personality(copy);
    Ok(child)
}

/// Has the program's mappings in `ranges` (start and length) changed by `change`: removed, moved, replaced or made writable. What is rewritten
/// there has its old bytes before, and so has what leads to stubs there.
pub(crate) fn around<R>(space: &AddressSpace, ranges: &[(u64, u64)], change: impl FnOnce() -> R) -> R {
    let Some(sites) = Sites::of(space) else { return change() };
    let growth = sites.growth.load(Ordering::SeqCst);
    let concerned = || ranges.iter().map(|&(start, len)| start..start.saturating_add(len)).filter(|range| sites.may_concern(range));
    if concerned().next().is_some() {
        let _turn = sites.turn.lock();
        concerned().for_each(|range| patcher::restore(space, sites, &range));
        return change();
    }
    let result = change();
    if sites.growth.load(Ordering::SeqCst) != growth && concerned().next().is_some() {
        let _turn = sites.turn.lock();
        concerned().for_each(|range| patcher::restore(space, sites, &range));
    }
    result
}

/// Has the program's mappings in `ranges` changed by `change`, which takes code elsewhere. As [`around`], but nothing may be rewritten meanwhile:
/// it would be too late afterwards.
pub(crate) fn around_move<R>(space: &AddressSpace, ranges: &[(u64, u64)], change: impl FnOnce() -> R) -> R {
    let Some(sites) = Sites::of(space) else { return change() };
    let _turn = sites.turn.lock();
    ranges.iter().for_each(|&(start, len)| patcher::restore(space, sites, &(start..start.saturating_add(len))));
    change()
}

/// A thread has executed a breakpoint. If it is one of ours, the thread goes on where the new code leads; true then.
pub(crate) fn at_breakpoint(space: &AddressSpace, frame: &mut TrapFrame) -> bool {
    let Some(sites) = Sites::of(space).filter(|sites| sites.any()) else { return false };
    let stub = sites.table.lock().behind_breakpoint(frame.rip);
    match stub {
        Some(stub) => frame.rip = stub,
        None if is_gone(frame.rip) => frame.rip -= 1,
        None => return false,
    }
    count(&COUNTERS.breakpoints);
    true
}

/// Whether there is no breakpoint before `rip` any more: it was ours, and what it replaced is there again.
fn is_gone(rip: u64) -> bool {
    const INT3: u8 = 0xcc;
    const INT_3: [u8; 2] = [0xcd, 3];
    let mut before = [0; 2];
    let read = user_ptr::copy_in(rip.wrapping_sub(2), &mut before);
    read.is_ok() && before[1] != INT3 && before != INT_3
}

/// Has a thread that is about to be interrupted by a handler, and may stand in a stub, stand at a place of the program that means the same.
pub(crate) fn leave_stub(space: &AddressSpace, frame: &mut TrapFrame) {
    let Some(sites) = Sites::of(space).filter(|sites| sites.may_concern(&(frame.rip..frame.rip + 1))) else { return };
    let point = sites.table.lock().program_point(Point { rip: frame.rip, rax: frame.rax });
    (frame.rip, frame.rax) = (point.rip, point.rax);
}

/// Runs `f` with the address space of the running thread, if it has one.
pub(crate) fn with_space<R>(f: impl FnOnce(&Arc<AddressSpace>) -> R) -> Option<R> {
    thread::with_current(|t| t.space().map(f))
}

/// A counter of the entry code has run out: the caller's `syscall` is executed often.
#[unsafe(no_mangle)]
extern "C" fn linux_site_is_hot(frame: &mut TrapFrame) {
    let threshold = THRESHOLD.load(Ordering::Relaxed);
    percpu::set_site_count(frame.rip, threshold);
    if threshold != 0 && with_space(|space| patcher::ask(space, frame.rip, frame.orig_rax)) == Some(patcher::Answer::Known) {
        percpu::set_site_count(frame.rip, 0);
    }
}
