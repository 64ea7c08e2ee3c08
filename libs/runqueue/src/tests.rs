//! Properties of the measure, the run queue's rules, the state word's table.

use std::sync::Arc;

use proptest::prelude::*;

use crate::measure::{Factor, HYSTERESIS_NS, PRICE_ONE, TAU_NS, price_of_nice};
use crate::{
    Enqueue, FallAsleep, Policy, PollFlag, PollWindow, RunQueue, SchedEntity, Scheduled, ThreadState, Unpark,
};

const MS: u64 = 1_000_000;

struct Thread {
    name: u32,
    entity: SchedEntity,
}

// SAFETY: always the same field.
#[expect(unsafe_code, reason = "implements the run queue's contract")]
unsafe impl Scheduled for Thread {
    fn sched_entity(&self) -> &SchedEntity {
        &self.entity
    }
}

fn thread(name: u32, policy: Policy) -> Arc<Thread> {
    Arc::new(Thread {
        name,
        entity: SchedEntity::new(policy),
    })
}

fn enqueue(queue: &mut RunQueue<Arc<Thread>>, thread: &Arc<Thread>, why: Enqueue) {
    // SAFETY: the tests enqueue a thread once.
    #[expect(unsafe_code, reason = "the test holds the thread")]
    unsafe {
        queue.enqueue(thread.clone(), why);
    }
}

fn drain(queue: &mut RunQueue<Arc<Thread>>) -> Vec<u32> {
    std::iter::from_fn(|| queue.pick_next())
        .map(|thread| thread.name)
        .collect()
}

fn exact_factor(t_ns: u64) -> f64 {
    (t_ns as f64 / TAU_NS as f64).exp()
}

proptest! {
    #[test]
    fn the_factor_follows_the_exponential(t in 1_000_u64..2_000_000_000) {
        let mut factor = Factor::new();
        let step = factor.advance(t);
        prop_assert_eq!(step.renormalise, 0);
        let got = factor.c() as f64 / 2f64.powi(32);
        prop_assert!((got / exact_factor(t) - 1.0).abs() < 1e-5, "{} {}", got, exact_factor(t));
        let growth = step.growth as f64 / 2f64.powi(32);
        let exact = (t as f64 / TAU_NS as f64).exp_m1();
        prop_assert!((growth / exact - 1.0).abs() < 1e-4, "{} {}", growth, exact);
    }

    #[test]
    fn many_steps_are_one_long_step(steps in prop::collection::vec(0_u64..50 * MS, 1..200)) {
        let (mut many, mut one) = (Factor::new(), Factor::new());
        for step in &steps {
            let _ = many.advance(*step);
        }
        let _ = one.advance(steps.iter().sum());
        let log = |factor: Factor| (factor.c() as f64).log2() + factor.shift() as f64;
        prop_assert!((log(many) - log(one)).abs() < 1e-3);
    }

    #[test]
    fn the_factor_stays_in_bounds(steps in prop::collection::vec(any::<u64>(), 1..50)) {
        let mut factor = Factor::new();
        for step in steps {
            let _ = factor.advance(step);
            prop_assert!(factor.c() >= 1 << 32 && factor.c() < 1 << 52);
        }
    }

    #[test]
    fn more_time_never_costs_less(start in 0_u64..1 << 40, a in 0_u64..1 << 33, b in 0_u64..1 << 20) {
        let mut before = Factor::new();
        let _ = before.advance(start);
        let (mut short, mut long) = (before, before);
        let (short_step, long_step) = (short.advance(a), long.advance(a + b));
        if short_step.renormalise == long_step.renormalise {
            prop_assert!(short_step.charge(PRICE_ONE) <= long_step.charge(PRICE_ONE));
        }
    }

    #[test]
    fn time_to_earn_is_never_early_and_little_late(
        start in 0_u64..3_000 * MS, run in 1_000_u64..600 * MS, nice in -20_i8..20,
    ) {
        let mut factor = Factor::new();
        let _ = factor.advance(start);
        let price = price_of_nice(nice);
        let mut later = factor;
        let step = later.advance(run);
        prop_assume!(step.renormalise == 0);
        let time = factor.time_to_earn(step.charge(price), price);
        prop_assert!(time + 2 >= run, "{} < {}", time, run);
        prop_assert!(time <= run + run / 50 + 5_000, "{} > {}", time, run);
    }

    #[test]
    fn import_keeps_the_share_and_decays_it(
        here in 0_u64..3_000 * MS, there in 0_u64..3_000 * MS, asleep in 0_u64..2_000 * MS,
    ) {
        let (mut source, mut target) = (Factor::new(), Factor::new());
        let _ = source.advance(there);
        let _ = target.advance(here);
        let r = source.c() / 2;
        let expected = 0.5 * target.c() as f64 / exact_factor(asleep);
        let got = target.import(r, source, asleep) as f64;
        prop_assert!((got - expected).abs() <= expected * 1e-3 + target.c() as f64 / 2f64.powi(30));
    }

    #[test]
    fn picks_are_in_order_of_rank_and_r(runs in prop::collection::vec((0_u64..300, -20_i8..20), 1..40)) {
        let mut queue = RunQueue::new(0);
        let mut now = 0;
        let threads: Vec<_> = (0..).zip(&runs).map(|(n, (_, nice))| thread(n, Policy::Normal(*nice))).collect();
        for (thread, (run, _)) in threads.iter().zip(&runs) {
            queue.account(None, now);
            now += run * MS;
            queue.account(Some(&**thread), now);
        }
        for thread in &threads {
            enqueue(&mut queue, thread, Enqueue::Woken);
        }
        let mut last = 0;
        while let Some(next) = queue.pick_next() {
            prop_assert!(next.entity.runtime() >= last);
            last = next.entity.runtime();
        }
    }
}

