//! The machines with PCI: programs that use what differs there, which is the devices, their interrupts, and the clocks.

use crate::case::{Build, Case, Program};

/// Every case of this file.
pub(super) fn all() -> Vec<Case> {
    let hello = || Case::new("hello", Program::Source("hello.c", Build::Dynamic)).args(["one", "two words", ""]).exit(4).with_stderr();
    let input = || Case::new("input", Program::Source("stream.c", Build::Dynamic)).args(["sum"]).stdin_file(super::words);
    let output = || Case::new("output", Program::Source("stream.c", Build::Dynamic)).args(["out", "10000000", "7"]);
    let mut cases = vec![
        hello().on("q35"),
        input().on("q35").cpus(&[2]),
        output().on("q35").cpus(&[1, 2]),
        Case::c("threads.c").on("q35").cpus(&[2, 4]),
        Case::c("timers.c").on("q35").cpus(&[2]),
    ];
    for machine in ["pc", "microvm-pcie"] {
        cases.push(hello().on(machine).cpus(&[1, 2]));
        cases.push(input().on(machine).cpus(&[2]));
    }
    cases
}
