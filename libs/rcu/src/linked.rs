//! [`Linked`]: the domain that the program is linked with, for structures that are not generic over one.
//!
//! The symbols (all `extern "Rust"`, `#[unsafe(no_mangle)]`): `rcu_read_begin()`, `rcu_read_end()`, `rcu_defer(Deferred)`. `kernel::rcu`
//! defines them in the kernel, the feature `std` of this crate on the host.

use core::marker::PhantomData;

use crate::{Deferred, Domain};

unsafe extern "Rust" {
    safe fn rcu_read_begin();
    /// Ends what one `rcu_read_begin` of the same thread began.
    fn rcu_read_end();
    safe fn rcu_defer(action: Deferred);
}

/// See the module.
pub enum Linked {}

/// The right to look at what is freed after a grace period.
pub struct Reading {
    not_send: PhantomData<*const ()>,
}

impl Drop for Reading {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: made by `read`, on this thread.
        unsafe { rcu_read_end() }
    }
}

impl Domain for Linked {
    type Reading = Reading;

    #[inline]
    fn read() -> Reading {
        rcu_read_begin();
        Reading { not_send: PhantomData }
    }

    fn defer(action: Deferred) {
        rcu_defer(action);
    }
}
