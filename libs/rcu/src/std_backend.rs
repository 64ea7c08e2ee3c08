//! The domain [`crate::linked::Linked`] on host threads, for tests: what is deferred happens as soon as nobody reads.
#![expect(unsafe_code, reason = "defines the link-time symbols of the domain")]

use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use crate::Deferred;

struct State {
    readers: usize,
    deferred: Vec<Deferred>,
}

static STATE: Mutex<State> = Mutex::new(State { readers: 0, deferred: Vec::new() });

fn with_state<R>(act: impl FnOnce(&mut State) -> R) -> R {
    act(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

#[unsafe(no_mangle)]
fn rcu_read_begin() {
    with_state(|state| state.readers += 1);
}

/// # Safety
/// Once for each `rcu_read_begin`.
#[unsafe(no_mangle)]
unsafe fn rcu_read_end() {
    let ready = with_state(|state| {
        state.readers -= 1;
        if state.readers == 0 { core::mem::take(&mut state.deferred) } else { Vec::new() }
    });
    ready.into_iter().for_each(Deferred::call);
}

#[unsafe(no_mangle)]
fn rcu_defer(action: Deferred) {
    let now = with_state(|state| {
        if state.readers == 0 {
            return Some(action);
        }
        state.deferred.push(action);
        None
    });
    if let Some(action) = now {
        action.call();
    }
}
