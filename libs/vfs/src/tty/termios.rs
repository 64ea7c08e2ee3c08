//! Terminal settings: the kernel's `struct termios` and the bits the line discipline looks at (`termios(3)`, x86-64 numbers).

/// Number of control characters.
pub const NCCS: usize = 19;

/// Input: turn CR into NL.
pub const ICRNL: u32 = 0o400;
/// Input: ignore CR.
pub const IGNCR: u32 = 0o200;
/// Input: turn NL into CR.
pub const INLCR: u32 = 0o100;
/// Input: strip the eighth bit.
pub const ISTRIP: u32 = 0o40;
/// Input: letters become small ones.
pub const IUCLC: u32 = 0o1000;
/// Input: every character lets held output go on.
pub const IXANY: u32 = 0o4000;
/// Input: `VSTOP`/`VSTART` stop and start output.
pub const IXON: u32 = 0o2000;
/// Input: characters are UTF-8 (erasing takes whole ones).
pub const IUTF8: u32 = 0o40000;
/// Output: process it at all.
pub const OPOST: u32 = 0o1;
/// Output: turn NL into CR NL.
pub const ONLCR: u32 = 0o4;
/// Output: turn CR into NL.
pub const OCRNL: u32 = 0o10;
/// Output: turn small letters into capitals.
pub const OLCUC: u32 = 0o2;
/// Output: no CR in the first column.
pub const ONOCR: u32 = 0o20;
/// Output: NL goes to the first column by itself.
pub const ONLRET: u32 = 0o40;
/// Output: what happens to tabs.
pub const TABDLY: u32 = 0o14_000;
/// [`TABDLY`]: they become blanks.
pub const XTABS: u32 = 0o14_000;
/// Local: a background process may not write.
pub const TOSTOP: u32 = 0o400;
/// Local: special characters send signals.
pub const ISIG: u32 = 0o1;
/// Local: line by line, with editing.
pub const ICANON: u32 = 0o2;
/// Local: echo.
pub const ECHO: u32 = 0o10;
/// Local: erasing rubs the character out on the screen.
pub const ECHOE: u32 = 0o20;
/// Local: killing starts a new line.
pub const ECHOK: u32 = 0o40;
/// Local: echo NL even without ECHO.
pub const ECHONL: u32 = 0o100;
/// Local: keep the input when a signal character comes.
pub const NOFLSH: u32 = 0o200;
/// Local: control characters echo as ^X.
pub const ECHOCTL: u32 = 0o1000;
/// Local: killing rubs the line out.
pub const ECHOKE: u32 = 0o4000;
/// Local: `VWERASE`, `VLNEXT`, `VEOL2` work.
pub const IEXTEN: u32 = 0o100_000;

/// Interrupt.
pub const VINTR: usize = 0;
/// Quit.
pub const VQUIT: usize = 1;
/// Erase a character.
pub const VERASE: usize = 2;
/// Erase the line.
pub const VKILL: usize = 3;
/// End of file.
pub const VEOF: usize = 4;
/// Read time-out, tenths of a second.
pub const VTIME: usize = 5;
/// Least number of bytes for a read.
pub const VMIN: usize = 6;
/// Start output.
pub const VSTART: usize = 8;
/// Stop output.
pub const VSTOP: usize = 9;
/// Suspend.
pub const VSUSP: usize = 10;
/// A further end of line.
pub const VEOL: usize = 11;
/// Show the line again.
pub const VREPRINT: usize = 12;
/// Erase a word.
pub const VWERASE: usize = 14;
/// The next character is meant literally.
pub const VLNEXT: usize = 15;
/// A further end of line.
pub const VEOL2: usize = 16;

/// A terminal's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termios {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Control modes.
    pub cflag: u32,
    /// Local modes.
    pub lflag: u32,
    /// Line discipline number.
    pub line: u8,
    /// Control characters; 0 turns one off.
    pub cc: [u8; NCCS],
}

impl Default for Termios {
    fn default() -> Self {
        let mut cc = [0; NCCS];
        let set = [
            (VINTR, 3), (VQUIT, 28), (VERASE, 127), (VKILL, 21), (VEOF, 4), (VMIN, 1), (VSTART, 17), (VSTOP, 19),
            (VSUSP, 26), (VREPRINT, 18), (13, 15), (VWERASE, 23), (VLNEXT, 22),
        ];
        for (at, value) in set {
            cc[at] = value;
        }
        Self {
            iflag: ICRNL | IXON | IUTF8,
            oflag: OPOST | ONLCR,
            cflag: 0xbf,
            lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            cc,
        }
    }
}

/// Bytes of the kernel's `struct termios`.
pub const TERMIOS_LEN: usize = 36;
/// Bytes of the kernel's `struct termios2`.
pub const TERMIOS2_LEN: usize = 44;
/// Speed that `termios2` shows.
const SPEED: u32 = 38400;

impl Termios {
    /// As `struct termios`, followed by the two speeds of `struct termios2`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; TERMIOS2_LEN] {
        let mut bytes = [0; TERMIOS2_LEN];
        for (at, flag) in [self.iflag, self.oflag, self.cflag, self.lflag].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&flag.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..TERMIOS_LEN].copy_from_slice(&self.cc);
        bytes[36..40].copy_from_slice(&SPEED.to_le_bytes());
        bytes[40..44].copy_from_slice(&SPEED.to_le_bytes());
        bytes
    }

    /// From `struct termios`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; TERMIOS_LEN]) -> Self {
        let flag = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut cc = [0; NCCS];
        cc.copy_from_slice(&bytes[17..]);
        Self { iflag: flag(0), oflag: flag(4), cflag: flag(8), lflag: flag(12), line: bytes[16], cc }
    }

    /// Whether local mode `bit` is on.
    #[must_use]
    pub const fn local(&self, bit: u32) -> bool {
        self.lflag & bit != 0
    }

    /// Whether `byte` is the control character `which`.
    #[must_use]
    pub const fn is(&self, which: usize, byte: u8) -> bool {
        self.cc[which] != 0 && self.cc[which] == byte
    }
}
