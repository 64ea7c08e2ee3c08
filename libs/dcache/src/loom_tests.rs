//! Models: a reader looks names up while a writer inserts, removes and frees; and broken twins.

use std::cell::Cell;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::{HashedName, Mistake, NameTable};
use rcu::grace::{GracePeriods, Outcome};
use rcu::{Deferred, Domain};

std::thread_local! {
    // All threads of a model run on the operating system's thread of its test.
    static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
    static DEFERRED: Cell<Vec<Deferred>> = const { Cell::new(Vec::new()) };
}

pub(crate) fn mistaken(mistake: Mistake) -> bool {
    MADE.get() == Some(mistake)
}

/// The model passes its quiescent states by hand.
struct Model;

impl Domain for Model {
    type Reading = ();
    fn read() {}
    fn defer(action: Deferred) {
        let mut all = DEFERRED.take();
        all.push(action);
        DEFERRED.set(all);
    }
}

/// Loom reports a reader that looks at it before it was made, or while it goes.
struct Object(UnsafeCell<u32>);

// SAFETY: the model checks it.
unsafe impl Sync for Object {}

impl Object {
    fn new(value: u32) -> Self {
        let object = Self(UnsafeCell::new(0));
        // SAFETY: the model checks it.
        object.0.with_mut(|cell| unsafe { *cell = value });
        object
    }

    fn value(&self) -> u32 {
        // SAFETY: the model checks it.
        self.0.with(|cell| unsafe { *cell })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the model checks it.
        self.0.with_mut(|cell| unsafe { *cell = u32::MAX });
    }
}

type Table = NameTable<Object, Model, 1>;

const STAYS: u32 = 7;

fn explore(mistake: Option<Mistake>, model: impl Fn() + Sync + Send + 'static) -> usize {
    MADE.set(mistake);
    loom_support::explore(Some(3), model)
}

fn find(table: &Table, name: &[u8]) -> Option<u32> {
    table.find(&(), 1, &HashedName::new(name)).map(|entry| entry.value())
}

fn grace_period(periods: &GracePeriods<1>) {
    let number = periods.start();
    while !periods.is_over(number) {
        thread::park();
    }
    DEFERRED.take().into_iter().for_each(Deferred::call);
}

/// One name stays, one lies before and one behind it in the list; both of these are removed, and one comes back.
fn look_up_while_names_change() {
    let table = Arc::new(Table::new());
    let periods = Arc::new(GracePeriods::<1>::new());
    let behind = table.insert(1, &HashedName::new(b"behind"), Object::new(1));
    let stays = table.insert(1, &HashedName::new(b"stays"), Object::new(STAYS));
    let before = table.insert(1, &HashedName::new(b"before"), Object::new(2));
    periods.leave_idle(0);
    let (writers, writers_periods) = (table.clone(), periods.clone());
    let writer = thread::spawn(move || {
        writers.remove(before);
        let again = writers.insert(1, &HashedName::new(b"before"), Object::new(3));
        writers.remove(behind);
        grace_period(&writers_periods);
        again
    });
    assert!(matches!(find(&table, b"before"), None | Some(2 | 3)));
    assert_eq!(find(&table, b"stays"), Some(STAYS));
    assert!(matches!(find(&table, b"behind"), None | Some(1)));
    if periods.enter_idle(0) == Outcome::Over {
        writer.thread().unpark();
    }
    let again = writer.join().expect("the model's threads do not panic");
    assert_eq!((find(&table, b"before"), find(&table, b"behind")), (Some(3), None));
    for entry in [again, stays] {
        table.remove(entry);
    }
    DEFERRED.take().into_iter().for_each(Deferred::call);
}

#[test]
fn loom_a_name_that_stays_is_always_found_and_nothing_freed_is_read() {
    let explored = explore(None, look_up_while_names_change);
    assert!(explored > 100, "{explored}");
}

#[test]
#[should_panic(expected = "ausality")]
fn loom_broken_twin_publishes_an_entry_before_it_is_whole() {
    explore(Some(Mistake::PublishedEarly), look_up_while_names_change);
}

#[test]
#[should_panic]
fn loom_broken_twin_frees_at_once() {
    explore(Some(Mistake::FreedAtOnce), look_up_while_names_change);
}
