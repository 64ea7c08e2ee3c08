//! Loom models. Each asserts that it explored schedules, and each structure has a broken twin that must fail.

#![expect(unsafe_code, reason = "models use the unsafe interfaces")]
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "loom checks every access of a model"
)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use loom::thread;
use loom_support::explore;

use crate::bag::Bag;
use crate::mpsc::{MpscLink, MpscList, MpscNode, Push};
use crate::mutex::{Parker, RawMutex, WaitRecord};
use crate::spsc::ring_from;

struct LoomParker<const BROKEN: bool>;

impl<const BROKEN: bool> Parker for LoomParker<BROKEN> {
    type Handle = thread::Thread;
    const LOSES_BLINDLY: bool = BROKEN;

    fn current() -> thread::Thread {
        thread::current()
    }
    fn park(_deadline_ns: u64) {
        thread::park();
    }
    unsafe fn tell(thread: thread::Thread, word: *const AtomicU32, status: u32) {
        // SAFETY: the caller's promise.
        unsafe { &*word }.store(status, Ordering::Release);
        thread.unpark();
    }
    fn now_ns() -> u64 {
        0
    }
}

struct Shared<const BROKEN: bool> {
    mutex: RawMutex<LoomParker<BROKEN>>,
    data: UnsafeCell<usize>,
}

// SAFETY: `data` is behind `mutex`; loom checks it.
unsafe impl<const BROKEN: bool> Sync for Shared<BROKEN> {}
// SAFETY: as above.
unsafe impl<const BROKEN: bool> Send for Shared<BROKEN> {}

impl<const BROKEN: bool> Shared<BROKEN> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mutex: RawMutex::new(),
            data: UnsafeCell::new(0),
        })
    }

    fn increment(&self) {
        self.mutex.lock();
        // SAFETY: locked.
        self.data.with_mut(|data| unsafe { *data += 1 });
        // SAFETY: locked by us.
        unsafe { self.mutex.unlock() };
    }

    fn total(&self) -> usize {
        // SAFETY: everybody else has ended.
        self.data.with(|data| unsafe { *data })
    }
}

fn mutex_model<const BROKEN: bool>(others: usize, rounds: usize) {
    let shared = Shared::<BROKEN>::new();
    let threads: Vec<_> = (0..others)
        .map(|_| {
            let shared = shared.clone();
            thread::spawn(move || (0..rounds).for_each(|_| shared.increment()))
        })
        .collect();
    (0..rounds).for_each(|_| shared.increment());
    for thread in threads {
        thread.join().expect("the model's threads do not panic");
    }
    assert_eq!(shared.total(), (others + 1) * rounds);
}

#[test]
fn loom_mutex_two_threads() {
    assert!(explore(None, || mutex_model::<false>(1, 2)) > 100);
}

#[test]
fn loom_mutex_three_threads() {
    assert!(explore(Some(3), || mutex_model::<false>(2, 1)) > 1000);
}

#[test]
fn loom_mutex_three_threads_again_and_again() {
    assert!(explore(Some(2), || mutex_model::<false>(2, 2)) > 1000);
}

/// A deadlock aborts the process (loom panics again while it unwinds), so the twin runs in one of its own.
#[test]
fn loom_mutex_broken_twin_loses_a_wakeup() {
    let this = std::env::current_exe().expect("the test's own program");
    let twin = std::process::Command::new(this)
        .args([
            "--ignored",
            "--exact",
            "loom_tests::broken_mutex",
            "--nocapture",
        ])
        .output()
        .expect("the test's own program starts");
    assert!(!twin.status.success());
    assert!(String::from_utf8_lossy(&twin.stderr).contains("deadlock;"));
}

#[test]
#[ignore = "must fail; run by loom_mutex_broken_twin_loses_a_wakeup"]
fn broken_mutex() {
    explore(Some(3), || mutex_model::<true>(2, 2));
}

