//! The system call table: number → function, one line each, and the entry from the kernel.
//!
//! A line reads `name => module::function / ARGUMENTS, COVERAGE;`. The function takes [`Ctx`] and that many typed
//! arguments ([`crate::ctx::FromRegister`]). `COVERAGE` is what doc/linux-abi.md prints: `full`, or `partial("what is missing")`.
//! A number without a line answers `ENOSYS` and is logged once.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::Errno;
use syscalls::Sysno;

use crate::ctx::{Ctx, Handler, SysResult};
#[expect(unused_imports, reason = "each module is named in the table below")]
use crate::sys::{event, file, futex, info, mm, process, signal, thread, time};

/// One past the largest number in the table (Linux 6.12 ends at 462).
pub const COUNT: usize = 512;

/// How much of a system call's documented behaviour is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Everything the man page says that makes sense here.
    Full,
    /// What the text says is missing.
    Partial(&'static str),
}

/// A line of the table, for documentation.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The call.
    pub number: Sysno,
    /// How much of it is there.
    pub coverage: Coverage,
}

macro_rules! shim {
    ($f:path, 0) => {
        |ctx: &mut Ctx<'_>| $f(ctx)
    };
    ($f:path, 1) => {
        |ctx: &mut Ctx<'_>| {
            let a = ctx.arg::<_, 0>();
            $f(ctx, a)
        }
    };
    ($f:path, 2) => {
        |ctx: &mut Ctx<'_>| {
            let (a, b) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>());
            $f(ctx, a, b)
        }
    };
    ($f:path, 3) => {
        |ctx: &mut Ctx<'_>| {
            let (a, b, c) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>());
            $f(ctx, a, b, c)
        }
    };
    ($f:path, 4) => {
        |ctx: &mut Ctx<'_>| {
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            $f(ctx, a, b, c, d)
        }
    };
    ($f:path, 5) => {
        |ctx: &mut Ctx<'_>| {
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            let e = ctx.arg::<_, 4>();
            $f(ctx, a, b, c, d, e)
        }
    };
    ($f:path, 6) => {
        |ctx: &mut Ctx<'_>| {
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            let (e, f) = (ctx.arg::<_, 4>(), ctx.arg::<_, 5>());
            $f(ctx, a, b, c, d, e, f)
        }
    };
}

macro_rules! coverage {
    (full) => {
        Coverage::Full
    };
    (partial($text:literal)) => {
        Coverage::Partial($text)
    };
}

macro_rules! table {
    ($($name:ident => $module:ident::$function:ident / $arity:tt, $coverage:ident $(($text:literal))?;)*) => {
        /// The functions, by number.
        static HANDLERS: [Handler; COUNT] = {
            let mut table = [unknown as Handler; COUNT];
            $(table[Sysno::$name as usize] = shim!($module::$function, $arity);)*
            table
        };

        /// The table as data.
        pub static LINES: &[Line] = &[
            $(Line { number: Sysno::$name, coverage: coverage!($coverage $(($text))?) },)*
        ];
    };
}

table! {
    // Files (sys/file.rs)

    // Waiting for files (sys/event.rs)

    // Memory (sys/mm.rs)
}

/// Runs the system call that the registers ask for.
pub(crate) fn dispatch(ctx: &mut Ctx<'_>) -> SysResult {
    let number = ctx.frame().rax as usize;
    match HANDLERS.get(number) {
        Some(handler) => handler(ctx),
        None => Err(Errno::ENOSYS),
    }
}

/// Answers for a number without a line.
fn unknown(ctx: &mut Ctx<'_>) -> SysResult {
    let number = ctx.frame().orig_rax as usize;
    if first_time(number) {
        let name = Sysno::new(number).map_or("?", |s| s.name());
        log::debug!("system call {number} ({name}) is not implemented: ENOSYS");
    }
    Err(Errno::ENOSYS)
}

/// Whether `number` has not been asked for before.
fn first_time(number: usize) -> bool {
    static SEEN: [AtomicU64; COUNT / 64] = [const { AtomicU64::new(0) }; COUNT / 64];
    let bit = 1 << (number % 64);
    SEEN.get(number / 64).is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
}
