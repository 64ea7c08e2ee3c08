//! The kernel log for programs: `/dev/kmsg` (Linux: `Documentation/ABI/testing/dev-kmsg`) and `syslog(2)`, as `dmesg` uses them.
//!
//! Each open `/dev/kmsg` has a place of its own in the log; `syslog` has one for all.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kernel::log::{added, ring};
use linux_abi::Errno;
use log_ring::{LONGEST_WRITE, Next, parse_write};
use sync::{Interrupt, Mutex, WaitQueue};
use vfs::file::SeekFrom;
use vfs::io::{Sink, Source};
use vfs::types::{Events, OpenFlags};
use vfs::{File, Result};

use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// The first line that was not there at the last `SYSLOG_ACTION_CLEAR`.
static CLEARED: AtomicU64 = AtomicU64::new(0);

/// An open `/dev/kmsg`.
struct Device {
    /// Number of the line that is read next.
    next: Mutex<u64>,
}

/// The open file of `/dev/kmsg`.
pub(crate) fn open() -> Arc<dyn File> {
    Arc::new(Device { next: Mutex::new(ring().oldest()) })
}

impl Device {
    /// The next line, if there is one.
    fn take(&self) -> Option<Result<String>> {
        let mut next = self.next.lock();
        let taken = match ring().get(*next) {
            Next::Line(line) => Ok(line.for_kmsg()),
            Next::Lost(oldest) => {
                *next = oldest;
                return Some(Err(Errno::EPIPE));
            }
            Next::Nothing => return None,
        };
        *next += 1;
        Some(taken)
    }
}

impl File for Device {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        let line = match self.take() {
            Some(taken) => taken,
            None if flags.nonblocking() => Err(Errno::EAGAIN),
            None => wait(|| self.take())?,
        }?;
        // A line that does not fit is lost to this reader, as on Linux.
        if line.len() > sink.remaining() { Err(Errno::EINVAL) } else { sink.write(line.as_bytes()) }
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        let len = source.remaining();
        if len > LONGEST_WRITE {
            return Err(Errno::EINVAL);
        }
        let mut text = [0; LONGEST_WRITE];
        if source.read(&mut text[..len])? < len {
            return Err(Errno::EFAULT);
        }
        let (priority, text) = parse_write(&text[..len]);
        kernel::log::add(priority, text);
        Ok(len)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn has_position(&self) -> bool {
        false
    }

    fn seek(&self, from: SeekFrom) -> Result<u64> {
        let to = match from {
            SeekFrom::Start(0) => ring().oldest(),
            SeekFrom::End(0) => ring().end(),
            SeekFrom::Data(0) => CLEARED.load(Ordering::Relaxed).max(ring().oldest()),
            SeekFrom::Start(_) | SeekFrom::End(_) | SeekFrom::Data(_) => return Err(Errno::ESPIPE),
            SeekFrom::Current(_) | SeekFrom::Hole(_) => return Err(Errno::EINVAL),
        };
        *self.next.lock() = to;
        Ok(0)
    }

    fn poll(&self) -> Events {
        let next = *self.next.lock();
        match ring().get(next) {
            Next::Line(_) => Events::READABLE,
            Next::Lost(_) => Events::READABLE | Events::ERR | Events::PRI,
            Next::Nothing => Events::empty(),
        }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(added());
    }
}

fn wait<T>(cond: impl FnMut() -> Option<T>) -> Result<T> {
    added().wait_until(None, Interrupt::Allowed, cond).map_err(|_| Errno::ERESTARTSYS)
}

/// What `SYSLOG_ACTION_READ` gives next.
struct Reader {
    number: u64,
    /// Bytes of the line that were given.
    given: usize,
}

static READER: Mutex<Reader> = Mutex::new(Reader { number: 0, given: 0 });

