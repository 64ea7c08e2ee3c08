//! A port: a byte stream in each direction between the guest and a channel of the host.

use super::Console;
use super::receive::Receive;
use super::transmit::Transmit;
use crate::virtio;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
use sync::{Interrupt, Mutex, OnceCell, WaitError, WaitQueue};

/// How long an operation waits.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all: [`PortError::WouldBlock`] instead.
    No,
    /// Until it can be done, the deadline (monotonic nanoseconds) passes, or a signal arrives if those are allowed.
    Until(Option<u64>, Interrupt),
}

impl Wait {
    /// As long as it takes; signals do not matter.
    pub const FOREVER: Self = Self::Until(None, Interrupt::Ignored);
    /// As long as it takes, or until a signal arrives.
    pub const INTERRUPTIBLE: Self = Self::Until(None, Interrupt::Allowed);
}

/// Why a port did not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortError {
    /// It would have to wait (EAGAIN).
    WouldBlock,
    /// The deadline passed (ETIMEDOUT).
    TimedOut,
    /// A signal arrived before anything was done (EINTR or restart).
    Interrupted,
    /// The host closed the channel: nobody will read what is written (EPIPE).
    Closed,
    /// The device does not work any more, or there was no memory for its buffers (EIO).
    Device(virtio::Error),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the port is not ready"),
            Self::TimedOut => f.write_str("the port did not get ready in time"),
            Self::Interrupted => f.write_str("interrupted by a signal"),
            Self::Closed => f.write_str("the host closed the port"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PortError {}

impl From<virtio::Error> for PortError {
    fn from(error: virtio::Error) -> Self {
        Self::Device(error)
    }
}

impl From<WaitError> for PortError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => Self::TimedOut,
            WaitError::Interrupted => Self::Interrupted,
        }
    }
}

/// The host's end of a port, as last announced.
const HOST_UNKNOWN: u8 = 0;
const HOST_OPEN: u8 = 1;
const HOST_CLOSED: u8 = 2;

/// The driver's state of a port. Locks: `receive` and `transmit` are never held together, and nothing else is locked
/// under them. `host` is written by the interrupt thread alone.
pub(super) struct PortState {
    pub(super) name: OnceCell<String>,
    host: AtomicU8,
    pub(super) receive: Mutex<Receive>,
    pub(super) transmit: Mutex<Transmit>,
    /// Woken when data came or the host's end changed.
    pub(super) readable: WaitQueue,
    /// Woken when room became free or the host's end changed.
    pub(super) writable: WaitQueue,
}

impl PortState {
    pub(super) fn new(receive: Receive, transmit: Transmit) -> Self {
        Self {
            name: OnceCell::new(),
            host: AtomicU8::new(HOST_UNKNOWN),
            receive: Mutex::new(receive),
            transmit: Mutex::new(transmit),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        }
    }

    pub(super) fn set_host_open(&self, open: bool) {
        self.host.store(if open { HOST_OPEN } else { HOST_CLOSED }, Ordering::Release);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.readable.wake_all();
        self.writable.wake_all();
    }

    fn host_closed(&self) -> bool {
        self.host.load(Ordering::Acquire) == HOST_CLOSED
    }

    fn host_open(&self) -> bool {
        self.host.load(Ordering::Acquire) == HOST_OPEN
    }

    /// Collects from both queues; called by the interrupt thread.
    pub(super) fn service(&self) -> Result<(), virtio::Error> {
        let has_data = {
            let mut receive = self.receive.lock();
            receive.collect()?;
            receive.has_data()
        };
        if has_data {
            self.readable.wake_all();
        }
        self.service_transmit()?;
        self.writable.wake_all();
        Ok(())
    }

    /// Asks for further interrupts only while somebody waits. A waiter is linked before it arms under this lock, so
    /// either it is seen here, or it arms after we disarmed.
    fn service_transmit(&self) -> Result<(), virtio::Error> {
        let mut transmit = self.transmit.lock();
        if self.writable.has_waiters() {
            transmit.collect_and_arm()?;
        } else {
            transmit.collect()?;
            transmit.disarm();
        }
        Ok(())
    }
}

/// A port of a console, found by [`Console::port`] or [`Console::wait_port`].
#[derive(Clone)]
pub struct Port {
    pub(super) console: Arc<Console>,
    pub(super) index: usize,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({}, {:?})", self.index, self.name())
    }
}

impl Port {
    fn state(&self) -> &PortState {
        &self.console.ports[self.index]
    }

