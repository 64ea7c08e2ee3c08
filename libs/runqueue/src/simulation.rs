//! Deterministic simulation of one CPU, and of several with their balancers: who gets how much, as snapshots.
//!
//! The simulated CPU does what a kernel does: account, enqueue the woken, preempt if asked to, run until the next
//! event. Nothing depends on the host.

use std::fmt::Write;
use std::sync::Arc;

use crate::{Balance, Enqueue, Policy, RealTimeShare, RunQueue, SchedEntity, Scheduled};

const MS: u64 = 1_000_000;

struct Task {
    entity: SchedEntity,
    name: &'static str,
    /// Runs so long, then sleeps so long, for ever. Zero sleep: a hog.
    run_ns: u64,
    sleep_ns: u64,
}

// SAFETY: always the same field.
#[expect(unsafe_code, reason = "implements the run queue's contract")]
unsafe impl Scheduled for Task {
    fn sched_entity(&self) -> &SchedEntity {
        &self.entity
    }
}

fn hog(name: &'static str, policy: Policy) -> Task {
    sleeper(name, policy, u64::MAX, 0)
}

fn sleeper(name: &'static str, policy: Policy, run_ns: u64, sleep_ns: u64) -> Task {
    Task {
        entity: SchedEntity::new(policy),
        name,
        run_ns,
        sleep_ns,
    }
}

struct Cpu {
    queue: RunQueue<Arc<Task>>,
    now: u64,
    current: Option<Arc<Task>>,
    /// Run time left in the current's burst, by task.
    left: Vec<(Arc<Task>, u64)>,
    asleep: Vec<(u64, Arc<Task>)>,
    switches: usize,
}

impl Cpu {
    fn new(tasks: Vec<Task>) -> Self {
        let tasks: Vec<_> = tasks.into_iter().map(Arc::new).collect();
        let mut cpu = Self::idle(0, &tasks);
        for task in &tasks {
            put(&mut cpu.queue, task, Enqueue::Woken);
        }
        cpu
    }

    /// A CPU on which `tasks` may come to run.
    fn idle(number: u32, tasks: &[Arc<Task>]) -> Self {
        let left = tasks
            .iter()
            .map(|task| (task.clone(), task.run_ns))
            .collect();
        Self {
            queue: RunQueue::new(number),
            now: 0,
            current: None,
            left,
            asleep: Vec::new(),
            switches: 0,
        }
    }

    fn left(&mut self, task: &Arc<Task>) -> &mut u64 {
        let entry = self
            .left
            .iter_mut()
            .find(|entry| Arc::ptr_eq(&entry.0, task));
        &mut entry.expect("every task is listed").1
    }

    fn run_until(&mut self, end: u64) {
        while self.now < end {
            self.reschedule();
            let next = self.next_event().min(end);
            let ran = next - self.now;
            if let Some(task) = self.current.clone() {
                *self.left(&task) -= ran;
            }
            self.now = next;
        }
        self.queue.account(self.current.as_deref(), self.now);
    }

    fn next_event(&mut self) -> u64 {
        let wake = self
            .asleep
            .iter()
            .map(|entry| entry.0)
            .min()
            .unwrap_or(u64::MAX);
        let Some(task) = self.current.clone() else {
            return wake;
        };
        let preempt = self.queue.next_preemption(&task).unwrap_or(u64::MAX);
        let done = self.now.saturating_add(*self.left(&task));
        wake.min(preempt.max(self.now + 1)).min(done)
    }

    fn reschedule(&mut self) {
        self.queue.account(self.current.as_deref(), self.now);
        let now = self.now;
        for (_, task) in self.asleep.extract_if(.., |entry| entry.0 <= now) {
            put(&mut self.queue, &task, Enqueue::Woken);
        }
        self.stop_current();
        if self.current.is_none() {
            self.current = self.queue.pick_next();
            self.switches += 1;
        }
    }

    fn stop_current(&mut self) {
        let Some(task) = self.current.take() else {
            return;
        };
        if *self.left(&task) == 0 {
            *self.left(&task) = task.run_ns;
            self.asleep.push((self.now + task.sleep_ns, task));
        } else if self.queue.should_preempt(&task) {
            put(&mut self.queue, &task, Enqueue::Preempted);
        } else {
            self.current = Some(task);
        }
    }

    /// "name=ms", in the order given.
    fn report(&self) -> String {
        let mut text = String::new();
        for (task, _) in &self.left {
            write!(
                text,
                "{}={} ",
                task.name,
                (task.entity.cpu_time_ns() + MS / 2) / MS
            )
            .expect("writing to a string");
        }
        text.trim_end().to_owned()
    }
}

