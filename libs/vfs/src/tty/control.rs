//! A terminal's requests (`ioctl`), and who may use it: sessions, the foreground process group, and what becomes of the background
//! (POSIX, General Terminal Interface; ioctl_tty(2)).

use super::pty::{EVENT_DO_STOP, EVENT_NO_STOP};
use super::termios::{IXON, TERMIOS_LEN, TERMIOS2_LEN, Termios, VSTART, VSTOP};
use super::{Background, Caller, EVENT_FLUSH_READ, EVENT_FLUSH_WRITE, Ending, State, Tty, TtySignal, WindowSize};
use crate::io::IoctlArg;
use crate::pipe::FIONREAD;
use crate::types::OpenFlags;
use crate::{Errno, Result};

pub(super) const TCGETS: u32 = 0x5401;
pub(super) const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
pub(super) const TIOCSCTTY: u32 = 0x540e;
pub(super) const TIOCGPGRP: u32 = 0x540f;
pub(super) const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
pub(super) const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCGSOFTCAR: u32 = 0x5419;
pub(super) const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
pub(super) const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGDEV: u32 = 0x8004_5432;

/// Through which side of a pseudo terminal a request comes; a terminal of the host has a slave side only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Slave,
    Master,
}

/// Whether a change of the settings forgets what was typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Kept,
    Flushed,
}

impl Tty {
    /// A slave side was opened: the leader of a session without a terminal gets this one, unless it says otherwise or the terminal has
    /// a session already.
    pub fn opened(&self, flags: OpenFlags) {
        let caller = self.jobs.caller();
        let leads = caller.session == caller.process && caller.terminal.is_none();
        if flags.contains(OpenFlags::NOCTTY) || !flags.can_read() || !leads {
            return;
        }
        let mut state = self.state.lock();
        if state.session == 0 && !state.hung_up {
            state.adopt(&caller);
            drop(state);
            self.jobs.gain(self.number);
        }
    }

    /// Becomes the controlling terminal of `session`, with `group` in the foreground.
    pub fn adopt(&self, session: u32, group: u32) {
        let mut state = self.state.lock();
        (state.session, state.group) = (session, group);
    }

    /// The foreground process group; 0 for none.
    #[must_use]
    pub fn foreground(&self) -> u32 {
        self.state.lock().group
    }

    /// The leader of session `session` has ended: it was in control of this terminal.
    pub fn leader_ended(&self, session: u32) {
        let group = {
            let mut state = self.state.lock();
            if state.session != session {
                return;
            }
            state.session = 0;
            core::mem::take(&mut state.group)
        };
        self.signal(TtySignal::HangUp, group);
        self.signal(TtySignal::Continue, group);
        self.jobs.end_session(session, Ending::GivenUp);
    }

    /// Lets processes of the foreground pass; of the others, those for whom this is not the controlling terminal.
    ///
    /// # Errors
    /// `EIO` for a background process that cannot be stopped; `ERESTARTSYS` after `signal` has been sent.
    pub(super) fn require_foreground(&self, signal: TtySignal) -> Result<()> {
        let caller = self.jobs.caller();
        let group = self.state.lock().group;
        if caller.terminal != Some(self.number) || group == 0 || group == caller.group {
            return Ok(());
        }
        match self.jobs.background(signal) {
            // Who ignores SIGTTOU may change settings and write; nobody may read.
            Background::Deaf if signal == TtySignal::BackgroundWrite => Ok(()),
            Background::Deaf | Background::Orphaned => Err(Errno::EIO),
            Background::Signalled => Err(Errno::ERESTARTSYS),
        }
    }

