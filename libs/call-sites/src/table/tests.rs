use super::*;
use crate::Rejection;
use crate::pattern::{AFTER, BEFORE};
use crate::stub::{INT3, JUMP, code, jump};
use proptest::prelude::*;

/// Compiler output that decodes the same from wherever one starts, after a while.
const CODE: [u8; 32] = [
    0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0x89, 0x7d, 0xfc, 0x8b, 0x45, 0xfc, 0x89, 0xc7, 0xe8, 0x10, 0x00, 0x00, 0x00, 0x85,
    0xc0, 0x75, 0x05, 0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x90,
];
const COMPARE: [u8; 6] = [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff];
const AT: u64 = 0x7000_0000_1800;

fn before(tail: &[u8]) -> Vec<u8> {
    [&CODE.repeat(4), tail].concat()
}

fn recognise(tail: &[u8], after: &[u8], number: u64) -> Result<Site, Rejection> {
    Site::recognise(&before(tail), after, AT, number)
}

fn number(at: u64, number: u32) -> Site {
    Site { at, pattern: Pattern::Number(number) }
}

fn compare(at: u64) -> Site {
    Site { at, pattern: Pattern::Compare(-4095) }
}

#[test]
fn a_number_loaded_right_before_is_recognised() {
    let site = recognise(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[], 39).unwrap();
    assert_eq!(site, number(AT - 7, 39));
    assert_eq!((site.end(), site.return_address()), (AT - 2, AT));
    assert_eq!(site.original(), [0xb8, 39, 0, 0, 0]);
}

#[test]
fn a_comparison_right_behind_is_recognised() {
    let site = recognise(&[0x31, 0xc0, 0x0f, 0x05], &COMPARE, 0).unwrap();
    assert_eq!(site, compare(AT - 2));
    assert_eq!((site.end(), site.return_address()), (AT + 3, AT));
    assert_eq!(site.original(), [0x0f, 0x05, 0x48, 0x3d, 0x01]);
}

#[test]
fn another_number_than_the_loaded_one_was_loaded_elsewhere() {
    assert_eq!(recognise(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[], 40), Err(Rejection::OtherCode));
    // but the comparison may do
    assert_eq!(recognise(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05], &COMPARE, 40), Ok(compare(AT - 2)));
}

