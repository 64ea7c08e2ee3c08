//! [`Common`]: what every socket has, and the `SOL_SOCKET` options that mean the same for all families.
//!
//! Everything is an atomic of its own: options do not depend on each other.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::{Errno, Kind, Result};

/// `SOL_SOCKET`
pub const SOL_SOCKET: u32 = 1;

/// Names of `SOL_SOCKET` options.
pub mod name {
    #![expect(missing_docs, reason = "Linux's names")]
    pub const SO_DEBUG: u32 = 1;
    pub const SO_REUSEADDR: u32 = 2;
    pub const SO_TYPE: u32 = 3;
    pub const SO_ERROR: u32 = 4;
    pub const SO_DONTROUTE: u32 = 5;
    pub const SO_BROADCAST: u32 = 6;
    pub const SO_SNDBUF: u32 = 7;
    pub const SO_RCVBUF: u32 = 8;
    pub const SO_KEEPALIVE: u32 = 9;
    pub const SO_OOBINLINE: u32 = 10;
    pub const SO_NO_CHECK: u32 = 11;
    pub const SO_PRIORITY: u32 = 12;
    pub const SO_LINGER: u32 = 13;
    pub const SO_BSDCOMPAT: u32 = 14;
    pub const SO_REUSEPORT: u32 = 15;
    pub const SO_PASSCRED: u32 = 16;
    pub const SO_PEERCRED: u32 = 17;
    pub const SO_RCVLOWAT: u32 = 18;
    pub const SO_SNDLOWAT: u32 = 19;
    pub const SO_RCVTIMEO: u32 = 20;
    pub const SO_SNDTIMEO: u32 = 21;
    pub const SO_PEERNAME: u32 = 28;
    pub const SO_TIMESTAMP: u32 = 29;
    pub const SO_ACCEPTCONN: u32 = 30;
    pub const SO_SNDBUFFORCE: u32 = 32;
    pub const SO_RCVBUFFORCE: u32 = 33;
    pub const SO_TIMESTAMPNS: u32 = 35;
    pub const SO_MARK: u32 = 36;
    pub const SO_PROTOCOL: u32 = 38;
    pub const SO_DOMAIN: u32 = 39;
    pub const SO_RXQ_OVFL: u32 = 40;
    pub const SO_PEEK_OFF: u32 = 42;
    pub const SO_BUSY_POLL: u32 = 46;
    pub const SO_PEERGROUPS: u32 = 59;
    pub const SO_RCVTIMEO_NEW: u32 = 66;
    pub const SO_SNDTIMEO_NEW: u32 = 67;
    pub const SO_PEERPIDFD: u32 = 77;
}
use name::*;

/// `/proc/sys/net/core/wmem_default` and `rmem_default`.
pub const DEFAULT_BUFFER: u32 = 212_992;
/// `/proc/sys/net/core/wmem_max` and `rmem_max`.
pub const MAX_BUFFER: u32 = 212_992;
/// Smallest limits, as Linux rounds up to.
const MIN_SEND_BUFFER: u32 = 4608;
const MIN_RECEIVE_BUFFER: u32 = 2304;

/// Options that are switches without effect on local sockets (or whose effect is the family's business).
const SWITCHES: [u32; 13] = [
    SO_DEBUG, SO_REUSEADDR, SO_DONTROUTE, SO_BROADCAST, SO_KEEPALIVE, SO_OOBINLINE, SO_NO_CHECK, SO_REUSEPORT, SO_PASSCRED,
    SO_TIMESTAMP, SO_TIMESTAMPNS, SO_RXQ_OVFL, SO_BSDCOMPAT,
];

/// An option's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// An `int`.
    Int(i32),
    /// A structure.
    Bytes(Vec<u8>),
}

impl Value {
    /// As the program sees it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Int(value) => value.to_le_bytes().to_vec(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What every socket has.
pub struct Common {
    domain: u16,
    kind: Kind,
    protocol: u32,
    error: AtomicU16,
    /// Bit n: the switch with number n is on.
    switches: AtomicU64,
    send_limit: AtomicU32,
    receive_limit: AtomicU32,
    send_timeout_ns: AtomicU64,
    receive_timeout_ns: AtomicU64,
    receive_low_water: AtomicI32,
    priority: AtomicI32,
    mark: AtomicI32,
    linger: [AtomicI32; 2],
    peek_offset: AtomicI32,
    accepts: AtomicBool,
}

/// The `int` at the start of an option's value.
///
/// # Errors
/// `EINVAL` when it is shorter.
pub fn int(value: &[u8]) -> Result<i32> {
    value.first_chunk().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
}

impl Common {
    /// A new socket of this sort.
    #[must_use]
    pub fn new(domain: u16, kind: Kind, protocol: u32) -> Self {
        Self {
            domain,
            kind,
            protocol,
            error: AtomicU16::new(0),
            switches: AtomicU64::new(0),
            send_limit: AtomicU32::new(DEFAULT_BUFFER),
            receive_limit: AtomicU32::new(DEFAULT_BUFFER),
            send_timeout_ns: AtomicU64::new(0),
            receive_timeout_ns: AtomicU64::new(0),
            receive_low_water: AtomicI32::new(1),
            priority: AtomicI32::new(0),
            mark: AtomicI32::new(0),
            linger: [const { AtomicI32::new(0) }; 2],
            peek_offset: AtomicI32::new(-1),
            accepts: AtomicBool::new(false),
        }
    }

