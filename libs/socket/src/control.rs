//! Control messages (`cmsg(3)`): what a program puts beside the bytes of a message, and what it gets.
//!
//! [`parse`] reads bytes that a program made: everything in them is checked. [`Writer`] lays messages into the room the program has,
//! and says when there was not enough.

use alloc::vec::Vec;

use crate::options::SOL_SOCKET;
use crate::{Errno, Result, Ucred};

/// `SCM_RIGHTS`
const SCM_RIGHTS: u32 = 1;
/// `SCM_CREDENTIALS`
const SCM_CREDENTIALS: u32 = 2;
/// Most descriptors in one message.
pub const MAX_RIGHTS: usize = 253;
/// Bytes of `struct cmsghdr`: length, level, type.
const HEADER: usize = 16;
/// Most bytes of control data in one message (`/proc/sys/net/core/optmem_max`).
pub const MAX_CONTROL: usize = 131_072;

/// The next multiple of eight.
const fn align(len: usize) -> usize {
    (len + 7) & !7
}

/// What a program's control messages ask for.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Request {
    /// Descriptors to pass.
    pub rights: Vec<i32>,
    /// Who the program says it is.
    pub credentials: Option<Ucred>,
}

/// Reads the control data of a message to send over a local socket.
///
/// # Errors
/// `EINVAL` for messages that do not fit or that nobody knows, and for too many descriptors.
pub fn parse(mut bytes: &[u8]) -> Result<Request> {
    let mut request = Request::default();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let (len, rest) = header.split_at(8);
        let len = u64::from_le_bytes(len.try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        let (level, kind) = (word(0), word(4));
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let payload = bytes.get(HEADER..len).ok_or(Errno::EINVAL)?;
        if level == SOL_SOCKET {
            request.add(kind, payload)?;
        }
        bytes = bytes.get(align(len)..).unwrap_or_default();
    }
    Ok(request)
}

impl Request {
    fn add(&mut self, kind: u32, payload: &[u8]) -> Result<()> {
        match kind {
            SCM_RIGHTS => {
                // A part of a descriptor at the end is ignored, as on Linux.
                let numbers = payload.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
                if numbers.len() + self.rights.len() > MAX_RIGHTS {
                    return Err(Errno::EINVAL);
                }
                self.rights.extend(numbers);
            }
            SCM_CREDENTIALS => {
                let bytes = payload.try_into().map_err(|_| Errno::EINVAL)?;
                self.credentials = Some(Ucred::from_bytes(bytes));
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// Lays out control messages in a given room.
pub struct Writer {
    bytes: Vec<u8>,
    room: usize,
    truncated: bool,
}

impl Writer {
    /// For a program that has `room` bytes.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room, truncated: false }
    }

    /// How many descriptors fit now.
    #[must_use]
    pub fn rights_room(&self) -> usize {
        (self.room - self.bytes.len()).saturating_sub(HEADER) / 4
    }

    /// Who sent the message.
    pub fn credentials(&mut self, credentials: Ucred) {
        self.put(SCM_CREDENTIALS, &credentials.to_bytes());
    }

    /// Descriptors; the caller has made sure that they fit.
    pub fn rights(&mut self, numbers: &[i32]) {
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.put(SCM_RIGHTS, &payload);
    }

    /// Something did not fit.
    pub fn truncate(&mut self) {
        self.truncated = true;
    }

    fn put(&mut self, kind: u32, payload: &[u8]) {
        let room = self.room - self.bytes.len();
        if room < HEADER {
            self.truncated = true;
            return;
        }
        let wanted = HEADER + payload.len();
        let len = wanted.min(room);
        self.truncated |= len < wanted;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&(len as u64).to_le_bytes());
        self.bytes.extend_from_slice(&SOL_SOCKET.to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(&payload[..len - HEADER]);
        self.bytes.resize(start + align(wanted).min(room), 0);
    }

    /// The messages, and whether something is missing (`MSG_CTRUNC`).
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, bool) {
        (self.bytes, self.truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn message(level: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + payload.len()) as u64).to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(payload);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn what_was_written_is_read_again() {
        let who = Ucred { pid: 7, uid: 1000, gid: 100 };
        let mut writer = Writer::new(100);
        writer.credentials(who);
        writer.rights(&[3, 4, 5]);
        let (bytes, truncated) = writer.finish();
        assert!(!truncated && bytes.len() == 32 + 32);
        assert_eq!(parse(&bytes), Ok(Request { rights: vec![3, 4, 5], credentials: Some(who) }));
    }

    #[test]
    fn too_little_room_cuts_and_says_so() {
        let who = Ucred { pid: 1, uid: 2, gid: 3 };
        for room in 0..28 {
            let mut writer = Writer::new(room);
            writer.credentials(who);
            let (bytes, truncated) = writer.finish();
            assert!(truncated && bytes.len() == if room < HEADER { 0 } else { room }, "{room}");
        }
        let mut writer = Writer::new(28);
        writer.credentials(who);
        assert_eq!((writer.rights_room(), writer.finish().1), (0, false));
        assert_eq!(Writer::new(27).rights_room(), 2);
    }

    #[test]
    fn bad_messages_are_refused() {
        assert_eq!(parse(&message(SOL_SOCKET, 77, &[])), Err(Errno::EINVAL));
        assert_eq!(parse(&message(SOL_SOCKET, SCM_CREDENTIALS, &[0; 11])), Err(Errno::EINVAL));
        assert_eq!(parse(&message(SOL_SOCKET, SCM_RIGHTS, &[0; 4 * 254])), Err(Errno::EINVAL));
        assert_eq!(parse(&message(SOL_SOCKET, SCM_RIGHTS, &[0; 4 * 253])).map(|r| r.rights.len()), Ok(253));
        assert_eq!(parse(&message(41, 1, &[0; 4])), Ok(Request::default()), "another level's is not ours");
        for len in [0_u64, 15, 25, u64::MAX, 1 << 63] {
            let mut bytes = message(SOL_SOCKET, SCM_RIGHTS, &[0; 8]);
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            assert_eq!(parse(&bytes), Err(Errno::EINVAL), "{len}");
        }
    }

    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..100_000 {
            let len = next() as usize % 80;
            // Mostly small numbers, so that headers are plausible.
            let bytes: Vec<u8> = (0..len).map(|_| if next() % 4 == 0 { next() as u8 } else { (next() % 3) as u8 * 8 }).collect();
            if let Ok(request) = parse(&bytes) {
                assert!(request.rights.len() <= MAX_RIGHTS);
            }
        }
    }
}
