//! Size classes and object caches of the kernel heap.
//!
//! **Theory.** Each CPU has one [`Cache`] per size class: a private list of free objects, used with preemption disabled, so plain
//! cells do. When it runs over, half of its objects go, as one batch, to the class's [`Depot`]; when it is empty, it takes a
//! batch from there, whoever freed it. So an object that is freed on another CPU than the one that allocated it costs what any
//! other costs, and only batches cross between CPUs: lock-free, without waiting (`lockfree::bag` states and argues the protocol).
//! What a full depot refuses the caller keeps, behind a lock that is then taken once per batch.
//!
//! Free objects hold the links in their first word.
//!
//! Measured and rejected: see doc/adr/0008-kernel-heap.md.
#![expect(unsafe_code, reason = "free objects are linked through their own memory")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use lockfree::bag::Bag;

/// Object sizes. All divide into a frame with little waste; powers of two are aligned to their size.
pub const CLASS_SIZES: [usize; 14] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1360, 2048];
/// Number of size classes.
pub const CLASSES: usize = CLASS_SIZES.len();

/// The class for each size, in steps of 16 bytes.
const BY_SIZE: [u8; CLASS_SIZES[CLASSES - 1] / 16 + 1] = {
    let mut table = [0; CLASS_SIZES[CLASSES - 1] / 16 + 1];
    let (mut at, mut class) = (0, 0);
    while at < table.len() {
        if at * 16 > CLASS_SIZES[class] {
            class += 1;
        }
        table[at] = class as u8;
        at += 1;
    }
    table
};

/// Class for a layout, or `None` when it needs whole frames.
#[inline]
#[must_use]
pub fn class_for(size: usize, align: usize) -> Option<usize> {
    // Objects of the other classes are only 16-byte aligned.
    let want = if align > 16 { size.max(align).next_power_of_two() } else { size };
    BY_SIZE.get(want.div_ceil(16)).map(|&class| usize::from(class))
}

const LIMITS: [usize; CLASSES] = {
    let mut limits = [64; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        if 8192 / CLASS_SIZES[class] < 64 {
            limits[class] = 8192 / CLASS_SIZES[class];
        }
        class += 1;
    }
    limits
};

/// Objects a cache keeps before it sends a batch away; a batch is half of that.
#[inline]
#[must_use]
pub const fn cache_limit(class: usize) -> usize {
    LIMITS[class]
}

/// A free object.
#[repr(C)]
struct Node {
    next: *mut Node,
}

/// A list of free objects of one class that nobody else refers to.
#[derive(Debug)]
#[must_use = "objects in a dropped list are lost"]
pub struct List {
    head: *mut Node,
    len: usize,
}

// SAFETY: the objects are the list's alone, on whatever CPU it is.
unsafe impl Send for List {}

impl List {
    /// The list without objects.
    pub const EMPTY: Self = Self { head: ptr::null_mut(), len: 0 };

    /// Number of objects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no object.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an object.
    ///
    /// # Safety
    /// `object` is at least 16 bytes of memory, aligned to 16, that belong to the list from now on.
    pub unsafe fn push(&mut self, object: *mut u8) {
        let node = object.cast::<Node>();
        // SAFETY: the caller gave us this memory.
        unsafe { (*node).next = self.head };
        self.head = node;
        self.len += 1;
    }

    /// Takes an object.
    pub const fn pop(&mut self) -> Option<*mut u8> {
        if self.head.is_null() {
            return None;
        }
        let node = self.head;
        // SAFETY: nodes of the list are ours and initialised by `push`.
        self.head = unsafe { (*node).next };
        self.len -= 1;
        Some(node.cast())
    }

    /// Takes up to `count` objects, as a list.
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut part = Self::EMPTY;
        while part.len < count
            && let Some(object) = self.pop()
        {
            // SAFETY: the object was on our own list.
            unsafe { part.push(object) };
        }
        part
    }

    /// Adds the objects of `more`, one by one.
    pub fn append(&mut self, mut more: Self) {
        if self.is_empty() {
            *self = more;
            return;
        }
        while let Some(object) = more.pop() {
            // SAFETY: the object was on a list that we own.
            unsafe { self.push(object) };
        }
    }

    fn for_each(&self, mut f: impl FnMut(*mut u8)) {
        let mut node = self.head;
        while !node.is_null() {
            f(node.cast());
            // SAFETY: nodes of the list are ours and initialised by `push`.
            node = unsafe { (*node).next };
        }
    }

    /// Cuts `bytes` of memory into objects of `size`.
    ///
    /// # Safety
    /// The memory belongs to the list from now on and is aligned to 16; `size` is a class size.
    pub unsafe fn carve(memory: *mut u8, bytes: usize, size: usize) -> Self {
        let mut list = Self::EMPTY;
        for i in (0..bytes / size).rev() {
            // SAFETY: object `i` lies inside the memory and overlaps no other.
            unsafe { list.push(memory.add(i * size)) };
        }
        list
    }
}