#[test]
fn loom_mutex_try_lock_never_gets_a_locked_mutex() {
    let explored = explore(None, || {
        let shared = Shared::<false>::new();
        let other = shared.clone();
        let thread = thread::spawn(move || other.increment());
        if shared.mutex.try_lock() {
            // SAFETY: locked.
            shared.data.with_mut(|data| unsafe { *data += 1 });
            // SAFETY: locked by us.
            unsafe { shared.mutex.unlock() };
        }
        thread.join().expect("it does not panic");
        assert!((1..=2).contains(&shared.total()));
    });
    assert!(explored > 5);
}

/// Wait morphing: a waiter is put on the mutex's queue by another thread while a third competes for it.
#[test]
fn loom_mutex_morphed_waiter_gets_the_lock() {
    let explored = explore(Some(3), || {
        let shared = Shared::<false>::new();
        let mailbox = Arc::new(AtomicPtr::new(core::ptr::null_mut()));
        let (waiter_shared, waiter_mailbox) = (shared.clone(), mailbox.clone());
        let waiter = thread::spawn(move || {
            let record = WaitRecord::new();
            record.arm();
            waiter_mailbox.store((&raw const record).cast_mut(), Ordering::Release);
            waiter_shared.mutex.lock_queued(&record);
            waiter_shared.data.with_mut(|data| unsafe { *data += 1 });
            unsafe { waiter_shared.mutex.unlock() };
        });
        let rival = shared.clone();
        let rival = thread::spawn(move || rival.increment());
        let record = loop {
            let record: *mut WaitRecord<LoomParker<false>> = mailbox.load(Ordering::Acquire);
            if !record.is_null() {
                break record;
            }
            thread::yield_now();
        };
        unsafe {
            if !shared.mutex.enqueue_if_locked(record) {
                WaitRecord::release(record);
            }
        }
        waiter.join().expect("it does not panic");
        rival.join().expect("it does not panic");
        assert_eq!(shared.total(), 2);
    });
    assert!(explored > 100);
}

struct Node {
    link: MpscLink,
    value: UnsafeCell<usize>,
}

