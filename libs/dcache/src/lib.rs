//! [`NameTable`]: what names in directories stand for, looked up without a lock and without writing anything.
//!
//! # Theory
//! The table is an array of buckets, each the head of a singly linked list of [`Entry`]s. An entry says what `name` in the directory
//! number `parent` is; these never change, so a rename removes one entry and inserts another. Directory numbers are never used again.
//!
//! *Readers* follow a bucket's list inside a read-side section of `D`. *Writers* hold the lock of the bucket's group.
//! - insert: `entry.next` = head, then head = entry (Release; pairs with the readers' Acquire loads of head and `next`).
//! - remove: the predecessor's link skips the entry (Release). The entry keeps its own link, so a reader that stands on it goes on
//!   from there. It is freed after a grace period: whoever found it before may still look at it until then.
//!
//! A reader may miss an entry that is inserted meanwhile, and find one that is removed meanwhile, as if it had looked before. It never
//! misses an entry that is there all the time, since entries do not move. Two entries of one name may be in the table for a moment
//! (the object of the older one has ended); the newer one is found, for it is nearer to the head.
//!
//! Rejected: one list of entries per directory (a lock and a table for each), entries that are moved by a rename (readers would have to
//! look again when a counter changed), counting the entries a reader passes (writes to what all CPUs share).
//!
//! Neighbours: `vfs::dentry` decides what is in the table; `rcu` gives the grace periods.
#![cfg_attr(not(any(test, loom)), no_std)]
#![expect(unsafe_code, reason = "entries are reached through raw pointers")]

extern crate alloc;

use alloc::boxed::Box;
use core::borrow::Borrow;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use lockfree::shim::atomic::{AtomicPtr, Ordering};
use rcu::{Deferred, Domain};
use sync::Mutex;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

/// Buckets that share a lock lie this far apart.
const LOCKS: usize = if cfg!(loom) { 1 } else { 64 };

/// Names up to this length lie in the entry.
const SHORT: usize = 31;

/// A name with its hash, which is worth computing only once.
#[derive(Clone, Copy, Debug)]
pub struct HashedName<'a> {
    bytes: &'a [u8],
    hash: u64,
}

impl<'a> HashedName<'a> {
    /// Hashes `bytes`.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, hash: hash(bytes) }
    }

    /// The name.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The word at `at`.
#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// The half word at `at`.
#[inline]
fn half(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |half| u64::from(u32::from_le_bytes(*half)))
}

/// All bytes of a text of fewer than eight, in one word; with its length that tells it from all others. The pieces may overlap.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    match bytes.len() {
        0 => 0,
        len @ 1..4 => u64::from(bytes[0]) | u64::from(bytes[len / 2]) << 8 | u64::from(bytes[len - 1]) << 16,
        len => half(bytes, 0) | half(bytes, len - 4) << 32,
    }
}

/// Eight bytes at a time, the last eight perhaps in part for the second time: rotate, xor, multiply (the scheme of FxHash). A program that
/// makes its own names collide slows down itself.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    let mut mix = |word: u64| state = (state.rotate_left(5) ^ word).wrapping_mul(MIX);
    if bytes.len() < 8 {
        mix(short_word(bytes));
    } else {
        let last = bytes.len() - 8;
        for at in (0..last).step_by(8) {
            mix(word(bytes, at));
        }
        mix(word(bytes, last));
    }
    state
}

/// Whether two texts are equal. Names are short: this is quicker than a call.
#[inline]
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() < 8 {
        return short_word(a) == short_word(b);
    }
    let last = a.len() - 8;
    (0..last).step_by(8).all(|at| word(a, at) == word(b, at)) && word(a, last) == word(b, last)
}

/// A name that is kept: in place if it is short.
#[derive(Clone)]
pub struct Text(Form);

#[derive(Clone)]
enum Form {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Text {
    /// Keeps `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() > SHORT {
            return Self(Form::Long(Box::from(bytes)));
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Self(Form::Short(bytes.len() as u8, short))
    }

    /// The name.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Short(len, bytes) => &bytes[..usize::from(*len)],
            Form::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

/// What a name in a directory stands for.
pub struct Entry<V> {
    next: AtomicPtr<Entry<V>>,
    parent: u64,
    hash: u64,
    name: Text,
    value: V,
}

impl<V> Entry<V> {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.name.bytes()
    }

    #[inline]
    fn is(&self, parent: u64, name: &HashedName<'_>) -> bool {
        self.hash == name.hash && self.parent == parent && equal(self.name.bytes(), name.bytes)
    }
}

impl<V> Deref for Entry<V> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.value
    }
}

/// The right to an entry that is in the table. Lost, it stays there for ever.
#[must_use = "an entry is removed through this"]
pub struct Inserted<V>(NonNull<Entry<V>>);

// SAFETY: a shared reference to an entry, whose value may be shared and sent.
unsafe impl<V: Send + Sync> Send for Inserted<V> {}
// SAFETY: as above.
unsafe impl<V: Send + Sync> Sync for Inserted<V> {}

