//! Page-table entries: the hardware's bits and ours.

use addr::PhysAddr;
use bitflags::bitflags;

bitflags! {
    /// The flag bits of an entry (Intel SDM volume 3, 4.5; bits 9 to 11 are left to software).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Flags: u64 {
        /// The processor uses the entry.
        const PRESENT = 1;
        /// Writes are allowed.
        const WRITABLE = 1 << 1;
        /// Accesses from ring 3 are allowed. Never set here: the program runs in ring 0.
        const USER = 1 << 2;
        /// Write-through; with [`Flags::NO_CACHE`] this makes device memory uncached.
        const WRITE_THROUGH = 1 << 3;
        /// Not cached.
        const NO_CACHE = 1 << 4;
        /// Set by the processor when the page is used.
        const ACCESSED = 1 << 5;
        /// Set by the processor when the page is written.
        const DIRTY = 1 << 6;
        /// The entry maps a page above level 1.
        const LARGE = 1 << 7;
        /// The translation survives a change of tables.
        const GLOBAL = 1 << 8;
        /// Ours: not present, but the address names a frame that the mapping owns (`PROT_NONE` over a used page).
        const RESIDENT = 1 << 9;
        /// Ours: not present, a fault handler is replacing the page. Others wait for it.
        const BUSY = 1 << 10;
        /// Ours, with [`Flags::RESIDENT`]: the page was set aside for its first touch; its contents are stale.
        const UNTOUCHED = 1 << 11;
        /// Ours: a page of `MAP_HUGETLB`, which is never split.
        const EXPLICIT = 1 << 52;
        /// Ours: the page was not written since somebody asked for that to be noticed (`clear_refs`). Never with [`Flags::WRITABLE`].
        const SOFT_CLEAN = 1 << 53;
        /// Ours: likewise, for `PAGEMAP_SCAN`.
        const WRITE_WATCHED = 1 << 54;
        /// Ours: the contents may go while [`Flags::DIRTY`] is not set (`MADV_FREE`).
        const LAZY_FREE = 1 << 55;
        /// Ours: not present, and never to be (`MADV_GUARD_INSTALL`).
        const GUARD = 1 << 56;
        /// Ours, with [`Flags::EXPLICIT`]: the page is an object's, too.
        const OBJECT = 1 << 57;
        /// Instruction fetches are refused.
        const NO_EXECUTE = 1 << 63;
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl Flags {
    /// Read-only data of the kernel or the program.
    pub const READ: Self = Self::PRESENT.union(Self::ACCESSED).union(Self::NO_EXECUTE);
    /// Writable data; accessed and dirty are set ahead so that the processor need not.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITABLE).union(Self::DIRTY);
    /// Code.
    pub const READ_EXECUTE: Self = Self::PRESENT.union(Self::ACCESSED);
    /// Device registers: writable, uncached, never executed.
    pub const DEVICE: Self = Self::READ_WRITE.union(Self::NO_CACHE).union(Self::WRITE_THROUGH);
    /// What an entry that refers to a table carries: all rights, the leaf decides.
    pub(crate) const TABLE: Self = Self::PRESENT.union(Self::WRITABLE).union(Self::ACCESSED);
}

/// Size of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum PageSize {
    /// 4 KiB, an entry of level 1.
    Size4K,
    /// 2 MiB, an entry of level 2.
    Size2M,
    /// 1 GiB, an entry of level 3.
    Size1G,
}

impl PageSize {
    /// In pages of 4 KiB.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.bytes() >> 12
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        level_span(self.level())
    }

    /// Level of the tables whose entries map such pages.
    #[must_use]
    pub const fn level(self) -> u32 {
        match self {
            Self::Size4K => 1,
            Self::Size2M => 2,
            Self::Size1G => 3,
        }
    }

    pub(crate) const fn of_level(level: u32) -> Self {
        match level {
            1 => Self::Size4K,
            2 => Self::Size2M,
            _ => Self::Size1G,
        }
    }
}

/// Bytes that one entry of a table of `level` spans.
pub(crate) const fn level_span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// One entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// Nothing is mapped.
    pub const EMPTY: Self = Self(0);
    /// See [`Flags::BUSY`].
    pub const BUSY: Self = Self(Flags::BUSY.bits());

    /// An entry for the page or table at `pa`.
    #[must_use]
    pub const fn new(pa: PhysAddr, flags: Flags) -> Self {
        Self((pa.0 & ADDRESS) | flags.bits())
    }

    /// The flags.
    #[must_use]
    pub const fn flags(self) -> Flags {
        Flags::from_bits_truncate(self.0)
    }

    /// The page or table.
    #[must_use]
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.0 & ADDRESS)
    }

    /// Whether nothing is mapped, not even invisibly.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the processor uses the entry.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.flags().contains(Flags::PRESENT)
    }

    /// Whether the entry (of a leaf) owns a page, visible or not.
    #[must_use]
    pub const fn has_page(self) -> bool {
        self.flags().intersects(Flags::PRESENT.union(Flags::RESIDENT))
    }

    /// Whether writes are allowed now.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.flags().contains(Flags::PRESENT.union(Flags::WRITABLE))
    }

    /// The same page with other flags.
    #[must_use]
    pub const fn with_flags(self, flags: Flags) -> Self {
        Self::new(self.address(), flags)
    }

    /// The entry as it stands in a table of `level`: a page above level 1 says that it is one.
    pub(crate) const fn at_level(self, level: u32) -> Self {
        if level > 1 && self.has_page() { Self(self.0 | Flags::LARGE.bits()) } else { self }
    }

    /// Whether an entry above level 1 is a page, visible or not.
    #[must_use]
    pub const fn is_large(self) -> bool {
        self.has_page() && self.flags().contains(Flags::LARGE)
    }

    /// Whether an entry of level 2 refers to a table.
    #[must_use]
    pub const fn is_present_table(self) -> bool {
        self.is_table(2)
    }

    /// Whether an entry of a table of `level` refers to a further table.
    pub(crate) const fn is_table(self, level: u32) -> bool {
        level > 1 && self.is_present() && !self.flags().contains(Flags::LARGE)
    }
}
