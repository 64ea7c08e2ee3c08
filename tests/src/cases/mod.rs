//! The list of boot tests.

mod data;
mod machines;
mod programs;
mod scenarios;
mod semantics;
mod servers;
mod suites;

use crate::case::Case;

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = semantics::all();
    cases.extend(programs::all());
    cases.extend(scenarios::all());
    cases.extend(servers::all());
    cases.extend(suites::all());
    cases.extend(machines::all());
    cases
}

/// The cases a soak run boots again and again: short ones of every kind.
#[must_use]
pub fn soak() -> Vec<Case> {
    const NAMES: [&str; 10] = [
        "hello/dynamic",
        "hello/static",
        "hello/musl-dynamic",
        "c/threads1000",
        "c/pipes",
        "c/signals_async",
        "cxx/cpp",
        "rust/program",
        "go/program",
        "coreutils/sha256sum-small",
    ];
    let named = |case: &Case| NAMES.contains(&case.name.as_str());
    all().into_iter().filter(named).collect()
}

pub use data::{big_file, words};
