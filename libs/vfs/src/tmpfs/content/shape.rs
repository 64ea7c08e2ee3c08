//! Changes of a file's shape: its size, holes, ranges that are taken out or put in; and where data and holes are.

use core::ops::Range;

use frame::{Lost, LostPrivate};

use super::{Content, PAGE, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SHRINK, SEAL_WRITE, piece_at};
use crate::inode::Allocate;
use crate::tmpfs::TmpFs;
use crate::types::OFFSET_MAX;
use crate::{Errno, Result};

impl Content {
    /// Sets the size.
    pub(in crate::tmpfs) fn truncate(&self, fs: &TmpFs, size: u64) -> Result<()> {
        if size > OFFSET_MAX {
            return Err(Errno::EFBIG);
        }
        let _writer = self.writer.lock();
        let old = self.size();
        if size < old {
            self.check_seal(SEAL_SHRINK)?;
            self.shrink(fs, size)
        } else if size > old {
            self.check_seal(SEAL_GROW)?;
            let mut pages = self.change();
            pages.zero_tail(old);
            pages.size = size;
            Ok(())
        } else {
            Ok(())
        }
    }

    fn shrink(&self, fs: &TmpFs, size: u64) -> Result<()> {
        let cut = !size.is_multiple_of(PAGE);
        if cut && size < self.pages.read().lower_end {
            // The rest of this page must read as zeros if the file grows again.
            self.own_page(fs, size / PAGE)?;
        }
        let mut pages = self.change();
        pages.lower_end = pages.lower_end.min(size.next_multiple_of(PAGE));
        pages.size = size;
        pages.zero_tail(size);
        let gone = pages.own.split_off(&size.div_ceil(PAGE));
        drop(pages);
        self.mappers.forget(&Lost { object: self.id, pages: size.div_ceil(PAGE)..u64::MAX / PAGE, private: LostPrivate::All });
        fs.uncharge(gone.len() as u64);
        Ok(())
    }

