//! A Rust std program: threads, channels, maps, files, time, panics caught and reported.
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

thread_local!(static LOCAL: std::cell::Cell<u32> = const { std::cell::Cell::new(5) });

fn channels() {
    let (tx, rx) = mpsc::sync_channel(4);
    let workers: Vec<_> = (0..8u64)
        .map(|id| {
            let tx = tx.clone();
            std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || (0..500).for_each(|n| tx.send(id * 1000 + n).unwrap()))
                .unwrap()
        })
        .collect();
    drop(tx);
    let sum: u64 = rx.iter().sum();
    workers.into_iter().for_each(|w| w.join().unwrap());
    println!("channels {sum}");
    let (tx, rx) = mpsc::channel::<()>();
    println!("time-out {:?}", rx.recv_timeout(Duration::from_millis(20)));
    drop(tx);
    println!("closed {:?}", rx.recv());
}

fn locks() {
    let counter = Arc::new((Mutex::new(0u32), Condvar::new(), RwLock::new(HashMap::new()), Barrier::new(6)));
    let handles: Vec<_> = (0..6u32)
        .map(|id| {
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || {
                for i in 0..1000 {
                    *counter.0.lock().unwrap() += 1;
                    if i % 100 == 0 {
                        counter.2.write().unwrap().insert(id * 10 + i / 100, i);
                    }
                }
                counter.3.wait();
                counter.1.notify_all();
                LOCAL.set(LOCAL.get() + id);
                LOCAL.get()
            })
        })
        .collect();
    let mut guard = counter.0.lock().unwrap();
    while *guard < 6000 {
        guard = counter.1.wait_timeout(guard, Duration::from_millis(50)).unwrap().0;
    }
    drop(guard);
    let locals: Vec<_> = handles.into_iter().map(|h| h.join().unwrap()).collect();
    println!("locks {} {} {locals:?} {}", counter.0.lock().unwrap(), counter.2.read().unwrap().len(), LOCAL.get());
}

fn panics() {
    let result = std::panic::catch_unwind(|| {
        let empty: Vec<i32> = Vec::new();
        empty[std::hint::black_box(3)]
    });
    println!("caught {}", result.is_err());
    let thread = std::thread::spawn(|| -> i32 { panic!("in a thread, {}", 42) });
    let payload = thread.join().unwrap_err();
    println!("joined {:?}", payload.downcast_ref::<String>());
    let poisoned = Arc::new(Mutex::new(1));
    let other = Arc::clone(&poisoned);
    let _ = std::thread::spawn(move || { let _g = other.lock().unwrap(); panic!("holding") }).join();
    println!("poisoned {}", poisoned.is_poisoned());
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    println!("backtrace names main: {}", trace.contains("program::main"));
}

fn files() {
    let path = "/tmp/rust-program";
    let text: String = (0..1000).map(|i| format!("line {i}\n")).collect();
    std::fs::write(path, &text).unwrap();
    let read = std::fs::read_to_string(path).unwrap();
    println!("files {} {}", read == text, std::fs::metadata(path).unwrap().len());
    println!("missing {:?}", std::fs::read("/tmp/none").unwrap_err().kind());
    std::fs::remove_file(path).unwrap();
    println!("args {:?}", std::env::args().skip(1).collect::<Vec<_>>());
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    println!("stdin {:?}", input);
    std::io::stderr().write_all(b"on stderr\n").unwrap();
}

fn main() {
    std::panic::set_hook(Box::new(|info| println!("panic: {}", info.payload_as_str().unwrap_or("?"))));
    channels();
    locks();
    panics();
    files();
    let words: BTreeMap<_, _> = "the quick brown fox jumps over the lazy dog".split(' ').map(|w| (w, w.len())).collect();
    println!("{words:?}");
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(30));
    println!("slept {}", start.elapsed() >= Duration::from_millis(30));
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    std::thread::scope(|s| (0..4).for_each(|_| { s.spawn(|| (0..10_000).for_each(|_| { COUNT.fetch_add(1, Ordering::Relaxed); })); }));
    println!("scope {}", COUNT.load(Ordering::Relaxed));
    println!("parallel {}", std::thread::available_parallelism().is_ok());
    std::process::exit(11);
}
