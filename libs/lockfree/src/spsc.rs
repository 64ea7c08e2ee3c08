//! Bounded ring between one producer and one consumer.
//!
//! # Theory
//! Problem: hand values from one thread to another, in order, with no read-modify-write and no shared cache line
//! written by both. Slots `[tail, head)` (indices count for ever and wrap; capacity is a power of two) are full.
//!
//! `head` is written by the producer (Release: publishes the slot; pairs with the consumer's Acquire), `tail` by the
//! consumer (Release: gives the emptied slot back; pairs with the producer's Acquire, without which the producer's
//! write would race with the consumer's read). Each side keeps its own index, and its last view of the other's, as
//! plain fields: an own index is never read atomically.
#![expect(unsafe_code, reason = "slots are initialised and emptied by hand")]

use alloc::sync::Arc;
use core::mem::MaybeUninit;

use crate::shim::atomic::{AtomicUsize, Ordering};
use crate::shim::cell::UnsafeCell;

#[repr(align(64))]
struct Padded<T>(T);

/// The shared part. `N` must be a power of two.
pub struct SpscRing<T, const N: usize> {
    head: Padded<AtomicUsize>,
    tail: Padded<AtomicUsize>,
    slots: [UnsafeCell<MaybeUninit<T>>; N],
}

// SAFETY: a slot belongs to the producer or to the consumer, as the indices say.
unsafe impl<T: Send, const N: usize> Sync for SpscRing<T, N> {}
// SAFETY: as above.
unsafe impl<T: Send, const N: usize> Send for SpscRing<T, N> {}

/// Makes a ring and returns its two ends.
#[must_use]
pub fn ring<T, const N: usize>() -> (Producer<T, N>, Consumer<T, N>) {
    ring_from(0)
}

/// Makes a ring whose indices begin at `start` (tests let them wrap).
pub(crate) fn ring_from<T, const N: usize>(start: usize) -> (Producer<T, N>, Consumer<T, N>) {
    const {
        assert!(
            N.is_power_of_two(),
            "indices wrap at 2^64, so N must divide it"
        )
    };
    let ring = Arc::new(SpscRing {
        head: Padded(AtomicUsize::new(start)),
        tail: Padded(AtomicUsize::new(start)),
        slots: core::array::from_fn(|_| UnsafeCell::new(MaybeUninit::uninit())),
    });
    let producer = Producer {
        ring: ring.clone(),
        head: start,
        tail_seen: start,
    };
    (
        producer,
        Consumer {
            ring,
            tail: start,
            head_seen: start,
        },
    )
}

impl<T, const N: usize> SpscRing<T, N> {
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[index & (N - 1)]
    }
}

/// The writing end.
pub struct Producer<T, const N: usize> {
    ring: Arc<SpscRing<T, N>>,
    head: usize,
    tail_seen: usize,
}

impl<T, const N: usize> Producer<T, N> {
    /// Appends a value.
    ///
    /// # Errors
    /// The value, if the ring is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.head.wrapping_sub(self.tail_seen) == N {
            self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
            if self.head.wrapping_sub(self.tail_seen) == N {
                return Err(value);
            }
        }
        // SAFETY: the slot is empty and, being outside [tail, head), ours.
        self.ring.slot(self.head).with_mut(|slot| unsafe {
            (*slot).write(value);
        });
        self.head = self.head.wrapping_add(1);
        self.ring.head.0.store(self.head, Ordering::Release);
        Ok(())
    }
}

/// The reading end.
pub struct Consumer<T, const N: usize> {
    ring: Arc<SpscRing<T, N>>,
    tail: usize,
    head_seen: usize,
}

impl<T, const N: usize> Consumer<T, N> {
    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        if self.tail == self.head_seen {
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if self.tail == self.head_seen {
                return None;
            }
        }
        // SAFETY: the slot is in [tail, head), hence full and ours to empty.
        let value = self
            .ring
            .slot(self.tail)
            .with(|slot| unsafe { (*slot).assume_init_read() });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        Some(value)
    }
}

impl<T, const N: usize> Drop for SpscRing<T, N> {
    fn drop(&mut self) {
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        let head = self.head.0.load(Ordering::Relaxed);
        while tail != head {
            // SAFETY: both ends are gone; [tail, head) is full.
            self.slot(tail)
                .with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            tail = tail.wrapping_add(1);
        }
    }
}
