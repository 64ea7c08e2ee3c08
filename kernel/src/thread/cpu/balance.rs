//! Balance: an idle CPU asks the most loaded one for a thread, and a balancer thread per CPU evens out lasting differences.
//!
//! The owner of a queue gives threads away; nobody takes any.
#![expect(unsafe_code, reason = "state that belongs to one CPU by discipline")]

use super::placement::{allows, send};
use super::{Local, NEVER, end_ready, shared, this_cpu};
use crate::percpu;
use crate::thread::{self, Class};
use crate::clock;
use arch_x86_64::cpu as processor;
use core::sync::atomic::Ordering;
use runqueue::{Balance, IMBALANCE};

/// How often a balancer compares its CPU with the others.
const BALANCE_INTERVAL_NS: u64 = 50_000_000;

/// Moves one queued thread to `target`, if one may go there.
pub(super) fn give(local: &mut Local, target: usize) {
    if let Some(thread) = local.queue.take_for_migration(|thread| allows(thread, target)) {
        end_ready(&thread, processor::rdtsc());
        send(target, thread);
    }
}

/// Starts the balancer thread of every CPU.
pub(crate) fn start_balancers() -> Result<(), linux_abi::Errno> {
    for cpu in (0..percpu::cpu_count()).filter(|_| percpu::cpu_count() > 1) {
        let thread = thread::spawn("balancer", Class::Normal, move || balance(cpu))?;
        thread.set_affinity(1 << cpu)?;
        let _first = shared(cpu).balancer.set(thread::handle(&thread));
    }
    Ok(())
}

/// A balancer's life: while more than one thread is runnable here, look every 50 ms whether another CPU has less to do.
fn balance(cpu: usize) {
    let mut balance = Balance::new();
    loop {
        let shared = shared(cpu);
        if shared.load.load(Ordering::Relaxed) < IMBALANCE {
            shared.balancer_sleeps.store(true, Ordering::Relaxed);
            thread::park(NEVER);
        } else {
            thread::park(clock::monotonic_ns() + BALANCE_INTERVAL_NS);
        }
        move_one(cpu, &mut balance);
    }
}

/// Moves one thread to the CPU with the least to do, if that is due. The balancer itself does not count.
fn move_one(cpu: usize, balance: &mut Balance) {
    processor::without_interrupts(|| {
        if percpu::cpu_id() != cpu {
            return;
        }
        // SAFETY: interrupts are off.
        let (local, _) = unsafe { this_cpu() };
        let load = local.queue.load() - 1;
        // Of several with as little to do, the next one: so what moves comes round all of them.
        let others = (1..percpu::cpu_count()).map(|step| (cpu + step) % percpu::cpu_count());
        let least = others.map(|other| (shared(other).load.load(Ordering::Relaxed), other)).min_by_key(|&(load, _)| load);
        if let Some((other_load, other)) = least
            && balance.look(load, other_load)
        {
            give(local, other);
        }
    });
}
