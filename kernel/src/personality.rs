//! What the personality keeps with a thread or an address space.
#![expect(unsafe_code, reason = "a look at the type without a call")]

use alloc::boxed::Box;
use core::any::{Any, TypeId};

/// Something of the personality's, with its type beside it: every system call asks for it.
pub(crate) struct Part {
    kind: TypeId,
    part: Box<dyn Any + Send + Sync>,
}

impl Part {
    pub(crate) fn of(part: Box<dyn Any + Send + Sync>) -> Self {
        Self { kind: (*part).type_id(), part }
    }

    /// What it is, if it is a `T`.
    #[inline(always)]
    pub(crate) fn get<T: 'static>(&self) -> Option<&T> {
        // SAFETY: the part is a `T`.
        (self.kind == TypeId::of::<T>()).then(|| unsafe { &*(&raw const *self.part).cast() })
    }
}
