//! What was rewritten in one address space, and what that means for a thread that stands at some address.

use alloc::vec::Vec;
use core::ops::Range;

use crate::pattern::{Pattern, Site};
use crate::stub::{self, STUB};

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
}

/// A page of stubs. They keep their sites for ever, as a thread may have been interrupted in one.
#[derive(Clone, Debug)]
struct Page {
    start: u64,
    /// With the number of the stub on the page.
    sites: Vec<(usize, Site)>,
    /// The program has taken the page away, or may have changed it: what lies there now is its own.
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
        let stub_of = |page: &Page| page.sites.iter().find(|&&(_, other)| other == site).map(|&(number, _)| page.stub(number));
        self.pages.iter().filter(|page| !page.is_lost).find_map(stub_of).or_else(|| self.new_stub(site))
    }

    fn new_stub(&mut self, site: Site) -> Option<u64> {
        self.pages.iter_mut().filter(|page| !page.is_lost).find_map(|page| {
            let free = page.fitting(&site).find(|&number| page.sites.iter().all(|&(taken, _)| taken != number))?;
            page.sites.push((free, site));
            Some(page.stub(free))
        })
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

    /// The site of the stub that an address lies in.
    fn in_stub(&self, rip: u64) -> Option<Site> {
        let page = self.pages.iter().find(|page| !page.is_lost && (page.start..page.start + PAGE).contains(&rip))?;
        let number = (rip - page.start) as usize / STUB;
        page.sites.iter().find(|&&(other, _)| other == number).map(|&(_, site)| site)
    }

    /// Where a thread goes on that came upon a breakpoint and now stands behind it, at `rip`; `None` if the breakpoint is the program's own.
    #[must_use]
    pub fn behind_breakpoint(&self, rip: u64) -> Option<u64> {
        let place = self.patched.binary_search_by_key(&rip.wrapping_sub(1), |patched| patched.site.at).ok()?;
        Some(self.patched[place].stub)
    }

    /// A point of the program that means the same as one in a stub: the `syscall`, with its number in RAX.
    #[must_use]
    pub fn program_point(&self, point: Point) -> Point {
        let Some(site) = self.in_stub(point.rip) else { return point };
        let rip = site.return_address() - 2;
        match site.pattern {
            Pattern::Number(number) => Point { rip, rax: u64::from(number) },
            Pattern::Compare(_) => Point { rip, ..point },
        }
    }
}

impl Page {
    fn stub(&self, number: usize) -> u64 {
        self.start + (number * STUB) as u64
    }

    /// The numbers of the stubs here that the jump at `site` can lead to.
    fn fitting(&self, site: &Site) -> Range<usize> {
        if !stub::reaches(site.at, self.start) {
            return 0..0;
        }
        let Some((lowest, count)) = site.stub_window() else { return 0..STUBS };
        let number = |address: u64| (address.saturating_sub(self.start) as usize).div_ceil(STUB).min(STUBS);
        number(lowest)..number(lowest + count)
    }
}

/// A free place for a page of stubs that the jump at `site` can lead to: near it, or where the jump must lead. `taken` are the ranges in use, in
/// ascending order.
#[must_use]
pub fn place_for(taken: &[Range<u64>], site: &Site, lowest: u64, highest: u64) -> Option<u64> {
    let Some((window, count)) = site.stub_window() else { return place_near(taken, site.at, lowest, highest) };
    let is_free = |page: u64| {
        let lies_in = lowest <= page && page + PAGE <= highest;
        lies_in && taken.iter().all(|range| range.end <= page || page + PAGE <= range.start)
    };
    let has_stub = |page: u64| !Page { start: page, sites: Vec::new(), is_lost: false }.fitting(site).is_empty();
    let page_of = |address: u64| address / PAGE * PAGE;
    [page_of(window), page_of(window + count - 1)].into_iter().find(|&page| has_stub(page) && is_free(page))
}

/// A free place of a page's size that a jump from `site` reaches, near it.
fn place_near(taken: &[Range<u64>], site: u64, lowest: u64, highest: u64) -> Option<u64> {
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
