//! [`SharedSlots`]: numbered slots that hold shared objects; looking one up takes no lock and writes nothing but the object's count.
//!
//! # Theory
//! `table` points to an array of slots, a slot to an object or nowhere. Writers hold the lock around `state`; readers read.
//!
//! A used slot owns one strong *and one weak* count of its object. Whoever empties it takes the strong count at once, so the object
//! ends when its last user lets go of it, not later. The weak count, which keeps the memory (not the object) in place, is given back
//! after a grace period. A reader that found the pointer may therefore ask for a strong count: it gets one, or learns that the
//! object has ended; then the slot has changed (it is emptied before the count is given up), and the reader looks again. Each
//! repetition is another writer's success.
//!
//! Growing copies the pointers into a larger array and frees the old one after a grace period. A reader in the old array may miss
//! what is put into the new one at the same time, as if it had looked before; it looks at `table` again with each repetition.
//!
//! While one user alone changes slots and looks objects up without the lock, it may do without all that: [`SharedSlots::borrow`],
//! [`Writer::take_unread`].
//!
//! Orderings: a slot's and the table's Release stores pair with the readers' Acquire loads.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use sync::{Mutex, MutexGuard};

use crate::{Deferred, Domain};

struct Table<T> {
    slots: Box<[AtomicPtr<T>]>,
}

// SAFETY: the slots are atomic, and the table owns nothing.
unsafe impl<T> Send for Table<T> {}

/// Whether objects can be borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lend {
    /// They can.
    Yes,
    /// They cannot.
    No,
}

/// There is no memory for more slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Slots with objects of type `T`, and the writers' own `state`. See the module.
pub struct SharedSlots<T: Send + Sync + 'static, S, D: Domain> {
    table: AtomicPtr<Table<T>>,
    /// The same, or null while [`SharedSlots::borrow`] finds nothing.
    borrowed: AtomicPtr<Table<T>>,
    /// What [`Writer::lend`] said last; only writers look.
    lent: AtomicBool,
    state: Mutex<S>,
    domain: PhantomData<fn() -> D>,
}

impl<T: Send + Sync + 'static, S, D: Domain> SharedSlots<T, S, D> {
    /// No slot.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(state: S) -> Self {
        Self {
            table: AtomicPtr::new(ptr::null_mut()),
            borrowed: AtomicPtr::new(ptr::null_mut()),
            lent: AtomicBool::new(false),
            state: Mutex::new(state),
            domain: PhantomData,
        }
    }

    /// No slot.
    #[cfg(loom)]
    #[must_use]
    pub fn new(state: S) -> Self {
        Self {
            table: AtomicPtr::new(ptr::null_mut()),
            borrowed: AtomicPtr::new(ptr::null_mut()),
            lent: AtomicBool::new(false),
            state: Mutex::new(state),
            domain: PhantomData,
        }
    }

    /// The object in slot `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Arc<T>> {
        let _reading = D::read();
        loop {
            // SAFETY: an array that was replaced is freed after a grace period, and we read.
            let table = unsafe { self.table.load(Ordering::Acquire).as_ref() }?;
            let object = table.slots.get(index)?.load(Ordering::Acquire);
            if object.is_null() {
                return None;
            }
            // SAFETY: the slot's weak count is given back after a grace period, and we read; it stays the slot's.
            let weak = ManuallyDrop::new(unsafe { Weak::from_raw(object.cast_const()) });
            if let Some(strong) = weak.upgrade() {
                return Some(strong);
            }
        }
    }

    /// The object in slot `index`, not counted: for a user that knows all who change slots, and that none of them does now. Nothing unless
    /// [`Writer::lend`] has said so, and in an empty table.
    ///
    /// # Safety
    /// As long as the reference is used, nobody empties or replaces the slot.
    #[inline(always)]
    #[must_use]
    pub unsafe fn borrow(&self, index: usize) -> Option<&T> {
        // SAFETY: an array is only replaced by one with the same objects; one that was, is freed after a grace period, and nobody replaces
        // this one between the loads, since only those do who change slots.
        let table = unsafe { self.borrowed.load(Ordering::Acquire).as_ref() }?;
        // SAFETY: a used slot owns a strong count, for as long as the caller says.
        unsafe { table.slots.get(index)?.load(Ordering::Acquire).as_ref() }
    }

    /// The right to change slots and the state.
    ///
    /// Context: may sleep.
    pub fn lock(&self) -> Writer<'_, T, S, D> {
        Writer { slots: self, state: self.state.lock() }
    }
}

impl<T: Send + Sync + 'static, S, D: Domain> Drop for SharedSlots<T, S, D> {
    fn drop(&mut self) {
        let table = *self.table.get_mut();
        if table.is_null() {
            return;
        }
        // SAFETY: nobody reads what nobody can reach any more; the pointer comes from `Box::into_raw`.
        let table = unsafe { Box::from_raw(table) };
        for slot in table.slots {
            let object = slot.into_inner();
            if !object.is_null() {
                // SAFETY: a used slot owns both counts.
                drop(unsafe { (Arc::from_raw(object), Weak::from_raw(object)) });
            }
        }
    }
}

