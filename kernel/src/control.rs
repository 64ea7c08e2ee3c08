//! The control port: framed messages between the kernel and the `oxv` program on the host.
//!
//! A frame is a little-endian u32 length and that many bytes: one byte of type, then the body. To the host: exit status,
//! reports, errors. From the host: window size, signals, the wish to end.

use crate::power::ExitStatus;
use crate::thread::{self, Class};
use alloc::vec::Vec;
use drivers::virtio_console::{Port, Wait};
use sync::{Mutex, OnceCell};

const TO_HOST_EXIT: u8 = 1;
const TO_HOST_REPORT: u8 = 2;
const TO_HOST_BOOT: u8 = 4;
const TO_HOST_ERROR: u8 = 5;
const FROM_HOST_WINDOW: u8 = 1;
const FROM_HOST_SIGNAL: u8 = 2;
const FROM_HOST_SHUTDOWN: u8 = 3;

/// Longest message accepted from the host, in bytes.
const MAX_MESSAGE: usize = 4096;
/// How long the last output may take to reach the host: a reader that is slow must not lose any, one that is stuck must
/// not keep the machine alive for ever.
const FLUSH_LIMIT_NS: u64 = 600_000_000_000;

/// What the host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// The terminal has this size.
    WindowSize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Deliver this signal to the program.
    Signal(u32),
    /// End the program.
    Shutdown,
}

static PORT: OnceCell<Port> = OnceCell::new();
static SENDING: Mutex<()> = Mutex::new(());
static HANDLER: OnceCell<fn(Message)> = OnceCell::new();

/// Opens the port and starts listening. Without one, messages go to the log.
pub(crate) fn start() {
    match crate::devices::port("control") {
        Ok(port) => {
            let _first = PORT.set(port);
            if let Err(error) = thread::spawn("control", Class::Normal, listen) {
                log::error!("the host's messages will not be heard: {error}");
            }
        }
        Err(error) => log::warn!("no control port: {error}"),
    }
}

/// Sets who gets the host's messages. They are dropped until then.
pub fn on_message(handler: fn(Message)) {
    let _first = HANDLER.set(handler);
}

fn listen() {
    let Some(port) = PORT.get() else { return };
    while let Some(payload) = read_frame(port) {
        match (parse(&payload), HANDLER.get()) {
            (Some(message), Some(handler)) => handler(message),
            (Some(_), None) => {}
            (None, _) => log::warn!("unknown message from the host: {payload:02x?}"),
        }
    }
}

fn read_frame(port: &Port) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    read_exact(port, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        log::error!("a message of {length} bytes from the host: not listening any more");
        return None;
    }
    let mut payload = alloc::vec![0; length];
    read_exact(port, &mut payload)?;
    Some(payload)
}

fn read_exact(port: &Port, mut buffer: &mut [u8]) -> Option<()> {
    while !buffer.is_empty() {
        let n = port.read(buffer, Wait::FOREVER).ok().filter(|&n| n > 0)?;
        buffer = &mut buffer[n..];
    }
    Some(())
}

fn parse(payload: &[u8]) -> Option<Message> {
    match *payload {
        [FROM_HOST_WINDOW, r0, r1, c0, c1] => {
            Some(Message::WindowSize { rows: u16::from_le_bytes([r0, r1]), columns: u16::from_le_bytes([c0, c1]) })
        }
        [FROM_HOST_SIGNAL, a, b, c, d] => Some(Message::Signal(u32::from_le_bytes([a, b, c, d]))),
        [FROM_HOST_SHUTDOWN] => Some(Message::Shutdown),
        _ => None,
    }
}

fn send(kind: u8, body: &[u8]) {
    let Some(port) = PORT.get() else {
        return log::error!("message {kind} for the host: {}", alloc::string::String::from_utf8_lossy(body));
    };
    let mut frame = Vec::with_capacity(5 + body.len());
    frame.extend_from_slice(&(body.len() as u32 + 1).to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(body);
    let _one_at_a_time = SENDING.lock();
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        match port.write(rest, Wait::FOREVER) {
            Ok(n) => rest = &rest[n..],
            Err(error) => return log::error!("message {kind} for the host: {error}"),
        }
    }
}

/// Sends a block of text for the user: the report of a crash.
///
/// Context: may sleep.
pub fn send_report(text: &str) {
    send(TO_HOST_REPORT, text.as_bytes());
}

/// Sends an error for the user.
///
/// Context: may sleep.
pub fn send_error(text: &str) {
    send(TO_HOST_ERROR, text.as_bytes());
}

/// Sends boot times as JSON.
///
/// Context: may sleep.
pub fn send_boot_times(json: &str) {
    send(TO_HOST_BOOT, json.as_bytes());
}

pub(crate) fn send_exit(status: ExitStatus) {
    let (kind, code) = match status {
        ExitStatus::Exited(code) => (0u32, code),
        ExitStatus::Signalled(signal) => (1, signal),
        ExitStatus::Failed(code) => (2, code),
    };
    let mut body = [0; 8];
    body[..4].copy_from_slice(&kind.to_le_bytes());
    body[4..].copy_from_slice(&u32::from(code).to_le_bytes());
    // The program's own output first: the host may close everything once it has the status.
    crate::devices::flush_ports(FLUSH_LIMIT_NS);
    send(TO_HOST_EXIT, &body);
}

/// Waits until all messages have reached the host.
pub(crate) fn flush() {
    crate::devices::flush_ports(FLUSH_LIMIT_NS);
}