#[test]
fn what_may_belong_to_a_longer_instruction_is_left_alone() {
    // movabs $…,%rax whose operand ends like a site; movl $39,-0x48(%rsp)
    assert!(recognise(&[0x48, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[], 39).is_err());
    assert_eq!(recognise(&[0xc7, 0x44, 0x24, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[], 39), Err(Rejection::Unclear));
    assert_eq!(Site::recognise(&[0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[], AT, 39), Err(Rejection::Unclear));
}

#[test]
fn a_jump_never_lies_on_two_pages() {
    for return_address in 0x7000_0000_1000..0x7000_0000_1010 {
        let found = Site::recognise(&before(&[0x0f, 0x05]), &COMPARE, return_address, 0);
        let last = (return_address - 2 + JUMP as u64 - 1) / PAGE;
        assert_eq!(found.is_ok(), (return_address - 2) / PAGE == last, "{return_address:#x}");
    }
}

/// Where an instruction that ends at `end` in a stub leads with the distance that stands before it.
fn target(code: &[u8], base: u64, end: usize) -> u64 {
    let operand = i32::from_le_bytes(code[end - 4..end].try_into().unwrap());
    (base + end as u64).wrapping_add_signed(i64::from(operand))
}

#[test]
fn stubs_lead_to_the_entry_and_back() {
    let (stub, entry) = (AT - 0x1000, 0xffff_ffff_8020_1234);
    let bytes = code(&number(AT, 39), stub, entry).unwrap();
    assert_eq!(bytes[..8], [0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x0d]);
    assert_eq!(target(&bytes, stub, 12), AT + 7);
    assert_eq!((&bytes[12..14], target(&bytes, stub, 18)), (&[0xff, 0x25][..], stub + 24));
    assert_eq!(bytes[24..], entry.to_le_bytes());
    let bytes = code(&compare(AT), stub, entry).unwrap();
    assert_eq!((&bytes[..3], target(&bytes, stub, 7)), (&[0x48, 0x8d, 0x0d][..], AT + 2));
    assert_eq!((&bytes[7..9], target(&bytes, stub, 13)), (&[0xff, 0x25][..], stub + 24));
    assert_eq!(bytes[24..], entry.to_le_bytes());
}

#[test]
fn what_is_out_of_reach_gets_no_jump() {
    let site = number(AT, 39);
    assert!(jump(&site, AT + (1 << 31) + 4).is_some());
    assert!(jump(&site, AT + (1 << 31) + 5).is_none());
    assert!(code(&site, AT + (1 << 32), 0).is_none());
}

#[test]
fn the_comparison_stays_where_it_is() {
    for (immediate, distance) in [(-4095, 0x013d_4800), (-4096, 0x003d_4800)] {
        let site = Site { at: AT, pattern: Pattern::Compare(immediate) };
        for low in [0, 0x20, 0xff] {
            let jump = jump(&site, AT + 5 + distance + low).unwrap();
            assert_eq!((&jump[2..], jump[..2] == [0xe9, low as u8]), (&site.original()[2..], true));
        }
        for wrong in [distance - 1, distance + 0x100, distance + 0x1_0000, 0] {
            assert_eq!(jump(&site, AT + 5 + wrong), None);
        }
    }
}

#[test]
fn a_place_for_stubs_is_near_and_rather_below() {
    let taken = [0x1_0000..0x40_0000, 0x40_1000..0x50_0000, 0x50_0000..0x60_0000, 0x70_0000..0x80_0000];
    let place = |taken, at, lowest| place_for(taken, &number(at, 1), lowest, 1 << 47);
    assert_eq!(place(&taken, 0x50_1000, 0x1_0000), Some(0x40_0000));
    assert_eq!(place(&taken[1..], 0x50_1000, 0x40_0800), Some(0x60_0000));
    assert_eq!(place(&[0x1_0000..1 << 40], 0x50_1000, 0x1_0000), None);
    assert_eq!(place(&[], AT, 0x1_0000), Some(0x1_0000).filter(|&at| stub::reaches(AT, at)));
}

#[test]
fn a_comparison_says_where_its_stub_must_be() {
    let site = compare(0x40_1000);
    // 0x40_1005 + 0x13d_4800 = 0x17d_5805
    assert_eq!(site.stub_window(), Some((0x17d_5805, 0x100)));
    let place = |taken: &[Range<u64>]| place_for(taken, &site, 0x1_0000, 1 << 47);
    assert_eq!(place(&[0x40_0000..0x50_0000]), Some(0x17d_5000));
    assert_eq!(place(&[0x40_0000..0x17d_5001]), None);
    assert_eq!(place_for(&[], &site, 0x17d_6000, 1 << 47), None);
    // On the border of two pages either will do.
    let site = compare(0x40_1000 + 0x7b0);
    let place = |taken: &[Range<u64>]| place_for(taken, &site, 0x1_0000, 1 << 47);
    assert_eq!((place(&[]), place(&[0x17d_5000..0x17d_6000])), (Some(0x17d_5000), Some(0x17d_6000)));
}

/// Stubs of numbers lie on the first page, those of comparisons where they must.
const PAGE_OF_NUMBERS: u64 = AT - 0x10_0000;

fn first_stub(site: &Site) -> u64 {
    site.stub_window().map_or(PAGE_OF_NUMBERS, |(lowest, _)| lowest.next_multiple_of(STUB as u64))
}

fn table_of(sites: &[Site]) -> Table {
    let mut table = Table::new();
    table.add_page(PAGE_OF_NUMBERS);
    for page in sites.iter().filter(|site| site.stub_window().is_some()).map(|site| first_stub(site) / PAGE * PAGE) {
        if table.pages.iter().all(|other| other.start != page) {
            table.add_page(page);
        }
    }
    sites.iter().for_each(|&site| assert!(table.add(site).is_some()));
    table
}

#[test]
fn the_two_patterns_of_one_call_exclude_each_other() {
    let table = table_of(&[number(AT, 39)]);
    assert!(table.overlaps(&compare(AT + 5)) && table.overlaps(&number(AT, 39)));
    assert!(!table.overlaps(&compare(AT + 8)) && !table.overlaps(&compare(AT - 8)));
    assert!(table.is_near(AT + 7) && !table.is_near(AT + 0x107));
    let table = table_of(&[compare(AT + 5)]);
    assert!(table.overlaps(&number(AT, 39)) && !table.overlaps(&number(AT + 13, 39)));
}

#[test]
fn only_own_breakpoints_lead_to_a_stub() {
    let table = table_of(&[compare(AT)]);
    assert_eq!(table.behind_breakpoint(AT + 1), Some(first_stub(&compare(AT))));
    assert_eq!(table.behind_breakpoint(AT), None);
    assert_eq!(table.behind_breakpoint(AT + 2), None);
}

#[test]
fn the_program_never_sees_a_stub() {
    let (first, second) = (number(AT, 39), compare(AT + 0x40));
    let table = table_of(&[first, second]);
    let point = |rip, rax| table.program_point(Point { rip, rax });
    for offset in [0, 5, 12] {
        assert_eq!(point(first_stub(&first) + offset, 7), Point { rip: AT + 5, rax: 39 });
    }
    for offset in [0, 7] {
        assert_eq!(point(first_stub(&second) + offset, 7), Point { rip: AT + 0x40, rax: 7 });
    }
    assert_eq!(point(AT, 7), Point { rip: AT, rax: 7 });
}

#[test]
fn a_forgotten_site_keeps_its_stub() {
    let mut table = table_of(&[compare(AT), compare(AT + 0x1000)]);
    let gone = table.forget(&(AT..AT + 0x1000));
    let stub = first_stub(&compare(AT));
    assert_eq!(gone, [Patched { site: compare(AT), stub }]);
    assert_eq!(table.len(), 1);
    assert_eq!(table.program_point(Point { rip: stub + 7, rax: 1 }).rip, AT);
    assert_eq!(table.add(compare(AT)), Some(gone[0]));
}

#[test]
fn without_their_stubs_sites_go_and_none_come() {
    let mut table = table_of(&[number(AT, 2), number(AT + 0x1000, 1)]);
    let page = PAGE_OF_NUMBERS;
    assert!(table.concerns(&(page + 0xfff..page + 0x2000)) && !table.concerns(&(page + 0x1000..AT)));
    assert_eq!(table.forget(&(page..page + 0x1000)).len(), 2);
    assert_eq!(table.add(number(AT, 2)), None);
    let theirs = Point { rip: page, rax: 1 };
    assert_eq!(table.program_point(theirs), theirs, "whatever lies there now is the program's");
}

#[test]
fn a_page_has_room_for_128() {
    let mut table = Table::new();
    table.add_page(AT);
    let added = (0..200).filter(|i| table.add(number(AT + 0x10_0000 + i * 16, 1)).is_some()).count();
    assert_eq!(added, 128);
    table.add_page(AT + 0x1000);
    assert!(table.add(number(AT + 0x20_0000, 1)).is_some());
}

#[test]
fn neighbours_share_what_the_window_holds() {
    let mut table = table_of(&[compare(AT)]);
    // Of 256 bytes eight stubs, one of which is taken; sites close by have nearly the same window.
    let added = (1..20).filter(|i| table.add(compare(AT + i * 8)).is_some()).count();
    assert!((7..=12).contains(&added), "{added}");
    assert!(table.patched.iter().all(|patched| jump(&patched.site, patched.stub).is_some()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_a_site_only_if_they_spell_one(
        mut before in prop::collection::vec(any::<u8>(), 0..BEFORE),
        after in prop::collection::vec(any::<u8>(), 0..AFTER + 1),
        spell in 0..4_u8,
        rip in any::<u64>(),
        number in any::<u32>(),
    ) {
        if spell & 1 != 0 {
            before.extend([0xb8]);
            before.extend(number.to_le_bytes());
        }
        if spell & 2 != 0 {
            before.extend([0x0f, 0x05]);
        }
        if let Ok(site) = Site::recognise(&before, &after, rip, u64::from(number)) {
            prop_assert!(before.ends_with(&[0x0f, 0x05]));
            let original = site.original();
            let all = [&before[..], &after].concat();
            let at = before.len() - rip.wrapping_sub(site.at) as usize;
            prop_assert_eq!(&all[at..at + JUMP], &original);
            prop_assert!(site.at % 4096 <= 4096 - JUMP as u64);
        }
    }

    #[test]
    fn a_table_answers_for_every_address(
        offsets in prop::collection::btree_set(0..600_u64, 0..100),
        forget in prop::collection::vec((0..10_000_u64, 1..3000_u64), 0..5),
        rip in 0..0x20_0000_u64,
    ) {
        let mut table = Table::new();
        table.add_page(PAGE_OF_NUMBERS);
        for offset in offsets {
            let at = AT + offset * 16;
            let site = if offset % 3 == 0 { number(at, offset as u32) } else { compare(at) };
            if let Some(place) = site.stub_window().and_then(|_| place_for(&[], &site, 0x1_0000, 1 << 47))
                && table.pages.iter().all(|page| page.start != place)
            {
                table.add_page(place);
            }
            if let Some(patched) = table.add(site) {
                let jump = jump(&site, patched.stub).unwrap();
                let kept = site.kept();
                prop_assert_eq!(&jump[JUMP - kept..], &site.original()[JUMP - kept..]);
            }
        }
        for (from, len) in forget {
            let range = AT + from..AT + from + len;
            let before = table.len();
            let gone = table.forget(&range);
            prop_assert_eq!(before - gone.len(), table.len());
            prop_assert!(!table.concerns(&range));
        }
        let rip = PAGE_OF_NUMBERS + rip;
        let point = table.program_point(Point { rip, rax: 1 });
        // Never in a stub, and nothing more to say once there.
        prop_assert_eq!(table.program_point(point), point);
        if let Some(stub) = table.behind_breakpoint(rip) {
            prop_assert_eq!(table.in_stub(stub).map(|site| site.at), Some(rip - 1));
        }
    }

    #[test]
    fn stubs_of_reachable_sites_can_be_written(distance in -0x7ffe_0000_i64..0x7ffe_0000, entry in any::<u64>()) {
        let page = AT.wrapping_add_signed(distance) & !0xfff;
        prop_assume!(stub::reaches(AT, page));
        for stub in [page, page + 0xfe0] {
            prop_assert!(jump(&number(AT, 1), stub).is_some());
            prop_assert!(code(&compare(AT), stub, entry).is_some() && code(&number(AT, 1), stub, entry).is_some());
        }
        prop_assert_eq!(INT3, 0xcc);
    }
}
