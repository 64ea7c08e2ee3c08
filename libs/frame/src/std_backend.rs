//! The frame back end of host tests: frames are heap pages and a table counts them.

use crate::Fill;
use addr::{PAGE_SIZE, PhysAddr};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::sync::Mutex;

static COUNTS: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

fn layout() -> Layout {
    Layout::from_size_align(PAGE_SIZE, PAGE_SIZE).expect("a page is a valid layout")
}

fn with_counts<R>(f: impl FnOnce(&mut HashMap<u64, usize>) -> R) -> R {
    let mut counts = COUNTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    f(counts.get_or_insert_with(HashMap::new))
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_alloc(fill: Fill) -> Option<PhysAddr> {
    // SAFETY: the layout has a size. Stale frames are poisoned so that a test which relies on zeros fails.
    let page = unsafe {
        match fill {
            Fill::Zero => alloc_zeroed(layout()),
            Fill::Stale => {
                let page = alloc(layout());
                if !page.is_null() {
                    page.write_bytes(0xa5, PAGE_SIZE);
                }
                page
            }
        }
    };
    if page.is_null() {
        return None;
    }
    let pa = page.expose_provenance() as u64;
    with_counts(|c| c.insert(pa, 1));
    Some(PhysAddr(pa))
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_ref(frame: PhysAddr) {
    with_counts(|c| {
        if let Some(count) = c.get_mut(&frame.0) {
            *count += 1;
        }
    });
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_unref(frame: PhysAddr) {
    let last = with_counts(|c| {
        let Some(count) = c.get_mut(&frame.0) else { return false };
        *count -= 1;
        *count == 0 && c.remove(&frame.0).is_some()
    });
    if last {
        // SAFETY: the table held this page, so `frame_backend_alloc` made it with this layout, and nobody refers to it.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(frame.0 as usize), layout()) };
    }
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_ref_count(frame: PhysAddr) -> usize {
    with_counts(|c| c.get(&frame.0).copied().unwrap_or(usize::MAX))
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_permanent(frame: PhysAddr) {
    with_counts(|c| assert!(!c.contains_key(&frame.0), "{frame} is a counted frame"));
}