#[test]
fn prices_step_by_a_quarter() {
    assert_eq!(price_of_nice(0), PRICE_ONE);
    for nice in -20..19 {
        let ratio = f64::from(price_of_nice(nice + 1)) / f64::from(price_of_nice(nice));
        assert!((ratio - 1.25).abs() < 0.01, "nice {nice}: {ratio}");
    }
}

#[test]
fn classes_are_strict() {
    let mut queue = RunQueue::new(0);
    let policies = [
        Policy::Idle(0),
        Policy::Normal(19),
        Policy::Normal(-20),
        Policy::Fifo(1),
        Policy::RoundRobin(99),
    ];
    for (name, policy) in (0..).zip(policies) {
        enqueue(&mut queue, &thread(name, policy), Enqueue::Woken);
    }
    assert_eq!(queue.load(), 5);
    assert_eq!(drain(&mut queue), [4, 3, 1, 2, 0]);
}

#[test]
fn a_preempted_fifo_thread_stays_first_among_its_equals() {
    let mut queue = RunQueue::new(0);
    let all: Vec<_> = (0..3).map(|name| thread(name, Policy::Fifo(10))).collect();
    enqueue(&mut queue, &all[0], Enqueue::Woken);
    enqueue(&mut queue, &all[1], Enqueue::Woken);
    enqueue(&mut queue, &all[2], Enqueue::Preempted);
    assert_eq!(drain(&mut queue), [2, 0, 1]);
    enqueue(&mut queue, &all[0], Enqueue::Woken);
    enqueue(&mut queue, &all[1], Enqueue::Yielded);
    assert_eq!(drain(&mut queue), [0, 1]);
}

#[test]
fn round_robin_threads_alternate_by_quantum() {
    let mut queue = RunQueue::new(0);
    let (a, b) = (
        thread(0, Policy::RoundRobin(5)),
        thread(1, Policy::RoundRobin(5)),
    );
    enqueue(&mut queue, &a, Enqueue::Woken);
    enqueue(&mut queue, &b, Enqueue::Woken);
    let running = queue.pick_next().expect("a is queued");
    assert_eq!(running.name, 0);
    assert_eq!(queue.next_preemption(&running), Some(100 * MS));
    queue.account(Some(&*running), 99 * MS);
    assert!(!queue.should_preempt(&running));
    queue.account(Some(&*running), 100 * MS);
    assert!(queue.should_preempt(&running));
    enqueue(&mut queue, &running, Enqueue::Preempted);
    assert_eq!(drain(&mut queue), [1, 0]);
}

