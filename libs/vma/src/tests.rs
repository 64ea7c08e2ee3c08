//! Tests against a model with one entry per page.

use super::place::{STACK_GUARD_GAP, Window};
use super::*;
use addr::{VirtAddr, layout};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Object `id` from `offset` on; id 0 is anonymous.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Object {
    id: u8,
    offset: u64,
}

impl Backing for Object {
    fn advanced(&self, bytes: u64) -> Self {
        if self.id == 0 { *self } else { Self { offset: self.offset + bytes, ..*self } }
    }
    fn continues_as(&self, bytes: u64, next: &Self) -> bool {
        self.advanced(bytes) == *next
    }
}

fn area(start: u64, pages: u64, prot: Prot, flags: AreaFlags, id: u8) -> Area<Object> {
    Area { start: VirtAddr(start * PAGE), end: VirtAddr((start + pages) * PAGE), prot, flags, backing: Object { id, offset: 0 } }
}

fn anonymous(start: u64, pages: u64) -> Area<Object> {
    area(start, pages, Prot::READ | Prot::WRITE, AreaFlags::empty(), 0)
}

fn ranges(map: &AreaMap<Object>) -> Vec<(u64, u64)> {
    map.iter().map(|a| (a.start.0 / PAGE, a.end.0 / PAGE)).collect()
}

#[test]
fn neighbours_merge_only_when_they_continue_each_other() {
    let mut map = AreaMap::new();
    map.insert(anonymous(10, 2));
    map.insert(anonymous(14, 2));
    map.insert(anonymous(12, 2));
    assert_eq!(ranges(&map), [(10, 16)]);
    map.insert(area(16, 1, Prot::READ, AreaFlags::empty(), 0));
    map.insert(area(20, 2, Prot::READ, AreaFlags::SHARED, 1));
    let mut next = area(22, 1, Prot::READ, AreaFlags::SHARED, 1);
    map.insert(next.clone());
    assert_eq!(ranges(&map), [(10, 16), (16, 17), (20, 22), (22, 23)]);
    map.remove(next.start, next.end, |_| {});
    next.backing.offset = 2 * PAGE;
    map.insert(next);
    assert_eq!(ranges(&map), [(10, 16), (16, 17), (20, 23)]);
}

#[test]
fn protecting_and_undoing_it_leaves_one_area() {
    let mut map = AreaMap::new();
    map.insert(area(0x100, 10, Prot::READ, AreaFlags::empty(), 3));
    map.modify(VirtAddr(0x103 * PAGE), VirtAddr(0x105 * PAGE), |a| a.prot = Prot::empty());
    assert_eq!(ranges(&map), [(0x100, 0x103), (0x103, 0x105), (0x105, 0x10a)]);
    assert_eq!(map.find(VirtAddr(0x105 * PAGE)).unwrap().backing.offset, 5 * PAGE);
    map.modify(VirtAddr(0x103 * PAGE), VirtAddr(0x105 * PAGE), |a| a.prot = Prot::READ);
    assert_eq!(ranges(&map), [(0x100, 0x10a)]);
}

#[test]
fn mappings_go_top_down_and_hints_are_honoured_when_free() {
    let mut map = AreaMap::new();
    let base = VirtAddr(0x7fff_0000_0000);
    let first = map.place(VirtAddr(0), 4 * PAGE, Window::Anywhere, base).unwrap();
    assert_eq!(first, base - 4 * PAGE);
    map.insert(anonymous(first.0 / PAGE, 4));
    let heap = VirtAddr(0xc0_0000_0000);
    assert_eq!(map.place(heap, PAGE, Window::Anywhere, base), Some(heap));
    assert_eq!(map.place(first, PAGE, Window::Anywhere, base), Some(first - PAGE));
    assert_eq!(map.place(VirtAddr(0x1000), PAGE, Window::Anywhere, base), Some(VirtAddr(layout::USER_MIN)));
    assert_eq!(map.place(VirtAddr(layout::USER_MAX - PAGE), 2 * PAGE, Window::Anywhere, base), Some(first - 2 * PAGE));
    assert_eq!(map.place(VirtAddr(0), layout::USER_MAX, Window::Anywhere, base), None);
}

#[test]
fn a_hole_that_opens_above_is_used_again() {
    let mut map = AreaMap::new();
    let base = VirtAddr(0x1000 * PAGE);
    for _ in 0..10 {
        let at = map.place(VirtAddr(0), 2 * PAGE, Window::Anywhere, base).unwrap();
        map.insert(Area { flags: AreaFlags::SHARED, ..anonymous(at.0 / PAGE, 2) });
    }
    map.remove(VirtAddr(0xffc * PAGE), VirtAddr(0xffe * PAGE), |_| {});
    assert_eq!(map.place(VirtAddr(0), 2 * PAGE, Window::Anywhere, base), Some(VirtAddr(0xffc * PAGE)));
}

