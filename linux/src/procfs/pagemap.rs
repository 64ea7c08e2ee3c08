//! `/proc/PID/pagemap`: one word for each page of the address space (Linux: Documentation/admin-guide/mm/pagemap.rst); its request
//! `PAGEMAP_SCAN`; and `/proc/PID/clear_refs`.
//!
//! Frame numbers are not told, as on Linux without privileges. Pages of a watched range that nobody has ever used count as not written.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};

use addr::{PAGE_SIZE, VirtAddr, layout};
use kernel::mm::{AddressSpace, ClearRefs, PageFacts, Verdict, Watch};
use linux_abi::Errno;
use vfs::OpenFlags;
use vfs::file::File;
use vfs::io::{IoctlArg, Sink, Source};
use vfs::synth::Entry;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::process::Process;
use crate::user_ptr::UserPtr;

const WORD: u64 = 8;
const PAGE: u64 = PAGE_SIZE as u64;
/// Pages looked up at a time.
const CHUNK: u64 = 512;

const SOFT_DIRTY: u64 = 1 << 55;
const EXCLUSIVE: u64 = 1 << 56;
const FILE_OR_SHARED: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;

pub(super) fn entry(process: &Arc<Process>) -> Entry {
    let process = process.clone();
    Entry::Open { mode: 0o400, open: Arc::new(move || Ok(Arc::new(PageMap(process.clone())))) }
}

/// `/proc/PID/clear_refs`, which can only be written.
pub(super) fn clear_refs(process: &Arc<Process>) -> Entry {
    let process = process.clone();
    Entry::Open { mode: 0o200, open: Arc::new(move || Ok(Arc::new(Clear(process.clone())))) }
}

struct PageMap(Arc<Process>);

fn word(facts: PageFacts) -> u64 {
    let bit = |fact, bit| if facts.contains(fact) { bit } else { 0 };
    bit(PageFacts::PRESENT, PRESENT) | bit(PageFacts::OWN, EXCLUSIVE) | bit(PageFacts::FROM_OBJECT, FILE_OR_SHARED) | bit(PageFacts::SOFT_DIRTY, SOFT_DIRTY)
}

