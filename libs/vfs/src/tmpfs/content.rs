//! The pages of a regular file: a sparse map of own pages over an optional read-only lower file. Changes of its shape are in `content/shape.rs`.

mod shape;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use addr::PAGE_SIZE;
use frame::{Frame, Mappable, Mappers, MappingId};
use sync::{Mutex, RwLock, RwLockWriteGuard};

use super::TmpFs;
use crate::inode::{Append, Inode, MapKind};
use crate::io::{LimitedSink, Sink, Source};
use crate::page::{copy_in, copy_out};
use crate::types::OFFSET_MAX;
use crate::{Errno, Result};

const PAGE: u64 = PAGE_SIZE as u64;

/// `F_SEAL_SEAL`: no more seals.
pub const SEAL_SEAL: u32 = 0x1;
/// `F_SEAL_SHRINK`
pub const SEAL_SHRINK: u32 = 0x2;
/// `F_SEAL_GROW`
pub const SEAL_GROW: u32 = 0x4;
/// `F_SEAL_WRITE`
pub const SEAL_WRITE: u32 = 0x8;
/// `F_SEAL_FUTURE_WRITE`
pub const SEAL_FUTURE_WRITE: u32 = 0x10;
/// `F_SEAL_EXEC`: the right to execute it stays as it is.
pub const SEAL_EXEC: u32 = 0x20;
/// Those against any change of the content.
const SEALS_CONTENT: u32 = SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_FUTURE_WRITE;
const SEALS: u32 = SEALS_CONTENT | SEAL_SEAL | SEAL_EXEC;
/// Not a memfd: seals cannot be asked for.
const UNSEALABLE: u32 = 1 << 31;

/// The lower file that pages not written here come from.
pub(super) struct Lower {
    pub(super) inode: Arc<dyn Inode>,
    pub(super) pages: Arc<dyn Mappable>,
}

/// The page map. Bytes of a page beyond `size` are zero.
struct Pages {
    size: u64,
    own: BTreeMap<u64, Frame>,
    lower: Option<Lower>,
    /// Bytes of the lower file that still show through.
    lower_end: u64,
}

/// What a stretch of the file consists of.
enum Stretch {
    Page(Frame),
    /// Bytes of the lower file up to this offset.
    Lower(Arc<dyn Inode>, u64),
    /// Zeros up to this offset.
    Hole(u64),
}

/// Content of a regular file.
pub(super) struct Content {
    pages: RwLock<Pages>,
    /// The page map's size and pages as its last change left them, to be read without its lock.
    size: AtomicU64,
    held: AtomicU64,
    /// Orders writes, truncations and allocations. The only lock held while program memory is touched.
    writer: Mutex<()>,
    seals: AtomicU32,
    /// Shared mappings that it can be written through; counted where it may be sealed. Grows with `writer` held.
    writable_mappings: AtomicU32,
    /// Which file this is.
    id: MappingId,
    mappers: Mappers,
}

/// The right to change the page map.
struct Change<'a> {
    pages: RwLockWriteGuard<'a, Pages>,
    content: &'a Content,
}

impl Deref for Change<'_> {
    type Target = Pages;
    fn deref(&self) -> &Pages {
        &self.pages
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.content.size.store(self.pages.size, Ordering::Release);
        self.content.held.store(self.pages.held(), Ordering::Relaxed);
    }
}

/// A page's worth of a write.
struct Piece {
    index: u64,
    offset: usize,
    len: usize,
}

impl Content {
    pub(super) fn new(id: MappingId, lower: Option<Lower>) -> Self {
        let size = lower.as_ref().map_or(0, |lower| lower.inode.metadata().size);
        let pages = Pages { size, own: BTreeMap::new(), lower, lower_end: size };
        Self {
            size: AtomicU64::new(pages.size),
            held: AtomicU64::new(pages.held()),
            pages: RwLock::new(pages),
            writer: Mutex::new(()),
            seals: AtomicU32::new(UNSEALABLE),
            writable_mappings: AtomicU32::new(0),
            id,
            mappers: Mappers::new(),
        }
    }