#[test]
fn low_mappings_go_bottom_up_between_one_and_two_gib() {
    let mut map = AreaMap::new();
    let base = VirtAddr(0x7fff_0000_0000);
    let at = map.place(VirtAddr(0), PAGE, Window::Low, base).unwrap();
    assert_eq!(at.0, 0x4000_0000);
    map.insert(anonymous(at.0 / PAGE, 1));
    assert_eq!(map.place(VirtAddr(0), PAGE, Window::Low, base), Some(VirtAddr(0x4000_1000)));
    assert_eq!(map.place(VirtAddr(0x1_0000_0000), PAGE, Window::Low, base), Some(VirtAddr(0x4000_1000)));
    assert_eq!(map.place(VirtAddr(0), 0x4000_0000, Window::Low, base), None);
}

#[test]
fn the_gap_below_a_stack_stays_free() {
    let mut map = AreaMap::new();
    let stack = area(0x10_0000, 4, Prot::READ | Prot::WRITE, AreaFlags::GROWS_DOWN, 0);
    let (base, start) = (VirtAddr(0x10_0000 * PAGE), stack.start);
    map.insert(stack);
    assert_eq!(map.place(VirtAddr(0), PAGE, Window::Anywhere, base), Some(start - STACK_GUARD_GAP - PAGE));
    assert_eq!(map.place(start - PAGE, PAGE, Window::Anywhere, base), Some(start - STACK_GUARD_GAP - PAGE));
    map.grow_down(start, start - 8 * PAGE);
    assert_eq!((map.find(start).unwrap().len(), map.bytes()), (12 * PAGE, 12 * PAGE));
    assert_eq!(map.place(VirtAddr(0), PAGE, Window::Anywhere, base), Some(start - STACK_GUARD_GAP - 9 * PAGE));
}

#[test]
fn the_upper_part_of_a_cut_stack_does_not_grow() {
    let mut map = AreaMap::new();
    map.insert(area(100, 10, Prot::READ, AreaFlags::GROWS_DOWN, 0));
    map.modify(VirtAddr(105 * PAGE), VirtAddr(106 * PAGE), |a| a.prot = Prot::empty());
    let growing: Vec<_> = map.iter().map(|a| a.flags.contains(AreaFlags::GROWS_DOWN)).collect();
    assert_eq!(growing, [true, false, false]);
}

/// What the model knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    prot: u32,
    id: u8,
    offset: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, pages: u64, prot: u32, id: u8 },
    Unmap { at: u64, pages: u64 },
    Protect { at: u64, pages: u64, prot: u32 },
    Place { hint: u64, pages: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (at, pages) = (16..300u64, 1..24u64);
    prop_oneof![
        (at.clone(), pages.clone(), 0..8u32, 0..3u8).prop_map(|(at, pages, prot, id)| Op::Map { at, pages, prot, id }),
        (at.clone(), pages.clone()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        (at, pages.clone(), 0..8u32).prop_map(|(at, pages, prot)| Op::Protect { at, pages, prot }),
        (0..300u64, pages).prop_map(|(hint, pages)| Op::Place { hint, pages }),
    ]
}

const BASE: u64 = 310;

/// Where Linux's rules put it, by trying every page.
fn model_place(model: &BTreeMap<u64, Page>, hint: u64, pages: u64) -> u64 {
    let free = |at: u64| model.range(at..at + pages).next().is_none();
    let hinted = hint.max(layout::USER_MIN / PAGE);
    if hint != 0 && free(hinted) {
        return hinted;
    }
    (layout::USER_MIN / PAGE..=BASE - pages).rev().find(|at| free(*at)).unwrap_or(layout::USER_MAX / 3 / PAGE)
}

proptest! {
    #[test]
    fn behaves_like_a_map_of_pages(ops in prop::collection::vec(op(), 1..80)) {
        let mut map: AreaMap<Object> = AreaMap::new();
        let mut model: BTreeMap<u64, Page> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Map { at, pages, prot, id } => {
                    let (start, end) = (VirtAddr(at * PAGE), VirtAddr((at + pages) * PAGE));
                    map.remove(start, end, |_| {});
                    map.insert(area(at, pages, Prot::from_bits_truncate(prot), AreaFlags::empty(), id));
                    for p in 0..pages {
                        model.insert(at + p, Page { prot, id, offset: if id == 0 { 0 } else { p * PAGE } });
                    }
                }
                Op::Unmap { at, pages } => {
                    let mut removed = 0;
                    map.remove(VirtAddr(at * PAGE), VirtAddr((at + pages) * PAGE), |a| removed += a.len() / PAGE);
                    prop_assert_eq!(removed, model.range(at..at + pages).count() as u64);
                    model.retain(|p, _| !(at..at + pages).contains(p));
                }
                Op::Protect { at, pages, prot } => {
                    let covered = model.range(at..at + pages).count() as u64 == pages;
                    prop_assert_eq!(map.is_covered(VirtAddr(at * PAGE), VirtAddr((at + pages) * PAGE)), covered);
                    map.modify(VirtAddr(at * PAGE), VirtAddr((at + pages) * PAGE), |a| a.prot = Prot::from_bits_truncate(prot));
                    for (_, page) in model.range_mut(at..at + pages) { page.prot = prot; }
                }
                Op::Place { hint, pages } => {
                    let got = map.place(VirtAddr(hint * PAGE), pages * PAGE, Window::Anywhere, VirtAddr(BASE * PAGE)).unwrap();
                    prop_assert_eq!(got.0 / PAGE, model_place(&model, hint, pages));
                }
            }
            check(&map, &model)?;
        }
    }
}

