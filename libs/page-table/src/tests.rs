//! Tests against a map of pages, with tables on the heap.

use super::*;
use core::ops::{ControlFlow, Range};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "reached through raw pointers only")] Table);

/// Heap tables: counts what is alive, fails after `budget` allocations.
#[derive(Default)]
struct Heap {
    alive: RefCell<HashSet<u64>>,
    budget: Cell<Option<usize>>,
}

// SAFETY: each table is a fresh zeroed heap page, alive until freed.
unsafe impl TableSource for &Heap {
    fn alloc_table(&self) -> Option<PhysAddr> {
        if let Some(left) = self.budget.get() {
            self.budget.set(Some(left.checked_sub(1)?));
        }
        let page = Box::into_raw(Box::new(Page([const { AtomicU64::new(0) }; 512])));
        let pa = page.expose_provenance() as u64;
        self.alive.borrow_mut().insert(pa);
        Some(PhysAddr(pa))
    }
    fn free_table(&self, table: PhysAddr) {
        assert!(self.alive.borrow_mut().remove(&table.0), "freed twice");
        // SAFETY: the set held it, so `alloc_table` made it.
        drop(unsafe { Box::from_raw(std::ptr::with_exposed_provenance_mut::<Page>(table.0 as usize)) });
    }
    fn table(&self, table: PhysAddr) -> *const Table {
        std::ptr::with_exposed_provenance(table.0 as usize)
    }
}

const M2: u64 = 2 << 20;
const EVERYWHERE: Range<VirtAddr> = VirtAddr(0)..VirtAddr(u64::MAX);

fn page(n: u64) -> Entry {
    Entry::new(PhysAddr(n << 12), Flags::READ_WRITE)
}

/// Unmaps, frees tables, returns the pages.
fn unmap(pt: &PageTable<&Heap>, start: u64, end: u64, chunk: usize) -> Vec<(u64, u64)> {
    unmap_in(pt, start..end, &(VirtAddr(start)..VirtAddr(end)), chunk)
}