// SAFETY: loom checks `value`.
unsafe impl Sync for Node {}
// SAFETY: as above.
unsafe impl Send for Node {}
// SAFETY: always the same field.
unsafe impl MpscNode for Node {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

fn node(value: usize) -> Box<Node> {
    Box::new(Node {
        link: MpscLink::new(),
        value: UnsafeCell::new(value),
    })
}

#[test]
fn loom_mpsc_delivers_everything_once_and_in_order_per_pusher() {
    let explored = explore(Some(3), || {
        let list = Arc::new(MpscList::<Box<Node>>::new());
        let empties = Arc::new(AtomicUsize::new(0));
        let pushers: Vec<_> = [[10, 11], [20, 21]]
            .into_iter()
            .map(|values| {
                let (list, empties) = (list.clone(), empties.clone());
                thread::spawn(move || {
                    for value in values {
                        if unsafe { list.push(node(value)) } == Push::WasEmpty {
                            empties.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        let mut got = Vec::new();
        let take = |got: &mut Vec<usize>| {
            got.extend(
                list.take_all()
                    .map(|node| node.value.with(|value| unsafe { *value })),
            );
        };
        take(&mut got);
        for pusher in pushers {
            pusher.join().expect("it does not panic");
        }
        take(&mut got);
        assert_eq!(
            got.iter().filter(|value| **value < 20).collect::<Vec<_>>(),
            [&10, &11]
        );
        assert_eq!(
            got.iter().filter(|value| **value >= 20).collect::<Vec<_>>(),
            [&20, &21]
        );
        assert!((1..=2).contains(&empties.load(Ordering::Relaxed)));
    });
    assert!(explored > 100);
}

/// The list with a relaxed push: the taker reads fields that were not published.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_mpsc_broken_twin_races() {
    explore(None, || {
        let head = Arc::new(AtomicPtr::<Node>::new(core::ptr::null_mut()));
        let pusher = head.clone();
        let thread = thread::spawn(move || {
            let node = node(0);
            node.value.with_mut(|value| unsafe { *value = 1 });
            pusher.store(Box::into_raw(node), Ordering::Relaxed);
        });
        let node = head.swap(core::ptr::null_mut(), Ordering::Acquire);
        if !node.is_null() {
            unsafe { (*node).value.with(|value| *value) };
        }
        thread.join().expect("it does not panic");
    });
}

#[test]
fn loom_spsc_passes_values_in_order_across_the_wrap() {
    let explored = explore(None, || {
        let (mut producer, mut consumer) = ring_from::<usize, 2>(usize::MAX - 1);
        let thread = thread::spawn(move || {
            (0..3)
                .filter(|value| producer.push(*value).is_ok())
                .collect::<Vec<_>>()
        });
        let mut got: Vec<_> = (0..2).filter_map(|_| consumer.pop()).collect();
        let sent = thread.join().expect("it does not panic");
        got.extend(core::iter::from_fn(|| consumer.pop()));
        assert_eq!(got, sent);
        assert!(sent.len() >= 2);
    });
    assert!(explored > 10);
}

/// The ring whose producer reads the consumer's index relaxed: it overwrites a slot that is being read.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_spsc_broken_twin_races() {
    explore(None, || {
        let ring = Arc::new((AtomicUsize::new(1), AtomicUsize::new(0), UnsafeCell::new(7)));
        let consumer = ring.clone();
        let thread = thread::spawn(move || {
            consumer.2.with(|slot| unsafe { *slot });
            consumer.1.store(1, Ordering::Release);
        });
        if ring.1.load(Ordering::Relaxed) == 1 {
            ring.2.with_mut(|slot| unsafe { *slot = 8 });
        }
        thread.join().expect("it does not panic");
    });
}

/// Two threads put, two take, through two places: each value arrives once, with all that was written to it.
#[test]
fn loom_bag_passes_each_value_once() {
    let explored = explore(Some(2), || {
        let bag = Arc::new(Bag::<Box<UnsafeCell<usize>>, 2>::new());
        let workers: Vec<_> = [1, 10]
            .into_iter()
            .map(|value| {
                let bag = bag.clone();
                thread::spawn(move || {
                    let fresh = Box::new(UnsafeCell::new(0));
                    fresh.with_mut(|fresh| unsafe { *fresh = value });
                    let refused = bag.put(fresh).err();
                    let taken = bag.take();
                    [refused, taken].into_iter().flatten().map(|got| got.with(|got| unsafe { *got })).sum::<usize>()
                })
            })
            .collect();
        let mine = bag.take().map_or(0, |got| got.with(|got| unsafe { *got }));
        let theirs: usize = workers.into_iter().map(|worker| worker.join().expect("it does not panic")).sum();
        let left: usize = core::iter::from_fn(|| bag.take()).map(|got| got.with(|got| unsafe { *got })).sum();
        assert_eq!(mine + theirs + left, 11);
    });
    assert!(explored > 100);
}

/// A place is filled again only after it was read: three values through one place.
#[test]
fn loom_bag_place_is_reused_after_it_was_read() {
    let explored = explore(None, || {
        let bag = Arc::new(Bag::<usize, 1>::new());
        let other = bag.clone();
        let thread = thread::spawn(move || (1..=3).filter(|value| other.put(*value).is_ok()).sum::<usize>());
        let mut got: usize = (0..2).filter_map(|_| bag.take()).sum();
        let sent = thread.join().expect("it does not panic");
        got += core::iter::from_fn(|| bag.take()).sum::<usize>();
        assert_eq!(got, sent);
    });
    assert!(explored > 10);
}

/// The bag whose taker gives the place back before it has read it: it is filled while it is being read.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_bag_broken_twin_races() {
    explore(None, || {
        let bag = Arc::new((AtomicUsize::new(0), AtomicUsize::new(1), UnsafeCell::new(7)));
        let taker = bag.clone();
        let thread = thread::spawn(move || {
            if taker.1.swap(0, Ordering::Acquire) == 1 {
                taker.0.store(1, Ordering::Release);
                taker.2.with(|place| unsafe { *place });
            }
        });
        if bag.0.swap(0, Ordering::Acquire) == 1 {
            bag.2.with_mut(|place| unsafe { *place = 8 });
        }
        thread.join().expect("it does not panic");
    });
}