impl Reader {
    /// Up to `room` bytes, if there are any.
    fn take(&mut self, room: usize) -> Option<String> {
        let mut out = String::new();
        let ring = ring();
        self.number = self.number.max(ring.oldest());
        for line in ring.from(self.number) {
            let text = line.for_syslog();
            let rest = text.get(self.given..).unwrap_or_default();
            let fits = rest.floor_char_boundary(room - out.len());
            out.push_str(&rest[..fits]);
            if fits < rest.len() {
                self.given += fits;
                break;
            }
            *self = Self { number: line.number + 1, given: 0 };
        }
        (!out.is_empty()).then_some(out)
    }

    fn unread(&self) -> usize {
        let all: usize = ring().from(self.number).map(|line| line.for_syslog().len()).sum();
        all.saturating_sub(self.given)
    }
}

const CLOSE: u32 = 0;
const OPEN: u32 = 1;
const READ: u32 = 2;
const READ_ALL: u32 = 3;
const READ_CLEAR: u32 = 4;
const CLEAR: u32 = 5;
const CONSOLE_OFF: u32 = 6;
const CONSOLE_ON: u32 = 7;
const CONSOLE_LEVEL: u32 = 8;
const SIZE_UNREAD: u32 = 9;
const SIZE_BUFFER: u32 = 10;

/// What the console showed before `CONSOLE_OFF`; 0: nobody has said that.
static SHOWN_BEFORE: AtomicU8 = AtomicU8::new(0);

/// `syslog`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EPERM`, `ERESTARTSYS`.
pub(crate) fn syslog(ctx: &Ctx<'_>, action: u32, buffer: UserPtr<u8>, len: i32) -> SysResult {
    let open_to_all = matches!(action, READ_ALL | SIZE_BUFFER);
    if !open_to_all && ctx.cred().euid != 0 {
        return Err(Errno::EPERM);
    }
    match action {
        CLOSE | OPEN => Ok(0),
        READ => {
            let Some(room) = room(buffer, len)? else { return Ok(0) };
            give(buffer, &wait(|| READER.lock().take(room))?)
        }
        READ_ALL | READ_CLEAR => {
            let Some(room) = room(buffer, len)? else { return Ok(0) };
            let (text, end) = {
                let ring = ring();
                (ring.tail(CLEARED.load(Ordering::Relaxed), room), ring.end())
            };
            let given = give(buffer, &text)?;
            if action == READ_CLEAR {
                CLEARED.store(end, Ordering::Relaxed);
            }
            Ok(given)
        }
        CLEAR => {
            CLEARED.store(ring().end(), Ordering::Relaxed);
            Ok(0)
        }
        CONSOLE_OFF => {
            if SHOWN_BEFORE.load(Ordering::Relaxed) == 0 {
                SHOWN_BEFORE.store(kernel::log::shown_below(), Ordering::Relaxed);
            }
            kernel::log::show_below(1);
            Ok(0)
        }
        CONSOLE_ON => {
            let before = SHOWN_BEFORE.swap(0, Ordering::Relaxed);
            if before != 0 {
                kernel::log::show_below(before);
            }
            Ok(0)
        }
        CONSOLE_LEVEL => {
            let level = u8::try_from(len).ok().filter(|level| (1..=8).contains(level)).ok_or(Errno::EINVAL)?;
            kernel::log::show_below(level);
            SHOWN_BEFORE.store(0, Ordering::Relaxed);
            Ok(0)
        }
        SIZE_UNREAD => Ok(READER.lock().unread()),
        SIZE_BUFFER => Ok(ring().capacity()),
        _ => Err(Errno::EINVAL),
    }
}

/// How much fits into the caller's buffer; `None` for nothing.
fn room(buffer: UserPtr<u8>, len: i32) -> core::result::Result<Option<usize>, Errno> {
    let room = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    buffer.non_null().ok_or(Errno::EINVAL)?;
    Ok((room > 0).then_some(room))
}

fn give(buffer: UserPtr<u8>, text: &str) -> SysResult {
    buffer.write_slice(text.as_bytes())?;
    Ok(text.len())
}
