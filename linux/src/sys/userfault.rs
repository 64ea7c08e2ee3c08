//! `userfaultfd`, as far as it is about noticing writes: ranges registered with `UFFDIO_REGISTER_MODE_WP` on a descriptor that has
//! `UFFD_FEATURE_WP_ASYNC`. A write to a protected page there waits for nobody; `PAGEMAP_SCAN` tells which pages were written
//! (Linux: Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications"). Faults that wait for a message are not offered.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use addr::{PAGE_SIZE, VirtAddr, layout};
use kernel::mm::{AddressSpace, Watched};
use linux_abi::{Errno, raw};
use sync::{Interrupt, Mutex, WaitQueue};
use vfs::io::{IoctlArg, Sink, Source};
use vfs::{Events, File, OpenFlags};

use super::event::install_anonymous;
use crate::ctx::{Ctx, SysResult};

const PAGE: u64 = PAGE_SIZE as u64;
const API_VERSION: u64 = 0xaa;

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` and its like.
const API: u32 = 0xc018_aa3f;
const REGISTER: u32 = 0xc020_aa00;
const UNREGISTER: u32 = 0x8010_aa01;
const WRITEPROTECT: u32 = 0xc018_aa06;
/// Bits of the requests, in what `API` and `REGISTER` return.
const API_REQUESTS: u64 = 1 << 0x3f | 1 << 1 | 1;
const RANGE_REQUESTS: u64 = 1 << 6;

const FEATURE_FLAG_WP: u64 = 1;
const FEATURE_WP_SHARED: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const FEATURES: u64 = FEATURE_FLAG_WP | FEATURE_WP_SHARED | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;

const MODE_WP: u64 = 2;
const WRITEPROTECT_WP: u64 = 1;
const WRITEPROTECT_DONTWAKE: u64 = 2;

/// What `API` was told; with this bit, it was called.
const ENABLED: u64 = 1 << 63;

struct UserFault {
    space: Weak<AddressSpace>,
    features: AtomicU64,
    ranges: Mutex<Vec<Range<u64>>>,
    /// Nobody ever wakes it: there are no messages.
    messages: WaitQueue,
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * index..8 * index + 8]);
    u64::from_le_bytes(word)
}

fn set_word(bytes: &mut [u8], index: usize, value: u64) {
    bytes[8 * index..8 * index + 8].copy_from_slice(&value.to_le_bytes());
}

/// The range at the beginning of most arguments.
fn range(bytes: &[u8]) -> Result<Range<VirtAddr>, Errno> {
    let (start, len) = (word(bytes, 0), word(bytes, 1));
    let end = start.checked_add(len).filter(|end| *end <= layout::USER_MAX).ok_or(Errno::EINVAL)?;
    let aligned = (start | len).is_multiple_of(PAGE) && len != 0 && start >= layout::USER_MIN;
    if aligned { Ok(VirtAddr(start)..VirtAddr(end)) } else { Err(Errno::EINVAL) }
}

impl UserFault {
    fn space(&self) -> Result<Arc<AddressSpace>, Errno> {
        self.space.upgrade().ok_or(Errno::ESRCH)
    }

    fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }

    fn enable(&self, arg: &IoctlArg<'_>) -> SysResult {
        let mut api = arg.load::<24>()?;
        let (version, features) = (word(&api, 0), word(&api, 1));
        let known = version == API_VERSION && features & !FEATURES == 0;
        if !known || self.features.compare_exchange(0, features | ENABLED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            arg.store(&[0; 24])?;
            return Err(Errno::EINVAL);
        }
        set_word(&mut api, 1, FEATURES);
        set_word(&mut api, 2, API_REQUESTS);
        arg.store(&api).map(|()| 0)
    }

    fn register(&self, arg: &IoctlArg<'_>) -> SysResult {
        let mut request = arg.load::<32>()?;
        let range = range(&request)?;
        if word(&request, 2) != MODE_WP || !self.has(FEATURE_WP_ASYNC) {
            return Err(Errno::EINVAL);
        }
        let mut ranges = self.ranges.lock();
        ranges.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.space()?.set_watched(range.clone(), Watched::Yes)?;
        ranges.push(range.start.0..range.end.0);
        drop(ranges);
        set_word(&mut request, 3, RANGE_REQUESTS);
        arg.store(&request).map(|()| 0)
    }

    fn protect(&self, arg: &IoctlArg<'_>) -> SysResult {
        let request = arg.load::<24>()?;
        let range = range(&request)?;
        let mode = word(&request, 2);
        if mode & !(WRITEPROTECT_WP | WRITEPROTECT_DONTWAKE) != 0 || mode == WRITEPROTECT_WP | WRITEPROTECT_DONTWAKE {
            return Err(Errno::EINVAL);
        }
        let watched = if mode & WRITEPROTECT_WP != 0 { Watched::Yes } else { Watched::No };
        self.space()?.protect_watched(range, watched).map(|()| 0)
    }
}

impl Drop for UserFault {
    fn drop(&mut self) {
        let Some(space) = self.space.upgrade() else { return };
        for range in self.ranges.get_mut().drain(..) {
            // What is mapped there now may be another one's; then nothing is lost but its marks.
            let _gone_or_not = space.set_watched(VirtAddr(range.start)..VirtAddr(range.end), Watched::No);
        }
    }
}

impl File for UserFault {
    fn read(&self, _position: &mut u64, _sink: &mut dyn Sink, flags: OpenFlags) -> SysResult {
        if !self.has(ENABLED) {
            return Err(Errno::EINVAL);
        }
        if flags.nonblocking() {
            return Err(Errno::EAGAIN);
        }
        // No fault waits for an answer, so there is no message.
        self.messages.wait_until(None, Interrupt::Allowed, || None::<usize>).map_err(|_| Errno::ERESTARTSYS)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> SysResult {
        Err(Errno::EINVAL)
    }

    fn poll(&self) -> Events {
        if self.has(ENABLED) { Events::empty() } else { Events::ERR }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.messages);
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> SysResult {
        if request == API {
            return self.enable(&arg);
        }
        if !self.has(ENABLED) {
            return Err(Errno::EINVAL);
        }
        match request {
            REGISTER => self.register(&arg),
            UNREGISTER => self.space()?.set_watched(range(&arg.load::<16>()?)?, Watched::No).map(|()| 0),
            WRITEPROTECT => self.protect(&arg),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// `userfaultfd`.
///
/// # Errors
/// `EINVAL`, `EPERM` (without `UFFD_USER_MODE_ONLY`), `EMFILE`.
pub fn userfaultfd(ctx: &Ctx<'_>, flags: u32) -> SysResult {
    const USER_MODE_ONLY: u32 = 1;
    if flags & !(USER_MODE_ONLY | raw::O_CLOEXEC | raw::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    // As with vm.unprivileged_userfaultfd=0: faults of the kernel are for nobody to handle.
    if flags & USER_MODE_ONLY == 0 {
        return Err(Errno::EPERM);
    }
    let file = UserFault {
        space: Arc::downgrade(&ctx.process().space()),
        features: AtomicU64::new(0),
        ranges: Mutex::new(Vec::new()),
        messages: WaitQueue::new(),
    };
    install_anonymous(ctx, Arc::new(file), "anon_inode:[userfaultfd]", flags & !USER_MODE_ONLY)
}