    /// `fallocate`.
    pub(in crate::tmpfs) fn allocate(&self, fs: &TmpFs, how: Allocate, range: Range<u64>) -> Result<()> {
        if range.end > OFFSET_MAX {
            return Err(Errno::EFBIG);
        }
        let _writer = self.writer.lock();
        if matches!(how, Allocate::Collapse | Allocate::Insert) {
            self.check_seal(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
            return if how == Allocate::Collapse { self.collapse(fs, range) } else { self.insert(fs, range) };
        }
        let size = self.size();
        let grows = matches!(how, Allocate::Grow | Allocate::ZeroRange) && range.end > size;
        if grows {
            self.check_seal(SEAL_GROW)?;
        }
        if matches!(how, Allocate::PunchHole | Allocate::ZeroRange | Allocate::ZeroRangeKeepSize) {
            self.check_seal(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
            // Beyond the end there is nothing yet.
            if range.start < size {
                self.zero(fs, range.start..range.end.min(size))?;
            }
        } else {
            self.reserve(fs, range.clone())?;
        }
        if grows {
            self.grow_to(range.end);
        }
        Ok(())
    }

    /// Takes whole pages out; what follows moves down.
    fn collapse(&self, fs: &TmpFs, range: Range<u64>) -> Result<()> {
        if !range.start.is_multiple_of(PAGE) || !range.end.is_multiple_of(PAGE) || range.end >= self.size() {
            return Err(Errno::EINVAL);
        }
        self.check_seal(SEAL_SHRINK)?;
        self.own_from(fs, range.start)?;
        let (first, end) = (range.start / PAGE, range.end / PAGE);
        let mut pages = self.change();
        let mut gone = pages.own.split_off(&first);
        let moved = gone.split_off(&end);
        pages.own.extend(moved.into_iter().map(|(index, frame)| (index - (end - first), frame)));
        pages.size -= range.end - range.start;
        drop(pages);
        self.forget_from(first);
        fs.uncharge(gone.len() as u64);
        Ok(())
    }

    /// Puts a hole of whole pages in; what follows moves up.
    fn insert(&self, fs: &TmpFs, range: Range<u64>) -> Result<()> {
        let (size, len) = (self.size(), range.end - range.start);
        if !range.start.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || range.start >= size {
            return Err(Errno::EINVAL);
        }
        if size.checked_add(len).is_none_or(|size| size > OFFSET_MAX) {
            return Err(Errno::EFBIG);
        }
        self.check_seal(SEAL_GROW)?;
        self.own_from(fs, range.start)?;
        let first = range.start / PAGE;
        let mut pages = self.change();
        let moved = pages.own.split_off(&first);
        pages.own.extend(moved.into_iter().map(|(index, frame)| (index + len / PAGE, frame)));
        pages.size += len;
        drop(pages);
        self.forget_from(first);
        Ok(())
    }

    /// Has nothing show through from below from the page boundary `start` on, as pages are going to move.
    fn own_from(&self, fs: &TmpFs, start: u64) -> Result<()> {
        let shown = self.pages.read().lower_end;
        for index in start / PAGE..shown.div_ceil(PAGE) {
            self.own_page(fs, index)?;
        }
        let mut pages = self.change();
        pages.lower_end = pages.lower_end.min(start);
        Ok(())
    }

    /// Has mappings look again at the pages from `first` on.
    fn forget_from(&self, first: u64) {
        self.mappers.forget(&Lost { object: self.id, pages: first..u64::MAX / PAGE, private: LostPrivate::All });
    }

    fn reserve(&self, fs: &TmpFs, range: Range<u64>) -> Result<()> {
        let needed = (range.end - range.start).div_ceil(PAGE);
        if needed > fs.options.max_pages {
            return Err(Errno::ENOSPC);
        }
        for index in range.start / PAGE..range.end.div_ceil(PAGE) {
            if index * PAGE >= self.pages.read().lower_end {
                self.own_page(fs, index)?;
            }
        }
        Ok(())
    }

    /// Makes a range read as zeros; whole own pages are freed where nothing shows through from below.
    fn zero(&self, fs: &TmpFs, range: Range<u64>) -> Result<()> {
        let shown = self.pages.read().lower_end.next_multiple_of(PAGE);
        let first = range.start.next_multiple_of(PAGE).max(shown);
        let end = range.end - range.end % PAGE;
        if first >= end {
            return self.zero_in_place(fs, range, shown);
        }
        self.zero_in_place(fs, range.start..first, shown)?;
        self.free_pages(fs, first / PAGE..end / PAGE);
        self.zero_in_place(fs, end..range.end, shown)
    }

    /// Fills with zeros what of the range is in own pages, or must be because the lower file shows through below `shown`.
    fn zero_in_place(&self, fs: &TmpFs, range: Range<u64>, shown: u64) -> Result<()> {
        let mut position = range.start;
        while position < range.end {
            let piece = piece_at(position, (range.end - position).min(PAGE) as usize);
            if position < shown || self.pages.read().own.contains_key(&piece.index) {
                self.own_page(fs, piece.index)?.fill_zero(piece.offset..piece.offset + piece.len);
            }
            position += piece.len as u64;
        }
        Ok(())
    }

    /// Frees own pages, a batch at a time.
    fn free_pages(&self, fs: &TmpFs, range: Range<u64>) {
        const BATCH: usize = 32;
        let mut from = range.start;
        loop {
            let mut gone = [const { None }; BATCH];
            let mut pages = self.change();
            for slot in &mut gone {
                let Some(index) = pages.own.range(from..range.end).next().map(|(index, _)| *index) else { break };
                *slot = pages.own.remove(&index).map(|frame| (index, frame));
                from = index + 1;
            }
            drop(pages);
            let [Some((first, _)), ..] = &gone else { return };
            let was_ours = |index, address| gone.iter().flatten().any(|(i, frame)| *i == index && frame.phys() == address);
            self.mappers.forget(&Lost { object: self.id, pages: *first..from, private: LostPrivate::Unchanged(&was_ours) });
            fs.uncharge(gone.iter().flatten().count() as u64);
        }
    }

    pub(in crate::tmpfs) fn seek_data(&self, offset: u64) -> Result<u64> {
        let pages = self.pages.read();
        if offset >= pages.size {
            return Err(Errno::ENXIO);
        }
        if offset < pages.lower_end || pages.own.contains_key(&(offset / PAGE)) {
            return Ok(offset);
        }
        let next = pages.own.range(offset / PAGE..).next().map(|(index, _)| index * PAGE);
        next.filter(|next| *next < pages.size).ok_or(Errno::ENXIO)
    }

    pub(in crate::tmpfs) fn seek_hole(&self, offset: u64) -> Result<u64> {
        let pages = self.pages.read();
        if offset >= pages.size {
            return Err(Errno::ENXIO);
        }
        let mut hole = offset;
        while hole < pages.size && (hole < pages.lower_end || pages.own.contains_key(&(hole / PAGE))) {
            hole = (hole / PAGE + 1) * PAGE;
        }
        Ok(hole.min(pages.size))
    }
}
