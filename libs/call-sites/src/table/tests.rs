use super::*;
use crate::Rejection;
use crate::pattern::{AFTER, BEFORE, has_jump_into};
use crate::stub::{INT3, JUMP, code, flags_after_compare, jump_to};
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
    assert_eq!((site.end(), site.return_address()), (AT + 6, AT));
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

#[test]
fn jumps_into_the_middle_are_seen() {
    let to = AT + 0x100;
    // jmp rel32, call rel32, ja rel32 from 0x40; jb rel8 from 0xf0
    for opcode in [&[0xe9][..], &[0xe8], &[0x0f, 0x87]] {
        let mut code = vec![0x90; 0x200];
        code[0x40..0x40 + opcode.len()].copy_from_slice(opcode);
        let end = 0x40 + opcode.len() + 4;
        code[end - 4..end].copy_from_slice(&(0x102 - end as i32).to_le_bytes());
        assert!(has_jump_into(&code, AT, to + 1, to + 8), "{opcode:x?}");
        assert!(!has_jump_into(&code, AT, to + 3, to + 8), "{opcode:x?}");
    }
    let mut code = vec![0x90; 0x200];
    code[0xf0..0xf2].copy_from_slice(&[0x72, 0x10]);
    assert!(has_jump_into(&code, AT, to + 1, to + 8));
    code[0xf0] = 0x90;
    assert!(!has_jump_into(&code, AT, to + 1, to + 8));
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
    assert_eq!(target(&bytes, stub, 7), stub + BEHIND);
    assert_eq!(bytes[13..19], [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]);
    assert_eq!((bytes[19], target(&bytes, stub, 24)), (0xe9, AT + 8));
}

#[test]
fn what_is_out_of_reach_gets_no_jump() {
    assert!(jump_to(AT, AT + (1 << 31) + 4).is_some());
    assert!(jump_to(AT, AT + (1 << 31) + 5).is_none());
    assert!(code(&compare(AT), AT + (1 << 32), 0).is_none());
}

#[test]
fn a_place_for_stubs_is_near_and_rather_below() {
    let taken = [0x1_0000..0x40_0000, 0x40_1000..0x50_0000, 0x50_0000..0x60_0000, 0x70_0000..0x80_0000];
    assert_eq!(place_near(&taken, 0x50_1000, 0x1_0000, 1 << 47), Some(0x40_0000));
    assert_eq!(place_near(&taken[1..], 0x50_1000, 0x40_0800, 1 << 47), Some(0x60_0000));
    assert_eq!(place_near(&[0x1_0000..1 << 40], 0x50_1000, 0x1_0000, 1 << 47), None);
    assert_eq!(place_near(&[], AT, 0x1_0000, 1 << 47), Some(0x1_0000).filter(|&at| stub::reaches(AT, at)));
}

fn table_of(sites: &[Site]) -> Table {
    let mut table = Table::new();
    table.add_page(AT - 0x10_0000);
    sites.iter().for_each(|&site| assert!(table.add(site).is_some()));
    table
}

#[test]
fn a_thread_behind_a_moving_comparison_goes_on_in_the_stub() {
    let table = table_of(&[number(AT, 39), compare(AT + 0x40)]);
    let stub = AT - 0x10_0000 + STUB as u64;
    assert_eq!(table.settled(AT + 0x42), Some(stub + BEHIND));
    // A `mov` is one instruction, and the `syscall` behind it stays.
    for rip in [AT + 2, AT + 5, AT + 7, AT + 0x41, AT + 0x48] {
        assert_eq!(table.settled(rip), None);
    }
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
    assert_eq!(table.behind_breakpoint(AT + 1), Some(AT - 0x10_0000));
    assert_eq!(table.behind_breakpoint(AT), None);
    assert_eq!(table.behind_breakpoint(AT + 2), None);
}

#[test]
fn an_interrupted_call_is_made_again_at_its_site() {
    let table = table_of(&[number(AT, 39), compare(AT + 0x40)]);
    assert_eq!(table.again(AT + 7), AT + 5);
    assert_eq!(table.again(AT - 0x10_0000 + STUB as u64 + BEHIND), AT + 0x40);
    assert_eq!(table.again(AT + 0x1002), AT + 0x1000);
}