/// The free objects of one class that one CPU holds. Used by that CPU only, preemption disabled; others may look at the length.
#[derive(Debug)]
pub struct Cache {
    head: Cell<*mut Node>,
    len: AtomicUsize,
}

// SAFETY: the pointers name memory that only the cache refers to; moving it to another CPU at boot moves that ownership.
unsafe impl Send for Cache {}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self { head: Cell::new(ptr::null_mut()), len: AtomicUsize::new(0) }
    }

    /// Number of objects; for statistics on any CPU.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self) -> List {
        let len = self.len();
        self.len.store(0, Ordering::Relaxed);
        List { head: self.head.replace(ptr::null_mut()), len }
    }

    fn put(&self, list: List) {
        self.head.set(list.head);
        self.len.store(list.len, Ordering::Relaxed);
    }

    /// Takes an object.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<*mut u8> {
        let node = self.head.get();
        if node.is_null() {
            return None;
        }
        // SAFETY: nodes of the list are ours and initialised by `free`.
        self.head.set(unsafe { (*node).next });
        self.len.store(self.len() - 1, Ordering::Relaxed);
        Some(node.cast())
    }

    /// Keeps an object; returns how many there are now.
    ///
    /// # Safety
    /// As [`List::push`].
    #[inline]
    pub unsafe fn free(&self, object: *mut u8) -> usize {
        let node = object.cast::<Node>();
        let len = self.len() + 1;
        // SAFETY: the caller gave us this memory.
        unsafe { (*node).next = self.head.get() };
        self.head.set(node);
        self.len.store(len, Ordering::Relaxed);
        len
    }

    /// Takes up to `count` objects for the depot.
    pub fn split_off(&self, count: usize) -> List {
        let mut list = self.take();
        let batch = list.split_off(count);
        self.put(list);
        batch
    }

    /// Adds the objects of `more`.
    pub fn refill(&self, more: List) {
        let mut list = self.take();
        list.append(more);
        self.put(list);
    }
}

/// Batches that a depot holds at most.
pub const DEPOT_BATCHES: usize = 64;

/// Batches of free objects of one class, shared by all CPUs.
pub type Depot = Bag<List, DEPOT_BATCHES>;

/// Counts free objects in each slab, while [`sweep`] looks for slabs that are free as a whole.
pub trait SlabCounts {
    /// Sets the count of the slab that begins at `slab` to zero.
    fn reset(&self, slab: usize);
    /// Adds one.
    fn add(&self, slab: usize);
    /// The count.
    fn get(&self, slab: usize) -> usize;
}

