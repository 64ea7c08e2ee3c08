//! [`Discipline`]: what happens to the bytes typed at a terminal and to those a program prints. Pure logic.
//!
//! Canonical mode collects a line, with editing, and releases it at its end; `lines` holds the lengths of the released lines
//! in `ready`. Raw mode releases every byte. Echo goes into the caller's buffer.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::termios::{
    ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, ICANON, ICRNL, IEXTEN, IGNCR, INLCR, ISIG, ISTRIP, IUCLC, IUTF8, IXANY, IXON,
    NOFLSH, OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, Termios, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VQUIT,
    VREPRINT, VSTART, VSTOP, VSUSP, VWERASE, XTABS,
};

/// Most bytes kept for the program; more are dropped with a bell, as Linux does.
pub const INPUT_MAX: usize = 4096;

/// What a typed character asks for beyond being data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// `SIGINT` to the foreground.
    Interrupt,
    /// `SIGQUIT` to the foreground.
    Quit,
    /// `SIGTSTP` to the foreground.
    Suspend,
    /// Hold output.
    Stop,
    /// Let output go on.
    Start,
}

/// The state of a terminal's input.
#[derive(Default)]
pub struct Discipline {
    /// The settings.
    pub termios: Termios,
    /// The line being edited.
    line: Vec<u8>,
    /// Released bytes.
    ready: VecDeque<u8>,
    /// Lengths of the released lines, in canonical mode. A length of 0 is an end of file.
    lines: VecDeque<usize>,
    /// The next byte is meant literally.
    literal: bool,
    /// Output column, for tabs and rubbing out.
    column: usize,
}