/// Everything else in `room` is known to be empty.
fn unmap_in(pt: &PageTable<&Heap>, range: Range<u64>, room: &Range<VirtAddr>, chunk: usize) -> Vec<(u64, u64)> {
    let mut pages = Vec::new();
    let mut at = Some(VirtAddr(range.start));
    while let Some(from) = at {
        let mut got = 0;
        at = pt
            .unmap_range_in(from..VirtAddr(range.end), room, &mut |removed| {
                match removed {
                    Removed::Page { va, entry, .. } => pages.push((va.0, entry.address().0)),
                    Removed::Table(t) => pt.source.free_table(t),
                }
                got += 1;
                if got == chunk { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
    }
    pages
}

#[test]
fn a_mapped_page_is_found_and_unmapping_frees_its_tables() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let va = VirtAddr(0x7fff_1234_5000);
    pt.map_if_empty(va, page(7), PageSize::Size4K).unwrap();
    assert_eq!(pt.translate(va + 0x123), Some(PhysAddr(0x7123)));
    assert_eq!(pt.map_if_empty(va, page(8), PageSize::Size4K), Err(MapError::Occupied(page(7))));
    assert_eq!(heap.alive.borrow().len(), 4);
    assert_eq!(unmap_in(&pt, va.0..va.0 + 4096, &EVERYWHERE, 1), [(va.0, 0x7000)]);
    assert_eq!(heap.alive.borrow().len(), 1);
    pt.free_root();
    assert!(heap.alive.borrow().is_empty());
}

#[test]
fn a_spot_maps_neighbours_in_its_table_and_walks_where_there_is_none() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let (hole, nowhere) = pt.find(VirtAddr(M2));
    assert_eq!((hole, nowhere.small_table()), (Entry::EMPTY, None));
    pt.map_at(nowhere, VirtAddr(M2), page(1)).unwrap();
    let spot = pt.find(VirtAddr(M2)).1;
    assert_eq!(spot.size(), PageSize::Size4K);
    pt.map_at(spot, VirtAddr(M2 + 4096), page(2)).unwrap();
    assert_eq!(pt.map_at(spot, VirtAddr(M2 + 4096), page(3)), Err(MapError::Occupied(page(2))));
    assert_eq!(pt.map_at(nowhere, VirtAddr(M2), page(3)), Err(MapError::Occupied(page(1))));
    assert_eq!(pt.translate(VirtAddr(M2 + 4097)), Some(PhysAddr(0x2001)));
}

#[test]
fn a_range_of_one_table_is_unmapped_like_any_other() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let unmap = |start: u64, pages: u64, room: &Range<VirtAddr>| {
        let mut removed = Vec::new();
        let range = VirtAddr(start)..VirtAddr(start + pages * 4096);
        let next = pt.unmap_range_in(range, room, &mut |item| {
            removed.push(item);
            if removed.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (removed, next.unwrap())
    };
    let no_room = VirtAddr(M2)..VirtAddr(M2);
    for index in [0, 3, 4, 5, 511] {
        pt.map_if_empty(VirtAddr(M2 + index * 4096), page(index), PageSize::Size4K).unwrap();
    }
    let gone = |index: u64| Removed::Page { va: VirtAddr(M2 + index * 4096), entry: page(index), size: PageSize::Size4K };
    assert_eq!(unmap(M2 + 4096, 2, &no_room), (vec![], None));
    assert_eq!(unmap(M2, 5, &no_room), (vec![gone(0), gone(3), gone(4)], Some(VirtAddr(M2 + 4 * 4096))));
    assert_eq!(unmap(M2 + 4 * 4096, 1, &no_room), (vec![], None));
    let (removed, next) = unmap(M2 + 511 * 4096, 1, &(VirtAddr(M2 - 4096)..VirtAddr(2 * M2)));
    assert_eq!((removed[0], next), (gone(511), None));
    assert!(matches!(removed[1..], [Removed::Table(_)]), "the table lies in the room");
    assert_eq!(pt.lookup(VirtAddr(M2 + 5 * 4096)).0, Entry::EMPTY, "with all that was left in it");
}

#[test]
fn contiguous_memory_gets_the_largest_pages() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let start = (1 << 30) - M2 - 4096;
    pt.map_contiguous(VirtAddr(start), PhysAddr(start), (1 << 30) + 2 * M2, Flags::READ, PageSize::Size1G).unwrap();
    let size_at = |va| pt.lookup(VirtAddr(va)).1;
    assert_eq!(size_at(start), PageSize::Size4K);
    assert_eq!(size_at(start + 4096), PageSize::Size2M);
    assert_eq!(size_at(1 << 30), PageSize::Size1G);
    assert_eq!(pt.translate(VirtAddr((1 << 30) + 12345)), Some(PhysAddr((1 << 30) + 12345)));
}

#[test]
fn protecting_a_part_splits_a_large_page() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    pt.map_if_empty(VirtAddr(M2), Entry::new(PhysAddr(M2), Flags::READ_WRITE), PageSize::Size2M).unwrap();
    let changed = pt.update_range(VirtAddr(M2 + 4096), VirtAddr(M2 + 8192), |_, e, _| e.with_flags(Flags::READ)).unwrap();
    assert!(changed);
    assert!(pt.lookup(VirtAddr(M2)).0.is_writable());
    assert!(!pt.lookup(VirtAddr(M2 + 4096)).0.is_writable());
    assert!(pt.lookup(VirtAddr(M2 + 8192)).0.is_writable());
    assert_eq!(pt.translate(VirtAddr(2 * M2 - 1)), Some(PhysAddr(2 * M2 - 1)));
}

#[test]
fn splitting_without_memory_is_an_error() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    pt.map_if_empty(VirtAddr(M2), Entry::new(PhysAddr(M2), Flags::READ_WRITE), PageSize::Size2M).unwrap();
    heap.budget.set(Some(0));
    assert_eq!(pt.unmap_range(VirtAddr(M2), VirtAddr(M2 + 4096), &mut |_| ControlFlow::Continue(())), Err(OutOfTables));
    assert_eq!(pt.map_if_empty(VirtAddr(1 << 40), page(1), PageSize::Size4K), Err(MapError::OutOfTables));
}

#[test]
fn the_top_of_the_address_space_can_be_mapped_and_unmapped() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let va = 0xffff_ffff_ffff_e000;
    pt.map_if_empty(VirtAddr(va), page(3), PageSize::Size4K).unwrap();
    assert_eq!(unmap(&pt, 0xffff_ffff_8000_0000, va + 4096, 10), [(va, 0x3000)]);
    // The last entry of the last table is not in the range.
    assert_eq!(heap.alive.borrow().len(), 4);
}

