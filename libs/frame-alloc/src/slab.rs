//! Size classes and object caches of the kernel heap.
//!
//! **Theory.** Each CPU has one [`Cache`] per size class: a private list of free objects, used with preemption disabled, so plain
//! `Cell`s do. When it runs over, a *batch* of its objects goes to the class's [`Depot`]; when it is empty, it takes a
//! batch from there, whoever freed it. The depot is a Treiber stack of batches on which `take_all` is the only removal: a single
//! `swap`. Nothing is ever popped from its middle, so there is no ABA problem and no CPU ever waits for another; `push` retries
//! only when another CPU succeeded. `push` is a Release, `take_all` an Acquire: the links inside a batch, written before the push,
//! are seen by the taker.
//!
//! Free objects hold the links: word 0 links objects inside a list, word 1 of a batch's first object links batches.
//! Classes therefore start at 16 bytes.
#![expect(unsafe_code, reason = "free objects are linked through their own memory")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Object sizes. All divide into a frame with little waste; powers of two are aligned to their size.
pub const CLASS_SIZES: [usize; 14] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1360, 2048];
/// Number of size classes.
pub const CLASSES: usize = CLASS_SIZES.len();

/// Class for a layout, or `None` when it needs whole frames.
#[must_use]
pub fn class_for(size: usize, align: usize) -> Option<usize> {
    // Objects of the other classes are only 16-byte aligned.
    let want = if align > 16 { size.max(align).next_power_of_two() } else { size };
    let class = CLASS_SIZES.partition_point(|&s| s < want);
    (class < CLASSES).then_some(class)
}

/// Objects a cache keeps before it sends a batch away; a batch is half of that.
#[must_use]
pub const fn cache_limit(class: usize) -> usize {
    let fit = 8192 / CLASS_SIZES[class];
    if fit > 64 { 64 } else { fit }
}

/// A free object.
#[repr(C)]
struct Node {
    next: *mut Node,
    next_batch: *mut Node,
}

/// A list of free objects of one class that nobody else refers to.
#[derive(Debug)]
#[must_use = "objects in a dropped list are lost"]
pub struct List {
    head: *mut Node,
    len: usize,
}

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

/// The free objects of one class that one CPU holds. Used by that CPU only, preemption disabled.
#[derive(Debug)]
pub struct Cache {
    head: Cell<*mut Node>,
    len: Cell<usize>,
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
        Self { head: Cell::new(ptr::null_mut()), len: Cell::new(0) }
    }

    fn take(&self) -> List {
        List { head: self.head.replace(ptr::null_mut()), len: self.len.replace(0) }
    }

    fn put(&self, list: List) {
        self.head.set(list.head);
        self.len.set(list.len);
    }

    /// Takes an object.
    #[must_use]
    pub fn alloc(&self) -> Option<*mut u8> {
        let mut list = self.take();
        let object = list.pop();
        self.put(list);
        object
    }

    /// Keeps an object; returns a batch for the depot when there are more than `limit`.
    ///
    /// # Safety
    /// As [`List::push`].
    pub unsafe fn free(&self, object: *mut u8, limit: usize) -> List {
        let mut list = self.take();
        // SAFETY: passed on.
        unsafe { list.push(object) };
        let mut batch = List::EMPTY;
        if list.len > limit {
            for _ in 0..limit.div_ceil(2) {
                if let Some(object) = list.pop() {
                    // SAFETY: the object was on our own list.
                    unsafe { batch.push(object) };
                }
            }
        }
        self.put(list);
        batch
    }

    /// Adds the objects of `more`.
    pub fn refill(&self, mut more: List) {
        let mut list = self.take();
        if list.is_empty() {
            self.put(more);
            return;
        }
        while let Some(object) = more.pop() {
            // SAFETY: the object was on a list that we own.
            unsafe { list.push(object) };
        }
        self.put(list);
    }
}

/// Batches of free objects of one class, shared by all CPUs.
#[derive(Debug, Default)]
pub struct Depot {
    batches: AtomicPtr<Node>,
}

impl Depot {
    /// An empty depot.
    #[must_use]
    pub const fn new() -> Self {
        Self { batches: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Leaves a batch for any CPU.
    pub fn push(&self, batch: List) {
        if !batch.head.is_null() {
            // SAFETY: the batch is ours until the push.
            unsafe {
                (*batch.head).next_batch = ptr::null_mut();
                self.push_chain(batch.head, batch.head);
            }
        }
    }

    /// Takes one batch. The others that were taken with it go back at once.
    pub fn take(&self) -> Option<List> {
        // Relaxed look first: the common empty case then costs no write to the shared line.
        if self.batches.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let first = self.batches.swap(ptr::null_mut(), Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: the swap made the whole chain ours; the Acquire shows us the links that `push` wrote.
        unsafe {
            let rest = (*first).next_batch;
            if !rest.is_null() {
                self.push_chain(rest, last_batch(rest));
            }
            Some(measure(first))
        }
    }

    /// Takes all batches, as one list.
    pub fn take_all(&self) -> List {
        let mut batch = self.batches.swap(ptr::null_mut(), Ordering::Acquire);
        let mut all = List::EMPTY;
        while !batch.is_null() {
            // SAFETY: the swap made the whole chain ours, as in `take`.
            let (next, mut objects) = unsafe { ((*batch).next_batch, measure(batch)) };
            while let Some(object) = objects.pop() {
                // SAFETY: the object was on a list that we own.
                unsafe { all.push(object) };
            }
            batch = next;
        }
        all
    }

    /// # Safety
    /// `first … last` is a chain of batches that the caller owns.
    unsafe fn push_chain(&self, first: *mut Node, last: *mut Node) {
        let mut head = self.batches.load(Ordering::Relaxed);
        loop {
            // SAFETY: `last` is the caller's until the exchange succeeds.
            unsafe { (*last).next_batch = head };
            match self.batches.compare_exchange_weak(head, first, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

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

/// # Safety
/// `batch` begins a chain that the caller owns.
unsafe fn last_batch(mut batch: *mut Node) -> *mut Node {
    // SAFETY: every link of the chain is a live node or null.
    unsafe {
        while !(*batch).next_batch.is_null() {
            batch = (*batch).next_batch;
        }
    }
    batch
}

/// # Safety
/// `head` begins a list that the caller owns.
unsafe fn measure(head: *mut Node) -> List {
    let (mut len, mut node) = (0, head);
    while !node.is_null() {
        len += 1;
        // SAFETY: nodes of an owned list are live.
        node = unsafe { (*node).next };
    }
    List { head, len }
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
            depot.push(list);
        }
        let all = depot.take_all();
        assert_eq!((all.len(), depot.take().is_none(), used), (4 * 16 - 2, true, 2));
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
    fn an_overfull_cache_gives_half_away() {
        let (cache, depot) = (Cache::new(), Depot::new());
        let mut objects = slab(64);
        while let Some(object) = objects.pop() {
            // SAFETY: the object came from our list.
            depot.push(unsafe { cache.free(object, 8) });
        }
        let mut total = 0;
        while let Some(batch) = depot.take() {
            assert_eq!(batch.len(), 4);
            total += batch.len();
            cache.refill(batch);
        }
        assert_eq!(total + 8, 64);
        assert_eq!(std::iter::from_fn(|| cache.alloc()).count(), 64);
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
                        depot.push(slab(64));
                        for _ in 0..20 {
                            if let Some(batch) = depot.take() {
                                depot.push(batch);
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
