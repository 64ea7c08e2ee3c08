//! Page faults: the first touch of a page, and the first write to a shared one.

use super::backing::{AreaBacking, ObjectPart};
use super::explicit::has_explicit;
use super::guard::is_guard;
use super::huge::LARGE;
use super::track::{notices_writes, unwritten};
use super::zero::{frame_of, is_zero_page, references, share_frame, zero_page};
use super::{AddressSpace, InPlace, PAGE, leaf_flags};
use crate::tlb::Freed;
use addr::{PhysAddr, VirtAddr, layout};
use core::sync::atomic::Ordering;
use frame::Frame;
use linux_abi::Errno;
use page_table::{Entry, Flags, MapError, PageSize, Spot};
use vma::{Area, AreaFlags, Prot};

/// What the program tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why a fault could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// Nothing is mapped there: SIGSEGV, `SEGV_MAPERR`.
    NoMapping,
    /// The mapping does not allow it: SIGSEGV, `SEGV_ACCERR`.
    NoPermission,
    /// The object has no such page or cannot read it: SIGBUS, `BUS_ADRERR`.
    BusError,
    /// No memory.
    OutOfMemory,
}

impl FaultError {
    /// For system calls that touch pages on the program's behalf.
    #[must_use]
    pub const fn to_errno(self) -> Errno {
        match self {
            Self::OutOfMemory => Errno::ENOMEM,
            _ => Errno::EFAULT,
        }
    }
}