#[test]
fn tables_go_with_the_room_around_and_stay_without() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    for at in [M2, 2 * M2 - 4096, 2 * M2] {
        pt.map_if_empty(VirtAddr(at), page(1), PageSize::Size4K).unwrap();
    }
    let tables = heap.alive.borrow().len();
    // The page at M2 stays: no room below.
    unmap_in(&pt, 2 * M2 - 4096..2 * M2, &(VirtAddr(M2 + 4096)..VirtAddr(2 * M2)), 9);
    assert_eq!(heap.alive.borrow().len(), tables);
    // The page at 2 * M2 stays: its table is not in the room, the other one is.
    unmap_in(&pt, M2..M2 + 4096, &(VirtAddr(0)..VirtAddr(2 * M2)), 9);
    assert_eq!(heap.alive.borrow().len(), tables - 1);
    unmap_in(&pt, 2 * M2..2 * M2 + 4096, &EVERYWHERE, 1);
    assert_eq!(heap.alive.borrow().len(), 1);
}

#[test]
fn moving_keeps_order_invisible_pages_and_holes() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let (from, to) = (VirtAddr(3 * M2 - 8192), VirtAddr(1 << 40));
    pt.map_if_empty(from, page(1), PageSize::Size4K).unwrap();
    let hidden = Entry::new(PhysAddr(0x2000), Flags::RESIDENT);
    pt.map_if_empty(from + 4096 * 3, hidden, PageSize::Size4K).unwrap();
    pt.move_range(from, to, 4 * 4096, &mut |_| ()).unwrap();
    let entries: Vec<_> = (0..4).map(|i| pt.lookup(to + i * 4096).0).collect();
    assert_eq!(entries, [page(1), Entry::EMPTY, Entry::EMPTY, hidden]);
    assert!(unmap(&pt, from.0, from.0 + 4 * 4096, 9).is_empty());
}

#[test]
fn a_move_that_lacks_tables_moves_nothing() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    pt.map_if_empty(VirtAddr(M2), page(1), PageSize::Size4K).unwrap();
    heap.budget.set(Some(1));
    assert_eq!(pt.move_range(VirtAddr(M2), VirtAddr(1 << 40), 4096, &mut |_| ()), Err(OutOfTables));
    assert_eq!(pt.lookup(VirtAddr(M2)).0, page(1));
}

#[test]
fn a_move_between_like_places_keeps_large_pages_and_moves_whole_tables() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let (from, to) = (VirtAddr(4 * M2 - 4096), VirtAddr((1 << 40) + M2 - 4096));
    pt.map_if_empty(from, page(1), PageSize::Size4K).unwrap();
    pt.map_if_empty(from + 4096, Entry::new(PhysAddr(8 * M2), Flags::READ_WRITE), PageSize::Size2M).unwrap();
    pt.map_if_empty(from + 4096 + M2 + 8192, page(2), PageSize::Size4K).unwrap();
    // A table in the way, with nothing in it.
    pt.map_if_empty(to + 4096, page(3), PageSize::Size4K).unwrap();
    pt.compare_exchange(to + 4096, PageSize::Size4K, page(3), Entry::EMPTY).unwrap();
    let before = heap.alive.borrow().len();
    let mut in_the_way = Vec::new();
    pt.move_range(from, to, 4096 + 2 * M2, &mut |table| in_the_way.push(table)).unwrap();
    assert_eq!(pt.translate(to), Some(PhysAddr(0x1000)));
    assert_eq!(pt.lookup(to + 4096).1, PageSize::Size2M);
    assert_eq!(pt.translate(to + 4096 + M2 - 1), Some(PhysAddr(9 * M2 - 1)));
    assert_eq!(pt.translate(to + 4096 + M2 + 8192), Some(PhysAddr(0x2000)));
    assert_eq!((in_the_way.len(), heap.alive.borrow().len() - before), (1, 1), "only the single page needed a new table");
    pt.source.free_table(in_the_way[0]);
    assert!(unmap(&pt, from.0, from.0 + 4096 + 2 * M2, 9).is_empty());
}

#[test]
fn a_split_is_flushed_while_nothing_is_present() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let large = Entry::new(PhysAddr(6 * M2), Flags::RESIDENT | Flags::NO_EXECUTE);
    pt.map_if_empty(VirtAddr(M2), large, PageSize::Size2M).unwrap();
    let mut flushes = 0;
    let done = pt.split_page(VirtAddr(M2 + 0x5000), &mut |start, end| {
        assert_eq!((start.0, end.0, pt.lookup(VirtAddr(M2)).0), (M2, 2 * M2, Entry::BUSY));
        flushes += 1;
    });
    assert_eq!((done, flushes), (Ok(Split::Done), 1));
    assert_eq!(pt.lookup(VirtAddr(M2 + 0x5000)), (Entry::new(PhysAddr(6 * M2 + 0x5000), large.flags()), PageSize::Size4K));
}

