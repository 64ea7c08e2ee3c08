//! How long programs had to wait for a processor of a busy host: time that says nothing about them.

use rustix::process::Pid;
use std::path::Path;
use std::time::Duration;

/// What the thread of the process group waited that waited longest for a processor, though it could have run (`schedstat` in `proc(5)`; nothing where
/// the kernel does not count it). An emulator's virtual CPUs are threads, and a machine is as slow as the slowest of them.
pub(crate) fn starved(group: Pid) -> Duration {
    let is_member = |process: &Path| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        // Behind the name, which may contain anything: state, parent, group.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        fields.split_whitespace().nth(2) == Some(&group.to_string())
    };
    let threads = entries(Path::new("/proc")).filter(|process| is_member(process)).flat_map(|process| entries(&process.join("task")));
    threads.map(|thread| waited(&thread)).max().unwrap_or_default()
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

    #[test]
    fn a_thread_that_shares_a_processor_has_waited() {
        // More threads that run than there are processors.
        let stop = std::sync::atomic::AtomicBool::new(false);
        let group = rustix::process::getpgrp();
        let before = starved(group);
        std::thread::scope(|scope| {
            let count = 2 * std::thread::available_parallelism().map_or(1, usize::from);
            (0..count).for_each(|_| {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::black_box(0);
                    }
                });
            });
            while starved(group) <= before {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