#[test]
fn a_new_policy_moves_a_queued_thread() {
    let mut queue = RunQueue::new(0);
    let (a, b) = (thread(0, Policy::Normal(0)), thread(1, Policy::Normal(0)));
    enqueue(&mut queue, &a, Enqueue::Woken);
    enqueue(&mut queue, &b, Enqueue::Woken);
    b.entity.set_policy(Policy::Fifo(3));
    // SAFETY: there is one queue.
    #[expect(unsafe_code, reason = "the test owns the only queue")]
    let moved = unsafe { queue.requeue(&b) };
    assert!(moved);
    assert_eq!(drain(&mut queue), [1, 0]);
}

#[test]
fn a_woken_thread_preempts_only_past_the_hysteresis() {
    let mut queue = RunQueue::new(0);
    let (hog, fresh) = (thread(0, Policy::Normal(0)), thread(1, Policy::Normal(0)));
    enqueue(&mut queue, &hog, Enqueue::Woken);
    let hog = queue.pick_next().expect("the hog is queued");
    queue.account(Some(&*hog), HYSTERESIS_NS / 2);
    enqueue(&mut queue, &fresh, Enqueue::Woken);
    assert!(!queue.should_preempt(&hog));
    let when = queue.next_preemption(&hog).expect("somebody waits");
    queue.account(Some(&*hog), when);
    assert!(queue.should_preempt(&hog));
    assert!(when < HYSTERESIS_NS * 11 / 10);
}

#[test]
fn migration_takes_an_allowed_thread_and_keeps_its_share() {
    let (mut from, mut to) = (RunQueue::new(0), RunQueue::new(1));
    let all: Vec<_> = (0..4).map(|name| thread(name, Policy::Normal(0))).collect();
    from.account(Some(&*all[2]), 150 * MS);
    to.account(None, 900 * MS);
    from.account(None, 900 * MS);
    for thread in &all {
        enqueue(&mut from, thread, Enqueue::Woken);
    }
    assert!(from.take_for_migration(|_| false).is_none());
    let moved = from
        .take_for_migration(|thread| thread.name == 2)
        .expect("it is queued");
    let share = moved.entity.runtime() as f64 / from.factor().c() as f64;
    enqueue(&mut to, &moved, Enqueue::Woken);
    let share_now = moved.entity.runtime() as f64 / to.factor().c() as f64;
    assert!(
        (share / share_now - 1.0).abs() < 1e-3,
        "{share} {share_now}"
    );
    assert_eq!((from.load(), to.load()), (3, 1));
}

#[test]
fn state_transitions_follow_the_table() {
    let state = ThreadState::new();
    assert!(!state.take_token());
    assert_eq!(state.unpark(), Unpark::TokenSet);
    assert_eq!(state.unpark(), Unpark::TokenSet);
    assert!(state.take_token());
    assert!(!state.take_token());
    assert_eq!(state.unpark(), Unpark::TokenSet);
    assert_eq!(state.fall_asleep(), FallAsleep::AlreadyWoken);
    assert!(!state.take_token(), "the token is used up");
    assert_eq!(state.fall_asleep(), FallAsleep::Asleep);
    assert!(state.is_sleeping());
    assert_eq!(state.unpark(), Unpark::MustEnqueue);
    assert!(!state.is_sleeping());
    assert_eq!(state.unpark(), Unpark::TokenSet);
    state.exit();
    assert!(state.is_exited());
    assert_eq!(state.unpark(), Unpark::Exited);
}

#[test]
fn polling_is_learnt_bounded_and_forgotten() {
    let mut window = PollWindow::new();
    window.learn(10 * MS);
    assert_eq!(window.window_ns(), 0, "idle for long: no polling");
    for _ in 0..10 {
        window.learn(3_000);
        assert!((1..=PollWindow::LONGEST_NS).contains(&window.window_ns()));
    }
    assert_eq!(window.window_ns(), PollWindow::LONGEST_NS);
    for _ in 0..5 {
        window.learn(10 * MS);
    }
    assert_eq!(window.window_ns(), 0, "forgotten after a few long idle times");
}

#[test]
fn a_poller_needs_no_interrupt() {
    let flag = PollFlag::new();
    assert!(flag.needs_interrupt());
    flag.begin();
    assert!(!flag.needs_interrupt());
    flag.end();
    assert!(flag.needs_interrupt());
}