#[test]
fn a_huge_page_is_split_twice_down_to_a_border() {
    let heap = Heap::default();
    let pt = PageTable::new(&heap).unwrap();
    let gib = 1 << 30;
    pt.map_if_empty(VirtAddr(gib), Entry::new(PhysAddr(gib), Flags::READ_WRITE), PageSize::Size1G).unwrap();
    pt.split_at(VirtAddr(gib + 3 * M2), &mut |_, _| ()).unwrap();
    assert_eq!((pt.lookup(VirtAddr(gib + 3 * M2)).1, pt.lookup(VirtAddr(gib)).1), (PageSize::Size2M, PageSize::Size2M));
    pt.split_at(VirtAddr(gib + 3 * M2 + 4096), &mut |_, _| ()).unwrap();
    assert_eq!((pt.lookup(VirtAddr(gib + 3 * M2)).1, pt.lookup(VirtAddr(gib)).1), (PageSize::Size4K, PageSize::Size2M));
    assert_eq!(pt.translate(VirtAddr(gib + 3 * M2 + 4097)), Some(PhysAddr(gib + 3 * M2 + 4097)));
    heap.budget.set(Some(0));
    assert_eq!(pt.split_at(VirtAddr(gib + 4096), &mut |_, _| panic!("flushed in vain")), Err(OutOfTables));
    assert_eq!(pt.lookup(VirtAddr(gib)).1, PageSize::Size2M);
}

#[test]
fn the_part_of_a_large_page_is_the_small_page_there() {
    let large = Entry::new(PhysAddr(M2), Flags::READ_WRITE | Flags::LARGE);
    assert_eq!(large.part_at(VirtAddr(5 * M2 + 0x3123), PageSize::Size2M), Entry::new(PhysAddr(M2 + 0x3000), Flags::READ_WRITE));
    assert_eq!(Entry::BUSY.part_at(VirtAddr(0x3000), PageSize::Size2M), Entry::BUSY);
    assert_eq!(page(7).part_at(VirtAddr(0x3000), PageSize::Size4K), page(7));
}

