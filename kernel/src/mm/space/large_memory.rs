//! [`LargeMemory`]: an object of pages of 2 MiB or 1 GiB that mappings share: what is behind `MAP_SHARED | MAP_HUGETLB`, `memfd_create` with
//! `MFD_HUGETLB` and `shmget` with `SHM_HUGETLB`.
//!
//! Pages are set aside when a shared mapping is made, for the range that it shows (not with `MAP_NORESERVE`), or come at the first touch. They
//! are cleared at the first touch, and stay the object's until it shrinks, gets a hole or ends. `explicit.rs` maps them: whole, never cut.
//!
//! Lock order: the areas of a space, then the list of pages, then one page's lock, which is held while that page is cleared.

use super::backing::{AreaBacking, Backing, MapFlags, MapRequest, Sharing};
use super::explicit::{count_page, count_touch};
use super::pool;
use crate::mm::block::Block;
use addr::{PAGE_SIZE, PhysAddr};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use frame::{Frame, Lost, LostPrivate, Mappable, Mappers, MappingId};
use linux_abi::Errno;
use page_table::PageSize;
use sync::Mutex;
use vma::Prot;

/// Device number of these objects: of no file system that is mounted.
const DEVICE: u64 = 14;
static NEXT_INODE: AtomicU64 = AtomicU64::new(1);

/// Memory of large pages with an identity.
pub struct LargeMemory {
    size_of_pages: PageSize,
    pages: Mutex<BTreeMap<u64, Arc<Page>>>,
    mappers: Mappers,
    size: AtomicU64,
    inode: u64,
}

/// A page that was set aside; cleared when it is touched.
struct Page {
    state: Mutex<PageState>,
    size: PageSize,
}

struct PageState {
    /// There until the page ends.
    block: Option<Block>,
    touched: bool,
}

impl Page {
    fn set_aside(size: PageSize) -> Result<Arc<Self>, Errno> {
        let block = pool::take(size)?;
        count_page(size, true, 1);
        Ok(Arc::new(Self { state: Mutex::new(PageState { block: Some(block), touched: false }), size }))
    }

    /// References to the page, which is cleared from now on.
    fn touch(&self) -> Result<Block, Errno> {
        let mut state = self.state.lock();
        let PageState { block, touched } = &mut *state;
        let block = block.as_mut().ok_or(Errno::EIO)?;
        if !*touched {
            block.clear();
            *touched = true;
            count_touch(self.size);
        }
        Ok(block.share())
    }

    /// Address and contents, if it was touched.
    fn touched(&self) -> Option<Block> {
        let state = self.state.lock();
        state.block.as_ref().filter(|_| state.touched).map(Block::share)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(block) = state.block.take() {
            count_page(self.size, !state.touched, -1);
            pool::give_back(block, self.size);
        }
    }
}

impl LargeMemory {
    /// `size` bytes of zeros in pages of `size_of_pages`; rounded up to whole ones.
    #[must_use]
    pub fn new(size: u64, size_of_pages: PageSize) -> Arc<Self> {
        let inode = NEXT_INODE.fetch_add(1, Ordering::Relaxed);
        let size = AtomicU64::new(size.next_multiple_of(size_of_pages.bytes()));
        Arc::new(Self { size_of_pages, pages: Mutex::new(BTreeMap::new()), mappers: Mappers::new(), size, inode })
    }

    /// The object, if it is one of large pages.
    #[must_use]
    pub fn of(object: &dyn Mappable) -> Option<&Self> {
        let object: &dyn Any = object;
        object.downcast_ref()
    }

    /// Size of its pages.
    #[must_use]
    pub const fn size_of_pages(&self) -> PageSize {
        self.size_of_pages
    }