    pub(super) fn control(&self, request: u32, arg: IoctlArg<'_>, side: Side) -> Result<usize> {
        if self.state.lock().hung_up {
            return Err(if request == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        if side == Side::Slave && changes(request) {
            self.require_foreground(TtySignal::BackgroundWrite)?;
        }
        match request {
            TCGETS => self.settings(arg, TERMIOS_LEN),
            TCGETS2 => self.settings(arg, TERMIOS2_LEN),
            TCSETS | TCSETSW | TCSETS2 | TCSETSW2 => self.set_termios(arg, Input::Kept),
            TCSETSF | TCSETSF2 => self.set_termios(arg, Input::Flushed),
            TCFLSH => self.flush(arg.value),
            TCXONC => self.flow(arg.value),
            TIOCGWINSZ => arg.store(&self.window_bytes()).map(|()| 0),
            TIOCSWINSZ => self.set_window(arg),
            TIOCGPGRP | TIOCSPGRP | TIOCGSID | TIOCSCTTY | TIOCNOTTY => self.session_request(request, arg, side),
            FIONREAD => {
                let available = self.state.lock().discipline.available();
                arg.store_i32(available as i32).map(|()| 0)
            }
            TIOCOUTQ => arg.store_i32(self.output.available() as i32).map(|()| 0),
            TIOCSTI => self.type_in(arg),
            TIOCGETD | TIOCGSOFTCAR => arg.store_i32(0).map(|()| 0),
            TIOCSETD => if arg.load_i32()? == 0 { Ok(0) } else { Err(Errno::EINVAL) },
            TIOCGDEV => arg.store_i32((136 << 8 | self.number) as i32).map(|()| 0),
            TCSBRK | TCSBRKP | TIOCEXCL | TIOCNXCL => Ok(0),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn session_request(&self, request: u32, arg: IoctlArg<'_>, side: Side) -> Result<usize> {
        let caller = self.jobs.caller();
        let controls = caller.terminal == Some(self.number);
        match request {
            TIOCSCTTY => self.take_control(&caller, arg.value),
            TIOCNOTTY => self.give_up_control(&caller),
            // The master may always ask.
            _ if side == Side::Slave && !controls => Err(Errno::ENOTTY),
            TIOCGPGRP => arg.store_i32(self.foreground() as i32).map(|()| 0),
            TIOCSPGRP => self.set_group(&caller, arg),
            _ => match self.state.lock().session {
                0 => Err(Errno::ENOTTY),
                session => arg.store_i32(session as i32).map(|()| 0),
            },
        }
    }

    /// `TIOCSCTTY`; with 1 as the argument a privileged caller may take the terminal away from its session.
    fn take_control(&self, caller: &Caller, force: usize) -> Result<usize> {
        let mut state = self.state.lock();
        let leads = caller.session == caller.process;
        if leads && state.session == caller.session && caller.terminal == Some(self.number) {
            return Ok(0);
        }
        if !leads || caller.terminal.is_some() || state.session != 0 && !(force == 1 && caller.privileged) {
            return Err(Errno::EPERM);
        }
        let robbed = state.session;
        state.adopt(caller);
        drop(state);
        if robbed != 0 {
            self.jobs.end_session(robbed, Ending::GivenUp);
        }
        self.jobs.gain(self.number);
        Ok(0)
    }

    fn give_up_control(&self, caller: &Caller) -> Result<usize> {
        if caller.terminal != Some(self.number) {
            return Err(Errno::ENOTTY);
        }
        if caller.session == caller.process {
            self.leader_ended(caller.session);
        }
        self.jobs.lose();
        Ok(0)
    }

    fn set_group(&self, caller: &Caller, arg: IoctlArg<'_>) -> Result<usize> {
        let group = u32::try_from(arg.load_i32()?).map_err(|_| Errno::EINVAL)?;
        match self.jobs.session_of_group(group) {
            None => return Err(Errno::ESRCH),
            Some(session) if session != caller.session => return Err(Errno::EPERM),
            Some(_) => {}
        }
        let mut state = self.state.lock();
        if state.session != caller.session {
            return Err(Errno::ENOTTY);
        }
        state.group = group;
        Ok(0)
    }

    fn settings(&self, arg: IoctlArg<'_>, len: usize) -> Result<usize> {
        let bytes = self.state.lock().discipline.termios.to_bytes();
        arg.store(&bytes[..len]).map(|()| 0)
    }

    fn set_termios(&self, arg: IoctlArg<'_>, input: Input) -> Result<usize> {
        let termios = Termios::from_bytes(&arg.load::<TERMIOS_LEN>()?);
        let mut state = self.state.lock();
        if input == Input::Flushed {
            state.discipline.flush_input();
        }
        state.change_settings(termios);
        drop(state);
        self.readable.wake_all();
        self.restarted.wake_all();
        self.output.read_queue().wake_all();
        Ok(0)
    }

    fn set_window(&self, arg: IoctlArg<'_>) -> Result<usize> {
        let bytes = arg.load::<8>()?;
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        self.resize(WindowSize { rows: field(0), columns: field(2), width: field(4), height: field(6) });
        Ok(0)
    }

    fn window_bytes(&self) -> [u8; 8] {
        let window = self.state.lock().window;
        let mut bytes = [0; 8];
        for (at, field) in [window.rows, window.columns, window.width, window.height].into_iter().enumerate() {
            bytes[at * 2..at * 2 + 2].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// `TIOCSTI`: as if it had been typed. Only for who could type it.
    fn type_in(&self, arg: IoctlArg<'_>) -> Result<usize> {
        let caller = self.jobs.caller();
        if caller.terminal != Some(self.number) && !caller.privileged {
            return Err(Errno::EPERM);
        }
        let byte = arg.load::<1>()?;
        self.receive(&byte);
        Ok(0)
    }

    fn flush(&self, which: usize) -> Result<usize> {
        let events = match which {
            0 => EVENT_FLUSH_READ,
            1 => EVENT_FLUSH_WRITE,
            2 => EVENT_FLUSH_READ | EVENT_FLUSH_WRITE,
            _ => return Err(Errno::EINVAL),
        };
        let mut state = self.state.lock();
        state.events |= events;
        if events & EVENT_FLUSH_READ != 0 {
            state.discipline.flush_input();
        }
        drop(state);
        self.restarted.wake_all();
        self.output.read_queue().wake_all();
        Ok(0)
    }

    /// `TCXONC`: 0 and 1 hold output and let it go on, 2 and 3 ask that of who types.
    fn flow(&self, action: usize) -> Result<usize> {
        let mut state = self.state.lock();
        match action {
            0 => state.hold(),
            1 => state.go_on(),
            2 | 3 => {}
            _ => return Err(Errno::EINVAL),
        }
        drop(state);
        self.restarted.wake_all();
        self.output.read_queue().wake_all();
        Ok(0)
    }
}

/// Requests that a background process may not make.
fn changes(request: u32) -> bool {
    matches!(
        request,
        TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 | TCFLSH | TCXONC | TCSBRK | TCSBRKP | TIOCSPGRP | TIOCSETD
    )
}

impl State {
    fn adopt(&mut self, caller: &Caller) {
        (self.session, self.group) = (caller.session, caller.group);
    }

    fn change_settings(&mut self, termios: Termios) {
        let (before, after) = (usual_flow(&self.discipline.termios), usual_flow(&termios));
        if before != after {
            self.events &= !(EVENT_DO_STOP | EVENT_NO_STOP);
            self.events |= if after { EVENT_DO_STOP } else { EVENT_NO_STOP };
        }
        if termios.iflag & IXON == 0 {
            self.go_on();
        }
        self.discipline.set_termios(termios);
    }
}

/// Whether ^S and ^Q hold output and let it go on: a master that reads packets could do that itself.
fn usual_flow(termios: &Termios) -> bool {
    const CONTROL_Q: u8 = 17;
    const CONTROL_S: u8 = 19;
    termios.iflag & IXON != 0 && termios.cc[VSTART] == CONTROL_Q && termios.cc[VSTOP] == CONTROL_S
}
