//! `adjtimex`, `clock_adjtime`: what is known of the clock's error, and what is done about it.
//!
//! The clock is that of a Linux which nobody synchronises. What is only remembered there (errors, status, time constant) is remembered here, and
//! an offset can be added at once (`ADJ_SETOFFSET`). The rate does not change: who wants that is told so.

use linux_abi::Errno;
use linux_abi::raw::CLOCK_REALTIME;
use linux_abi::time::{NANOS_PER_SEC, Timeval, Timex};
use sync::Mutex;

use super::time;
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

const ADJ_OFFSET: u32 = 0x1;
const ADJ_FREQUENCY: u32 = 0x2;
const ADJ_MAXERROR: u32 = 0x4;
const ADJ_ESTERROR: u32 = 0x8;
const ADJ_STATUS: u32 = 0x10;
const ADJ_TIMECONST: u32 = 0x20;
const ADJ_TAI: u32 = 0x80;
const ADJ_SETOFFSET: u32 = 0x100;
const ADJ_MICRO: u32 = 0x1000;
const ADJ_NANO: u32 = 0x2000;
const ADJ_TICK: u32 = 0x4000;
/// With [`ADJ_OFFSET`]: that of `adjtime`.
const ADJ_ADJTIME: u32 = 0x8000;
/// With both: it is only asked for.
const ADJ_OFFSET_READONLY: u32 = 0x2000;

const STA_PLL: i32 = 0x1;
const STA_UNSYNC: i32 = 0x40;
const STA_CLOCKERR: i32 = 0x1000;
const STA_NANO: i32 = 0x2000;
/// Bits of the status that programs do not set.
const STA_RONLY: i32 = 0xff00;

/// What the calls return for a clock that is not synchronised.
const TIME_ERROR: usize = 5;

/// Microseconds: an error larger than this means that the clock is not synchronised.
const MAX_ERROR: i64 = 16_000_000;
/// Largest time constant.
const MAX_CONSTANT: i64 = 10;
/// 500 millionths: how fast the largest error grows, and the largest frequency.
const TOLERANCE_PPM: i64 = 500;
/// Microseconds between ticks of 1/100 s.
const TICK: i64 = 10_000;

/// What programs have told of the clock.
struct Discipline {
    status: i32,
    /// Microseconds, at [`Discipline::since_ns`].
    max_error: i64,
    since_ns: u64,
    estimated_error: i64,
    constant: i64,
}

static DISCIPLINE: Mutex<Discipline> = Mutex::new(Discipline { status: STA_UNSYNC, max_error: MAX_ERROR, since_ns: 0, estimated_error: MAX_ERROR, constant: 2 });

impl Discipline {
    /// The largest error grows with time.
    fn advance(&mut self) {
        let now_ns = kernel::clock::monotonic_ns();
        let seconds = (now_ns - self.since_ns) / NANOS_PER_SEC;
        self.since_ns += seconds * NANOS_PER_SEC;
        self.max_error = seconds.cast_signed().saturating_mul(TOLERANCE_PPM).saturating_add(self.max_error);
        if self.max_error > MAX_ERROR {
            self.max_error = MAX_ERROR;
            self.status |= STA_UNSYNC;
        }
    }

    fn set(&mut self, request: &Timex) {
        let modes = request.modes;
        if modes & ADJ_STATUS != 0 {
            if self.status & STA_PLL != 0 && request.status & STA_PLL == 0 {
                self.status = STA_UNSYNC;
            }
            self.status = self.status & STA_RONLY | request.status & !STA_RONLY;
        }
        if modes & ADJ_NANO != 0 {
            self.status |= STA_NANO;
        }
        if modes & ADJ_MICRO != 0 {
            self.status &= !STA_NANO;
        }
        if modes & ADJ_MAXERROR != 0 {
            self.max_error = request.maxerror.clamp(0, MAX_ERROR);
            self.since_ns = kernel::clock::monotonic_ns();
        }
        if modes & ADJ_ESTERROR != 0 {
            self.estimated_error = request.esterror.clamp(0, MAX_ERROR);
        }
        if modes & ADJ_TIMECONST != 0 {
            let units = if self.status & STA_NANO != 0 { 0 } else { 4 };
            self.constant = request.constant.clamp(0, MAX_CONSTANT).saturating_add(units).min(MAX_CONSTANT);
        }
    }

    fn is_wrong(&self) -> bool {
        self.status & (STA_UNSYNC | STA_CLOCKERR) != 0
    }