    /// The address family.
    #[must_use]
    pub fn domain(&self) -> u16 {
        self.domain
    }

    /// What it carries.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Notes an error for the next call, or for `SO_ERROR`.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.0, Ordering::Release);
    }

    /// The pending error, which is forgotten.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        if !self.has_error() {
            return None;
        }
        let error = self.error.swap(0, Ordering::AcqRel);
        (error != 0).then_some(Errno(error))
    }

    /// Whether an error is pending.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::Acquire) != 0
    }

    /// Whether the switch `option` is on.
    #[must_use]
    pub fn is_on(&self, option: u32) -> bool {
        self.switches.load(Ordering::Relaxed) & 1 << option != 0
    }

    /// Turns the switch `option` on or off.
    fn switch(&self, option: u32, on: i32) {
        if on != 0 {
            self.switches.fetch_or(1 << option, Ordering::Relaxed);
        } else {
            self.switches.fetch_and(!(1 << option), Ordering::Relaxed);
        }
    }

    /// Bytes that may be on their way.
    #[must_use]
    pub fn send_limit(&self) -> usize {
        self.send_limit.load(Ordering::Relaxed) as usize
    }

    /// `SO_SNDTIMEO` in nanoseconds, 0 for none.
    #[must_use]
    pub fn send_timeout_ns(&self) -> u64 {
        self.send_timeout_ns.load(Ordering::Relaxed)
    }

    /// `SO_RCVTIMEO` in nanoseconds, 0 for none.
    #[must_use]
    pub fn receive_timeout_ns(&self) -> u64 {
        self.receive_timeout_ns.load(Ordering::Relaxed)
    }

    /// Where `MSG_PEEK` begins, if `SO_PEEK_OFF` was set.
    #[must_use]
    pub fn peek_offset(&self) -> Option<usize> {
        usize::try_from(self.peek_offset.load(Ordering::Relaxed)).ok()
    }

    /// Moves [`Common::peek_offset`], if it is set: forwards after peeking, backwards after taking.
    pub fn move_peek_offset(&self, by: isize) {
        if self.peek_offset.load(Ordering::Relaxed) < 0 {
            return;
        }
        let _ = self.peek_offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let moved = (old as isize + by).clamp(0, i32::MAX as isize) as i32;
            (old >= 0).then_some(moved)
        });
    }

    /// The socket listens: `SO_ACCEPTCONN`.
    pub fn set_accepts(&self) {
        self.accepts.store(true, Ordering::Relaxed);
    }

    /// What an accepted socket has from the one that listened.
    pub fn inherit(&self, listener: &Self) {
        let switches = listener.switches.load(Ordering::Relaxed) & 1 << SO_PASSCRED;
        self.switches.store(switches, Ordering::Relaxed);
    }

    /// A `SOL_SOCKET` option; `None`: not one of those that all have.
    #[must_use]
    pub fn option(&self, option: u32) -> Option<Value> {
        let value = match option {
            SO_TYPE => self.kind.number() as i32,
            SO_DOMAIN => i32::from(self.domain),
            SO_PROTOCOL => self.protocol as i32,
            SO_ERROR => self.take_error().map_or(0, |error| i32::from(error.0)),
            SO_ACCEPTCONN => i32::from(self.accepts.load(Ordering::Relaxed)),
            SO_SNDBUF => self.send_limit.load(Ordering::Relaxed) as i32,
            SO_RCVBUF => self.receive_limit.load(Ordering::Relaxed) as i32,
            SO_RCVLOWAT => self.receive_low_water.load(Ordering::Relaxed),
            SO_SNDLOWAT => 1,
            SO_PRIORITY => self.priority.load(Ordering::Relaxed),
            SO_MARK => self.mark.load(Ordering::Relaxed),
            SO_PEEK_OFF => self.peek_offset.load(Ordering::Relaxed),
            SO_BUSY_POLL => 0,
            SO_LINGER => {
                let words = self.linger.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
                return Some(Value::Bytes(words.collect()));
            }
            SO_RCVTIMEO | SO_RCVTIMEO_NEW => return Some(timeval(self.receive_timeout_ns())),
            SO_SNDTIMEO | SO_SNDTIMEO_NEW => return Some(timeval(self.send_timeout_ns())),
            _ if SWITCHES.contains(&option) => i32::from(self.is_on(option)),
            _ => return None,
        };
        Some(Value::Int(value))
    }

    /// Sets a `SOL_SOCKET` option.
    ///
    /// # Errors
    /// `EINVAL` for short values, `EDOM` for bad times, `ENOPROTOOPT` for what cannot be set.
    pub fn set_option(&self, option: u32, value: &[u8]) -> Result<()> {
        let number = int(value)?;
        match option {
            SO_SNDBUF | SO_SNDBUFFORCE => self.send_limit.store(buffer(number, option, MIN_SEND_BUFFER), Ordering::Relaxed),
            SO_RCVBUF | SO_RCVBUFFORCE => {
                self.receive_limit.store(buffer(number, option, MIN_RECEIVE_BUFFER), Ordering::Relaxed);
            }
            SO_RCVLOWAT => {
                let low = if number < 0 { i32::MAX } else { number.max(1) };
                self.receive_low_water.store(low, Ordering::Relaxed);
            }
            SO_PRIORITY => self.priority.store(number, Ordering::Relaxed),
            SO_MARK => self.mark.store(number, Ordering::Relaxed),
            SO_PEEK_OFF => self.peek_offset.store(number.max(-1), Ordering::Relaxed),
            SO_BUSY_POLL => {}
            SO_LINGER => {
                let seconds = int(value.get(4..).unwrap_or_default())?;
                self.linger[0].store(i32::from(number != 0), Ordering::Relaxed);
                self.linger[1].store(seconds, Ordering::Relaxed);
            }
            SO_RCVTIMEO | SO_RCVTIMEO_NEW => self.receive_timeout_ns.store(timeout_ns(value)?, Ordering::Relaxed),
            SO_SNDTIMEO | SO_SNDTIMEO_NEW => self.send_timeout_ns.store(timeout_ns(value)?, Ordering::Relaxed),
            _ if SWITCHES.contains(&option) => self.switch(option, number),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

/// Linux doubles what is asked for, to leave room for its own book-keeping, and shows the double.
fn buffer(asked: i32, option: u32, min: u32) -> u32 {
    let forced = matches!(option, SO_SNDBUFFORCE | SO_RCVBUFFORCE);
    let asked = if forced { asked.max(0) as u32 } else { (asked as u32).min(MAX_BUFFER) };
    asked.min(i32::MAX as u32 / 2).saturating_mul(2).max(min)
}

fn timeval(ns: u64) -> Value {
    let words = [ns / 1_000_000_000, ns % 1_000_000_000 / 1000];
    Value::Bytes(words.into_iter().flat_map(u64::to_le_bytes).collect())
}

/// A `struct timeval` in nanoseconds; a negative time means "hardly any".
fn timeout_ns(value: &[u8]) -> Result<u64> {
    let (Some(seconds), Some(micros)) = (value.first_chunk::<8>(), value.get(8..).and_then(|rest| rest.first_chunk::<8>()))
    else {
        return Err(Errno::EINVAL);
    };
    let (seconds, micros) = (i64::from_le_bytes(*seconds), i64::from_le_bytes(*micros));
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM);
    }
    if seconds < 0 {
        return Ok(1);
    }
    Ok((seconds as u64).saturating_mul(1_000_000_000).saturating_add(micros as u64 * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn common() -> Common {
        Common::new(1, Kind::Stream, 0)
    }

    #[test]
    fn buffers_are_doubled_and_bounded() {
        let common = common();
        for (asked, shown) in [(10_000, 20_000), (1, 4608), (10_000_000, 425_984), (-1, 425_984)] {
            common.set_option(SO_SNDBUF, &i32::to_le_bytes(asked)).unwrap();
            assert_eq!(common.option(SO_SNDBUF), Some(Value::Int(shown)), "{asked}");
        }
    }

    #[test]
    fn timeouts_come_back_as_they_were_set() {
        let common = common();
        let bytes: Vec<u8> = [3_u64, 250_000].into_iter().flat_map(u64::to_le_bytes).collect();
        common.set_option(SO_RCVTIMEO, &bytes).unwrap();
        assert_eq!(common.receive_timeout_ns(), 3_250_000_000);
        assert_eq!(common.option(SO_RCVTIMEO), Some(Value::Bytes(bytes.clone())));
        assert_eq!(common.set_option(SO_RCVTIMEO, &bytes[..12]), Err(Errno::EINVAL));
        let bad: Vec<u8> = [0_u64, 1_000_000].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(common.set_option(SO_SNDTIMEO, &bad), Err(Errno::EDOM));
    }

    #[test]
    fn an_error_is_told_once() {
        let common = common();
        common.set_error(Errno::ECONNRESET);
        assert_eq!(common.option(SO_ERROR), Some(Value::Int(104)));
        assert_eq!(common.option(SO_ERROR), Some(Value::Int(0)));
    }

    #[test]
    fn switches_are_told_apart() {
        let common = common();
        common.set_option(SO_PASSCRED, &1_i32.to_le_bytes()).unwrap();
        let on: Vec<u32> = SWITCHES.into_iter().filter(|option| common.is_on(*option)).collect();
        assert_eq!(on, vec![SO_PASSCRED]);
        assert_eq!(common.set_option(SO_TYPE, &1_i32.to_le_bytes()), Err(Errno::ENOPROTOOPT));
        assert_eq!(common.option(9999), None);
    }
}
