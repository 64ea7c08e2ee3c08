//! [`Mappers`]: who maps an object, so that pages it loses leave all mappings.
//!
//! **Theory.** An object that can lose pages (truncation, punched holes) holds a [`Mappers`]. An address space registers itself
//! there before one of its areas shows the object, with its areas locked for writing, and stays registered while it has such an
//! area. The object first makes the pages unavailable ([`crate::Mappable::frame`] fails or gives another frame), then calls
//! [`Mappers::forget`], which has every registered space remove its entries, again with the areas locked for writing.
//!
//! A page fault asks for the frame and sets the entry with the areas locked for reading. So either it is over before `forget` comes
//! to this space, which then removes its entry, or it asks after the loss and does not get the old frame. A space that registers
//! while `forget` runs has no entries yet.
//!
//! Lock order: a space's areas, then the list here. `forget` holds neither the list nor anything of the object's while it
//! calls a space, but for what its caller holds: that must never be taken with areas locked.

use crate::MappingId;
use addr::PhysAddr;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use linux_abi::Errno;
use sync::Mutex;

/// Pages that an object has lost.
pub struct Lost<'a> {
    /// The object.
    pub object: MappingId,
    /// Page indices.
    pub pages: Range<u64>,
    /// What happens to private mappings.
    pub private: LostPrivate<'a>,
}

/// What private mappings lose.
pub enum LostPrivate<'a> {
    /// The pages, also those that the program has changed: the object ends before them now (mmap(2), "SIGBUS").
    All,
    /// Pages of which this says that they were the object's, by index and address; changed ones stay.
    Unchanged(&'a dyn Fn(u64, PhysAddr) -> bool),
}

/// Whether a [`Mapper`] still maps an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapped {
    /// It has an area with pages of the object.
    Still,
    /// It has none and has removed itself from the list.
    NoMore,
}

/// Something that maps objects: an address space.
pub trait Mapper: Send + Sync {
    /// Removes the entries of pages that an object has lost. If it does not map the object any more, it calls `leave`, with
    /// its areas locked.
    ///
    /// Context: may sleep.
    fn forget(&self, lost: &Lost<'_>, leave: &dyn Fn()) -> Mapped;
}

/// The spaces that map an object, and maybe some that no longer do. Ordered by address, so that a walk needs no copy.
#[derive(Default)]
pub struct Mappers {
    list: Mutex<Vec<Entry>>,
}

struct Entry {
    key: usize,
    mapper: Weak<dyn Mapper>,
}

impl Mappers {
    /// Nobody.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Mutex::new(Vec::new()) }
    }

    /// Adds a mapper, unless it is there. Called with its areas locked for writing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn register(&self, mapper: &Weak<dyn Mapper>) -> Result<(), Errno> {
        let key = key_of(mapper);
        let mut list = self.list.lock();
        let Err(at) = list.binary_search_by_key(&key, |entry| entry.key) else { return Ok(()) };
        if list.len() < list.capacity() {
            list.insert(at, Entry { key, mapper: mapper.clone() });
            return Ok(());
        }
        // A good moment to forget those that are gone: their number stays in proportion.
        list.retain(|entry| entry.mapper.strong_count() > 0);
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = list.partition_point(|entry| entry.key < key);
        list.insert(at, Entry { key, mapper: mapper.clone() });
        Ok(())
    }

    /// Whether nobody ever registered, or all have left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// Has all mappers remove the pages. They must be unavailable already.
    ///
    /// Context: may sleep; no lock held that is ever taken with areas locked.
    pub fn forget(&self, lost: &Lost<'_>) {
        let mut from = 0;
        while let Some((key, mapper)) = self.next(from) {
            let _either_way = mapper.forget(lost, &|| self.remove(key));
            from = key + 1;
        }
    }

    /// The first living mapper from `from` on.
    fn next(&self, from: usize) -> Option<(usize, Arc<dyn Mapper>)> {
        let list = self.list.lock();
        let first = list.partition_point(|entry| entry.key < from);
        list[first..].iter().find_map(|entry| Some((entry.key, entry.mapper.upgrade()?)))
    }

    fn remove(&self, key: usize) {
        let mut list = self.list.lock();
        if let Ok(at) = list.binary_search_by_key(&key, |entry| entry.key) {
            let _weak = list.remove(at);
        }
    }
}

/// A weak reference keeps the address from being used again.
fn key_of(mapper: &Weak<dyn Mapper>) -> usize {
    mapper.as_ptr().cast::<()>().addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Counts calls; maps the object for `lives` of them.
    struct Space {
        calls: AtomicUsize,
        lives: usize,
    }

    impl Mapper for Space {
        fn forget(&self, _: &Lost<'_>, leave: &dyn Fn()) -> Mapped {
            if self.calls.fetch_add(1, Ordering::Relaxed) < self.lives {
                return Mapped::Still;
            }
            leave();
            Mapped::NoMore
        }
    }

    fn space(lives: usize) -> Arc<Space> {
        Arc::new(Space { calls: AtomicUsize::new(0), lives })
    }

    fn lost() -> Lost<'static> {
        Lost { object: MappingId::default(), pages: 0..1, private: LostPrivate::All }
    }

    fn register(mappers: &Mappers, space: &Arc<Space>) {
        let mapper: Arc<dyn Mapper> = space.clone();
        mappers.register(&Arc::downgrade(&mapper)).unwrap();
    }

    #[test]
    fn each_mapper_is_told_once_until_it_leaves() {
        let mappers = Mappers::new();
        let spaces = [space(0), space(1), space(9), space(9)];
        for space in spaces.iter().chain(&spaces) {
            register(&mappers, space);
        }
        for _ in 0..3 {
            mappers.forget(&lost());
        }
        let calls = spaces.each_ref().map(|space| space.calls.load(Ordering::Relaxed));
        assert_eq!(calls, [1, 2, 3, 3]);
        assert_eq!(mappers.list.lock().len(), 2);
    }

    #[test]
    fn mappers_that_are_gone_do_not_pile_up() {
        let mappers = Mappers::new();
        for _ in 0..1000 {
            register(&mappers, &space(9));
        }
        assert!(mappers.list.lock().len() < 10);
        mappers.forget(&lost());
    }
}
