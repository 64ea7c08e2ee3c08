//! The user's terminal: raw mode that is always undone, window size, the escape key, and oxv's own messages.
//!
//! Raw mode is state of the terminal, not of this process, so it must be undone on every way out: [`RawMode`] does so when
//! dropped, a panic hook before a panic's message is printed (panics abort, so nothing is dropped), and signals end the
//! session's event loop (`session.rs`) instead of the process.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::control::ToGuest;

/// The terminal's state before raw mode, while in it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// Ctrl-A, the escape key.
const ESCAPE: u8 = 0x01;

/// The terminal on standard input is in raw mode while this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches to raw mode.
    ///
    /// # Errors
    /// Those of tcsetattr(3).
    pub(crate) fn enter() -> io::Result<RawMode> {
        PANIC_HOOK.call_once(|| {
            let default = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                default(info);
            }));
        });
        let saved = tcgetattr(io::stdin())?;
        *lock() = Some(saved.clone());
        set_raw(saved)?;
        Ok(RawMode(()))
    }

    /// Switches again after the process was stopped and continued; the shell has changed the mode in between.
    pub(crate) fn again(&self) {
        if let Some(saved) = lock().clone() {
            // The terminal may be gone; then reading from it ends the session.
            let _ = set_raw(saved);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn set_raw(mut mode: Termios) -> io::Result<()> {
    mode.make_raw();
    Ok(tcsetattr(io::stdin(), OptionalActions::Now, &mode)?)
}

/// Undoes raw mode, if it is on.
pub(crate) fn restore() {
    if let Some(saved) = lock().take() {
        // Nothing can be done if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &saved);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a message of oxv itself on standard error; lines after the first have no prefix.
pub(crate) fn say(text: &str) {
    write_lines(&format!("oxv: {text}"));
}

/// Prints lines as they are on standard error.
pub(crate) fn print(text: &str) {
    write_lines(text);
}

fn write_lines(text: &str) {
    let end = if lock().is_some() { "\r\n" } else { "\n" };
    let lines: String = text.lines().map(|line| format!("{line}{end}")).collect();
    // A closed standard error is no reason to stop.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// The window's size as a message for the guest, if standard output is a terminal.
pub(crate) fn window_size() -> Option<ToGuest> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0).then_some(ToGuest::WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Which of the guest's standard streams are terminals, and whether this terminal goes to raw mode.
///
/// The guest has one terminal, whose output is its standard output. So it is used only where ours is a terminal too; typed
/// lines are then edited here, by our own terminal, if it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminals {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Terminals {
    /// Looks at our own standard streams.
    pub(crate) fn of_this_process() -> Terminals {
        Terminals::choose(io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal())
    }

    fn choose(stdin: bool, stdout: bool, stderr: bool) -> Terminals {
        Terminals { stdin: stdin && stdout, stdout, stderr: stderr && stdout }
    }

    /// The kernel's `stdio=` value.
    pub(crate) fn letters(self) -> String {
        [self.stdin, self.stdout, self.stderr].map(|terminal| if terminal { 't' } else { 'p' }).iter().collect()
    }
}

/// What typed bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Bytes(Vec<u8>),
    /// Ctrl-A x.
    Leave,
}

/// Finds the escape sequences in what is typed.
#[derive(Debug, Default)]
pub(crate) struct EscapeFilter {
    pending: bool,
}

impl EscapeFilter {
    /// Filters one read's worth of bytes: Ctrl-A x leaves, Ctrl-A Ctrl-A is one Ctrl-A, Ctrl-A and another key are both.
    pub(crate) fn filter(&mut self, input: &[u8]) -> Typed {
        let mut output = Vec::with_capacity(input.len());
        for &byte in input {
            match (std::mem::take(&mut self.pending), byte) {
                (true, b'x' | b'X') => return Typed::Leave,
                (true, ESCAPE) => output.push(ESCAPE),
                (true, other) => output.extend([ESCAPE, other]),
                (false, ESCAPE) => self.pending = true,
                (false, other) => output.push(other),
            }
        }
        Typed::Bytes(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_found_across_reads() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.filter(b"ab\x01"), Typed::Bytes(b"ab".into()));
        assert_eq!(filter.filter(b"\x01c"), Typed::Bytes(b"\x01c".into()));
        assert_eq!(filter.filter(b"\x01b"), Typed::Bytes(b"\x01b".into()));
        assert_eq!(filter.filter(b"\x01"), Typed::Bytes(vec![]));
        assert_eq!(filter.filter(b"x"), Typed::Leave);
    }

    #[test]
    fn the_guest_has_a_terminal_only_where_its_output_can_go() {
        assert_eq!(Terminals::choose(true, true, true).letters(), "ttt");
        assert_eq!(Terminals::choose(true, false, true).letters(), "ppp");
        assert_eq!(Terminals::choose(false, true, false).letters(), "ptp");
    }
}
