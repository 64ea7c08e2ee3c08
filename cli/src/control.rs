//! The control port's framing: `u32` little-endian length of the payload, then a type byte and the body.
//!
//! The guest's side is in `linux/` and `drivers/`; both sides change together.

use std::io::{self, Read, Write};

/// No message is longer; a larger length means the stream is out of step.
const MAX_LENGTH: u32 = 16 << 20;

/// What the guest tells the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromGuest {
    Exit(Exit),
    /// A crash report of the program, to be printed with symbols added.
    Report(String),
    /// A line for `--verbose`.
    Log(String),
    /// The program is about to start; boot times as JSON.
    Ready(String),
    /// Why the program could not be started.
    Error(String),
    /// A type this version does not know.
    Unknown(u8),
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Exited(u32),
    Signalled(u32),
    /// The kernel could not start or go on with the program.
    Kernel(u32),
}

impl Exit {
    /// The shell's status for it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Exited(code) => code as u8,
            Exit::Signalled(signal) => 128u8.wrapping_add(signal as u8),
            Exit::Kernel(code @ 126..=127) => code as u8,
            Exit::Kernel(_) => 125,
        }
    }
}

/// What the host tells the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToGuest {
    WindowSize { rows: u16, columns: u16 },
    Signal(u32),
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// Those of the stream; `InvalidData` for a message that cannot be.
pub(crate) fn read(stream: &mut impl Read) -> io::Result<Option<FromGuest>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length == 0 || length > MAX_LENGTH {
        return Err(invalid());
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    decode(payload[0], &payload[1..]).map(Some)
}

fn decode(kind: u8, body: &[u8]) -> io::Result<FromGuest> {
    let text = || String::from_utf8_lossy(body).into_owned();
    Ok(match kind {
        1 => FromGuest::Exit(decode_exit(body)?),
        2 => FromGuest::Report(text()),
        3 => FromGuest::Log(text()),
        4 => FromGuest::Ready(text()),
        5 => FromGuest::Error(text()),
        other => FromGuest::Unknown(other),
    })
}

fn decode_exit(body: &[u8]) -> io::Result<Exit> {
    let word = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
    match (word(0), word(4)) {
        (Some(0), Some(code)) => Ok(Exit::Exited(code)),
        (Some(1), Some(signal)) => Ok(Exit::Signalled(signal)),
        (Some(2), Some(code)) => Ok(Exit::Kernel(code)),
        _ => Err(invalid()),
    }
}

/// Writes one message.
///
/// # Errors
/// Those of the stream.
pub(crate) fn write(stream: &mut impl Write, message: ToGuest) -> io::Result<()> {
    let (kind, body) = match message {
        ToGuest::WindowSize { rows, columns } => (1, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
        ToGuest::Signal(number) => (2, number.to_le_bytes().to_vec()),
    };
    let mut frame = (body.len() as u32 + 1).to_le_bytes().to_vec();
    frame.push(kind);
    frame.extend(body);
    stream.write_all(&frame)
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the guest sent a malformed control message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_le_bytes(), payload].concat()
    }

    #[test]
    fn messages_are_read_in_order_until_the_end() {
        let mut bytes = frame(&[4, b'{', b'}']);
        bytes.extend(frame(&[1, 1, 0, 0, 0, 11, 0, 0, 0]));
        let mut stream = &bytes[..];
        assert_eq!(read(&mut stream).expect("ready"), Some(FromGuest::Ready("{}".into())));
        assert_eq!(read(&mut stream).expect("exit"), Some(FromGuest::Exit(Exit::Signalled(11))));
        assert_eq!(read(&mut stream).expect("end"), None);
    }

    #[test]
    fn impossible_messages_are_errors() {
        for bytes in [frame(&[]), u32::MAX.to_le_bytes().to_vec(), frame(&[1, 0]), frame(&[1, 9, 0, 0, 0, 0, 0, 0, 0]), vec![5, 0, 0, 0, 1]] {
            assert!(read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(Exit::Exited(256 + 3).code(), 3);
        assert_eq!(Exit::Signalled(9).code(), 137);
        assert_eq!(Exit::Kernel(1).code(), 125);
    }

    #[test]
    fn window_sizes_are_written_as_agreed() {
        let mut bytes = Vec::new();
        write(&mut bytes, ToGuest::WindowSize { rows: 24, columns: 80 }).expect("write");
        assert_eq!(bytes, [5, 0, 0, 0, 1, 24, 0, 80, 0]);
    }
}
