//! The thread that rewrites call sites.
//!
//! It sleeps until a site is worth a look, and takes all that have been named by then at once: the steps of a change make every CPU
//! serialise, so they are made for many sites together.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use addr::{PAGE_SIZE, VirtAddr, layout};
use arch_x86_64::syscall;
use call_sites::pattern::{AFTER, BEFORE};
use call_sites::{Patched, Pattern, Site, place_for, stub};
use kernel::boot_info;
use kernel::mm::{Access, AddressSpace, AreaFlags, MapRequest, Placement, Prot, VmaInfo};
use kernel::text_poke::Changes;
use kernel::thread::{self, Class};
use sync::{Interrupt, Mutex, WaitQueue};

use super::{COUNTERS, OFTEN, Sites, THRESHOLD, count, leaf};
use crate::table;

const PAGE: u64 = PAGE_SIZE as u64;
/// Sites that may wait for the patcher; more come again.
const QUEUE: usize = 64;
/// Sites that are remembered as hopeless.
const HOPELESS: usize = 64;

/// A `syscall` that is executed often.
struct Request {
    space: Arc<AddressSpace>,
    return_address: u64,
    number: u64,
}

/// What is known of a site that has been named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It will be looked at.
    Queued,
    /// It cannot be rewritten.
    Known,
}

struct Queue {
    requests: Vec<Request>,
    /// Return addresses of sites that cannot be rewritten, the oldest at `next`. In whatever space: a wrong guess costs time only.
    hopeless: [u64; HOPELESS],
    next: usize,
}

static REQUESTS: Mutex<Queue> = Mutex::new(Queue { requests: Vec::new(), hopeless: [0; HOPELESS], next: 0 });
static NAMED: WaitQueue = WaitQueue::new();
static STARTED: AtomicBool = AtomicBool::new(false);

/// Has call sites patched from now on, unless the command line says `no_syscall_patch`; `syscall_patch=N` does it after N calls.
pub(crate) fn start() {
    let words = boot_info().command_line;
    if !words.is_set("no_syscall_patch") {
        let often = words.get("syscall_patch").and_then(|text| text.parse().ok()).filter(|&often| often != 0);
        THRESHOLD.store(often.unwrap_or(OFTEN), Ordering::Relaxed);
    }
}

/// Names the site of a `syscall` that returns to `return_address`. The patcher starts with the first.
pub(super) fn ask(space: &Arc<AddressSpace>, return_address: u64, number: u64) -> Answer {
    let mut queue = REQUESTS.lock();
    if queue.hopeless.contains(&return_address) {
        return Answer::Known;
    }
    let is_queued = queue.requests.iter().any(|request| request.return_address == return_address);
    if is_queued || queue.requests.len() >= QUEUE || queue.requests.try_reserve(1).is_err() {
        return Answer::Queued;
    }
    queue.requests.push(Request { space: space.clone(), return_address, number });
    drop(queue);
    if !STARTED.swap(true, Ordering::Relaxed) && thread::spawn("callpatch", Class::Normal, run).is_err() {
        STARTED.store(false, Ordering::Relaxed);
    }
    NAMED.wake_one();
    Answer::Queued
}

fn run() {
    loop {
        let taken = || {
            let requests = core::mem::take(&mut REQUESTS.lock().requests);
            (!requests.is_empty()).then_some(requests)
        };
        let Ok(mut requests) = NAMED.wait_until(None, Interrupt::Ignored, taken) else { continue };
        while let Some(first) = requests.first() {
            let space = first.space.clone();
            let (same, others) = requests.into_iter().partition(|request| Arc::ptr_eq(&request.space, &space));
            requests = others;
            patch(&space, same);
        }
    }
}

/// Rewrites those of the named sites that can be.
fn patch(space: &Arc<AddressSpace>, requests: Vec<Request>) {
    let Some(sites) = Sites::of(space) else { return };
    let _turn = sites.turn.lock();
    let mut changes = Changes::new(space);
    let mut done = Vec::new();
    for request in requests {
        match prepare(space, sites, &request, &mut changes) {
            Some(patched) => done.push(patched),
            None if sites.table.lock().is_near(request.return_address) => {}
            None => reject(request.return_address),
        }
    }
    changes.rewrite();
    for patched in done {
        count(match patched.site.pattern {
            Pattern::Number(_) => &COUNTERS.numbers,
            Pattern::Compare(_) => &COUNTERS.comparisons,
        });
        log::debug!("system call at {:#x} patched: {:?}", patched.site.at, patched.site.pattern);
    }
}

fn reject(return_address: u64) {
    let mut queue = REQUESTS.lock();
    let next = queue.next;
    queue.hopeless[next] = return_address;
    queue.next = (next + 1) % HOPELESS;
    count(&COUNTERS.rejected);
    log::debug!("system call before {return_address:#x} is left as it is");
}