    /// The name the host gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.state().name.get().map_or("", String::as_str)
    }

    /// Reads what is there, waiting for the first byte. 0 means the end: the host closed its side and everything was
    /// read (or `buffer` is empty).
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`PortError`], but not `Closed`.
    pub fn read(&self, buffer: &mut [u8], wait: Wait) -> Result<usize, PortError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match wait {
            Wait::No => self.try_read(buffer).unwrap_or(Err(PortError::WouldBlock)),
            Wait::Until(deadline, interrupt) => {
                self.state().readable.wait_until(deadline, interrupt, || self.try_read(buffer))?
            }
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> Option<Result<usize, PortError>> {
        // The host's end is looked at before the data: what came before the end is read before the end.
        let closed = self.state().host_closed();
        match self.console.checked(|| self.read_some(buffer)) {
            Ok(0) if closed => Some(Ok(0)),
            Ok(0) => None,
            Ok(n) => Some(Ok(n)),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn read_some(&self, buffer: &mut [u8]) -> Result<usize, virtio::Error> {
        let mut receive = self.state().receive.lock();
        let fresh = receive.collect()?;
        let n = receive.read(&*self.console.transport, buffer)?;
        drop(receive);
        self.pass_on(fresh);
        Ok(n)
    }

    /// Having collected buffers ourselves, the device may not interrupt for them: other sleepers must hear of it.
    fn pass_on(&self, fresh: bool) {
        if fresh {
            self.state().readable.wake_all();
        }
    }

    /// Writes `data`: all of it when waiting is allowed, what there is room for otherwise. Pieces of up to 4 KiB are
    /// not split or mixed with others'. A deadline or signal in the middle gives the number of bytes written so far.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`PortError`], when nothing was written.
    pub fn write(&self, data: &[u8], wait: Wait) -> Result<usize, PortError> {
        let mut done = 0;
        while done < data.len() {
            let step = match wait {
                Wait::No => self.try_write(&data[done..]).unwrap_or(Err(PortError::WouldBlock)),
                Wait::Until(deadline, interrupt) => self.wait_write(&data[done..], deadline, interrupt),
            };
            match step {
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn wait_write(&self, data: &[u8], deadline: Option<u64>, interrupt: Interrupt) -> Result<usize, PortError> {
        if let Some(result) = self.try_write(data) {
            return result;
        }
        let result = self.state().writable.wait_until(deadline, interrupt, || self.try_write_armed(data));
        let mut transmit = self.state().transmit.lock();
        if !self.state().writable.has_waiters() {
            transmit.disarm();
        }
        drop(transmit);
        result?
    }

    /// Writes what there is room for; `None` without room.
    fn try_write(&self, data: &[u8]) -> Option<Result<usize, PortError>> {
        if self.state().host_closed() {
            return Some(Err(PortError::Closed));
        }
        let written = self.console.checked(|| {
            let mut transmit = self.state().transmit.lock();
            transmit.add_memory(&*self.console.memory)?;
            transmit.collect()?;
            transmit.write(&*self.console.transport, data)
        });
        match written {
            Ok(0) => None,
            Ok(n) => Some(Ok(n)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// The same for one who will sleep on `None`: the device has been asked to interrupt when it has sent something.
    fn try_write_armed(&self, data: &[u8]) -> Option<Result<usize, PortError>> {
        if let Err(error) = self.arm() {
            return Some(Err(error.into()));
        }
        self.try_write(data)
    }

    fn arm(&self) -> Result<(), virtio::Error> {
        let fresh = self.console.checked(|| self.state().transmit.lock().collect_and_arm())?;
        if fresh {
            // As in `pass_on`.
            self.state().writable.wake_all();
        }
        Ok(())
    }

    /// Waits until the device has sent everything written before.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`PortError::TimedOut`] at the monotonic deadline, [`PortError::Device`].
    pub fn flush(&self, deadline_ns: Option<u64>) -> Result<(), PortError> {
        let idle = || match self.arm() {
            Ok(()) => self.state().transmit.lock().is_idle().then_some(Ok(())),
            Err(error) => Some(Err(error.into())),
        };
        self.state().writable.wait_until(deadline_ns, Interrupt::Ignored, idle)?
    }

    /// Whether a read would return at once: with data, the end, or an error.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let closed = self.state().host_closed();
        closed || self.console.checked(|| self.collect_available()).is_ok_and(|n| n > 0) || self.console.is_broken()
    }

    fn collect_available(&self) -> Result<usize, virtio::Error> {
        let mut receive = self.state().receive.lock();
        let fresh = receive.collect()?;
        let available = receive.available();
        drop(receive);
        self.pass_on(fresh);
        Ok(available)
    }

    /// Whether a write of up to 4 KiB would return at once. When not, the write queue is woken once it would.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.state().host_closed()
            || self.arm().is_err()
            || self.state().transmit.lock().has_room()
    }

    /// Bytes that can be read at once (FIONREAD).
    #[must_use]
    pub fn available(&self) -> usize {
        self.console.checked(|| self.collect_available()).unwrap_or(0)
    }

    /// Whether the host has its end open at this moment.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().host_open()
    }

    /// Whether the host had its end open and closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().host_closed()
    }

    /// Woken whenever [`Self::is_readable`] may have become true.
    #[must_use]
    pub fn read_queue(&self) -> &WaitQueue {
        &self.state().readable
    }

    /// Woken whenever [`Self::is_writable`] may have become true.
    #[must_use]
    pub fn write_queue(&self) -> &WaitQueue {
        &self.state().writable
    }
}