fn put(queue: &mut RunQueue<Arc<Task>>, task: &Arc<Task>, why: Enqueue) {
    // SAFETY: the simulation keeps each task in one place.
    #[expect(unsafe_code, reason = "the simulation keeps each task in one place")]
    unsafe {
        queue.enqueue(task.clone(), why);
    }
}

fn simulate(ms: u64, tasks: Vec<Task>) -> (String, usize) {
    let mut cpu = Cpu::new(tasks);
    cpu.run_until(ms * MS);
    (cpu.report(), cpu.switches)
}

/// The milliseconds that each of `hogs` equal hogs gets in ten seconds on `cpus` CPUs, whose balancers look every 50 ms.
fn balanced(cpus: usize, hogs: usize) -> Vec<u64> {
    const LOOK_NS: u64 = 50 * MS;
    let tasks: Vec<_> = (0..hogs).map(|_| Arc::new(hog("hog", Policy::Normal(0)))).collect();
    let mut machine: Vec<Cpu> = (0..cpus).map(|number| Cpu::idle(number as u32, &tasks)).collect();
    for (index, task) in tasks.iter().enumerate() {
        put(&mut machine[index % cpus].queue, task, Enqueue::Woken);
    }
    let mut balancers: Vec<Balance> = (0..cpus).map(|_| Balance::new()).collect();
    for look in 1..=200 {
        for cpu in &mut machine {
            cpu.run_until(look * LOOK_NS);
        }
        for (number, balancer) in balancers.iter_mut().enumerate() {
            look_around(&mut machine, number, balancer);
        }
    }
    tasks.iter().map(|task| (task.entity.cpu_time_ns() + MS / 2) / MS).collect()
}

/// What a CPU's balancer does; it runs in place of the CPU's thread.
fn look_around(machine: &mut [Cpu], number: usize, balancer: &mut Balance) {
    let load = |cpu: &Cpu| cpu.queue.len() + usize::from(cpu.current.is_some());
    let others = (1..machine.len()).map(|step| (number + step) % machine.len());
    let Some((least, other)) = others.map(|other| (load(&machine[other]), other)).min_by_key(|&(load, _)| load) else { return };
    let cpu = &mut machine[number];
    if let Some(task) = cpu.current.take() {
        put(&mut cpu.queue, &task, Enqueue::Preempted);
    }
    if balancer.look(load(cpu), least) {
        let task = cpu.queue.take_for_migration(|_| true).expect("there is more than one");
        put(&mut machine[other].queue, &task, Enqueue::Woken);
    }
}

#[test]
fn hogs_that_are_no_multiple_of_the_cpus_take_turns() {
    assert_eq!(balanced(2, 3), [6727, 6564, 6709]);
    assert_eq!(balanced(2, 5), [4117, 4128, 3916, 3924, 3915]);
    assert_eq!(balanced(4, 6), [6727, 6727, 6564, 6564, 6709, 6709]);
}

#[test]
fn three_hogs_share_equally() {
    let normal = Policy::Normal(0);
    let tasks = vec![hog("a", normal), hog("b", normal), hog("c", normal)];
    assert_eq!(
        simulate(3000, tasks),
        ("a=1001 b=1000 c=1000".to_owned(), 1004)
    );
}

#[test]
fn a_lone_hog_is_never_switched() {
    assert_eq!(
        simulate(3_600_000, vec![hog("a", Policy::Normal(0))]),
        ("a=3600000".to_owned(), 1)
    );
}

#[test]
fn nice_gives_the_ratio_of_the_weights() {
    let tasks = vec![
        hog("0", Policy::Normal(0)),
        hog("5", Policy::Normal(5)),
        hog("-5", Policy::Normal(-5)),
    ];
    // The weights alone give 2283, 748 and 6969; hysteresis favours the cheap.
    assert_eq!(simulate(10_000, tasks).0, "0=2300 5=789 -5=6911");
}

#[test]
fn a_light_sleeper_gets_all_it_asks_for() {
    let normal = Policy::Normal(0);
    let tasks = vec![hog("hog", normal), sleeper("light", normal, MS, 9 * MS)];
    assert_eq!(simulate(5000, tasks).0, "hog=4500 light=500");
}

#[test]
fn a_greedy_sleeper_gets_half() {
    let normal = Policy::Normal(0);
    let tasks = vec![
        hog("hog", normal),
        sleeper("greedy", normal, 90 * MS, 10 * MS),
    ];
    assert_eq!(simulate(10_000, tasks).0, "hog=5013 greedy=4987");
}