/// Sorts free objects of `class` into those of slabs that are free as a whole, and others. Slabs are of `slab_size` bytes and aligned to
/// that. Returns the beginnings of the free slabs, and passes the others to `keep` in batches.
pub fn sweep(free: List, class: usize, slab_size: usize, counts: &impl SlabCounts, mut keep: impl FnMut(List)) -> List {
    let slab_of = |object: *mut u8| object.addr() & !(slab_size - 1);
    let objects = slab_size / CLASS_SIZES[class];
    free.for_each(|object| counts.reset(slab_of(object)));
    free.for_each(|object| counts.add(slab_of(object)));
    let (mut free, mut slabs, mut batch) = (free, List::EMPTY, List::EMPTY);
    while let Some(object) = free.pop() {
        let whole = counts.get(slab_of(object)) == objects;
        if whole && object.addr() == slab_of(object) {
            // SAFETY: taken off `free`. The slab's other objects, which are still linked through their own memory, are not touched.
            unsafe { slabs.push(object) };
        } else if !whole {
            // SAFETY: taken off `free`.
            unsafe { batch.push(object) };
            if batch.len() >= cache_limit(class).div_ceil(2) {
                keep(core::mem::replace(&mut batch, List::EMPTY));
            }
        }
    }
    keep(batch);
    slabs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Arc;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    fn slab(size: usize) -> List {
        let page = Box::leak(Box::new(Page([0; 4096])));
        // SAFETY: the page is leaked to the list.
        unsafe { List::carve(page.0.as_mut_ptr(), 4096, size) }
    }

    struct Counts(std::cell::RefCell<std::collections::HashMap<usize, usize>>);

    impl SlabCounts for Counts {
        fn reset(&self, slab: usize) {
            self.0.borrow_mut().insert(slab, 0);
        }
        fn add(&self, slab: usize) {
            *self.0.borrow_mut().get_mut(&slab).unwrap() += 1;
        }
        fn get(&self, slab: usize) -> usize {
            self.0.borrow()[&slab]
        }
    }

    #[test]
    fn sweep_finds_the_slabs_that_are_free_as_a_whole() {
        const SLAB: usize = 4096;
        #[repr(align(4096))]
        struct Memory([[u8; SLAB]; 4]);
        let class = class_for(200, 8).unwrap();
        let mut memory = Box::new(Memory([[0; SLAB]; 4]));
        let starts: Vec<usize> = memory.0.iter_mut().map(|slab| slab.as_mut_ptr().addr()).collect();
        let depot = Depot::new();
        let mut used = 0;
        for (i, slab) in memory.0.iter_mut().enumerate() {
            // SAFETY: the slab is used by the list alone, and aligned.
            let mut list = unsafe { List::carve(slab.as_mut_ptr(), SLAB, CLASS_SIZES[class]) };
            if i % 2 == 1 {
                used += usize::from(list.pop().is_some());
            }
            assert!(depot.put(list).is_ok());
        }
        let mut all = List::EMPTY;
        while let Some(batch) = depot.take() {
            all.append(batch);
        }
        assert_eq!((all.len(), used), (4 * 16 - 2, 2));
        let mut kept = 0;
        let counts = Counts(std::cell::RefCell::default());
        let mut slabs = sweep(all, class, SLAB, &counts, |batch| kept += batch.len());
        let mut found: Vec<usize> = std::iter::from_fn(|| slabs.pop()).map(|slab| slab.addr()).collect();
        found.sort_unstable();
        assert_eq!((found, kept), (vec![starts[0], starts[2]], 30));
    }

    #[test]
    fn classes_fit_size_and_alignment() {
        for size in 1..=2048 {
            let class = class_for(size, 8).unwrap();
            assert!(CLASS_SIZES[class] >= size && (class == 0 || CLASS_SIZES[class - 1] < size));
        }
        for align in [32, 64, 128, 256, 512, 1024, 2048] {
            assert_eq!(CLASS_SIZES[class_for(align / 2 + 1, align).unwrap()] % align, 0);
        }
        assert_eq!(class_for(2049, 8), None);
        assert_eq!(class_for(8, 4096), None);
        assert_eq!(class_for(0, 1), Some(0));
    }

    #[test]
    fn carving_gives_every_object_once_and_aligned() {
        for size in CLASS_SIZES {
            let mut list = slab(size);
            assert_eq!(list.len(), 4096 / size);
            let mut seen = HashSet::new();
            while let Some(object) = list.pop() {
                assert!((object as usize).is_multiple_of(16) && seen.insert(object));
                assert!(!size.is_power_of_two() || (object as usize).is_multiple_of(size));
            }
            assert_eq!(seen.len(), 4096 / size);
        }
    }

    #[test]
    fn a_cache_passes_batches_through_a_depot() {
        let (cache, depot) = (Cache::new(), Depot::new());
        let mut objects = slab(64);
        while let Some(object) = objects.pop() {
            // SAFETY: the object came from our list.
            if unsafe { cache.free(object) } > 8 {
                assert!(depot.put(cache.split_off(4)).is_ok());
            }
        }
        assert_eq!((depot.len(), cache.len()), (14, 8));
        while let Some(batch) = depot.take() {
            assert_eq!(batch.len(), 4);
            cache.refill(batch);
        }
        let mut seen: Vec<_> = std::iter::from_fn(|| cache.alloc()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), cache.is_empty()), (64, true));
    }

    #[test]
    fn no_object_is_lost_or_doubled_between_threads() {
        let depot = Arc::new(Depot::new());
        let total: usize = 4 * 16 * 64;
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let depot = depot.clone();
                std::thread::spawn(move || {
                    for _ in 0..16 {
                        assert!(depot.put(slab(64)).is_ok(), "64 slabs in all");
                        for _ in 0..20 {
                            if let Some(batch) = depot.take() {
                                assert!(depot.put(batch).is_ok());
                            }
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let mut seen = HashSet::new();
        while let Some(mut batch) = depot.take() {
            while let Some(object) = batch.pop() {
                assert!(seen.insert(object));
            }
        }
        assert_eq!(seen.len(), total);
    }
}
