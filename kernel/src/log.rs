//! The kernel log: `log::info!` and friends, to the serial port.
//!
//! Callers never wait for the port. A line is put on a lock-free list and the log thread writes it out; before that
//! thread exists, and when the kernel stops, whoever logs drains the list itself.
//!
//! Context of the logging macros: thread context with preemption enabled (a line is allocated). Interrupt handlers do not log. Nor does the scheduler, which
//! may have a [`Notice`] written.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use lockfree::mpsc::{MpscLink, MpscList, MpscNode};
use log::{LevelFilter, Log, Metadata, Record};
use sync::{OnceCell, ThreadHandle, WaitQueue};

/// Lines that may wait at most; more are dropped and counted.
const MAX_WAITING: usize = 4096;

struct Line {
    link: MpscLink,
    text: String,
}

#[expect(unsafe_code, reason = "promises that the link is always the same field")]
// SAFETY: always the same field, used for nothing else.
unsafe impl MpscNode for Line {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

/// A line that is written once, for those who may neither wait nor allocate.
pub(crate) struct Notice {
    link: MpscLink,
    given: AtomicBool,
    text: &'static str,
}

#[expect(unsafe_code, reason = "promises that the link is always the same field")]
// SAFETY: always the same field, used for nothing else.
unsafe impl MpscNode for Notice {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

impl Notice {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self { link: MpscLink::new(), given: AtomicBool::new(false), text }
    }

    /// Has the log thread write the line, if this is the first time. Context: any, the scheduler included.
    pub(crate) fn give(&'static self) {
        if !self.given.load(Ordering::Relaxed) && !self.given.swap(true, Ordering::Relaxed) {
            self.push();
        }
    }

    #[cold]
    #[expect(unsafe_code, reason = "pushes a node on the lock-free list")]
    fn push(&'static self) {
        // SAFETY: whoever has set `given` is alone in linking it.
        let _ = unsafe { NOTICES.push(self) };
        if let Some(thread) = THREAD.get() {
            thread.unpark();
        }
    }
}

static NOTICES: MpscList<&'static Notice> = MpscList::new();
static THREAD: OnceCell<ThreadHandle> = OnceCell::new();
static LINES: MpscList<Box<Line>> = MpscList::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
static MORE: WaitQueue = WaitQueue::new();

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let micros = crate::clock::monotonic_ns() / 1000;
        let mut text = String::new();
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        if writeln!(text, "[{seconds:>5}.{fraction:06}] {}: {}", record.target(), record.args()).is_err() {
            return;
        }
        push(text);
    }

    fn flush(&self) {
        drain();
    }
}

static LOGGER: Logger = Logger;

/// Starts logging at the level that the command line's `log=` names (error, warn, info, debug, trace); `warn` by default.
pub(crate) fn init(level: Option<&str>) {
    let level = level.and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::Warn);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// Starts the thread that writes the lines out.
pub(crate) fn start_thread() {
    let started = crate::thread::spawn("klogd", crate::thread::Class::Normal, || {
        loop {
            MORE.wait(|| (!LINES.is_empty() || !NOTICES.is_empty()).then_some(()));
            for notice in NOTICES.take_all() {
                log::warn!("{}", notice.text);
            }
            drain();
        }
    });
    if let Ok(thread) = started {
        let _first = THREAD.set(crate::thread::handle(&thread));
    }
}

#[expect(unsafe_code, reason = "pushes a node on the lock-free list")]
fn push(text: String) {
    if WAITING.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: the line was just made; nobody else can link it.
    let _ = unsafe { LINES.push(Box::new(Line { link: MpscLink::new(), text })) };
    if THREAD.get().is_some() {
        MORE.wake_all();
    } else {
        drain();
    }
}

/// Writes out everything that waits. Used by the log thread, and by whoever stops the kernel.
pub(crate) fn drain() {
    for line in LINES.take_all() {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        crate::console::write(&line.text);
    }
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped != 0 {
        let mut text = String::new();
        if writeln!(text, "log: {dropped} lines dropped").is_ok() {
            crate::console::write(&text);
        }
    }
}
