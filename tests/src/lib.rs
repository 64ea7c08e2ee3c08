//! Boot tests: each runs one real program on the host and inside oxv and compares output and exit code.
//!
//! * [`case`]: what a test is; [`cases`] lists them all.
//! * [`toolchain`]: compiles the programs of `tests/guest/` into `target/guest/`; [`registry`] fetches others.
//! * [`run`]: starts a program on the host or under `oxv run`, with a time limit, of which [`starved`] takes what a busy host is to blame for.
//! * [`compare`]: what differs, in words.
//! * [`torture`], [`machine`]: the same under `oxv run --torture`, and stopping virtual CPUs from outside.
//! * [`bad_input`], [`tty`], [`memory`]: tests that look at `oxv` itself: its messages, its terminal, its size.
//! * [`machines`]: machines with PCI: their interrupts, the balloon, the watchdog, the power switch.
//! * [`fuzz`]: system calls at random.
//! * [`privileged`]: what only root may do, where the host's rights are not known.
//! * [`mishaps`]: what the kernel reports when things go wrong in it, and a stopped virtual CPU that holds a mutex.
//!
//! `tests/boot.rs` turns them into trials of a test harness. Environment: `OXV` and `OXV_KERNEL` name the host program and
//! the kernel (both are set by `cargo xtask`), `OXV_ALLOW_MISSING=1` skips tests whose tools are not installed, `OXV_HOST_ONLY=1`
//! runs the programs on the host alone, `OXV_SOAK=N` replaces the tests by N boots of a mixed list,
//! `OXV_TORTURE=SECONDS` by torture (`OXV_TORTURE_SEED`, `OXV_TORTURE_SMP=1,2,4`), `OXV_FUZZ=SECONDS` by random system calls.

pub mod bad_input;
pub mod case;
pub mod cases;
pub mod compare;
pub mod fuzz;
pub mod machine;
pub mod machines;
pub mod memory;
pub mod mishaps;
pub mod privileged;
pub mod paths;
pub mod registry;
pub mod run;
mod starved;
pub mod toolchain;
pub mod torture;
pub mod tty;