#[test]
fn shares_stay_fair_across_renormalisation() {
    let normal = Policy::Normal(0);
    let mut cpu = Cpu::new(vec![hog("a", normal), hog("b", normal)]);
    while cpu.queue.factor().shift() == 0 {
        let next = cpu.now + MS;
        cpu.run_until(next);
    }
    let before = cpu.report();
    let next = cpu.now + 1000 * MS;
    cpu.run_until(next);
    assert_eq!(
        (before.as_str(), cpu.report().as_str()),
        ("a=1318 b=1317", "a=1818 b=1817")
    );
}

#[test]
fn an_idle_class_thread_gets_only_what_is_left() {
    let tasks = vec![
        hog("idle", Policy::Idle(0)),
        sleeper("half", Policy::Normal(19), 5 * MS, 5 * MS),
    ];
    assert_eq!(simulate(1000, tasks).0, "idle=500 half=500");
}

#[test]
fn real_time_takes_what_it_wants() {
    let tasks = vec![
        sleeper("fifo", Policy::Fifo(1), 30 * MS, 10 * MS),
        hog("rest", Policy::Normal(-20)),
    ];
    assert_eq!(simulate(4000, tasks).0, "fifo=3000 rest=1000");
}

#[test]
fn a_runaway_real_time_thread_leaves_a_twentieth() {
    let fifo = |name, priority| hog(name, Policy::Fifo(priority));
    assert_eq!(simulate(4000, vec![fifo("fifo", 99), hog("rest", Policy::Normal(0))]).0, "fifo=3800 rest=200");
    let tasks = vec![fifo("high", 20), fifo("low", 10), hog("rest", Policy::Normal(0)), hog("nice", Policy::Normal(19))];
    assert_eq!(simulate(4000, tasks).0, "high=3800 low=0 rest=192 nice=8");
    assert_eq!(simulate(4000, vec![fifo("fifo", 1), hog("idle", Policy::Idle(0))]).0, "fifo=3800 idle=200");
    // Equals go on in turns.
    let tasks = vec![hog("a", Policy::RoundRobin(5)), hog("b", Policy::RoundRobin(5)), hog("rest", Policy::Normal(0))];
    assert_eq!(simulate(4000, tasks).0, "a=1900 b=1900 rest=200");
    // Who leaves more by itself is left alone.
    let tasks = vec![sleeper("fifo", Policy::Fifo(1), 90 * MS, 10 * MS), hog("rest", Policy::Normal(0))];
    assert_eq!(simulate(4000, tasks).0, "fifo=3600 rest=400");
}

#[test]
fn real_time_threads_among_themselves_have_all_and_keep_their_order() {
    assert_eq!(simulate(4000, vec![hog("fifo", Policy::Fifo(1))]), ("fifo=4000".to_owned(), 1));
    let tasks = vec![hog("high", Policy::Fifo(20)), hog("low", Policy::RoundRobin(10)), sleeper("late", Policy::Normal(0), MS, 10_000 * MS)];
    assert_eq!(simulate(4000, tasks).0, "high=3999 low=0 late=1");
}

#[test]
fn the_share_of_real_time_threads_may_be_changed_while_they_run() {
    let mut cpu = Cpu::new(vec![hog("fifo", Policy::Fifo(99)), hog("rest", Policy::Normal(0))]);
    for (runtime_us, period_us, report) in [
        (950_000, 1_000_000, "fifo=950 rest=50"),
        (-1, 1_000_000, "fifo=1950 rest=50"),
        (20_000, 100_000, "fifo=2150 rest=850"),
        (0, 1_000_000, "fifo=2150 rest=1850"),
        (1, i32::MAX, "fifo=2150 rest=2850"),
    ] {
        cpu.queue.set_real_time_share(RealTimeShare::new(runtime_us, period_us).expect("it is one"));
        let end = cpu.now + 1000 * MS;
        cpu.run_until(end);
        assert_eq!(cpu.report(), report);
    }
}

#[test]
fn a_fresh_thread_runs_ln2_tau_before_a_hog_runs_again() {
    let normal = Policy::Normal(0);
    let mut cpu = Cpu::new(vec![hog("hog", normal)]);
    cpu.run_until(2000 * MS);
    let fresh = Arc::new(hog("fresh", normal));
    cpu.left.push((fresh.clone(), u64::MAX));
    put(&mut cpu.queue, &fresh, Enqueue::Woken);
    cpu.reschedule();
    let until = cpu.queue.next_preemption(&fresh).expect("the hog waits") - cpu.now;
    assert_eq!(until / MS, 141);
}
