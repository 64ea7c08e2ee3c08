//! Which interrupt vector of a CPU belongs to whom.
//!
//! One table for each CPU. Any thread takes and gives back entries, each by one atomic operation on its own slot; the CPU's interrupt handler reads
//! one. Owners live for ever, so a handler that was late finds an owner, or nobody, but nothing that has gone.
#![expect(unsafe_code, reason = "owners are kept as pointers that came from references that live for ever")]

use core::ptr;
use lockfree::shim::atomic::{AtomicPtr, Ordering};

/// The first vector for devices; the kernel's own begin behind the last.
pub const FIRST_VECTOR: u8 = 0x30;
/// How many a CPU has for them.
pub const VECTORS_PER_CPU: usize = 0xf0 - FIRST_VECTOR as usize;

/// One CPU's vectors and their owners.
#[derive(Debug)]
pub struct Vectors<T: 'static>([AtomicPtr<T>; VECTORS_PER_CPU]);

impl<T: Sync> Vectors<T> {
    /// All free.
    #[must_use]
    pub fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
    }

    /// Takes a free vector.
    #[must_use]
    pub fn allocate(&self, owner: &'static T) -> Option<u8> {
        let owner = ptr::from_ref(owner).cast_mut();
        let free = |slot: &AtomicPtr<T>| slot.compare_exchange(ptr::null_mut(), owner, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.0.iter().position(free).map(|index| FIRST_VECTOR + index as u8)
    }

    /// Gives a vector back. An interrupt that still comes by it is nobody's, or its next owner's.
    pub fn release(&self, vector: u8) {
        if let Some(slot) = self.slot(vector) {
            slot.store(ptr::null_mut(), Ordering::Release);
        }
    }

    /// Whose it is. Context: any.
    pub fn owner(&self, vector: u8) -> Option<&'static T> {
        let owner = self.slot(vector)?.load(Ordering::Acquire);
        // SAFETY: null, or came from a reference that lives for ever.
        unsafe { owner.as_ref() }
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.iter().filter(|slot| slot.load(Ordering::Relaxed).is_null()).count()
    }

    fn slot(&self, vector: u8) -> Option<&AtomicPtr<T>> {
        self.0.get(usize::from(vector.checked_sub(FIRST_VECTOR)?))
    }
}

impl<T: Sync> Default for Vectors<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The CPU of `0..cpus` for a thread with `count` sources: the one that was `named`, if it has so many vectors left, else the one with the
/// most. `None` if no CPU has so many.
#[must_use]
pub fn choose(cpus: usize, named: usize, count: usize, free: impl Fn(usize) -> usize) -> Option<usize> {
    if free(named) >= count {
        return Some(named);
    }
    // Of equals the first.
    let roomiest = (0..cpus).rev().max_by_key(|&cpu| free(cpu))?;
    (free(roomiest) >= count).then_some(roomiest)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Owner(usize);

    fn owner(number: usize) -> &'static Owner {
        Box::leak(Box::new(Owner(number)))
    }

    #[test]
    fn a_vector_has_one_owner_until_it_is_given_back() {
        let vectors = Vectors::new();
        assert!(vectors.owner(FIRST_VECTOR).is_none());
        let first = vectors.allocate(owner(1)).expect("room");
        let second = vectors.allocate(owner(2)).expect("room");
        assert_ne!(first, second);
        assert_eq!(vectors.owner(second).map(|owner| owner.0), Some(2));
        vectors.release(first);
        assert!(vectors.owner(first).is_none());
        assert_eq!(vectors.allocate(owner(3)), Some(first));
        assert!(vectors.owner(FIRST_VECTOR - 1).is_none() && vectors.owner(0xff).is_none());
    }

    /// OSv's vectors, one space for all CPUs, ran out at 8 virtual CPUs with a queue for each on a few devices. Here: 8 CPUs, 20 devices with 64
    /// messages each, all of which name CPU 0.
    #[test]
    fn eight_cpus_have_room_for_over_a_thousand() {
        const CPUS: usize = 8;
        let tables: Vec<Vectors<Owner>> = (0..CPUS).map(|_| Vectors::new()).collect();
        let mut given = Vec::new();
        for device in 0..20 {
            let cpu = choose(CPUS, 0, 64, |cpu| tables[cpu].free()).expect("room");
            given.extend((0..64).map(|_| (cpu, tables[cpu].allocate(owner(device)).expect("was counted"))));
        }
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 20 * 64, "each has one of its own");
        assert!(given.iter().all(|&(_, vector)| (FIRST_VECTOR..0xf0).contains(&vector)));
    }

    #[test]
    fn the_last_vector_of_the_last_cpu_is_given_and_then_none() {
        const CPUS: usize = 8;
        let tables: Vec<Vectors<Owner>> = (0..CPUS).map(|_| Vectors::new()).collect();
        let one = owner(0);
        for _ in 0..CPUS * VECTORS_PER_CPU {
            let cpu = choose(CPUS, 3, 1, |cpu| tables[cpu].free()).expect("room");
            assert!(tables[cpu].allocate(one).is_some());
        }
        assert_eq!(choose(CPUS, 3, 1, |cpu| tables[cpu].free()), None);
        assert_eq!(tables[3].allocate(one), None);
    }

    #[test]
    fn threads_take_vectors_at_once_and_none_twice() {
        let table: &'static Vectors<Owner> = Box::leak(Box::new(Vectors::new()));
        let takers: Vec<_> = (0..4).map(|number| std::thread::spawn(move || std::iter::from_fn(|| table.allocate(owner(number))).count())).collect();
        let taken: usize = takers.into_iter().map(|taker| taker.join().expect("no panic")).sum();
        assert_eq!((taken, table.free()), (VECTORS_PER_CPU, 0));
    }
}