#[test]
fn brief_charges_are_what_an_account_charges() {
    let (mut brief, mut exact) = (RunQueue::<Arc<Thread>>::new(0), RunQueue::<Arc<Thread>>::new(0));
    let (a, b) = (thread(0, Policy::Normal(3)), thread(1, Policy::Normal(3)));
    let mut now = 700 * MS;
    brief.account(None, now);
    exact.account(None, now);
    for _ in 0..500 {
        for _ in 0..10 {
            brief.charge_briefly(&a, 9_000);
        }
        now += 100_000;
        brief.account(Some(&*a), now);
        exact.account(Some(&*b), now);
    }
    assert_eq!(a.entity.cpu_time_ns(), b.entity.cpu_time_ns());
    let log = |factor: Factor| (factor.c() as f64).log2() + factor.shift() as f64;
    assert!((log(brief.factor()) - log(exact.factor())).abs() < 1e-3);
    let ratio = a.entity.runtime() as f64 / b.entity.runtime() as f64;
    assert!((ratio - 1.0).abs() < 1e-3, "{ratio}");
}

#[test]
fn batch_work_preempts_nobody_when_woken() {
    let mut queue = RunQueue::new(0);
    let (hog, batch) = (thread(0, Policy::Normal(0)), thread(1, Policy::Batch(0)));
    enqueue(&mut queue, &hog, Enqueue::Woken);
    let hog = queue.pick_next().expect("the hog is queued");
    queue.account(Some(&*hog), 50 * MS);
    enqueue(&mut queue, &batch, Enqueue::Woken);
    assert!(!queue.wake_preempts(&batch, &hog));
    assert!(queue.should_preempt(&hog), "but it gets its turn");
    hog.entity.set_policy(Policy::Idle(0));
    queue.account(Some(&*hog), 51 * MS);
    assert!(queue.wake_preempts(&batch, &hog), "a higher class is another matter");
}

#[test]
fn a_fallen_priority_goes_first_a_risen_one_last() {
    let mut queue = RunQueue::new(0);
    let all: Vec<_> = [20, 20, 50, 10].into_iter().enumerate().map(|(n, p)| thread(n as u32, Policy::Fifo(p))).collect();
    for thread in &all {
        enqueue(&mut queue, thread, Enqueue::Woken);
    }
    all[2].entity.set_policy(Policy::Fifo(20));
    all[3].entity.set_policy(Policy::Fifo(20));
    queue.requeue_changed();
    assert_eq!(drain(&mut queue), [2, 0, 1, 3]);
}

#[expect(unsafe_code, reason = "the tests hold the threads and enqueue each once")]
fn enqueue_in_front(queue: &mut RunQueue<Arc<Thread>>, thread: &Arc<Thread>) -> bool {
    // SAFETY: as said.
    unsafe { queue.enqueue_in_front(thread.clone()) }.is_ok()
}

#[expect(unsafe_code, reason = "the thread runs, so it is in no queue")]
fn exchange(queue: &mut RunQueue<Arc<Thread>>, current: Arc<Thread>) -> Result<Arc<Thread>, Arc<Thread>> {
    // SAFETY: as said.
    unsafe { queue.exchange(current) }
}

