//! Physical and virtual address types, page arithmetic, and the fixed address-space layout.
//!
//! Key types: [`PhysAddr`], [`VirtAddr`]. Everything that names memory depends on this crate; it depends on nothing.
//! The layout constants are architecture.md §2 as numbers.

#![cfg_attr(not(test), no_std)]

use core::fmt;
use core::ops::{Add, Sub};

/// Bytes in a base page and in a physical frame.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page mapped by a page-directory entry.
pub const PAGE_SIZE_2M: usize = 2 << 20;
/// Bytes in a page mapped by a page-directory-pointer entry.
pub const PAGE_SIZE_1G: usize = 1 << 30;

/// Fixed virtual addresses (one address space; the low half belongs to the program).
pub mod layout {
    /// Nothing is ever mapped below this address: null dereferences fault.
    pub const USER_MIN: u64 = 0x1_0000;
    /// End (exclusive) of the program's half.
    pub const USER_MAX: u64 = 0x7fff_ffff_f000;
    /// All physical memory, mapped once.
    pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
    /// Kernel virtual area: thread stacks with guard pages, MMIO.
    pub const KERNEL_VIRT: u64 = 0xffff_c000_0000_0000;
    /// End (exclusive) of the kernel virtual area.
    pub const KERNEL_VIRT_END: u64 = 0xffff_e000_0000_0000;
    /// Virtual minus physical address of the kernel image.
    pub const KERNEL_OFFSET: u64 = 0xffff_ffff_8000_0000;
}

/// A physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

/// A virtual address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(pub u64);

macro_rules! address {
    ($t:ident) => {
        impl $t {
            /// The address rounded down to a multiple of `align`, a power of two.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The address rounded up to a multiple of `align`, a power of two. Wraps at the top of the space.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Self {
                Self(self.0.wrapping_add(align - 1) & !(align - 1))
            }

            /// Whether the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// Byte offset inside its 4 KiB page.
            #[must_use]
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE as u64 - 1)) as usize
            }
        }

        impl Add<u64> for $t {
            type Output = Self;
            fn add(self, rhs: u64) -> Self {
                Self(self.0 + rhs)
            }
        }

        impl Sub<u64> for $t {
            type Output = Self;
            fn sub(self, rhs: u64) -> Self {
                Self(self.0 - rhs)
            }
        }

        impl Sub for $t {
            type Output = u64;
            fn sub(self, rhs: Self) -> u64 {
                self.0 - rhs.0
            }
        }

        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}
address!(PhysAddr);
address!(VirtAddr);

impl PhysAddr {
    /// Where this physical address appears in the direct map.
    #[must_use]
    pub const fn to_virt(self) -> VirtAddr {
        VirtAddr(layout::DIRECT_MAP + self.0)
    }

    /// Frame number.
    #[must_use]
    pub const fn frame_number(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }
}

impl VirtAddr {
    /// Whether the address lies in the program's half.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 < layout::USER_MAX
    }

    /// As a pointer.
    #[must_use]
    pub const fn as_ptr<T>(self) -> *const T {
        self.0 as *const T
    }

    /// As a mutable pointer.
    #[must_use]
    pub const fn as_mut_ptr<T>(self) -> *mut T {
        self.0 as *mut T
    }

    /// Index into the page table of `level` (4 = PML4 … 1 = PT) for this address.
    #[must_use]
    pub const fn table_index(self, level: u32) -> usize {
        ((self.0 >> (PAGE_SHIFT + 9 * (level - 1))) & 0x1ff) as usize
    }
}

/// Number of 4 KiB pages that cover `bytes`.
#[must_use]
pub const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligning_keeps_aligned_addresses() {
        assert_eq!(VirtAddr(0x2000).align_up(0x1000), VirtAddr(0x2000));
        assert_eq!(VirtAddr(0x2001).align_up(0x1000), VirtAddr(0x3000));
        assert_eq!(VirtAddr(0x2fff).align_down(0x1000), VirtAddr(0x2000));
    }

    #[test]
    fn table_indexes_split_the_address() {
        let a = VirtAddr((1 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 5);
        assert_eq!([a.table_index(4), a.table_index(3), a.table_index(2), a.table_index(1)], [1, 2, 3, 4]);
        assert_eq!(a.page_offset(), 5);
    }
}
