//! What a mapping is made of: the request, and what an area remembers of it.

use addr::VirtAddr;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU8, Ordering};
use frame::Mappable;
use vma::Prot;

/// What `/proc/self/maps` shows as name: a path, `[heap]`, `[stack]`, …
pub type Name = Arc<[u8]>;

/// Who sees writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// `MAP_PRIVATE`: the first write copies the page.
    Private,
    /// `MAP_SHARED` of a file that is open for writing.
    Shared,
    /// `MAP_SHARED` of a file that is not open for writing: it can never become writable.
    SharedReadOnly,
}

/// Where pages come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeros, private.
    Anonymous,
    /// Zeros, shared with later children.
    SharedAnonymous,
    /// An object's pages.
    File {
        /// The object.
        object: Arc<dyn Mappable>,
        /// Byte offset of the first page; a multiple of the page size.
        offset: u64,
        /// Who sees writes.
        sharing: Sharing,
    },
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// At the hint if that is free, elsewhere otherwise.
    Hint,
    /// At the hint, replacing what is there (`MAP_FIXED`).
    Fixed,
    /// At the hint or not at all (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace,
    /// Below 2 GiB (`MAP_32BIT`).
    Below2G,
}

bitflags! {
    /// The other `MAP_*` flags, those that mean something here.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        /// `MAP_GROWSDOWN`.
        const GROWS_DOWN = 1;
        /// `MAP_LOCKED`.
        const LOCKED = 2;
        /// `MAP_POPULATE`.
        const POPULATE = 4;
        /// `MAP_NORESERVE`.
        const NO_RESERVE = 8;
        /// `MAP_HUGETLB`: pages of 2 MiB.
        const PAGES_2M = 1 << 8;
        /// `MAP_HUGETLB | MAP_HUGE_1GB`: pages of 1 GiB.
        const PAGES_1G = 1 << 9;
    }
}

/// What `mmap` asks for.
#[derive(Clone)]
pub struct MapRequest {
    /// Where; 0 is anywhere (with [`Placement::Hint`]).
    pub hint: VirtAddr,
    /// Bytes; rounded up to whole pages.
    pub len: u64,
    /// Protection.
    pub prot: Prot,
    /// How binding the hint is.
    pub placement: Placement,
    /// Where pages come from.
    pub backing: Backing,
    /// Other flags.
    pub flags: MapFlags,
    /// Name for `/proc/self/maps`.
    pub name: Option<Name>,
}

impl MapRequest {
    /// Private zeros, anywhere.
    #[must_use]
    pub const fn anonymous(len: u64, prot: Prot) -> Self {
        Self {
            hint: VirtAddr(0),
            len,
            prot,
            placement: Placement::Hint,
            backing: Backing::Anonymous,
            flags: MapFlags::empty(),
            name: None,
        }
    }

    /// The same at `at`, replacing what is there.
    #[must_use]
    pub fn fixed_at(mut self, at: VirtAddr) -> Self {
        self.hint = at;
        self.placement = Placement::Fixed;
        self
    }

    /// The same with a name.
    #[must_use]
    pub fn named(mut self, name: &[u8]) -> Self {
        self.name = Some(Arc::from(name));
        self
    }
}

/// Pages of an object, from an offset on.
#[derive(Clone)]
pub(super) struct ObjectPart {
    pub(super) object: Arc<dyn Mappable>,
    pub(super) offset: u64,
}

/// What an area knows of its pages' origin.
pub(super) struct AreaBacking {
    /// `None`: private zeros.
    pub(super) part: Option<ObjectPart>,
    pub(super) name: Option<Name>,
    /// What the page tables may have for the area, [`TOUCHED`] and others: set by who is about to put it there, who has looked the area up and
    /// holds its block, or has the area to itself. Never cleared.
    notes: AtomicU8,
}

/// Anything.
const TOUCHED: u8 = 1;
/// Guards.
const GUARDS: u8 = 2;
/// Pages that were given up with `MADV_FREE`.
const LAZY: u8 = 4;

impl Clone for AreaBacking {
    fn clone(&self) -> Self {
        Self { part: self.part.clone(), name: self.name.clone(), notes: AtomicU8::new(self.notes.load(Ordering::Relaxed)) }
    }
}

impl AreaBacking {
    /// Of an area that nobody has touched.
    pub(super) const fn new(part: Option<ObjectPart>, name: Option<Name>) -> Self {
        Self { part, name, notes: AtomicU8::new(0) }
    }

    /// What a fault needs to know.
    pub(super) fn without_name(&self) -> Self {
        Self { part: self.part.clone(), name: None, notes: AtomicU8::new(TOUCHED) }
    }

    #[inline]
    fn has(&self, note: u8) -> bool {
        self.notes.load(Ordering::Relaxed) & note != 0
    }

    #[inline]
    fn note(&self, notes: u8) {
        if self.notes.load(Ordering::Relaxed) & notes != notes {
            // A change of the areas comes after it: the range lock orders the two.
            self.notes.fetch_or(notes, Ordering::Relaxed);
        }
    }

    /// Whether the page tables may have anything for the area.
    #[inline]
    pub(super) fn is_touched(&self) -> bool {
        self.has(TOUCHED)
    }

    /// The page tables may have something for the area from now on.
    #[inline]
    pub(super) fn touch(&self) {
        self.note(TOUCHED);
    }

    /// Whether there may be guards.
    pub(super) fn has_guards(&self) -> bool {
        self.has(GUARDS)
    }

    /// There may be guards from now on.
    pub(super) fn note_guards(&self) {
        self.note(TOUCHED | GUARDS);
    }

    /// Whether pages may have been given up.
    pub(super) fn has_lazy(&self) -> bool {
        self.has(LAZY)
    }

    /// Pages may be given up from now on.
    pub(super) fn note_lazy(&self) {
        self.note(LAZY);
    }
}

impl vma::Backing for AreaBacking {
    fn advanced(&self, bytes: u64) -> Self {
        let part = self.part.as_ref().map(|part| ObjectPart { object: part.object.clone(), offset: part.offset + bytes });
        Self { part, name: self.name.clone(), notes: AtomicU8::new(self.notes.load(Ordering::Relaxed)) }
    }

    fn absorb(&mut self, other: &Self) {
        self.note(other.notes.load(Ordering::Relaxed));
    }

    fn continues_as(&self, bytes: u64, next: &Self) -> bool {
        let same_part = match (&self.part, &next.part) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.object, &b.object) && a.offset + bytes == b.offset,
            _ => false,
        };
        same_part && self.name == next.name
    }
}
