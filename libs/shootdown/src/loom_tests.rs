//! Loom models: nobody runs on with a stale translation, nobody waits for ever; and broken twins.

use super::*;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64 as Word;
use loom::thread;
use loom_support::explore;

const A: u64 = 0x1000;
const OLD: u64 = 1;
const NEW: u64 = 2;

/// An entry of the tables of `A`, and what one CPU has cached of it.
struct World {
    entry: Word,
    cached: Word,
    cpu: CpuState,
    asked: Asked,
    round: Round,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { entry: Word::new(OLD), cached: Word::new(0), cpu: CpuState::new(), asked: Asked::new(), round: Round::new() })
    }

    /// The processor walks the tables.
    fn walk(&self) {
        self.cached.store(self.entry.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The requester changes the entry, and looks what that needs.
    fn change(&self) -> Needs {
        self.entry.store(NEW, Ordering::Relaxed);
        announce();
        self.cpu.needs(A, Freed::PagesOnly)
    }

    fn has_stale(&self) -> bool {
        self.cached.load(Ordering::Relaxed) == OLD
    }
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("the model's threads do not panic")
}

/// A CPU changes to the space while one of its entries changes.
fn loading(change_root: impl Fn(&World) + Sync + Send + Copy + 'static) -> usize {
    explore(None, move || {
        let world = World::new();
        let other = world.clone();
        let cpu = thread::spawn(move || change_root(&other));
        let needs = world.change();
        join(cpu);
        assert!(needs == Needs::Interrupt || !world.has_stale(), "a stale translation that nobody was told of");
    })
}

#[test]
fn loom_a_root_is_loaded_after_the_change_or_the_cpu_is_told() {
    let explored = loading(|world| world.cpu.change_root(A, || world.walk()));
    assert!(explored >= 5, "{explored}");
}

#[test]
#[should_panic(expected = "a stale translation")]
fn loom_broken_twin_that_shows_the_root_after_loading_it() {
    loading(|world| {
        world.walk();
        world.cpu.0.store(A, Ordering::Release);
    });
}

/// An idle CPU with a stale translation begins to run threads while its entry changes.
fn leaving_idle(leave: impl Fn(&CpuState) -> bool + Sync + Send + Copy + 'static) -> usize {
    explore(None, move || {
        let world = World::new();
        world.cpu.change_root(A, || world.walk());
        world.cpu.enter_idle();
        let other = world.clone();
        let cpu = thread::spawn(move || {
            if leave(&other.cpu) {
                other.walk();
            }
        });
        let needs = world.change();
        join(cpu);
        assert!(needs == Needs::Interrupt || !world.has_stale(), "a stale translation that nobody was told of");
    })
}

#[test]
fn loom_an_idle_cpu_sees_the_mark_or_is_told() {
    let explored = leaving_idle(CpuState::leave_idle);
    assert!(explored >= 4, "{explored}");
}

#[test]
#[should_panic(expected = "a stale translation")]
fn loom_broken_twin_that_leaves_idle_in_two_steps() {
    leaving_idle(|cpu| {
        let state = cpu.0.load(Ordering::SeqCst);
        cpu.0.store(state & !(IDLE | MUST_FLUSH), Ordering::SeqCst);
        state & MUST_FLUSH != 0
    });
}

/// A round for one busy CPU, which is interrupted twice: once for nothing.
fn round(take: impl Fn(&Asked) -> bool + Sync + Send + Copy + 'static) -> usize {
    explore(None, move || {
        let world = World::new();
        world.cpu.change_root(A, || world.walk());
        let answer = move |world: &World| {
            if take(&world.asked) {
                world.walk();
                let left = world.round.0.fetch_sub(1, Ordering::AcqRel);
                assert!(left != 0 && left < 3, "counted out twice");
            }
        };
        assert_eq!(world.change(), Needs::Interrupt);
        world.round.begin();
        world.round.ask(&world.asked);
        let interrupts = [world.clone(), world.clone()].map(|world| thread::spawn(move || answer(&world)));
        world.round.all_asked();
        let over = world.round.is_over();
        assert!(!over || !world.has_stale(), "over before the flush");
        interrupts.into_iter().for_each(join);
        assert!(world.round.is_over() && !world.has_stale());
    })
}

#[test]
fn loom_a_round_is_over_when_the_cpu_has_flushed_however_often_it_is_interrupted() {
    let explored = round(Asked::take);
    assert!(explored >= 8, "{explored}");
}

#[test]
#[should_panic(expected = "counted out twice")]
fn loom_broken_twin_that_looks_at_the_mark_and_then_takes_it() {
    round(|asked| {
        let was_asked = asked.0.load(Ordering::Acquire);
        asked.0.store(false, Ordering::Release);
        was_asked
    });
}

/// Of two CPUs that answer, exactly one wakes the requester, unless both answer before all were asked.
#[test]
fn loom_one_wakes_the_requester() {
    let explored = explore(None, || {
        let world = Arc::new((Round::new(), [Asked::new(), Asked::new()]));
        world.0.begin();
        world.1.iter().for_each(|cpu| world.0.ask(cpu));
        let cpus = [0, 1].map(|cpu| {
            let world = world.clone();
            thread::spawn(move || world.1[cpu].take() && world.0.answer())
        });
        world.0.all_asked();
        let sleeps = !world.0.is_over();
        let wakes = cpus.into_iter().map(join).filter(|last| *last).count();
        assert!(world.0.is_over() && wakes <= 1 && (wakes == 1 || !sleeps), "the requester sleeps for ever");
    });
    assert!(explored >= 6, "{explored}");
}