/// The right to change slots. Derefs to the state.
pub struct Writer<'a, T: Send + Sync + 'static, S, D: Domain> {
    slots: &'a SharedSlots<T, S, D>,
    state: MutexGuard<'a, S>,
}

impl<T: Send + Sync + 'static, S, D: Domain> Deref for Writer<'_, T, S, D> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.state
    }
}

impl<T: Send + Sync + 'static, S, D: Domain> DerefMut for Writer<'_, T, S, D> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

impl<T: Send + Sync + 'static, S, D: Domain> Writer<'_, T, S, D> {
    #[inline]
    fn table(&self) -> &[AtomicPtr<T>] {
        // SAFETY: only writers replace the table, and this is the only one.
        unsafe { self.slots.table.load(Ordering::Relaxed).as_ref() }.map_or(&[], |table| &table.slots)
    }

    /// Lets [`SharedSlots::borrow`] find objects from now on, or not.
    pub fn lend(&mut self, lend: Lend) {
        self.slots.lent.store(lend == Lend::Yes, Ordering::Relaxed);
        self.lend_table();
    }

    fn lend_table(&self) {
        let lent = self.slots.lent.load(Ordering::Relaxed);
        let table = if lent { self.slots.table.load(Ordering::Relaxed) } else { ptr::null_mut() };
        self.slots.borrowed.store(table, Ordering::Release);
    }

    /// How many slots there are, used or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether there is no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// Whether slot `index` is used.
    #[must_use]
    pub fn is_used(&self, index: usize) -> bool {
        self.table().get(index).is_some_and(|slot| !slot.load(Ordering::Relaxed).is_null())
    }

    /// The object in slot `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Arc<T>> {
        let object = self.table().get(index)?.load(Ordering::Relaxed);
        if object.is_null() {
            return None;
        }
        // SAFETY: the slot owns a strong count, and only writers take it away.
        unsafe {
            Arc::increment_strong_count(object);
            Some(Arc::from_raw(object))
        }
    }

    /// Puts `object` into slot `index`; returns what was there, to be dropped without the lock.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[inline]
    pub fn put(&mut self, index: usize, object: Arc<T>) -> Result<Option<Arc<T>>, OutOfMemory> {
        if index >= self.len() {
            self.grow(index + 1)?;
        }
        let weak = Arc::downgrade(&object).into_raw();
        let strong = Arc::into_raw(object);
        debug_assert_eq!(weak, strong);
        Ok(self.replace(index, strong.cast_mut()))
    }

    /// Empties slot `index`; returns what was there, to be dropped without the lock.
    pub fn take(&mut self, index: usize) -> Option<Arc<T>> {
        if !self.is_used(index) {
            return None;
        }
        self.replace(index, ptr::null_mut())
    }

    /// As [`Writer::take`], where no reader is under way: nothing is left for a grace period.
    ///
    /// # Safety
    /// Nobody is in [`SharedSlots::get`], or begins it before this returns.
    #[inline]
    pub unsafe fn take_unread(&mut self, index: usize) -> Option<Arc<T>> {
        let slot = self.table().get(index)?;
        let old = slot.load(Ordering::Relaxed);
        if old.is_null() {
            return None;
        }
        slot.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: a used slot owns both counts; they are ours now.
        let (strong, weak) = unsafe { (Arc::from_raw(old), Weak::from_raw(old.cast_const())) };
        drop(weak);
        Some(strong)
    }

    #[inline]
    fn replace(&mut self, index: usize, new: *mut T) -> Option<Arc<T>> {
        let slot = &self.table()[index];
        // Only writers change slots, and this is the only one.
        let old = slot.load(Ordering::Relaxed);
        slot.store(new, Ordering::Release);
        if old.is_null() {
            return None;
        }
        // SAFETY: a used slot owns both counts; they are ours now.
        let (strong, weak) = unsafe { (Arc::from_raw(old), Weak::from_raw(old.cast_const())) };
        D::defer(Deferred::drop_weak(weak));
        Some(strong)
    }

    /// Makes room for at least `len` slots, and for as many again as there are.
    #[cold]
    fn grow(&mut self, len: usize) -> Result<(), OutOfMemory> {
        const FEWEST: usize = 16;
        let wanted = len.max(self.len() * 2).max(FEWEST);
        let mut slots = Vec::new();
        slots.try_reserve_exact(wanted).map_err(|_| OutOfMemory)?;
        slots.extend(self.table().iter().map(|slot| AtomicPtr::new(slot.load(Ordering::Relaxed))));
        slots.resize_with(wanted, || AtomicPtr::new(ptr::null_mut()));
        let table = Box::new(Table { slots: slots.into_boxed_slice() });
        let old = self.slots.table.swap(Box::into_raw(table), Ordering::AcqRel);
        self.lend_table();
        if !old.is_null() {
            // SAFETY: it comes from `Box::into_raw`, and nothing points to it any more.
            D::defer(unsafe { Deferred::free(old) });
        }
        Ok(())
    }
}