    /// Who maps the file.
    pub(super) const fn mappers(&self) -> &Mappers {
        &self.mappers
    }

    pub(super) const fn id(&self) -> MappingId {
        self.id
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn change(&self) -> Change<'_> {
        Change { pages: self.pages.write(), content: self }
    }

    /// 512-byte blocks in use.
    pub(super) fn blocks(&self) -> u64 {
        self.held.load(Ordering::Relaxed) * (PAGE / 512)
    }

    /// Pages of its own.
    pub(super) fn own_pages(&self) -> u64 {
        self.pages.read().own.len() as u64
    }

    pub(super) fn allow_seals(&self, seals: u32) {
        self.seals.store(seals, Ordering::Relaxed);
    }

    pub(super) fn seals(&self) -> Result<u32> {
        match self.seals.load(Ordering::Relaxed) {
            UNSEALABLE => Err(Errno::EINVAL),
            seals => Ok(seals),
        }
    }

    /// A shared mapping of a file that is open for writing is about to be made. True: it counts as writable until
    /// [`Content::end_writable_mapping`]. Otherwise the file cannot be sealed, or is so against writing already.
    pub(super) fn begin_writable_mapping(&self) -> bool {
        if self.seals.load(Ordering::Relaxed) == UNSEALABLE {
            return false;
        }
        let _writer = self.writer.lock();
        let counts = self.check_seal(SEAL_WRITE | SEAL_FUTURE_WRITE).is_ok();
        self.writable_mappings.fetch_add(u32::from(counts), Ordering::Relaxed);
        counts
    }

    pub(super) fn end_writable_mapping(&self) {
        self.writable_mappings.fetch_sub(1, Ordering::Relaxed);
    }

    /// Seals the file; one that can be `executed` is sealed against all changes with [`SEAL_EXEC`].
    pub(super) fn add_seals(&self, seals: u32, executed: bool) -> Result<()> {
        let _writer = self.writer.lock();
        let old = self.seals()?;
        if seals & !SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        if old & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let denies_writing = seals & SEAL_WRITE != 0 && old & SEAL_WRITE == 0;
        if denies_writing && self.writable_mappings.load(Ordering::Relaxed) > 0 {
            return Err(Errno::EBUSY);
        }
        let implied = if seals & SEAL_EXEC != 0 && executed { SEALS_CONTENT } else { 0 };
        self.seals.store(old | seals | implied, Ordering::Relaxed);
        Ok(())
    }

