//! The kernel log: `log::info!` and friends, to the serial port and to a ring that programs read (`dmesg`).
//!
//! Callers never wait for the port. A line is put on a lock-free list and the log thread writes it out; before that
//! thread exists, and when the kernel stops, whoever logs drains the list itself. The ring keeps what informs even where the port is to show
//! only warnings.
//!
//! Context of the logging macros: thread context with preemption enabled (a line is allocated). Interrupt handlers do not log. Nor does the scheduler, which
//! may have a [`Notice`] written.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use lockfree::mpsc::{MpscLink, MpscList, MpscNode};
use log::{Level, LevelFilter, Log, Metadata};
use log_ring::{LogRing, Priority};
use sync::{Mutex, MutexGuard, OnceCell, ThreadHandle, WaitQueue};

/// Lines that may wait at most; more are dropped and counted.
const MAX_WAITING: usize = 4096;

/// Bytes that the ring keeps.
const KEPT: usize = 128 << 10;

struct Line {
    link: MpscLink,
    micros: u64,
    priority: Priority,
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

/// Lines whose severity is below this number are written to the port, too (`console_loglevel` of Linux).
static SHOWN_BELOW: AtomicU8 = AtomicU8::new(Priority::WARNING.severity() + 1);
static RING: Mutex<LogRing> = Mutex::new(LogRing::new(KEPT));
/// Woken when the ring has got a line.
static ADDED: WaitQueue = WaitQueue::new();

const fn priority_of(level: Level) -> Priority {
    match level {
        Level::Error => Priority::ERROR,
        Level::Warn => Priority::WARNING,
        Level::Info => Priority::INFO,
        Level::Debug | Level::Trace => Priority::DEBUG,
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut text = String::new();
        if write!(text, "{}: {}", record.target(), record.args()).is_ok() {
            push(priority_of(record.level()), text);
        }
    }

    fn flush(&self) {
        show_all();
    }
}

static LOGGER: Logger = Logger;

/// Starts logging. The port shows the level that the command line's `log=` names (error, warn, info, debug, trace); `warn` by default.
pub(crate) fn init(level: Option<&str>) {
    let shown = level.and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::Warn);
    show_below(shown.to_level().map_or(0, |level| priority_of(level).severity() + 1));
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(shown.max(LevelFilter::Info));
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
            drain(keep);
        }
    });
    if let Ok(thread) = started {
        let _first = THREAD.set(crate::thread::handle(&thread));
    }
}

#[expect(unsafe_code, reason = "pushes a node on the lock-free list")]
fn push(priority: Priority, text: String) {
    if WAITING.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let micros = crate::clock::monotonic_ns() / 1000;
    // SAFETY: the line was just made; nobody else can link it.
    let _ = unsafe { LINES.push(Box::new(Line { link: MpscLink::new(), micros, priority, text })) };
    if THREAD.get().is_some() {
        MORE.wake_all();
    } else {
        drain(keep);
    }
}

/// Shows everything that waits. For whoever stops the kernel: it may have stopped those who hold locks, and nobody will read the ring.
pub(crate) fn show_all() {
    drain(|_, _, _| ());
}

/// Shows what waits, and hands it to `then`.
fn drain(then: impl Fn(u64, Priority, String)) {
    let handle = |micros: u64, priority: Priority, text: String| {
        if priority.severity() < shown_below() {
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            crate::console::write(&format!("[{seconds:>5}.{fraction:06}] {text}\n"));
        }
        then(micros, priority, text);
    };
    for line in LINES.take_all() {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        let Line { micros, priority, text, .. } = *line;
        handle(micros, priority, text);
    }
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped != 0 {
        handle(crate::clock::monotonic_ns() / 1000, Priority::WARNING, format!("log: {dropped} lines dropped"));
    }
}

fn keep(micros: u64, priority: Priority, text: String) {
    RING.lock().push(micros, priority, text);
    ADDED.wake_all();
}

/// Adds a program's line, unless too many wait. Context: thread.
pub fn add(priority: Priority, text: String) {
    push(priority, text);
}

/// Lines whose severity is below this number are shown on the console.
#[must_use]
pub fn shown_below() -> u8 {
    SHOWN_BELOW.load(Ordering::Relaxed)
}

/// From now on, lines whose severity is below `severity` are shown on the console.
pub fn show_below(severity: u8) {
    SHOWN_BELOW.store(severity, Ordering::Relaxed);
}

/// The last lines. Context: thread; the log thread waits meanwhile.
pub fn ring() -> MutexGuard<'static, LogRing> {
    RING.lock()
}

/// Woken when there are more.
#[must_use]
pub fn added() -> &'static WaitQueue {
    &ADDED
}
