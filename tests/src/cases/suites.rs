//! Short runs of the suites that `cargo xtask conformance` runs in full.

use crate::case::{Case, Program};
use crate::paths;

/// The cases of this file.
pub(super) fn all() -> Vec<Case> {
    let stress = "--futex 1 --pipe 1 --sigq 1 --fork 1 --mmap 1 --mmap-bytes 8m --timeout 3 --verify --quiet";
    let fsx = ["-f", &file("fsx/everything.toml"), "-N", "2000", "-S", "5", "/dev/shm/fsx"].map(str::to_owned);
    vec![
        Case::installed("suites/stress-ng", "/usr/bin/stress-ng").args(stress.split(' ')).memory("1G").cpus(&[2]).seconds(120),
        Case::installed("suites/fio", "/usr/bin/fio").args([file("fio/random-sizes.fio")]).memory("1G").cpus(&[2]).seconds(180).normalise(errors_of_fio),
        Case::new("suites/fsx", Program::Registry("fsx@0.3.2")).args(fsx).cpus(&[2]).seconds(180).normalise(last_line),
    ]
}

fn file(name: &str) -> String {
    paths::tests().join("conformance").join(name).to_string_lossy().into_owned()
}

/// How each group of jobs ended: `random-sizes: (groupid=0, jobs=4): err= 0`.
fn errors_of_fio(output: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(output);
    text.lines().filter_map(|line| line.split_once("): err=")).map(|(job, rest)| format!("{job} {}\n", rest.split(':').next().unwrap_or(rest))).collect::<String>().into_bytes()
}

fn last_line(output: &[u8]) -> Vec<u8> {
    output.trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap_or_default().to_vec()
}
