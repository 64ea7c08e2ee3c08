//! Input files, made once below `target/guest/data`.

use crate::paths;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Makes a file unless it is there; written beside and renamed, so a half-made one is never used.
fn file(name: &str, make: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let path = paths::guest_dir("data").join(name);
    if path.exists() {
        return path;
    }
    let half = path.with_extension("half");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&half).expect("target/guest/data is writable"));
    make(&mut out).and_then(|()| out.flush()).expect("there is room for test data");
    std::fs::rename(&half, &path).expect("same directory");
    path
}

/// A pseudo-random sequence (xorshift), the same everywhere.
fn sequence(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// 50 MB of bytes that do not compress.
#[must_use]
pub fn big_file() -> PathBuf {
    file("50M.bin", |out| {
        sequence(0x1234_5678_9abc_def1).take(50_000_000 / 8).try_for_each(|word| out.write_all(&word.to_le_bytes()))
    })
}

/// 20 000 lines of three words and a number.
#[must_use]
pub fn words() -> PathBuf {
    const WORDS: [&str; 12] =
        ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"];
    file("words.txt", |out| {
        let word = |n: u64, shift: u32| WORDS[(n >> shift) as usize % WORDS.len()];
        sequence(99).take(20_000).try_for_each(|n| {
            writeln!(out, "{} {} {} {}", word(n, 3), word(n, 20), word(n, 40), n % 100_000)
        })
    })
}

/// A directory with files and directories in it.
#[must_use]
pub(super) fn tree() -> PathBuf {
    let root = paths::guest_dir("data").join("tree");
    for dir in ["one", "two/deep/er", "empty"] {
        std::fs::create_dir_all(root.join(dir)).expect("target/guest/data is writable");
    }
    for name in ["one/a.txt", "one/b.txt", "two/c", "two/deep/er/d"] {
        std::fs::write(root.join(name), name.repeat(100)).expect("target/guest/data is writable");
    }
    root
}

/// A small program with a `configure` that autoconf made of `guest/scenarios/configure`. Without autoconf there is none.
#[must_use]
pub(super) fn configure() -> PathBuf {
    let (source, made) = (paths::guest_source("scenarios/configure"), paths::guest_dir("data").join("configure"));
    let modified = |path: PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    if modified(made.join("configure")) >= modified(source.join("configure.ac")) {
        return made;
    }
    std::fs::create_dir_all(made.join("aux")).expect("target/guest/data is writable");
    let copy = |from: &Path, to: &Path| {
        for file in std::fs::read_dir(from).into_iter().flatten().flatten() {
            let _copied = std::fs::copy(file.path(), to.join(file.file_name()));
        }
    };
    copy(&source, &made);
    copy(Path::new("/usr/share/autoconf/build-aux"), &made.join("aux"));
    for tool in ["autoheader", "autoconf"] {
        let _made = Command::new(tool).current_dir(&made).output();
    }
    let _cache = std::fs::remove_dir_all(made.join("autom4te.cache"));
    made
}
