//! Atomics and cells that are loom's under `cfg(loom)` and the language's otherwise.
//!
//! [`cell::UnsafeCell`] has loom's shape (`with`, `with_mut`), so that loom sees every access to plain data and
//! reports a race.

/// Atomic types and fences.
#[cfg(not(loom))]
pub mod atomic {
    pub use core::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// A `SeqCst` fence after a read-modify-write of the same thread, with only plain loads and stores of its own in between: on x86 the
/// read-modify-write is one already (Intel SDM vol. 3, 9.2.3.9: loads and stores are not reordered with locked instructions), so only the
/// compiler must be told.
#[inline(always)]
pub fn fence_after_read_modify_write() {
    #[cfg(all(not(loom), target_arch = "x86_64"))]
    core::sync::atomic::compiler_fence(atomic::Ordering::SeqCst);
    #[cfg(not(all(not(loom), target_arch = "x86_64")))]
    atomic::fence(atomic::Ordering::SeqCst);
}

/// Atomic types and fences, modelled.
#[cfg(loom)]
pub mod atomic {
    pub use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Plain data that several threads touch one after the other.
#[cfg(not(loom))]
pub mod cell {
    /// `core::cell::UnsafeCell` with loom's closure accessors.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// Wraps a value.
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }
    }

    impl<T: ?Sized> UnsafeCell<T> {
        /// Calls `f` with a pointer for reading. The closure must not outlive its right to read.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing. The closure must not outlive its right to write.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// Plain data that several threads touch one after the other, modelled.
#[cfg(loom)]
pub mod cell {
    pub use loom::cell::UnsafeCell;
}
