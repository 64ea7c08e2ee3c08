//! How long programs had to wait for a processor of a busy host: time that says nothing about them.

use rustix::process::Pid;
use std::path::Path;
use std::time::Duration;

/// What that thread of the process and its descendants waited that waited longest for a processor, though it could have run (`schedstat` in `proc(5)`;
/// nothing where the kernel does not count it). An emulator's virtual CPUs are threads, and a machine is as slow as the slowest of them.
pub(crate) fn starved(ancestor: Pid) -> Duration {
    let family = family(ancestor);
    let threads = family.iter().flat_map(|process| entries(&Path::new("/proc").join(process.to_string()).join("task")));
    threads.map(|thread| waited(&thread)).max().unwrap_or_default()
}

/// The process and its descendants.
fn family(ancestor: Pid) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = entries(Path::new("/proc")).filter_map(|process| parent(&process)).collect();
    let mut family = vec![ancestor.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(&one) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(child, _)| child));
        next += 1;
    }
    family
}

/// The number of the process with this folder, and its parent's.
fn parent(process: &Path) -> Option<(i32, i32)> {
    let number = process.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // Behind the name, which may contain anything: state, parent.
    let (_, fields) = stat.rsplit_once(')')?;
    Some((number, fields.split_whitespace().nth(1)?.parse().ok()?))
}

fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    // What has ended meanwhile has nothing more to say.
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn waited(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    // Nanoseconds on a processor, nanoseconds of waiting for one.
    let nanoseconds = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn what_a_child_has_waited_counts() {
        // More threads that run than there are processors.
        let count = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let script = format!("for i in $(seq {count}); do while :; do :; done & done; wait");
        let mut shell = std::process::Command::new("/bin/sh").args(["-c", &script]).process_group(0).spawn().expect("there is a shell");
        let ancestor = Pid::from_child(&shell);
        while starved(ancestor) < Duration::from_millis(1) {
            std::thread::sleep(Duration::from_millis(20));
        }
        rustix::process::kill_process_group(ancestor, rustix::process::Signal::KILL).expect("it runs");
        drop(shell.wait());
    }
}