#[test]
fn who_yields_goes_behind_the_first_but_not_behind_lower_classes() {
    let mut queue = RunQueue::new(0);
    let all: Vec<_> = (0..3).map(|name| thread(name, Policy::Normal(0))).collect();
    for thread in &all {
        enqueue(&mut queue, thread, Enqueue::Woken);
    }
    let mut running = queue.pick_next().expect("they are queued");
    let mut order = vec![running.name];
    for _ in 0..5 {
        queue.charge_briefly(&running, 1_000);
        running = exchange(&mut queue, running).ok().expect("others are ready");
        order.push(running.name);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    assert_eq!(queue.load(), 3);
    let mut alone = RunQueue::new(1);
    enqueue(&mut alone, &thread(7, Policy::Idle(0)), Enqueue::Woken);
    let current = thread(8, Policy::Normal(0));
    alone.account(Some(&*current), MS);
    assert!(exchange(&mut alone, current).is_err_and(|thread| thread.name == 8));
}

/// A queue that has run two threads in this epoch, the second of which runs.
fn with_two_up_to_date() -> (RunQueue<Arc<Thread>>, [Arc<Thread>; 2]) {
    let mut queue = RunQueue::new(0);
    let both = [thread(0, Policy::Normal(0)), thread(1, Policy::Normal(0))];
    queue.account(None, MS);
    for thread in &both {
        enqueue(&mut queue, thread, Enqueue::Woken);
        let picked = queue.pick_next().expect("it was queued");
        queue.charge_briefly(&picked, 1_000);
    }
    (queue, both)
}

#[test]
fn a_thread_in_front_is_counted_found_and_taken() {
    let (mut queue, [woken, running]) = with_two_up_to_date();
    assert!(enqueue_in_front(&mut queue, &woken));
    assert!(!queue.is_empty());
    assert_eq!((queue.len(), queue.load()), (1, 2));
    assert_eq!(queue.first().map(|first| first.name), Some(0));
    assert!(!enqueue_in_front(&mut queue, &running), "the place is taken");
    assert_eq!(queue.pick_front().map(|thread| thread.name), Some(0));
    assert!(queue.is_empty() && queue.pick_front().is_none());
}

#[test]
fn a_thread_in_front_takes_its_place_when_others_come() {
    let (mut queue, [first, second]) = with_two_up_to_date();
    assert!(enqueue_in_front(&mut queue, &first));
    enqueue(&mut queue, &second, Enqueue::Woken);
    enqueue(&mut queue, &thread(2, Policy::Fifo(1)), Enqueue::Woken);
    assert!(queue.pick_front().is_none());
    assert_eq!(drain(&mut queue), [2, 0, 1]);
}

#[test]
fn a_thread_in_front_may_migrate_and_change_its_policy() {
    let (mut queue, [woken, _]) = with_two_up_to_date();
    assert!(enqueue_in_front(&mut queue, &woken));
    woken.entity.set_policy(Policy::Idle(0));
    queue.requeue_changed();
    assert_eq!(woken.entity.rank(), Policy::Idle(0).rank());
    assert_eq!(queue.take_for_migration(|_| true).map(|thread| thread.name), Some(0));
    assert!(queue.is_empty());
}

#[test]
fn only_a_thread_that_is_up_to_date_may_be_in_front() {
    let (mut queue, [woken, _]) = with_two_up_to_date();
    queue.account(None, 2 * MS);
    assert!(!enqueue_in_front(&mut queue, &woken), "an epoch has passed");
    let mut elsewhere = RunQueue::new(1);
    assert!(!enqueue_in_front(&mut elsewhere, &woken), "it comes from another CPU");
}

#[test]
fn two_that_yield_to_each_other_stay_in_front() {
    let (mut queue, [waiting, running]) = with_two_up_to_date();
    assert!(enqueue_in_front(&mut queue, &waiting));
    let next = exchange(&mut queue, running).ok().expect("another is ready");
    assert_eq!(next.name, 0);
    assert_eq!(queue.pick_front().map(|thread| thread.name), Some(1));
}

#[test]
fn who_goes_before_the_heap_comes_in_front_of_it() {
    let (mut queue, [woken, running]) = with_two_up_to_date();
    enqueue(&mut queue, &thread(2, Policy::Idle(0)), Enqueue::Woken);
    assert!(enqueue_in_front(&mut queue, &woken), "only a lower class is there");
    assert_eq!((queue.len(), queue.first().map(|first| first.name)), (2, Some(0)));
    let next = exchange(&mut queue, running).ok().expect("another is ready");
    assert_eq!((next.name, queue.pick_front().map(|thread| thread.name)), (0, Some(1)));
    let hog = thread(3, Policy::Normal(0));
    enqueue(&mut queue, &hog, Enqueue::Woken);
    hog.entity.set_runtime(next.entity.runtime() + 1);
    assert!(enqueue_in_front(&mut queue, &next), "it has run less than all that are there");
    assert_eq!(drain(&mut queue), [0, 3, 2]);
}

#[test]
fn who_does_not_go_before_the_heap_is_linked() {
    let (mut queue, [woken, _]) = with_two_up_to_date();
    let equal = thread(2, Policy::Normal(0));
    enqueue(&mut queue, &equal, Enqueue::Woken);
    equal.entity.set_runtime(woken.entity.runtime());
    assert!(!enqueue_in_front(&mut queue, &woken), "an equal was there before");
    enqueue(&mut queue, &thread(3, Policy::Fifo(1)), Enqueue::Woken);
    assert!(!enqueue_in_front(&mut queue, &woken), "a real-time thread is there");
}

/// A queue whose budget for real-time threads was spent by the one that is returned; it runs.
fn with_spent_budget() -> (RunQueue<Arc<Thread>>, Arc<Thread>) {
    let mut queue = RunQueue::new(0);
    let hog = thread(0, Policy::Fifo(50));
    queue.account(Some(&*hog), MS);
    queue.account(Some(&*hog), 952 * MS);
    assert!(queue.holds_real_time());
    (queue, hog)
}

#[test]
fn held_threads_stand_behind_all_others_in_their_order() {
    let (mut queue, hog) = with_spent_budget();
    let others = [Policy::Fifo(49), Policy::RoundRobin(51), Policy::Idle(0), Policy::Normal(19), Policy::Fifo(50)];
    for (name, policy) in (1..).zip(others) {
        enqueue(&mut queue, &thread(name, policy), Enqueue::Woken);
    }
    assert!(queue.should_preempt(&hog));
    assert_eq!(queue.next_preemption(&hog), Some(952 * MS));
    enqueue(&mut queue, &hog, Enqueue::Preempted);
    assert_eq!(drain(&mut queue), [4, 3, 2, 0, 5, 1]);
}

#[test]
fn held_threads_come_back_wherever_they_were() {
    let (mut queue, running) = with_spent_budget();
    let [queued, asleep] = [1, 2].map(|name| thread(name, Policy::Fifo(50)));
    for thread in [&queued, &asleep] {
        enqueue(&mut queue, thread, Enqueue::Woken);
    }
    assert_eq!(queue.pick_next().map(|thread| thread.name), Some(1));
    assert_eq!(queue.pick_next().map(|thread| thread.name), Some(2));
    enqueue(&mut queue, &queued, Enqueue::Woken);
    let normal = thread(3, Policy::Normal(0));
    enqueue(&mut queue, &normal, Enqueue::Woken);
    queue.account(Some(&*running), 1001 * MS);
    assert!(!queue.holds_real_time());
    assert!(!queue.should_preempt(&running), "it is where it was");
    enqueue(&mut queue, &asleep, Enqueue::Woken);
    assert_eq!(drain(&mut queue), [1, 2, 3]);
}

#[test]
fn a_held_thread_may_change_its_policy_and_leave() {
    let (mut queue, _hog) = with_spent_budget();
    let all = [10, 20, 30].map(|priority| thread(u32::from(priority), Policy::Fifo(priority)));
    for thread in &all {
        enqueue(&mut queue, thread, Enqueue::Woken);
    }
    all[0].entity.set_policy(Policy::Fifo(40));
    all[2].entity.set_policy(Policy::Normal(0));
    queue.requeue_changed();
    assert_eq!(queue.first().map(|first| first.name), Some(30));
    let moved = queue.take_for_migration(|thread| thread.name == 10).expect("it is queued");
    let mut elsewhere = RunQueue::new(1);
    enqueue(&mut elsewhere, &thread(1, Policy::Normal(0)), Enqueue::Woken);
    enqueue(&mut elsewhere, &moved, Enqueue::Woken);
    assert_eq!(drain(&mut elsewhere), [10, 1], "that CPU has time left for it");
    assert_eq!(drain(&mut queue), [30, 20]);
}

#[test]
fn a_held_thread_goes_before_no_equal() {
    let (mut queue, hog) = with_spent_budget();
    let equal = thread(1, Policy::Fifo(50));
    enqueue(&mut queue, &equal, Enqueue::Woken);
    equal.entity.set_runtime(u64::MAX >> 8);
    assert!(!enqueue_in_front(&mut queue, &hog), "it came later, though it has run less");
    assert_eq!(drain(&mut queue), [1]);
}