#[test]
fn concurrent_filling_installs_every_page_once() {
    struct Shared(AtomicUsize);
    // SAFETY: fresh zeroed heap pages that are never freed.
    unsafe impl TableSource for Arc<Shared> {
        fn alloc_table(&self) -> Option<PhysAddr> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(PhysAddr(Box::into_raw(Box::new(Page([const { AtomicU64::new(0) }; 512]))).expose_provenance() as u64))
        }
        fn free_table(&self, _: PhysAddr) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
        fn table(&self, table: PhysAddr) -> *const Table {
            std::ptr::with_exposed_provenance(table.0 as usize)
        }
    }
    let shared = Arc::new(Shared(AtomicUsize::new(0)));
    let pt = Arc::new(PageTable::new(shared.clone()).unwrap());
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let pt = pt.clone();
            std::thread::spawn(move || {
                (0..2000u64).filter(|i| pt.map_if_empty(VirtAddr(i * M2 / 4), page(i + 1), PageSize::Size4K).is_ok()).count()
            })
        })
        .collect();
    assert_eq!(workers.into_iter().map(|w| w.join().unwrap()).sum::<usize>(), 2000);
    // 500 level-1 tables, one level 2, one level 3, the root: losers freed theirs.
    assert_eq!(shared.0.load(Ordering::Relaxed), 503);
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64),
    MapLarge(u64),
    Unmap(u64, u64, usize),
    ReadOnly(u64, u64),
    Move(u64, u64),
    MoveAlike(u64, u64),
    Split(u64),
    Join(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..2048u64, 1..20u64).prop_map(|(a, n)| Op::Map(a, n)),
        (0..4u64).prop_map(Op::MapLarge),
        (0..2048u64, 1..700u64, 1..50usize).prop_map(|(a, n, c)| Op::Unmap(a, n, c)),
        (0..2048u64, 1..700u64).prop_map(|(a, n)| Op::ReadOnly(a, n)),
        (0..2048u64, 1..600u64).prop_map(|(a, n)| Op::Move(a, n)),
        (0..2048u64, 1..1600u64).prop_map(|(a, n)| Op::MoveAlike(a, n)),
        (0..2048u64).prop_map(Op::Split),
        (0..4u64).prop_map(Op::Join),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_map_of_pages(ops in prop::collection::vec(op(), 1..30)) {
        let heap = Heap::default();
        let pt = PageTable::new(&heap).unwrap();
        let base = (512 << 30) - 2 * M2;
        // page number -> (frame number, writable)
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let mut next_frame = 1;
        for op in ops {
            match op {
                Op::Map(a, n) => for p in a..a + n {
                    let done = pt.map_if_empty(VirtAddr(base + p * 4096), page(next_frame), PageSize::Size4K).is_ok();
                    prop_assert_eq!(done, !model.contains_key(&p));
                    if done { model.insert(p, (next_frame, true)); }
                    next_frame += 1;
                },
                Op::MapLarge(slot) => {
                    let frame = next_frame.next_multiple_of(512);
                    next_frame = frame + 512;
                    if pt.map_if_empty(VirtAddr(base + slot * M2), page(frame), PageSize::Size2M).is_ok() {
                        for i in 0..512 { prop_assert!(model.insert(slot * 512 + i, (frame + i, true)).is_none()); }
                    }
                }
                Op::Unmap(a, n, chunk) => {
                    for (va, _) in unmap(&pt, base + a * 4096, base + (a + n) * 4096, chunk) {
                        prop_assert!((base + a * 4096..base + (a + n) * 4096).contains(&va));
                    }
                    model.retain(|p, _| !(a..a + n).contains(p));
                }
                Op::ReadOnly(a, n) => {
                    pt.update_range(VirtAddr(base + a * 4096), VirtAddr(base + (a + n) * 4096), |_, e, _| e.with_flags(e.flags() - Flags::WRITABLE)).unwrap();
                    for (_, v) in model.range_mut(a..a + n) { v.1 = false; }
                }
                Op::Split(a) => {
                    let va = VirtAddr(base + a * 4096);
                    let large = pt.lookup(va).1 == PageSize::Size2M && model.contains_key(&a);
                    let mut flushed = None;
                    let done = pt.split_page(va, &mut |start, end| flushed = Some((start, end))).unwrap();
                    prop_assert_eq!(done == Split::Done, large);
                    prop_assert_eq!(flushed.is_some(), large);
                }
                Op::Join(slot) => {
                    let first = (0..512).map(|i| model.get(&(slot * 512 + i))).collect::<Option<Vec<_>>>();
                    if let (Some(pages), Some(_)) = (first, pt.small_table(VirtAddr(base + slot * M2))) {
                        // As if the contents were copied to a new large page with the rights of the first.
                        let writable = pages[0].1;
                        let frame = next_frame.next_multiple_of(512);
                        next_frame = frame + 512;
                        let va = VirtAddr(base + slot * M2);
                        let table = pt.hide_table(va).unwrap();
                        prop_assert_eq!(pt.lookup(va).0, Entry::BUSY);
                        pt.show_large(va, page(frame).with_flags(if writable { Flags::READ_WRITE } else { Flags::READ }));
                        prop_assert_eq!(pt.entries(table).filter(|e| e.has_page()).count(), 512);
                        pt.source.free_table(table);
                        for i in 0..512 { model.insert(slot * 512 + i, (frame + i, writable)); }
                    }
                }
                Op::Move(a, n) | Op::MoveAlike(a, n) => {
                    let alike = matches!(op, Op::MoveAlike(..));
                    let (from, to) = (base + a * 4096, base + (8192 + a + u64::from(!alike)) * 4096);
                    let split = |result: Result<(), OutOfTables>| result.unwrap();
                    if alike {
                        split(pt.split_at(VirtAddr(from), &mut |_, _| ()));
                        split(pt.split_at(VirtAddr(from + n * 4096), &mut |_, _| ()));
                    } else {
                        split(pt.split_all(VirtAddr(from), VirtAddr(from + n * 4096), &mut |_, _| ()));
                    }
                    pt.move_range(VirtAddr(from), VirtAddr(to), n * 4096, &mut |table| pt.source.free_table(table)).unwrap();
                    let moved: Vec<_> = model.range(a..a + n).map(|(p, v)| (*p, *v)).collect();
                    for (p, v) in moved {
                        prop_assert_eq!(pt.translate(VirtAddr(to + (p - a) * 4096)), Some(PhysAddr(v.0 << 12)));
                        model.remove(&p);
                    }
                    unmap(&pt, to, to + n * 4096, 99);
                }
            }
            let mut seen = BTreeMap::new();
            let _ = pt.visit_range(VirtAddr(0), VirtAddr(1 << 47), &mut |va, e, size| {
                for i in 0..size.bytes() / 4096 {
                    seen.insert((va.0 - base) / 4096 + i, ((e.address().0 >> 12) + i, e.is_writable()));
                }
                ControlFlow::Continue(())
            });
            prop_assert_eq!(&seen, &model);
        }
        unmap_in(&pt, 0..1 << 47, &EVERYWHERE, 1000);
        prop_assert_eq!(heap.alive.borrow().len(), 1);
    }
}