fn check(map: &AreaMap<Object>, model: &BTreeMap<u64, Page>) -> Result<(), TestCaseError> {
    let mut seen = BTreeMap::new();
    let mut last: Option<&Area<Object>> = None;
    for a in map.iter() {
        prop_assert!(last.is_none_or(|l| l.end <= a.start && !l.merges_with(a)), "neighbours that should be one");
        last = Some(a);
        for p in 0..a.len() / PAGE {
            let backing = a.backing.advanced(p * PAGE);
            seen.insert(a.start.0 / PAGE + p, Page { prot: a.prot.bits(), id: backing.id, offset: backing.offset });
        }
    }
    prop_assert_eq!(map.bytes(), seen.len() as u64 * PAGE);
    prop_assert_eq!(&seen, model);
    for p in (0..320).step_by(7) {
        prop_assert_eq!(map.find(VirtAddr(p * PAGE + 5)).is_some(), model.contains_key(&p));
        let next = map.find_from(VirtAddr(p * PAGE)).map(|a| (a.start.0 / PAGE).max(p));
        prop_assert_eq!(next, model.range(p..).next().map(|(k, _)| *k));
    }
    Ok(())
}

/// A backing that remembers whether it was used, as `kernel::mm`'s does.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Used(bool);

impl Backing for Used {
    fn advanced(&self, _bytes: u64) -> Self {
        self.clone()
    }
    fn absorb(&mut self, other: &Self) {
        self.0 |= other.0;
    }
    fn continues_as(&self, _bytes: u64, _next: &Self) -> bool {
        true
    }
}

#[test]
fn what_areas_remember_survives_all_ways_of_joining() {
    let area = |start: u64, pages: u64, used| Area {
        start: VirtAddr(start * PAGE),
        end: VirtAddr((start + pages) * PAGE),
        prot: Prot::READ,
        flags: AreaFlags::empty(),
        backing: Used(used),
    };
    // From below, from above, between two, and by a change that makes neighbours alike.
    for used in 0..3 {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1]] {
            let mut map = AreaMap::new();
            for part in order {
                map.insert(area(10 + 2 * part, 2, part == used));
            }
            assert!(map.len() == 1 && map.iter().all(|area| area.backing.0), "part {used} of {order:?}");
        }
        let mut map = AreaMap::new();
        for part in 0..3 {
            let prot = if part == 1 { Prot::empty() } else { Prot::READ };
            map.insert(Area { prot, ..area(10 + 2 * part, 2, part == used) });
        }
        map.modify(VirtAddr(12 * PAGE), VirtAddr(14 * PAGE), |area| area.prot = Prot::READ);
        assert!(map.len() == 1 && map.iter().all(|area| area.backing.0), "part {used} after a change");
        map.grow_up(VirtAddr(16 * PAGE), VirtAddr(17 * PAGE));
        assert_eq!((map.bytes(), map.find(VirtAddr(16 * PAGE)).map(Area::len)), (7 * PAGE, Some(7 * PAGE)));
    }
}

#[test]
fn reserved_areas_are_had_and_spare_ones_freed() {
    let mut map = AreaMap::new();
    map.reserve(3).unwrap();
    map.insert(anonymous(10, 30));
    for at in (11..39).step_by(2) {
        map.remove(VirtAddr(at * PAGE), VirtAddr((at + 1) * PAGE), drop);
    }
    assert_eq!(map.len(), 15);
    map.remove(VirtAddr(0), VirtAddr(u64::MAX), drop);
    assert_eq!((map.len(), map.bytes()), (0, 0));
}