impl From<frame::OutOfMemory> for FaultError {
    fn from(_: frame::OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// How far one attempt came.
pub(super) enum Step {
    Done,
    /// Another thread was faster; look again.
    Again,
    /// Done, and the pages of the 2 MiB at this address should be joined.
    Join(VirtAddr),
}

/// Pages that one fault of a file mapping fills, aligned: what is at hand costs little, a fault costs much.
const FAULT_AROUND: u64 = 16;

impl AddressSpace {
    /// Resolves a page fault at `addr`: afterwards the access can be repeated.
    ///
    /// Context: may sleep; no lock held that a page of an object could need.
    ///
    /// # Errors
    /// [`FaultError`].
    pub fn handle_fault(&self, addr: VirtAddr, access: Access) -> Result<(), FaultError> {
        if !(layout::USER_MIN..layout::USER_MAX).contains(&addr.0) {
            return Err(FaultError::NoMapping);
        }
        loop {
            let (area, held) = self.enter(addr, |areas| areas.map.find(addr).map(snapshot));
            let Some(area) = area else {
                drop(held);
                self.grow_stack(addr)?;
                continue;
            };
            check_access(area.prot, access)?;
            match self.resolve(&area, addr.align_down(PAGE), access)? {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Join(place) => {
                    drop(held);
                    self.join_dense(place);
                    return Ok(());
                }
            }
        }
    }

    fn resolve(&self, area: &Area<AreaBacking>, va: VirtAddr, access: Access) -> Result<Step, FaultError> {
        let (entry, spot) = self.tables.find(va);
        let size = spot.size();
        if has_explicit(area) {
            return self.resolve_explicit(area, va, access, (entry, size));
        }
        if entry.is_empty() {
            return self.fill(area, va, access, spot);
        }
        if entry == Entry::BUSY {
            drop(self.replace_lock(va, size).lock());
            return Ok(Step::Again);
        }
        if is_guard(entry) {
            return Err(FaultError::NoMapping);
        }
        if access != Access::Write || entry.is_writable() {
            // Another thread resolved it, or a stale translation caused the fault, which dropped it.
            return Ok(Step::Done);
        }
        if size != PageSize::Size4K {
            return self.write_large(area, va, entry, size);
        }
        let shared = area.flags.contains(AreaFlags::SHARED);
        if shared || references(entry) == 1 {
            if let Some(part) = area.backing.part.as_ref().filter(|_| shared) {
                part.object.written();
            }
            let writable = entry.with_flags(leaf_flags(area.prot, InPlace::Writable));
            return Ok(self.exchange(va, size, entry, writable));
        }
        self.copy_on_write(area, va, entry)
    }

    /// The lock that is held while the entry for `va`, of a page of `size`, is busy.
    pub(super) fn replace_lock(&self, va: VirtAddr, size: PageSize) -> &sync::Mutex<()> {
        let page = va.align_down(size.bytes()).0 / PAGE;
        &self.replacing[page as usize % self.replacing.len()]
    }

    pub(super) fn exchange(&self, va: VirtAddr, size: PageSize, old: Entry, new: Entry) -> Step {
        match self.tables.compare_exchange(va, size, old, new) {
            Ok(()) => Step::Done,
            Err(_) => Step::Again,
        }
    }

    /// Maps the page of an area for the first time. `spot` is the hole in the tables.
    fn fill(&self, area: &Area<AreaBacking>, va: VirtAddr, access: Access, spot: Spot) -> Result<Step, FaultError> {
        match &area.backing.part {
            None if access == Access::Write => self.fill_anonymous(area, va, spot),
            None => self.install(spot, va, Frame::from_permanent(zero_page()), leaf_flags(area.prot, InPlace::CopyFirst) | unwritten(area)),
            Some(part) => self.fill_from_object(area, part, va, (access, spot)),
        }
    }

    fn fill_anonymous(&self, area: &Area<AreaBacking>, va: VirtAddr, spot: Spot) -> Result<Step, FaultError> {
        if let Some(place) = self.large_place(area, va) {
            return self.fill_or_enlarge(area, va, place, spot);
        }
        let step = self.install(spot, va, Frame::alloc_zeroed()?, leaf_flags(area.prot, InPlace::Writable))?;
        if area.len() >= LARGE && Self::passes_sample(va) && matches!(step, Step::Done) { Ok(self.look_behind(area, va)) } else { Ok(step) }
    }

    fn fill_from_object(&self, area: &Area<AreaBacking>, part: &ObjectPart, va: VirtAddr, (access, spot): (Access, Spot)) -> Result<Step, FaultError> {
        let index = (part.offset + (va - area.start)) / PAGE;
        if index >= part.object.mapping_size().div_ceil(PAGE) {
            return Err(FaultError::BusError);
        }
        let frame = part.object.frame(index).map_err(|error| match error {
            Errno::ENOMEM => FaultError::OutOfMemory,
            _ => FaultError::BusError,
        })?;
        if area.flags.contains(AreaFlags::SHARED) {
            if access == Access::Write {
                part.object.written();
            }
            return self.install(spot, va, frame, shared_flags(area, access));
        }
        if access == Access::Write {
            return self.install(spot, va, frame.duplicate()?, leaf_flags(area.prot, InPlace::Writable));
        }
        let step = self.install(spot, va, frame, leaf_flags(area.prot, InPlace::CopyFirst) | unwritten(area))?;
        // Pages that will be written are better copied at their first write than replaced then, which needs a TLB flush.
        if !area.prot.contains(Prot::WRITE) {
            self.fill_around(area, part, va);
        }
        Ok(step)
    }

    /// Maps neighbours of `va` that the object has at hand, read-only.
    fn fill_around(&self, area: &Area<AreaBacking>, part: &ObjectPart, va: VirtAddr) {
        let window = va.align_down(FAULT_AROUND * PAGE);
        let start = window.max(area.start);
        let end = (window + FAULT_AROUND * PAGE).min(area.end);
        let pages = part.object.mapping_size().div_ceil(PAGE);
        let mut at = start;
        while at < end {
            let index = (part.offset + (at - area.start)) / PAGE;
            let (entry, spot) = self.tables.find(at);
            if index < pages && entry.is_empty() {
                let Some(frame) = part.object.ready_frame(index) else { return };
                if self.install(spot, at, frame, leaf_flags(area.prot, InPlace::CopyFirst) | unwritten(area)).is_err() {
                    return;
                }
            }
            at = at + PAGE;
        }
    }

    /// Puts a frame where nothing is mapped, at the hole `spot`. The entry takes the reference over.
    pub(super) fn install(&self, spot: Spot, va: VirtAddr, frame: Frame, flags: Flags) -> Result<Step, FaultError> {
        let entry = Entry::new(frame.phys(), flags);
        match self.tables.map_at(spot, va, entry) {
            Ok(()) => {
                let _held_by_entry: PhysAddr = frame.into_raw();
                if !is_zero_page(entry) {
                    self.count_resident(1);
                }
                Ok(Step::Done)
            }
            Err(MapError::Occupied(_)) => Ok(Step::Again),
            Err(MapError::OutOfTables) => Err(FaultError::OutOfMemory),
        }
    }

    /// Gives the space a page of its own for one that others have, too. See the theory statement in `mod.rs`.
    fn copy_on_write(&self, area: &Area<AreaBacking>, va: VirtAddr, old: Entry) -> Result<Step, FaultError> {
        let _replacing = self.replace_lock(va, PageSize::Size4K).lock();
        // From here on the entry refers to this frame until we replace it: others may only make it writable (then we start again).
        if self.tables.lookup(va).0 != old {
            return Ok(Step::Again);
        }
        let fresh = if is_zero_page(old) { Frame::alloc_zeroed()? } else { share_frame(old).duplicate()? };
        if self.tables.compare_exchange(va, PageSize::Size4K, old, Entry::BUSY).is_err() {
            return Ok(Step::Again);
        }
        self.flush(va, va + PAGE, Freed::PagesOnly);
        let new = Entry::new(fresh.phys(), leaf_flags(area.prot, InPlace::Writable));
        let set = self.tables.compare_exchange(va, PageSize::Size4K, Entry::BUSY, new);
        debug_assert!(set.is_ok(), "nobody replaces a busy entry");
        let _held_by_entry: PhysAddr = fresh.into_raw();
        if is_zero_page(old) {
            self.count_resident(1);
        }
        drop(frame_of(old));
        Ok(Step::Done)
    }

    /// A frame that only this space maps at `addr`, present, whatever the protection says: for the kernel to write into pages that
    /// the program may not write (patched system-call sites, a debugger's breakpoints). The program's rights do not change.
    ///
    /// # Errors
    /// [`FaultError`]; `NoPermission` also for shared mappings, where a change would be seen by others.
    pub fn private_frame(&self, addr: VirtAddr) -> Result<Frame, FaultError> {
        let va = addr.align_down(PAGE);
        loop {
            self.handle_fault(va, Access::Read)?;
            let areas = self.areas.read();
            let area = areas.map.find(va).ok_or(FaultError::NoMapping)?;
            if area.flags.contains(AreaFlags::SHARED) {
                return Err(FaultError::NoPermission);
            }
            let (page, size) = self.tables.lookup(va);
            let entry = page.part_at(va, size);
            if entry.is_present() && references(entry) == 1 {
                // Ours alone: it only goes away with the areas locked for writing.
                return Ok(share_frame(entry));
            }
            if entry.is_present() && size != PageSize::Size4K {
                self.write_large(area, va, page, size)?;
            } else if entry.is_present() {
                self.copy_on_write(area, va, entry)?;
            }
        }
    }

    /// Extends the stack right above `addr` down to it.
    fn grow_stack(&self, addr: VirtAddr) -> Result<(), FaultError> {
        let mut areas = self.areas.write();
        let start = addr.align_down(PAGE);
        let Some(stack) = areas.map.find_from(addr) else { return Err(FaultError::NoMapping) };
        if stack.contains(addr) {
            return Ok(());
        }
        let (old_start, end) = (stack.start, stack.end);
        let allowed = stack.flags.contains(AreaFlags::GROWS_DOWN) && end - start <= self.stack_limit.load(Ordering::Relaxed);
        let gap_kept = areas.map.find_before(addr).is_none_or(|below| {
            let gap = if below.prot.is_empty() { 0 } else { vma::place::STACK_GUARD_GAP };
            start.0 >= below.end.0 + gap
        });
        if !allowed || !gap_kept || self.check_size(&areas, old_start - start, start..start).is_err() {
            return Err(FaultError::NoMapping);
        }
        areas.map.grow_down(old_start, start);
        Ok(())
    }
}

/// Flags of a page that others see, too. One that is only read may be written without a further fault, which the processor notes in the
/// entry; unless we are to notice it.
fn shared_flags(area: &Area<AreaBacking>, access: Access) -> Flags {
    match access {
        Access::Write => leaf_flags(area.prot, InPlace::Writable),
        _ if notices_writes(area) => leaf_flags(area.prot, InPlace::CopyFirst) | unwritten(area),
        _ => leaf_flags(area.prot, InPlace::Writable) - Flags::DIRTY,
    }
}

/// What a fault works with while the areas may change elsewhere. From here on there may be pages.
pub(super) fn snapshot(area: &Area<AreaBacking>) -> Area<AreaBacking> {
    area.backing.touch();
    Area { start: area.start, end: area.end, prot: area.prot, flags: area.flags, backing: area.backing.without_name() }
}

/// x86 has no write-only and no execute-only pages: any right includes reading.
fn check_access(prot: Prot, access: Access) -> Result<(), FaultError> {
    let allowed = match access {
        Access::Read => !prot.is_empty(),
        Access::Write => prot.contains(Prot::WRITE),
        Access::Execute => prot.contains(Prot::EXEC),
    };
    if allowed { Ok(()) } else { Err(FaultError::NoPermission) }
}