    /// Pages it has, touched or set aside.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.pages.lock().len() as u64
    }

    /// The page with this index, cleared when this is its first touch.
    pub(super) fn page(&self, index: u64) -> Result<Block, Errno> {
        let page = {
            let mut pages = self.pages.lock();
            // With the list locked: what shrinks the object does that first, and then drops what lies behind.
            if index >= self.mapping_size() / self.size_of_pages.bytes() {
                return Err(Errno::EFAULT);
            }
            match pages.get(&index) {
                Some(page) => page.clone(),
                None => pages.entry(index).or_insert(Page::set_aside(self.size_of_pages)?).clone(),
            }
        };
        page.touch()
    }

    /// Sets the missing pages of a byte range aside, all or none.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&self, range: Range<u64>) -> Result<(), Errno> {
        let bytes = self.size_of_pages.bytes();
        let mut pages = self.pages.lock();
        let mut fresh = BTreeMap::new();
        for index in (range.start / bytes..range.end.div_ceil(bytes)).filter(|index| !pages.contains_key(index)) {
            fresh.insert(index, Page::set_aside(self.size_of_pages)?);
        }
        pages.extend(fresh);
        Ok(())
    }

    /// Makes the object at least `size` bytes long.
    pub fn grow(&self, size: u64) {
        self.size.fetch_max(size.next_multiple_of(self.size_of_pages.bytes()), Ordering::AcqRel);
    }

    /// Changes the size, a multiple of the page size; pages beyond leave all mappings.
    pub fn set_size(&self, size: u64) {
        let gone = {
            let mut pages = self.pages.lock();
            self.size.store(size, Ordering::Release);
            pages.split_off(&(size / self.size_of_pages.bytes()))
        };
        let small = size / PAGE_SIZE as u64..u64::MAX / PAGE_SIZE as u64;
        self.mappers.forget(&Lost { object: self.mapping_id(), pages: small, private: LostPrivate::All });
        drop(gone);
    }

    /// Copies bytes of one page out to `out`, from `offset` on, or zeros where no page was touched. Returns how many bytes.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let (bytes, small) = (self.size_of_pages.bytes(), PAGE_SIZE as u64);
        let in_page = offset % small;
        let len = (out.len() as u64).min(small - in_page).min(self.mapping_size().saturating_sub(offset)) as usize;
        let page = self.pages.lock().get(&(offset / bytes)).cloned();
        match page.and_then(|page| page.touched()) {
            Some(block) => block.part(offset % bytes / small).read(in_page as usize, &mut out[..len]),
            None => out[..len].fill(0),
        }
        len
    }

    /// Makes a part of a page zero.
    fn clear_part(&self, range: Range<u64>) {
        let (bytes, small) = (self.size_of_pages.bytes(), PAGE_SIZE as u64);
        let page = self.pages.lock().get(&(range.start / bytes)).cloned();
        let Some(block) = page.and_then(|page| page.touched()) else { return };
        let mut at = range.start;
        while at < range.end {
            let end = (at / small * small + small).min(range.end);
            let first = (at % small) as usize;
            block.part(at % bytes / small).fill_zero(first..first + (end - at) as usize);
            at = end;
        }
    }
}

impl Mappable for LargeMemory {
    fn frame(&self, index: u64) -> Result<Frame, Errno> {
        let small_pages = self.size_of_pages.pages();
        Ok(self.page(index / small_pages)?.part(index % small_pages))
    }

    fn page_size(&self) -> u64 {
        self.size_of_pages.bytes()
    }

    fn mapping_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn mapping_id(&self) -> MappingId {
        MappingId { device: DEVICE, inode: self.inode }
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }

    fn punch_hole(&self, start: u64, end: u64) -> Result<(), Errno> {
        let bytes = self.size_of_pages.bytes();
        let end = end.min(self.mapping_size());
        let whole = start.next_multiple_of(bytes)..end / bytes * bytes;
        if whole.start >= whole.end {
            let border = (start / bytes * bytes + bytes).min(end);
            self.clear_part(start..border);
            self.clear_part(border..end);
            return Ok(());
        }
        self.clear_part(start..whole.start);
        self.clear_part(whole.end..end);
        let gone: BTreeMap<_, _> = self.pages.lock().extract_if(whole.start / bytes..whole.end / bytes, |_, _| true).collect();
        let was_ours = |index: u64, page: PhysAddr| {
            gone.get(&(index / self.size_of_pages.pages())).and_then(|page| page.touched()).is_some_and(|block| block.phys() == page)
        };
        let small = whole.start / PAGE_SIZE as u64..whole.end / PAGE_SIZE as u64;
        self.mappers.forget(&Lost { object: self.mapping_id(), pages: small, private: LostPrivate::Unchanged(&was_ours) });
        Ok(())
    }
}

/// What a mapping of an object of large pages does to it: one that may be written makes it as long as it is itself (as hugetlbfs does), and
/// a shared one has its pages set aside.
pub(super) fn prepare(backing: &AreaBacking, request: &MapRequest, len: u64) -> Result<(), Errno> {
    let Some(part) = &backing.part else { return Ok(()) };
    let Some(memory) = LargeMemory::of(&*part.object) else { return Ok(()) };
    let end = part.offset + len;
    let shared = matches!(request.backing, Backing::SharedAnonymous | Backing::File { sharing: Sharing::Shared, .. });
    if shared && !request.flags.contains(MapFlags::NO_RESERVE) {
        memory.reserve(part.offset..end)?;
    }
    if request.prot.contains(Prot::WRITE) {
        memory.grow(end);
    }
    Ok(())
}