/// Everything but the rewriting: recognises the site, gives it a stub, notes it.
fn prepare(space: &AddressSpace, sites: &Sites, request: &Request, changes: &mut Changes<'_>) -> Option<Patched> {
    let area = space.find(VirtAddr(request.return_address)).filter(may_be_rewritten)?;
    let code = Code { space, area: area.start.0..area.end.0 };
    let mut before = [0; BEFORE];
    let before = code.read(request.return_address - BEFORE as u64..request.return_address, &mut before)?;
    let mut after = [0; AFTER];
    let after = code.read(request.return_address..request.return_address + AFTER as u64, &mut after)?;
    let site = Site::recognise(before, after, request.return_address, request.number).ok()?;
    let fits = code.area.contains(&site.at) && site.end() <= code.area.end && !sites.table.lock().overlaps(&site);
    if !fits {
        return None;
    }
    // From here on whoever changes the mapping notices us.
    sites.cover(&code.area);
    let patched = add(space, sites, site)?;
    let jump = stub::jump(&site, patched.stub)?;
    let still_there = space.find(VirtAddr(site.at)).is_some_and(|area| may_be_rewritten(&area));
    if still_there && write_stub(space, &patched).is_some() && changes.add(VirtAddr(site.at), site.original(), jump) == Ok(true) {
        return Some(patched);
    }
    sites.table.lock().forget(&(site.at..site.end()));
    None
}

/// Code of a file that the program cannot write to.
fn may_be_rewritten(area: &VmaInfo) -> bool {
    let private_file = area.id.is_some() && !area.flags.contains(AreaFlags::SHARED);
    private_file && area.prot.contains(Prot::EXEC) && !area.prot.contains(Prot::WRITE)
}

/// A piece of the program's code, to be read by a thread that does not run in its space.
struct Code<'a> {
    space: &'a AddressSpace,
    area: Range<u64>,
}

impl Code<'_> {
    /// The bytes of `range` as far as they lie in the area.
    fn read<'b>(&self, range: Range<u64>, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let range = range.start.max(self.area.start)..range.end.min(self.area.end);
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(PAGE - at % PAGE) as usize;
            let frame = self.space.frame_at(VirtAddr(at), Access::Execute).ok()?;
            let done = (at - range.start) as usize;
            frame.read((at % PAGE) as usize, &mut buffer[done..done + len]);
            at += len as u64;
        }
        Some(&buffer[..(range.end - range.start) as usize])
    }
}

/// Notes a site, on a new page of stubs if need be.
fn add(space: &AddressSpace, sites: &Sites, site: Site) -> Option<Patched> {
    let patched = sites.table.lock().add(site);
    if patched.is_some() {
        return patched;
    }
    let at = place_for(&taken(space), &site, layout::USER_MIN, layout::USER_MAX)?;
    let mut request = MapRequest::anonymous(PAGE, Prot::READ | Prot::EXEC).named(b"[oxv-calls]");
    (request.hint, request.placement) = (VirtAddr(at), Placement::FixedNoReplace);
    space.map(request).ok()?;
    sites.cover(&(at..at + PAGE));
    let mut table = sites.table.lock();
    table.add_page(at);
    table.add(site)
}

/// What a page of stubs must leave alone, in ascending order: mappings, and what a heap in use may grow into.
fn taken(space: &AddressSpace) -> Vec<Range<u64>> {
    let mut taken: Vec<_> = space.areas().iter().map(|area| area.start.0..area.end.0).collect();
    let (start, end) = space.brk_range();
    if start < end {
        let behind = taken.partition_point(|range| range.start < end.0);
        let room = end.0..taken.get(behind).map_or(layout::USER_MAX, |next| next.start);
        taken.insert(behind, room);
    }
    taken
}

/// Writes the code of a stub.
fn write_stub(space: &AddressSpace, patched: &Patched) -> Option<()> {
    let entry = match patched.site.pattern {
        Pattern::Number(number) => leaf::entry(number).or_else(|| table::route(number).map(syscall::Route::patched)),
        Pattern::Compare(_) => Some(syscall::patched_any()),
    };
    let code = stub::code(&patched.site, patched.stub, entry.unwrap_or_else(syscall::patched_any))?;
    let frame = space.private_frame(VirtAddr(patched.stub)).ok()?;
    frame.write((patched.stub % PAGE) as usize, &code);
    Some(())
}

/// Gives sites their old bytes back: those in `range`, and those whose stubs lie there. The caller has the space's turn.
pub(super) fn restore(space: &AddressSpace, sites: &Sites, range: &Range<u64>) {
    let gone = {
        let table = sites.table.lock();
        if !table.concerns(range) {
            return;
        }
        let mut without = table.clone();
        without.forget(range)
    };
    let mut changes = Changes::new(space);
    for Patched { site, stub } in &gone {
        let Some(jump) = stub::jump(site, *stub) else { continue };
        // What is not as it was left is the program's affair.
        if changes.add(VirtAddr(site.at), jump, site.original()) == Ok(true) {
            count(&COUNTERS.restored);
        }
    }
    // Meanwhile the table still knows the sites' breakpoints.
    changes.rewrite();
    sites.table.lock().forget(range);
}