impl<V> Deref for Inserted<V> {
    type Target = Entry<V>;
    fn deref(&self) -> &Entry<V> {
        // SAFETY: an entry is alive while it is in the table, which it leaves only with this.
        unsafe { self.0.as_ref() }
    }
}

impl<V> Inserted<V> {
    /// Whether this is the right to `entry`.
    #[must_use]
    pub fn is(&self, entry: &Entry<V>) -> bool {
        ptr::eq(self.0.as_ptr(), entry)
    }
}

/// The table. See the module.
pub struct NameTable<V: Send + Sync + 'static, D: Domain, const BUCKETS: usize> {
    buckets: [AtomicPtr<Entry<V>>; BUCKETS],
    locks: [Mutex<()>; LOCKS],
    domain: PhantomData<fn() -> D>,
}

impl<V: Send + Sync + 'static, D: Domain, const BUCKETS: usize> NameTable<V, D, BUCKETS> {
    /// An empty table.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        assert!(BUCKETS.is_power_of_two());
        Self {
            buckets: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS],
            locks: [const { Mutex::new(()) }; LOCKS],
            domain: PhantomData,
        }
    }

    /// An empty table.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            buckets: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            locks: core::array::from_fn(|_| Mutex::new(())),
            domain: PhantomData,
        }
    }

    #[inline]
    fn bucket(parent: u64, hash: u64) -> usize {
        let mixed = (hash ^ parent.wrapping_mul(MIX)).wrapping_mul(MIX);
        (mixed >> 32) as usize % BUCKETS
    }

    /// The entry of `name` in directory `parent`.
    #[inline]
    pub fn find<'r>(&self, _reading: &'r D::Reading, parent: u64, name: &HashedName<'_>) -> Option<&'r Entry<V>> {
        let mut at = self.buckets[Self::bucket(parent, name.hash)].load(Ordering::Acquire);
        loop {
            // SAFETY: an entry that was reached while reading is freed only after a grace period, so not before `_reading` ends.
            let entry = unsafe { at.as_ref::<'r>() }?;
            if entry.is(parent, name) {
                return Some(entry);
            }
            at = entry.next.load(Ordering::Acquire);
        }
    }

    /// Says that `name` in directory `parent` is `value`.
    ///
    /// Context: may sleep; not while reading.
    pub fn insert(&self, parent: u64, name: &HashedName<'_>, value: V) -> Inserted<V> {
        let bucket = Self::bucket(parent, name.hash);
        let next = AtomicPtr::new(ptr::null_mut());
        let entry = Box::into_raw(Box::new(Entry { next, parent, hash: name.hash, name: Text::new(name.bytes), value }));
        let head = &self.buckets[bucket];
        let _writing = self.locks[bucket % LOCKS].lock();
        // SAFETY: nobody else knows the entry yet.
        unsafe { &(*entry).next }.store(own(head), Ordering::Relaxed);
        head.store(entry, if mistaken(Mistake::PublishedEarly) { Ordering::Relaxed } else { Ordering::Release });
        // SAFETY: it comes from a box.
        Inserted(unsafe { NonNull::new_unchecked(entry) })
    }

    /// Takes an entry out of this table, which it is in.
    ///
    /// Context: may sleep; not while reading.
    pub fn remove(&self, entry: Inserted<V>) {
        let bucket = Self::bucket(entry.parent, entry.hash);
        let gone = entry.0.as_ptr();
        {
            let _writing = self.locks[bucket % LOCKS].lock();
            let mut link = &self.buckets[bucket];
            loop {
                let at = own(link);
                if at == gone {
                    break;
                }
                // SAFETY: entries in a list are alive while its lock is held.
                link = &unsafe { at.as_ref() }.expect("an inserted entry is in its list").next;
            }
            link.store(own(&entry.next), Ordering::Release);
        }
        // SAFETY: it comes from a box; only readers that found it before can still see it.
        let free = unsafe { Deferred::free(gone) };
        if mistaken(Mistake::FreedAtOnce) { free.call() } else { D::defer(free) }
    }
}

impl<V: Send + Sync + 'static, D: Domain, const BUCKETS: usize> Default for NameTable<V, D, BUCKETS> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a link is, for the holder of its list's lock, which nobody else changes.
#[cfg(not(loom))]
#[inline]
fn own<T>(link: &AtomicPtr<T>) -> *mut T {
    link.load(Ordering::Relaxed)
}

/// As above. Loom explores less behind atomic loads of what the thread itself has stored.
#[cfg(loom)]
fn own<T>(link: &AtomicPtr<T>) -> *mut T {
    // SAFETY: only the holder of the lock stores to it.
    unsafe { link.unsync_load() }
}

/// What the broken twins of the models do wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    PublishedEarly,
    FreedAtOnce,
}

#[cfg(not(all(test, loom)))]
const fn mistaken(_mistake: Mistake) -> bool {
    false
}

#[cfg(all(test, loom))]
use loom_tests::mistaken;