    fn report(&self, modes: u32) -> Timex {
        let now_ns = kernel::clock::realtime_ns();
        let part = now_ns % NANOS_PER_SEC;
        Timex {
            modes,
            maxerror: self.max_error,
            esterror: self.estimated_error,
            status: self.status,
            constant: self.constant,
            precision: 1,
            tolerance: TOLERANCE_PPM << 16,
            time: Timeval { sec: (now_ns / NANOS_PER_SEC).cast_signed(), usec: if self.status & STA_NANO != 0 { part } else { part / 1000 }.cast_signed() },
            tick: TICK,
            ..Timex::default()
        }
    }
}

/// Fails for what the caller may not ask, or nobody.
fn check(ctx: &Ctx<'_>, request: &Timex) -> Result<(), Errno> {
    let (modes, may_set) = (request.modes, ctx.cred().euid == 0);
    if modes & ADJ_ADJTIME != 0 {
        if modes & ADJ_OFFSET == 0 {
            return Err(Errno::EINVAL);
        }
        if modes & ADJ_OFFSET_READONLY == 0 && !may_set {
            return Err(Errno::EPERM);
        }
    } else {
        if modes != 0 && !may_set {
            return Err(Errno::EPERM);
        }
        if modes & ADJ_TICK != 0 && !(TICK * 9 / 10..=TICK * 11 / 10).contains(&request.tick) {
            return Err(Errno::EINVAL);
        }
    }
    if modes & ADJ_SETOFFSET != 0 {
        if !may_set {
            return Err(Errno::EPERM);
        }
        shift_ns(request)?;
    }
    Ok(())
}

/// How far `ADJ_SETOFFSET` moves the clock.
fn shift_ns(request: &Timex) -> Result<i64, Errno> {
    let unit = if request.modes & ADJ_NANO != 0 { 1 } else { 1000 };
    let part = request.time.usec;
    if part < 0 || part >= NANOS_PER_SEC.cast_signed() / unit {
        return Err(Errno::EINVAL);
    }
    request.time.sec.checked_mul(NANOS_PER_SEC.cast_signed()).and_then(|ns| ns.checked_add(part * unit)).ok_or(Errno::EINVAL)
}

/// Fails for what would change the clock's rate, or its distance to TAI.
fn refuse_rates(request: &Timex) -> Result<(), Errno> {
    let asks = |mode: u32, value: i64, usual: i64| request.modes & mode != 0 && value != usual;
    let adjtime_reads = request.modes & ADJ_ADJTIME != 0 && request.modes & ADJ_OFFSET_READONLY != 0;
    let status = if request.modes & ADJ_STATUS != 0 { request.status } else { DISCIPLINE.lock().status };
    // Without the loop an offset means nothing.
    let loops = request.modes & ADJ_ADJTIME != 0 || status & STA_PLL != 0;
    let slews = loops && !adjtime_reads && asks(ADJ_OFFSET, request.offset, 0);
    if slews || request.modes & ADJ_ADJTIME == 0 && (asks(ADJ_FREQUENCY, request.freq, 0) || asks(ADJ_TICK, request.tick, TICK) || asks(ADJ_TAI, request.constant, 0)) {
        log::warn!("adjtimex: the rate of the clock and its distance to TAI cannot be changed (modes {:#x}): ENOSYS", request.modes);
        return Err(Errno::ENOSYS);
    }
    Ok(())
}

fn adjust(ctx: &Ctx<'_>, request: &Timex) -> Result<(Timex, usize), Errno> {
    check(ctx, request)?;
    refuse_rates(request)?;
    if request.modes & ADJ_SETOFFSET != 0 && request.modes & ADJ_ADJTIME == 0 {
        let now_ns = kernel::clock::realtime_ns();
        time::set_time_of_day(ctx, now_ns.checked_add_signed(shift_ns(request)?).ok_or(Errno::EINVAL)?)?;
    }
    let mut discipline = DISCIPLINE.lock();
    discipline.advance();
    if request.modes & ADJ_ADJTIME == 0 {
        discipline.set(request);
    }
    Ok((discipline.report(request.modes), if discipline.is_wrong() { TIME_ERROR } else { 0 }))
}

/// `adjtimex`.
///
/// # Errors
/// `EINVAL`, `EPERM`, `EFAULT`; `ENOSYS` for another rate.
pub fn adjtimex(ctx: &Ctx<'_>, timex: UserPtr<Timex>) -> SysResult {
    let (report, state) = adjust(ctx, &timex.read()?)?;
    timex.write(&report).map(|()| state)
}

/// `clock_adjtime`.
///
/// # Errors
/// As [`adjtimex`]; `EINVAL` for a clock that there is not, `EOPNOTSUPP` for one that is not the time of day.
pub fn clock_adjtime(ctx: &Ctx<'_>, clock: u32, timex: UserPtr<Timex>) -> SysResult {
    timex.read()?;
    if clock != CLOCK_REALTIME {
        time::require_clock(clock)?;
        return Err(Errno::EOPNOTSUPP);
    }
    adjtimex(ctx, timex)
}