impl Discipline {
    /// A terminal with the usual settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn canonical(&self) -> bool {
        self.termios.local(ICANON)
    }

    /// Takes one typed byte; what is to be shown goes to `echo`.
    pub fn input(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<Request> {
        let byte = if self.termios.iflag & ISTRIP != 0 { byte & 0x7f } else { byte };
        if core::mem::take(&mut self.literal) {
            self.data(byte, echo);
            return None;
        }
        if let Some(request) = self.request(byte, echo) {
            return Some(request);
        }
        let byte = self.translate(byte)?;
        if self.canonical() { self.edit(byte, echo) } else { self.data(byte, echo) }
        None
    }

    fn request(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<Request> {
        if self.termios.iflag & IXON != 0 {
            // VSTART first: where both are one character, it starts (Linux tells by what is the case).
            for (which, request) in [(VSTART, Request::Start), (VSTOP, Request::Stop)] {
                if self.termios.is(which, byte) {
                    return Some(request);
                }
            }
        }
        if !self.termios.local(ISIG) {
            return None;
        }
        let signals = [(VINTR, Request::Interrupt), (VQUIT, Request::Quit), (VSUSP, Request::Suspend)];
        let (_, request) = signals.into_iter().find(|(which, _)| self.termios.is(*which, byte))?;
        if !self.termios.local(NOFLSH) {
            self.flush_input();
        }
        self.echo(byte, echo);
        Some(request)
    }

    fn translate(&self, byte: u8) -> Option<u8> {
        let lower = self.termios.iflag & IUCLC != 0 && self.termios.local(IEXTEN);
        let byte = if lower { byte.to_ascii_lowercase() } else { byte };
        match byte {
            b'\r' if self.termios.iflag & IGNCR != 0 => None,
            b'\r' if self.termios.iflag & ICRNL != 0 => Some(b'\n'),
            b'\n' if self.termios.iflag & INLCR != 0 => Some(b'\r'),
            _ => Some(byte),
        }
    }

    /// A byte in canonical mode.
    fn edit(&mut self, byte: u8, echo: &mut Vec<u8>) {
        let extended = self.termios.local(IEXTEN);
        if self.termios.is(VERASE, byte) {
            self.erase_character(echo);
        } else if self.termios.is(VKILL, byte) {
            self.erase_line(echo);
        } else if extended && self.termios.is(VWERASE, byte) {
            self.erase_word(echo);
        } else if extended && self.termios.is(VREPRINT, byte) {
            self.reprint(echo);
        } else if extended && self.termios.is(VLNEXT, byte) {
            self.literal = true;
            if self.termios.local(ECHO) && self.termios.local(ECHOCTL) {
                self.show(b"^\x08", echo);
            }
        } else if self.termios.is(VEOF, byte) {
            self.release();
        } else {
            self.data(byte, echo);
            let end = byte == b'\n' || self.termios.is(VEOL, byte) || extended && self.termios.is(VEOL2, byte);
            if end {
                self.release();
            }
        }
    }

    /// A byte that is data.
    fn data(&mut self, byte: u8, echo: &mut Vec<u8>) {
        // A line can always be ended.
        let reserved = usize::from(self.canonical() && byte != b'\n');
        if self.line.len() + self.ready.len() >= INPUT_MAX - reserved {
            echo.push(7);
            return;
        }
        if byte == b'\n' && self.termios.local(ECHONL) && !self.termios.local(ECHO) {
            self.show(b"\n", echo);
        }
        self.echo(byte, echo);
        if self.canonical() {
            self.line.push(byte);
        } else {
            self.ready.push_back(byte);
        }
    }

    /// Hands the line being edited to the program.
    fn release(&mut self) {
        self.lines.push_back(self.line.len());
        self.ready.extend(self.line.drain(..));
    }

    fn echo(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if !self.termios.local(ECHO) {
            return;
        }
        if self.as_caret(byte) {
            self.show(&[b'^', byte ^ 0x40], echo);
        } else {
            self.show(&[byte], echo);
        }
    }

    /// Whether a byte echoes as ^X.
    fn as_caret(&self, byte: u8) -> bool {
        self.termios.local(ECHOCTL) && (byte < 32 && !matches!(byte, b'\n' | b'\t') || byte == 127)
    }

    /// Puts `bytes` on the screen as a program's output would be.
    fn show(&mut self, bytes: &[u8], echo: &mut Vec<u8>) {
        for &byte in bytes {
            self.output(byte, echo);
        }
    }

    /// Takes the last character (several bytes in UTF-8) off the line; returns its first byte.
    fn pop_character(&mut self) -> Option<u8> {
        let mut byte = self.line.pop()?;
        if self.termios.iflag & IUTF8 != 0 {
            while byte & 0xc0 == 0x80 {
                byte = self.line.pop().unwrap_or(b'?');
            }
        }
        Some(byte)
    }

    fn erase_character(&mut self, echo: &mut Vec<u8>) {
        if let Some(byte) = self.pop_character() {
            self.rub_out(byte, echo);
        }
    }

    fn rub_out(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if !self.termios.local(ECHO) {
            return;
        }
        if !self.termios.local(ECHOE) {
            self.echo(self.termios.cc[VERASE], echo);
            return;
        }
        let width = match byte {
            b'\t' => self.tab_width(),
            _ if self.as_caret(byte) => 2,
            0..32 => 0,
            _ => 1,
        };
        for _ in 0..width {
            echo.extend_from_slice(b"\x08 \x08");
            self.column = self.column.saturating_sub(1);
        }
    }

    /// How far the tab just taken off the line had moved the cursor, seen from the start of the line being edited.
    fn tab_width(&self) -> usize {
        let before = self.line.iter().fold(0, |column: usize, &byte| match byte {
            b'\t' => (column | 7) + 1,
            _ if self.as_caret(byte) => column + 2,
            _ if byte & 0xc0 == 0x80 => column,
            _ => column + 1,
        });
        8 - before % 8
    }

    fn erase_word(&mut self, echo: &mut Vec<u8>) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        while self.line.last().is_some_and(|&byte| !word(byte)) {
            self.erase_character(echo);
        }
        while self.line.last().is_some_and(|&byte| word(byte)) {
            self.erase_character(echo);
        }
    }

    fn erase_line(&mut self, echo: &mut Vec<u8>) {
        if self.termios.local(ECHOKE) && self.termios.local(ECHOE) {
            while !self.line.is_empty() {
                self.erase_character(echo);
            }
            return;
        }
        self.line.clear();
        self.echo(self.termios.cc[VKILL], echo);
        if self.termios.local(ECHOK) && self.termios.local(ECHO) {
            self.show(b"\n", echo);
        }
    }

    fn reprint(&mut self, echo: &mut Vec<u8>) {
        self.echo(self.termios.cc[VREPRINT], echo);
        self.show(b"\n", echo);
        for byte in self.line.clone() {
            self.echo(byte, echo);
        }
    }

    /// Turns one byte of output into what the terminal gets.
    pub fn output(&mut self, byte: u8, to: &mut Vec<u8>) {
        let flags = self.termios.oflag;
        if flags & OPOST == 0 {
            to.push(byte);
            return;
        }
        match byte {
            b'\n' => {
                if flags & ONLCR != 0 {
                    to.push(b'\r');
                }
                to.push(byte);
                if flags & (ONLCR | ONLRET) != 0 {
                    self.column = 0;
                }
            }
            b'\r' if flags & ONOCR != 0 && self.column == 0 => {}
            b'\r' => {
                let newline = flags & OCRNL != 0;
                to.push(if newline { b'\n' } else { byte });
                if !newline || flags & ONLRET != 0 {
                    self.column = 0;
                }
            }
            b'\t' => {
                let next = (self.column | 7) + 1;
                match flags & TABDLY {
                    XTABS => to.resize(to.len() + next - self.column, b' '),
                    _ => to.push(byte),
                }
                self.column = next;
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                to.push(byte);
            }
            0..32 => to.push(byte),
            _ => {
                to.push(if flags & OLCUC != 0 { byte.to_ascii_uppercase() } else { byte });
                // A character of several bytes takes one column.
                self.column += usize::from(self.termios.iflag & IUTF8 == 0 || byte & 0xc0 != 0x80);
            }
        }
    }

    /// Whether any typed character lets held output go on.
    #[must_use]
    pub const fn any_restarts(&self) -> bool {
        self.termios.iflag & IXON != 0 && self.termios.iflag & IXANY != 0
    }

    /// How many more bytes can be taken without losing any. While a line of which nothing can be read yet is too long, the answer is
    /// that of an empty terminal: waiting would be for ever, so what does not fit is dropped.
    #[must_use]
    pub fn room(&self) -> usize {
        let kept = self.line.len() + self.ready.len();
        if self.canonical() && self.lines.is_empty() { INPUT_MAX } else { INPUT_MAX.saturating_sub(kept) }
    }

    /// Whether a canonical read would return, or how many bytes a raw one would get.
    #[must_use]
    pub fn readable(&self) -> usize {
        if self.canonical() { usize::from(!self.lines.is_empty()) } else { self.ready.len() }
    }

    /// Bytes that can be read (`FIONREAD`).
    #[must_use]
    pub fn available(&self) -> usize {
        if self.canonical() { self.lines.iter().sum() } else { self.ready.len() }
    }

    /// The next bytes for the program, at most `max`: no more than one line in canonical mode. `None` = nothing there; an
    /// empty result is an end of file.
    pub fn take(&mut self, max: usize) -> Option<Vec<u8>> {
        if !self.canonical() {
            let n = self.ready.len().min(max);
            return (n > 0).then(|| self.ready.drain(..n).collect());
        }
        let line = self.lines.front_mut()?;
        let n = (*line).min(max);
        *line -= n;
        if *line == 0 {
            self.lines.pop_front();
        }
        Some(self.ready.drain(..n).collect())
    }

    /// Forgets all input.
    pub fn flush_input(&mut self) {
        self.line.clear();
        self.ready.clear();
        self.lines.clear();
    }

    /// Changes the settings. Input already typed is kept: going raw releases it, going canonical makes it a line.
    pub fn set_termios(&mut self, termios: Termios) {
        let was = self.canonical();
        self.termios = termios;
        if was && !self.canonical() {
            self.ready.extend(self.line.drain(..));
            self.lines.clear();
        } else if !was && self.canonical() && !self.ready.is_empty() {
            self.lines.push_back(self.ready.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tty::termios::VMIN;

    fn typed(discipline: &mut Discipline, bytes: &[u8]) -> Vec<u8> {
        let mut echo = Vec::new();
        for &byte in bytes {
            assert_eq!(discipline.input(byte, &mut echo), None);
        }
        echo
    }

    #[test]
    fn a_line_is_released_at_its_end() {
        let mut tty = Discipline::new();
        assert_eq!(typed(&mut tty, b"ab"), b"ab");
        assert_eq!(tty.take(100), None);
        assert_eq!(typed(&mut tty, b"\r"), b"\r\n");
        typed(&mut tty, b"second\n");
        assert_eq!(tty.available(), 10);
        assert_eq!(tty.take(2).unwrap(), b"ab");
        assert_eq!(tty.take(100).unwrap(), b"\n");
        assert_eq!(tty.take(100).unwrap(), b"second\n");
    }

    #[test]
    fn editing_rubs_out_what_is_on_the_screen() {
        let mut tty = Discipline::new();
        assert_eq!(typed(&mut tty, b"ax\x7f"), b"ax\x08 \x08");
        assert_eq!(typed(&mut tty, "é\x7f".as_bytes()), ["é".as_bytes(), b"\x08 \x08"].concat());
        assert_eq!(typed(&mut tty, b"\x16\x01"), b"^\x08^A", "a literal control character");
        assert_eq!(typed(&mut tty, b"\x7f"), b"\x08 \x08\x08 \x08", "takes two columns");
        typed(&mut tty, b" one two  ");
        assert_eq!(typed(&mut tty, b"\x17").len(), 5 * 3);
        typed(&mut tty, b"\n");
        assert_eq!(tty.take(100).unwrap(), b"a one \n");
        typed(&mut tty, b"gone\x15\x7f\n");
        assert_eq!(tty.take(100).unwrap(), b"\n");
        assert_eq!(typed(&mut tty, b"ab\t\x7f"), b"ab\t\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08");
    }

    #[test]
    fn the_end_of_file_character_ends_a_read() {
        let mut tty = Discipline::new();
        assert_eq!(typed(&mut tty, b"abc\x04"), b"abc");
        assert_eq!(tty.take(100).unwrap(), b"abc");
        typed(&mut tty, b"\x04");
        assert_eq!(tty.take(100).unwrap(), b"");
        assert_eq!(tty.take(100), None);
    }

    #[test]
    fn signals_flush_the_input_and_are_echoed() {
        let mut tty = Discipline::new();
        typed(&mut tty, b"junk");
        let mut echo = Vec::new();
        assert_eq!(tty.input(3, &mut echo), Some(Request::Interrupt));
        assert_eq!(echo, b"^C");
        assert_eq!(tty.input(28, &mut echo), Some(Request::Quit));
        assert_eq!(tty.input(26, &mut echo), Some(Request::Suspend));
        assert_eq!(tty.input(19, &mut echo), Some(Request::Stop));
        assert_eq!(tty.input(17, &mut echo), Some(Request::Start));
        typed(&mut tty, b"\n");
        assert_eq!(tty.take(100).unwrap(), b"\n");
        tty.termios.lflag &= !ISIG;
        typed(&mut tty, b"\x03\n");
        assert_eq!(tty.take(100).unwrap(), b"\x03\n");
    }

    #[test]
    fn raw_mode_passes_everything() {
        let mut tty = Discipline::new();
        typed(&mut tty, b"half");
        let mut raw = tty.termios;
        raw.lflag &= !(ICANON | ECHO | ISIG | IEXTEN);
        raw.iflag = 0;
        raw.oflag = 0;
        raw.cc[VMIN] = 1;
        tty.set_termios(raw);
        assert_eq!(typed(&mut tty, b"\x03\r\x7f"), b"");
        assert_eq!(tty.take(100).unwrap(), b"half\x03\r\x7f");
        let mut out = Vec::new();
        tty.output(b'\n', &mut out);
        assert_eq!(out, b"\n");
        typed(&mut tty, b"kept");
        tty.set_termios(Termios::default());
        assert_eq!(tty.take(100).unwrap(), b"kept");
    }

    #[test]
    fn a_flood_without_a_line_end_is_bounded_and_can_be_ended() {
        let mut tty = Discipline::new();
        let echo = typed(&mut tty, &[b'x'; 10_000]);
        assert!(echo.ends_with(b"\x07"));
        typed(&mut tty, b"\n");
        assert_eq!(tty.take(usize::MAX).unwrap().len(), INPUT_MAX);
    }

    #[test]
    fn settings_survive_their_wire_form() {
        let mut termios = Termios::default();
        termios.cc[VMIN] = 9;
        let bytes = termios.to_bytes();
        assert_eq!(Termios::from_bytes(bytes[..36].try_into().unwrap()), termios);
        assert_eq!(bytes[17], 3);
    }

    #[test]
    fn without_echo_only_what_was_asked_for_shows() {
        let mut tty = Discipline::new();
        tty.termios.lflag &= !ECHO;
        assert_eq!(typed(&mut tty, b"secret\x7f\n"), b"");
        tty.termios.lflag |= ECHONL;
        assert_eq!(typed(&mut tty, b"x\n"), b"\r\n");
    }
}