#[test]
fn the_program_never_sees_a_stub() {
    let table = table_of(&[number(AT, 39), compare(AT + 0x40)]);
    let point = |rip, rax| table.program_point(Point { rip, rax, rflags: 0x202 });
    let (first, second) = (AT - 0x10_0000, AT - 0x10_0000 + STUB as u64);
    for offset in [0, 5, 12] {
        assert_eq!(point(first + offset, 7), Point { rip: AT + 5, rax: 39, rflags: 0x202 });
    }
    for offset in [0, 7] {
        assert_eq!(point(second + offset, 7), Point { rip: AT + 0x40, rax: 7, rflags: 0x202 });
    }
    // behind the call, before and after the comparison
    let failed = point(second + BEHIND, (-22_i64) as u64);
    assert_eq!((failed.rip, failed.rflags & 1), (AT + 0x48, 0));
    let fine = point(second + BEHIND, 7);
    assert_eq!((fine.rip, fine.rflags & 1), (AT + 0x48, 1));
    assert_eq!(point(second + COMPARED, 7), Point { rip: AT + 0x48, rax: 7, rflags: 0x202 });
    assert_eq!(point(AT, 7), Point { rip: AT, rax: 7, rflags: 0x202 });
}

#[test]
fn a_forgotten_site_keeps_its_stub() {
    let mut table = table_of(&[compare(AT), compare(AT + 0x1000)]);
    let gone = table.forget(&(AT..AT + 0x1000));
    assert_eq!(gone, [Patched { site: compare(AT), stub: AT - 0x10_0000 }]);
    assert_eq!((table.settled(AT + 2), table.len()), (None, 1));
    assert_eq!(table.again(AT - 0x10_0000 + BEHIND), AT);
    assert_eq!(table.add(compare(AT)), Some(gone[0]));
}

#[test]
fn without_their_stubs_sites_go_and_none_come() {
    let mut table = table_of(&[compare(AT), number(AT + 0x1000, 1)]);
    let page = AT - 0x10_0000;
    assert!(table.concerns(&(page + 0xfff..page + 0x2000)) && !table.concerns(&(page + 0x1000..AT)));
    assert_eq!(table.forget(&(page..page + 0x1000)).len(), 2);
    assert_eq!(table.add(compare(AT)), None);
}

#[test]
fn a_page_has_room_for_128() {
    let mut table = Table::new();
    table.add_page(AT);
    let added = (0..200).filter(|i| table.add(compare(AT + 0x10_0000 + i * 16)).is_some()).count();
    assert_eq!(added, 128);
    table.add_page(AT + 0x1000);
    assert!(table.add(compare(AT + 0x20_0000)).is_some());
}

/// What the processor says of `cmp $-4095,%rax` and `cmp $-4096,%rax`.
fn real_flags(rax: u64, immediate: i32) -> u64 {
    let flags: u64;
    // SAFETY: compares, and reads the flags.
    #[expect(unsafe_code, reason = "asks the processor")]
    unsafe {
        core::arch::asm!("cmp {1}, {0}", "pushfq", "pop {0}", inout(reg) i64::from(immediate) => flags, in(reg) rax);
    }
    flags
}

proptest! {
    #[test]
    fn flags_are_the_processors(rax in prop_oneof![any::<u64>(), (-5000_i64..5000).prop_map(|v| v as u64)], low in 0..2_i32) {
        const ARITHMETIC: u64 = 0x8d5;
        let immediate = -4096 + low;
        prop_assert_eq!(flags_after_compare(rax, immediate, 0) & ARITHMETIC, real_flags(rax, immediate) & ARITHMETIC);
        prop_assert_eq!(flags_after_compare(rax, immediate, !ARITHMETIC) & !ARITHMETIC, !ARITHMETIC);
    }

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
        table.add_page(AT - 0x10_0000);
        for offset in offsets {
            let at = AT + offset * 16;
            let site = if offset % 3 == 0 { number(at, offset as u32) } else { compare(at) };
            prop_assert!(table.add(site).is_some());
        }
        for (from, len) in forget {
            let range = AT + from..AT + from + len;
            let before = table.len();
            let gone = table.forget(&range);
            prop_assert_eq!(before - gone.len(), table.len());
            prop_assert!(!table.concerns(&range));
        }
        let rip = AT - 0x10_0000 + rip;
        let point = table.program_point(Point { rip, rax: 1, rflags: 2 });
        // Never in a stub, and nothing more to say once there.
        prop_assert_eq!(table.program_point(point), point);
        if let Some(stub) = table.behind_breakpoint(rip) {
            prop_assert!((AT - 0x10_0000..AT - 0xf_0000).contains(&stub));
        }
        if let Some(label) = table.settled(rip) {
            prop_assert_eq!(table.again(label), rip - 2);
        }
    }

    #[test]
    fn stubs_of_reachable_sites_can_be_written(distance in -0x7ffe_0000_i64..0x7ffe_0000, entry in any::<u64>()) {
        let page = AT.wrapping_add_signed(distance) & !0xfff;
        prop_assume!(stub::reaches(AT, page));
        for stub in [page, page + 0xfe0] {
            prop_assert!(jump_to(AT, stub).is_some());
            prop_assert!(code(&compare(AT), stub, entry).is_some() && code(&number(AT, 1), stub, entry).is_some());
        }
        prop_assert_eq!(INT3, 0xcc);
    }
}