    fn check_seal(&self, seals: u32) -> Result<()> {
        let held = self.seals().unwrap_or(0);
        if held & seals != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    #[inline]
    pub(super) fn read<S: Sink>(&self, offset: u64, sink: &mut S) -> Result<usize> {
        let wanted = sink.remaining();
        let Some((frame, len)) = self.own_page_at(offset) else { return self.read_on(offset, 0, sink) };
        let n = copy_out(&frame, (offset % PAGE) as usize, len.min(wanted), sink)?;
        if n == wanted { Ok(n) } else { self.read_on(offset, n, sink) }
    }

    /// The file's own page at `position`, and how many of its bytes from there on are the file's.
    #[inline]
    fn own_page_at(&self, position: u64) -> Option<(Frame, usize)> {
        let pages = self.pages.read();
        let left = pages.size.checked_sub(position)?;
        let frame = pages.own.get(&(position / PAGE))?;
        Some((frame.clone(), left.min(PAGE - position % PAGE) as usize))
    }

    /// Goes on with a read from `offset` on that has `done` bytes.
    #[inline(never)]
    fn read_on(&self, offset: u64, mut done: usize, sink: &mut dyn Sink) -> Result<usize> {
        while sink.remaining() > 0 {
            let position = offset + done as u64;
            let Some((stretch, size)) = self.stretch(position) else { break };
            let copied = match copy_stretch(stretch, position, size, sink) {
                Ok(0) => break,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
                Ok(n) => n,
            };
            done += copied;
        }
        Ok(done)
    }

    /// What is at `position`, and the size of the file; `None` at the end.
    fn stretch(&self, position: u64) -> Option<(Stretch, u64)> {
        let pages = self.pages.read();
        if position >= pages.size {
            return None;
        }
        let index = position / PAGE;
        if let Some(frame) = pages.own.get(&index) {
            return Some((Stretch::Page(frame.clone()), pages.size));
        }
        let next_own = pages.own.range(index..).next().map_or(pages.size, |(next, _)| (next * PAGE).min(pages.size));
        let stretch = match &pages.lower {
            Some(lower) if position < pages.lower_end => Stretch::Lower(lower.inode.clone(), next_own.min(pages.lower_end)),
            _ => Stretch::Hole(next_own),
        };
        Some((stretch, pages.size))
    }

    /// Writes at `*position`, or the end; the caller updates times.
    pub(super) fn write(
        &self,
        fs: &TmpFs,
        position: &mut u64,
        append: Append,
        source: &mut dyn Source,
    ) -> Result<usize> {
        let _writer = self.writer.lock();
        self.check_seal(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
        let size = self.size();
        if append == Append::Yes {
            *position = size;
        }
        let limit = if self.check_seal(SEAL_GROW).is_err() { size } else { OFFSET_MAX };
        let room = usize::try_from(limit.saturating_sub(*position)).unwrap_or(usize::MAX);
        let wanted = source.remaining().min(room);
        if wanted == 0 && source.remaining() > 0 {
            return Err(if limit == size { Errno::EPERM } else { Errno::EFBIG });
        }
        let mut done = 0;
        while done < wanted {
            let piece = piece_at(*position, wanted - done);
            match self.write_piece(fs, &piece, source) {
                Ok(n) => {
                    done += n;
                    *position += n as u64;
                    self.grow_to(*position);
                    if n < piece.len {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_piece(&self, fs: &TmpFs, piece: &Piece, source: &mut dyn Source) -> Result<usize> {
        if piece.len == PAGE_SIZE && !self.pages.read().own.contains_key(&piece.index) {
            return self.write_new_page(fs, piece.index, source);
        }
        let frame = self.own_page(fs, piece.index)?;
        copy_in(&frame, piece.offset, piece.len, source)
    }

    /// Fills a whole page before anybody sees it, so that it need not be zeroed first.
    fn write_new_page(&self, fs: &TmpFs, index: u64, source: &mut dyn Source) -> Result<usize> {
        let frame = Frame::alloc_uninit()?;
        let n = copy_in(&frame, 0, PAGE_SIZE, source)?;
        if n < PAGE_SIZE {
            // A short source: what came goes into a page that is whole.
            let page = self.own_page(fs, index)?;
            copy_out(&frame, 0, n, &mut FrameSink { frame: &page, at: 0 })?;
            return Ok(n);
        }
        fs.charge()?;
        let mut pages = self.change();
        if let Some(page) = pages.own.get(&index).cloned() {
            drop(pages);
            fs.uncharge(1);
            copy_out(&frame, 0, n, &mut FrameSink { frame: &page, at: 0 })?;
        } else {
            pages.own.insert(index, frame);
        }
        Ok(n)
    }

    /// The page `index` of this file's own, made from below or zeroed if it is not there.
    fn own_page(&self, fs: &TmpFs, index: u64) -> Result<Frame> {
        if let Some(frame) = self.pages.read().own.get(&index) {
            return Ok(frame.clone());
        }
        let mut pages = self.change();
        if let Some(frame) = pages.own.get(&index) {
            return Ok(frame.clone());
        }
        fs.charge()?;
        let made = pages.copy_from_below(index);
        match made {
            Ok(frame) => {
                pages.own.insert(index, frame.clone());
                Ok(frame)
            }
            Err(error) => {
                fs.uncharge(1);
                Err(error)
            }
        }
    }

    fn grow_to(&self, end: u64) {
        let mut pages = self.change();
        if end > pages.size {
            pages.size = end;
        }
    }

    /// A page for a mapping.
    pub(super) fn map_page(&self, fs: &TmpFs, index: u64, kind: MapKind) -> Result<Frame> {
        {
            let pages = self.pages.read();
            if index >= pages.size.div_ceil(PAGE) {
                return Err(Errno::EIO);
            }
            if let Some(frame) = pages.own.get(&index) {
                return Ok(frame.clone());
            }
            // A hole gets a page of its own also when it is only read: later writes must be seen.
            if kind == MapKind::Private && index * PAGE < pages.lower_end {
                return pages.page_below(index);
            }
        }
        self.own_page(fs, index)
    }

    /// A page for a mapping, if it is at hand.
    pub(super) fn ready_page(&self, index: u64, kind: MapKind) -> Option<Frame> {
        let pages = self.pages.try_read()?;
        if index >= pages.size.div_ceil(PAGE) {
            return None;
        }
        if let Some(frame) = pages.own.get(&index) {
            return Some(frame.clone());
        }
        let lower = pages.lower.as_ref()?;
        let shows = kind == MapKind::Private && (index + 1) * PAGE <= pages.lower_end;
        if shows { lower.pages.ready_frame(index) } else { None }
    }
}

impl Pages {
    /// Pages that the file takes, with those of the lower file that show through.
    fn held(&self) -> u64 {
        self.own.len() as u64 + self.lower_end.div_ceil(PAGE)
    }

    /// A private copy of what shows through at page `index`.
    fn copy_from_below(&self, index: u64) -> Result<Frame> {
        match &self.lower {
            Some(lower) if index * PAGE < self.lower_end => {
                let copy = lower.pages.frame(index)?.duplicate()?;
                let visible = (self.lower_end - index * PAGE).min(PAGE) as usize;
                copy.fill_zero(visible..PAGE_SIZE);
                Ok(copy)
            }
            _ => Ok(Frame::alloc_zeroed()?),
        }
    }

    /// The lower file's page itself where all of it may be seen, else a copy.
    fn page_below(&self, index: u64) -> Result<Frame> {
        match &self.lower {
            Some(lower) if index * PAGE < self.lower_end => {
                let whole = lower.pages.mapping_size().min((index + 1) * PAGE) <= self.lower_end;
                if whole { lower.pages.frame(index) } else { self.copy_from_below(index) }
            }
            _ => Ok(Frame::alloc_zeroed()?),
        }
    }

    /// Clears what a mapping may have left behind the end `size` in its page.
    fn zero_tail(&mut self, size: u64) {
        if let Some(frame) = self.own.get(&(size / PAGE)) {
            frame.fill_zero((size % PAGE) as usize..PAGE_SIZE);
        }
    }
}

fn piece_at(position: u64, wanted: usize) -> Piece {
    let offset = (position % PAGE) as usize;
    Piece { index: position / PAGE, offset, len: wanted.min(PAGE_SIZE - offset) }
}

fn copy_stretch(stretch: Stretch, position: u64, size: u64, sink: &mut dyn Sink) -> Result<usize> {
    let span = |end: u64| usize::try_from(end - position).unwrap_or(usize::MAX).min(sink.remaining());
    match stretch {
        Stretch::Page(frame) => {
            let offset = (position % PAGE) as usize;
            let len = span(size.min((position / PAGE + 1) * PAGE));
            copy_out(&frame, offset, len, sink)
        }
        Stretch::Lower(inode, end) => {
            let len = span(end);
            inode.read_at(position, &mut LimitedSink::new(sink, len))
        }
        Stretch::Hole(end) => {
            let len = span(end);
            sink.write_zeroes(len)
        }
    }
}

/// A [`Sink`] into one frame.
struct FrameSink<'a> {
    frame: &'a Frame,
    at: usize,
}

impl Sink for FrameSink<'_> {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let n = data.len().min(self.remaining());
        self.frame.write(self.at, &data[..n]);
        self.at += n;
        Ok(n)
    }

    fn remaining(&self) -> usize {
        PAGE_SIZE - self.at
    }
}