impl File for PageMap {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize, Errno> {
        if !position.is_multiple_of(WORD) || !(sink.remaining() as u64).is_multiple_of(WORD) {
            return Err(Errno::EINVAL);
        }
        let first = *position / WORD;
        let count = (layout::USER_MAX / PAGE).saturating_sub(first).min(sink.remaining() as u64 / WORD).min(CHUNK);
        if count == 0 {
            return Ok(0);
        }
        let mut bytes = vec![0; (count * WORD) as usize];
        let start = VirtAddr(first * PAGE);
        self.0.space().page_facts(start..start + count * PAGE, |run, facts| {
            let place = |at: VirtAddr| ((at - start) / PAGE * WORD) as usize;
            for slot in bytes[place(run.start)..place(run.end)].chunks_exact_mut(WORD as usize) {
                slot.copy_from_slice(&word(facts).to_le_bytes());
            }
        });
        let done = sink.write(&bytes)?;
        *position += done as u64;
        Ok(done)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize, Errno> {
        if request == PAGEMAP_SCAN { scan(&self.0.space(), UserPtr::new(arg.value as u64)) } else { Err(Errno::ENOTTY) }
    }
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const SCAN_WP_MATCHING: u64 = 1;
const SCAN_CHECK_WPASYNC: u64 = 2;
/// The categories, and what makes each.
const CATEGORIES: [(PageFacts, u64); 7] = [
    (PageFacts::WATCHED, 1),
    (PageFacts::WRITTEN, 1 << 1),
    (PageFacts::FROM_OBJECT, 1 << 2),
    (PageFacts::PRESENT, 1 << 3),
    (PageFacts::ZERO, 1 << 5),
    (PageFacts::LARGE, 1 << 6),
    (PageFacts::SOFT_DIRTY, 1 << 7),
];
/// Those that Linux 6.12 knows; bit 4 is about swapped pages, of which there are none.
const KNOWN_CATEGORIES: u64 = 0xff;
/// Regions handed to the program at a time.
const MOST_REGIONS: u64 = 512;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct ScanArgs {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    shown: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

impl ScanArgs {
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    fn check(&self) -> Result<(), Errno> {
        let categories = self.inverted | self.all_of | self.any_of | self.shown;
        let known = self.size == size_of::<Self>() as u64 && self.flags & !(SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC) == 0;
        if !known || categories & !KNOWN_CATEGORIES != 0 || !self.start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if self.end < self.start || self.end > layout::USER_MAX {
            return Err(Errno::EFAULT);
        }
        if self.regions == 0 && self.regions_len != 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// The categories of a page if they are of interest.
    fn matching(&self, facts: PageFacts) -> Option<u64> {
        let categories = CATEGORIES.iter().filter(|(fact, _)| facts.contains(*fact)).fold(0, |all, (_, bit)| all | bit);
        let compared = categories ^ self.inverted;
        let wanted = compared & self.all_of == self.all_of && (self.any_of == 0 || compared & self.any_of != 0);
        wanted.then_some(categories)
    }
}

/// What a scan has found so far.
struct Found {
    regions: Vec<Region>,
    /// Regions that the program has room for, and that were handed out before these.
    room: u64,
    handed_out: u64,
    pages_left: u64,
    at: VirtAddr,
}

impl Found {
    /// Whether a region of these categories can be added at `start`.
    fn has_room(&self, start: u64, categories: u64) -> bool {
        self.continues(start, categories) || (self.regions.len() as u64) < self.room.min(MOST_REGIONS)
    }

    fn continues(&self, start: u64, categories: u64) -> bool {
        self.regions.last().is_some_and(|last| last.end == start && last.categories == categories)
    }

    fn add(&mut self, region: Region) {
        match self.regions.last_mut().filter(|last| last.end == region.start && last.categories == region.categories) {
            Some(last) => last.end = region.end,
            None => self.regions.push(region),
        }
    }

    /// Takes what fits of a run of pages.
    fn judge(&mut self, args: &ScanArgs, run: &Range<VirtAddr>, facts: PageFacts) -> Verdict {
        self.at = run.end;
        let Some(categories) = args.matching(facts) else { return Verdict { matching: 0, next: ControlFlow::Continue(()) } };
        let shown = categories & args.shown;
        let matching = ((run.end - run.start) / PAGE).min(self.pages_left);
        let wants_regions = args.regions != 0;
        if matching == 0 || wants_regions && !self.has_room(run.start.0, shown) {
            self.at = run.start;
            return Verdict { matching: 0, next: ControlFlow::Break(()) };
        }
        let end = run.start + matching * PAGE;
        self.pages_left -= matching;
        if wants_regions {
            self.add(Region { start: run.start.0, end: end.0, categories: shown });
        }
        self.at = end;
        let next = if end == run.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        Verdict { matching, next }
    }
}

/// `PAGEMAP_SCAN`: the number of regions.
fn scan(space: &AddressSpace, arg: UserPtr<ScanArgs>) -> Result<usize, Errno> {
    let mut args = arg.read()?;
    args.check()?;
    let end = VirtAddr(args.end.next_multiple_of(PAGE));
    let start = VirtAddr(args.start);
    if args.flags & SCAN_CHECK_WPASYNC != 0 {
        let mut all_watched = true;
        space.page_facts(start..end, |_, facts| all_watched &= facts.contains(PageFacts::WATCHED));
        if !all_watched {
            return Err(Errno::EPERM);
        }
    }
    let watch = if args.flags & SCAN_WP_MATCHING != 0 { Watch::Matching } else { Watch::Not };
    let mut found = Found {
        regions: Vec::new(),
        room: args.regions_len,
        handed_out: 0,
        pages_left: if args.max_pages == 0 { u64::MAX } else { args.max_pages },
        at: start,
    };
    found.regions.try_reserve_exact(args.regions_len.min(MOST_REGIONS) as usize).map_err(|_| Errno::ENOMEM)?;
    loop {
        let mut ended = true;
        let from = found.at;
        found.at = end;
        space.scan(from..end, watch, &mut |run, facts| {
            let verdict = found.judge(&args, &run, facts);
            ended = verdict.next.is_continue();
            if ended {
                found.at = end;
            }
            verdict
        })?;
        // Only a full list of regions is a reason to go on: the program has room for more.
        let full = found.regions.len() as u64 == MOST_REGIONS && found.room > MOST_REGIONS && found.pages_left != 0;
        hand_out(&mut found, &args)?;
        if ended || !full {
            break;
        }
    }
    args.walk_end = found.at.0;
    arg.write(&args)?;
    Ok(found.handed_out as usize)
}

fn hand_out(found: &mut Found, args: &ScanArgs) -> Result<(), Errno> {
    let out: UserPtr<Region> = UserPtr::new(args.regions);
    out.add(found.handed_out as usize).write_slice(&found.regions)?;
    let count = found.regions.len() as u64;
    found.handed_out += count;
    found.room -= count;
    found.regions.clear();
    Ok(())
}

struct Clear(Arc<Process>);

impl File for Clear {
    fn read(&self, _position: &mut u64, _sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, _flags: OpenFlags) -> Result<usize, Errno> {
        let mut text = [0; 12];
        let len = source.read(&mut text)?;
        let what = match text[..len].trim_ascii() {
            b"1" => ClearRefs::All,
            b"2" => ClearRefs::Anonymous,
            b"3" => ClearRefs::Mapped,
            b"4" => ClearRefs::SoftDirty,
            b"5" => ClearRefs::PeakResident,
            _ => return Err(Errno::EINVAL),
        };
        self.0.space().clear_refs(what);
        Ok(len)
    }

    fn seekable(&self) -> bool {
        true
    }
}
