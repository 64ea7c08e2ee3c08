//! What was rewritten in one address space, and what that means for a thread that stands at some address.

use alloc::vec::Vec;
use core::ops::Range;

use crate::pattern::{Pattern, Site};
use crate::stub::{self, BEHIND, COMPARED, STUB};

/// Bytes of a page of stubs.
const PAGE: u64 = 4096;
/// Stubs on a page.
const STUBS: usize = PAGE as usize / STUB;

/// A site that is rewritten, or is being rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patched {
    /// Where.
    pub site: Site,
    /// Address of its stub.
    pub stub: u64,
}

/// What of a thread's registers tells where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct Point {
    pub rip: u64,
    pub rax: u64,
    pub rflags: u64,
}

/// A page of stubs. They keep their sites for ever, as a thread may come back to one from a long wait.
#[derive(Clone, Debug)]
struct Page {
    start: u64,
    sites: Vec<Site>,
    /// The program has taken the page away, or may have changed it.
    is_lost: bool,
}

/// The sites of an address space.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By address.
    patched: Vec<Patched>,
    pages: Vec<Page>,
}

impl Table {
    /// Without sites.
    #[must_use]
    pub const fn new() -> Self {
        Self { patched: Vec::new(), pages: Vec::new() }
    }

    /// How many sites are rewritten now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patched.len()
    }

    /// Whether there never was a site.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether another rewritten site has bytes in common with `site`, or its return address inside it.
    #[must_use]
    pub fn overlaps(&self, site: &Site) -> bool {
        let (from, to) = (site.at, site.end().max(site.return_address() + 1));
        let first_behind = self.patched.partition_point(|p| p.site.end().max(p.site.return_address() + 1) <= from);
        self.patched.get(first_behind).is_some_and(|p| p.site.at < to)
    }

    /// Whether a site is rewritten whose system call returned, or returns, to this address.
    #[must_use]
    pub fn is_near(&self, return_address: u64) -> bool {
        self.overlaps(&Site { at: return_address.wrapping_sub(2), pattern: Pattern::Compare(0) })
    }

    /// Notes a site and gives it a stub; its earlier one, if it had one. `None`: no page of stubs within reach has room, see
    /// [`Table::add_page`]. The site must not [overlap](Table::overlaps) another.
    ///
    /// # Panics
    /// If the site is there already.
    pub fn add(&mut self, site: Site) -> Option<Patched> {
        let stub = self.stub_for(site)?;
        let patched = Patched { site, stub };
        let place = self.patched.binary_search_by_key(&site.at, |patched| patched.site.at).expect_err("added once");
        self.patched.insert(place, patched);
        Some(patched)
    }

    fn stub_for(&mut self, site: Site) -> Option<u64> {
        let mut pages = self.pages.iter_mut().filter(|page| !page.is_lost && stub::reaches(site.at, page.start));
        let number = |page: &Page| page.sites.iter().position(|&other| other == site);
        if let Some(stub) = pages.by_ref().find_map(|page| number(page).map(|number| page.stub(number))) {
            return Some(stub);
        }
        let page = self.pages.iter_mut().find(|page| !page.is_lost && stub::reaches(site.at, page.start) && page.sites.len() < STUBS)?;
        page.sites.push(site);
        Some(page.stub(page.sites.len() - 1))
    }

    /// Adds an empty page of stubs at `start`.
    pub fn add_page(&mut self, start: u64) {
        self.pages.push(Page { start, sites: Vec::new(), is_lost: false });
    }

    /// Whether a change of the program's memory in `range` concerns sites or stubs.
    #[must_use]
    pub fn concerns(&self, range: &Range<u64>) -> bool {
        let first_behind = self.patched.partition_point(|p| p.site.end() <= range.start);
        let has_site = self.patched.get(first_behind).is_some_and(|p| p.site.at < range.end);
        has_site || self.pages.iter().any(|page| !page.is_lost && page.start < range.end && range.start < page.start + PAGE)
    }

    /// Forgets the sites in `range` and those whose stubs are there; returns them, for their bytes to be restored. Stubs in the range will
    /// not be given out again.
    pub fn forget(&mut self, range: &Range<u64>) -> Vec<Patched> {
        let mut gone = Vec::new();
        let lies_in = |start: u64, len: u64| start < range.end && range.start < start + len;
        self.patched.retain(|p| {
            let is_gone = lies_in(p.site.at, p.site.end() - p.site.at) || lies_in(p.stub, STUB as u64);
            if is_gone {
                gone.push(*p);
            }
            !is_gone
        });
        self.pages.iter_mut().filter(|page| lies_in(page.start, PAGE)).for_each(|page| page.is_lost = true);
        gone
    }

    /// The site and the offset in its stub of an address in one.
    fn in_stub(&self, rip: u64) -> Option<(Site, u64)> {
        let page = self.pages.iter().find(|page| (page.start..page.start + PAGE).contains(&rip))?;
        let offset = rip - page.start;
        let site = *page.sites.get(offset as usize / STUB)?;
        Some((site, offset % STUB as u64))
    }

    /// Where a thread goes on whose next instruction is at `rip`, if the code there is being replaced.
    #[must_use]
    pub fn settled(&self, rip: u64) -> Option<u64> {
        let at = rip.wrapping_sub(2);
        let place = self.patched.binary_search_by_key(&at, |patched| patched.site.at).ok()?;
        let Patched { site, stub } = self.patched[place];
        matches!(site.pattern, Pattern::Compare(_)).then_some(stub + BEHIND)
    }

    /// Where a thread goes on that came upon a breakpoint and now stands behind it, at `rip`; `None` if the breakpoint is the program's own.
    #[must_use]
    pub fn behind_breakpoint(&self, rip: u64) -> Option<u64> {
        let place = self.patched.binary_search_by_key(&rip.wrapping_sub(1), |patched| patched.site.at).ok()?;
        Some(self.patched[place].stub)
    }

    /// Where a system call that returns to `rip` is made again, with its number in RAX.
    #[must_use]
    pub fn again(&self, rip: u64) -> u64 {
        match self.in_stub(rip) {
            Some((site, _)) if matches!(site.pattern, Pattern::Compare(_)) => site.at,
            _ => rip.wrapping_sub(2),
        }
    }

    /// A point of the program that means the same as one in a stub. A system call is not under way.
    #[must_use]
    pub fn program_point(&self, point: Point) -> Point {
        let Some((site, offset)) = self.in_stub(point.rip) else { return point };
        match site.pattern {
            // The `syscall` behind the site is as it was.
            Pattern::Number(number) => Point { rip: site.return_address() - 2, rax: u64::from(number), ..point },
            Pattern::Compare(_) if offset < BEHIND => Point { rip: site.at, ..point },
            Pattern::Compare(immediate) if offset < COMPARED => {
                Point { rip: site.end(), rflags: stub::flags_after_compare(point.rax, immediate, point.rflags), ..point }
            }
            Pattern::Compare(_) => Point { rip: site.end(), ..point },
        }
    }
}

impl Page {
    fn stub(&self, number: usize) -> u64 {
        self.start + (number * STUB) as u64
    }
}

/// A free place of a page's size that a jump from `site` reaches, near it. `taken` are the ranges in use, in ascending order.
#[must_use]
pub fn place_near(taken: &[Range<u64>], site: u64, lowest: u64, highest: u64) -> Option<u64> {
    let mut gaps = Vec::with_capacity(taken.len() + 1);
    let mut from = lowest;
    for range in taken {
        if range.start > from {
            gaps.push(from..range.start.min(highest));
        }
        from = from.max(range.end);
    }
    gaps.push(from..highest);
    let usable = gaps.into_iter().filter(|gap| gap.end.saturating_sub(gap.start) >= PAGE);
    // Below the code is better than above it, where a heap may want to grow.
    let ends = usable.map(|gap| if gap.end <= site { gap.end - PAGE } else { gap.start });
    ends.filter(|&at| stub::reaches(site, at)).min_by_key(|&at| (at > site, at.abs_diff(site)))
}

#[cfg(test)]
mod tests;
