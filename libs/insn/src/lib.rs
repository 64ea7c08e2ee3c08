//! Decoding single x86-64 instructions of the program: does it stand right after a `hlt`?
//!
//! The program runs in ring 0, where `hlt` does not fault but stops the CPU until the next interrupt. C libraries use it as
//! "cannot happen": after `exit_group`, in musl's failed checks. On Linux it is SIGSEGV. So when an interrupt arrives in program
//! code, the kernel asks [`after_hlt`] about the bytes around RIP: a CPU woken from `hlt` has RIP right behind it.
//!
//! The byte before RIP being F4 is not enough, for two reasons.
//!
//! It may be the tail of a longer instruction that just completed (`mov $0xf4000000, %eax`). x86 code cannot be decoded
//! backwards for certain, but it resynchronises: starting from each possible offset before RIP, almost all decodings agree
//! after a few instructions. So the F4 must be an instruction of its own in every decoding that reaches RIP from far enough back.
//!
//! And the program may have come here by a jump or a call: around the `hlt` (`jne over; hlt; over:`), or from afar, for run-time
//! compilers fill the gaps between their routines with `hlt`, so that a routine's first instruction stands behind one. Two things
//! give certainty:
//! - The way on leads to a `hlt` (`hlt; jmp back`, as in C libraries; `hlt; hlt`). However the program came here, it will halt.
//! - The instruction before the `hlt` is a conditional jump to RIP, and no other jump to RIP is in sight. `hlt` changes no
//!   flags, so the saved ones tell whether it was taken.
//!
//! The answer is "yes" only then, so that an ordinary program is not killed by accident; the price is that a `hlt` in
//! other surroundings is not recognised: the CPU waits for an interrupt there and goes on.

#![cfg_attr(not(test), no_std)]

use yaxpeax_arch::{Decoder, LengthedInstruction, U8Reader};
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode};

/// Bytes before and behind RIP that [`after_hlt`] looks at, if it can get them.
pub const WINDOW: usize = 128;
/// Start offsets closer to RIP than this have not had time to resynchronise, and do not vote.
const SETTLE: usize = 20;
/// Fewest bytes before RIP with which an answer is attempted.
const MINIMUM: usize = 24;
const HLT: u8 = 0xf4;

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

fn decode(bytes: &[u8]) -> Option<(usize, Opcode)> {
    let mut instruction = Instruction::default();
    let mut reader = U8Reader::new(bytes);
    InstDecoder::default().decode_into(&mut instruction, &mut reader).ok()?;
    let len = instruction.len().to_const() as usize;
    (len > 0 && len <= bytes.len()).then(|| (len, instruction.opcode()))
}

/// A direct jump: where it goes relative to its own end, and its condition code if it has one.
fn jump(instruction: &[u8]) -> Option<(i64, Option<u8>)> {
    match *instruction {
        [op @ 0x70..=0x7f, rel] => Some((i64::from(rel as i8), Some(op & 15))),
        [0x0f, op @ 0x80..=0x8f, a, b, c, d] => Some((i64::from(i32::from_le_bytes([a, b, c, d])), Some(op & 15))),
        [0xeb | 0xe0..=0xe3, rel] => Some((i64::from(rel as i8), None)),
        [0xe8 | 0xe9, a, b, c, d] => Some((i64::from(i32::from_le_bytes([a, b, c, d])), None)),
        _ => None,
    }
}

/// Whether a jump with condition code `condition` is taken with `rflags` (SDM vol. 1, appendix B).
fn taken(condition: u8, rflags: u64) -> bool {
    let is = |bit: u64| rflags & bit != 0;
    let base = match condition >> 1 {
        0 => is(OF),
        1 => is(CF),
        2 => is(ZF),
        3 => is(CF) || is(ZF),
        4 => is(SF),
        5 => is(PF),
        6 => is(SF) != is(OF),
        _ => is(ZF) || is(SF) != is(OF),
    };
    base != (condition & 1 != 0)
}

/// How a decoding that began some way back arrives at RIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// Through a `hlt` behind a conditional jump to RIP that was not taken.
    GuardedHlt,
    /// Through another `hlt`.
    Hlt,
    /// Through another instruction, or perhaps by a jump.
    Other,
    /// An undecodable byte, or an instruction across RIP.
    Lost,
}

/// Decodes from `start` to the end of `before`, which is RIP.
fn arrive(before: &[u8], start: usize, rflags: u64) -> Arrival {
    let hlt_at = before.len() - 1;
    let mut at = start;
    let (mut guarded, mut jumped_to) = (false, false);
    while at < hlt_at {
        let Some((len, _)) = decode(&before[at..]) else { return Arrival::Lost };
        let end = at + len;
        if let Some((offset, condition)) = jump(&before[at..end])
            && end as i64 + offset == before.len() as i64
        {
            guarded = end == hlt_at && condition.is_some_and(|c| !taken(c, rflags));
            jumped_to |= !guarded;
        }
        at = end;
    }
    match decode(&before[hlt_at..]) {
        _ if at > before.len() => Arrival::Lost,
        Some((1, Opcode::HLT)) if at == hlt_at && !jumped_to => {
            if guarded { Arrival::GuardedHlt } else { Arrival::Hlt }
        }
        _ => Arrival::Other,
    }
}

/// Whether the program will halt whatever happened before: the instruction at RIP is a `hlt`, or a jump back to the one
/// before RIP.
fn leads_to_hlt(after: &[u8]) -> bool {
    match decode(after) {
        Some((1, Opcode::HLT)) => true,
        Some((len, Opcode::JMP)) => jump(&after[..len]).is_some_and(|(offset, _)| len as i64 + offset == -1),
        _ => false,
    }
}

/// Whether the code behind RIP contains a direct jump back to RIP.
fn jumped_to_from(after: &[u8]) -> bool {
    let mut at = 0;
    while let Some((len, _)) = after.get(at..).filter(|rest| !rest.is_empty()).and_then(decode) {
        if jump(&after[at..at + len]).is_some_and(|(offset, _)| (at + len) as i64 + offset == 0) {
            return true;
        }
        at += len;
    }
    false
}

/// Whether the program stands right after a `hlt`, beyond doubt. `before` are the bytes that end where RIP points and
/// `after` those that start there: up to [`WINDOW`] each, fewer where the mapping ends.
#[must_use]
pub fn after_hlt(before: &[u8], after: &[u8], rflags: u64) -> bool {
    if before.last() != Some(&HLT) || before.len() < MINIMUM || jumped_to_from(after) {
        return false;
    }
    let certain = leads_to_hlt(after);
    let mut votes = 0;
    for start in 0..before.len() - SETTLE {
        match arrive(before, start, rflags) {
            Arrival::GuardedHlt => votes += 1,
            Arrival::Hlt if certain => votes += 1,
            Arrival::Hlt | Arrival::Other => return false,
            Arrival::Lost => {}
        }
    }
    votes > 0
}

/// Whether an instruction starts `back` bytes before RIP, beyond doubt, and this one and those behind it end there. `before` are the bytes that
/// end where RIP points. By the vote of all decodings that had time to resynchronise, as in [`after_hlt`].
#[must_use]
pub fn is_instruction(before: &[u8], back: usize) -> bool {
    let Some(start) = before.len().checked_sub(back).filter(|&start| start >= SETTLE_LONG) else { return false };
    let mut votes = 0;
    for from in 0..=start - SETTLE_LONG {
        match passes(before, from, start) {
            Some(true) => votes += 1,
            Some(false) => return false,
            None => {}
        }
    }
    votes > 0
}

/// As [`SETTLE`], for code that ordinary programs execute all the time.
const SETTLE_LONG: usize = 48;

/// Whether the decoding from `from` passes through the instruction boundary `wanted`, then through the end; `None` if it gets lost.
fn passes(code: &[u8], from: usize, wanted: usize) -> Option<bool> {
    let (mut at, mut seen) = (from, false);
    while at < code.len() {
        seen |= at == wanted;
        at += decode(&code[at..])?.0;
    }
    Some(seen && at == code.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ordinary compiler output: push/mov/sub/call/test/jne and so on.
    const PROLOGUE: &[u8] = &[
        0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0x89, 0x7d, 0xfc, 0x8b, 0x45, 0xfc, 0x89, 0xc7, 0xe8, 0x10, 0x00,
        0x00, 0x00, 0x85, 0xc0, 0x75, 0x05, 0xb8, 0xe7, 0x00, 0x00, 0x00, 0x0f, 0x05,
    ];

    fn code(tail: &[u8]) -> Vec<u8> {
        [PROLOGUE, tail].concat()
    }

    #[test]
    fn a_hlt_after_a_system_call_is_recognised() {
        assert!(after_hlt(&code(&[0xf4]), &[0xeb, 0xfd], 0));
    }

    #[test]
    fn the_flags_tell_whether_a_guarded_hlt_was_jumped_over() {
        // musl's a_crash: test %rax, %rax; je +1; hlt
        let guarded = code(&[0x48, 0x85, 0xc0, 0x74, 0x01, 0xf4]);
        assert!(after_hlt(&guarded, &[], 0));
        assert!(!after_hlt(&guarded, &[], ZF));
    }

    #[test]
    fn a_routine_behind_filling_is_an_ordinary_routine() {
        // ret; hlt; hlt; hlt; then: push %rbp; mov %rsp, %rbp
        assert!(!after_hlt(&code(&[0xc3, 0xf4, 0xf4, 0xf4]), &[0x55, 0x48, 0x89, 0xe5], 0));
        // in the middle of the filling there is no doubt
        assert!(after_hlt(&code(&[0xc3, 0xf4, 0xf4]), &[0xf4, 0x55], 0));
    }

    #[test]
    fn another_jump_to_the_same_place_makes_it_unclear() {
        // jne over the hlt, one instruction earlier; and a loop back to RIP
        assert!(!after_hlt(&code(&[0x75, 0x04, 0x48, 0x85, 0xc0, 0xf4]), &[], 0));
        assert!(!after_hlt(&code(&[0xf4]), &[0x48, 0xff, 0xc8, 0x75, 0xfb], 0));
    }

    #[test]
    fn conditions_follow_the_manual() {
        assert!(taken(4, ZF) && !taken(5, ZF));
        assert!(taken(12, SF) && !taken(12, SF | OF) && taken(13, SF | OF));
        assert!(taken(14, ZF) && taken(15, 0) && taken(7, 0));
    }

    #[test]
    fn the_same_byte_inside_an_instruction_is_not() {
        // mov $0xf4000000, %eax
        assert!(!after_hlt(&code(&[0xb8, 0x00, 0x00, 0x00, 0xf4]), &[], 0));
        // mov -0xc(%rbp), %eax
        assert!(!after_hlt(&code(&[0x8b, 0x45, 0xf4]), &[], 0));
        // jmp -12
        assert!(!after_hlt(&code(&[0xeb, 0xf4]), &[], 0));
    }

    #[test]
    fn an_instruction_is_told_from_the_tail_of_one() {
        // mov $39,%eax; syscall
        let call = [0xb8, 39, 0, 0, 0, 0x0f, 0x05];
        let padded = [PROLOGUE, PROLOGUE].concat();
        assert!(is_instruction(&[&padded[..], &call].concat(), 7));
        // movl $39,-0x48(%rsp); syscall
        assert!(!is_instruction(&[&padded[..], &[0xc7, 0x44, 0x24], &call].concat(), 7));
        assert!(!is_instruction(&call, 7));
    }

    #[test]
    fn too_little_context_is_never_a_yes() {
        assert!(!after_hlt(&[0xf4], &[], 0));
        assert!(!after_hlt(&[0x90; 30], &[], 0));
    }

    #[test]
    fn displacements_in_this_test_program_are_never_taken_for_a_hlt() {
        // Every real instruction of this program that ends in F4 and is longer than one byte.
        let text = text_of_this_program();
        let (mut at, mut checked) = (0, 0);
        while at < text.len() {
            let Some((len, opcode)) = decode(&text[at..]) else {
                at += 1;
                continue;
            };
            at += len;
            if len > 1 && text[at - 1] == HLT && at >= WINDOW {
                assert!(!after_hlt(&text[at - WINDOW..at], &[], 0), "offset {at:#x}: {opcode:?}");
                checked += 1;
            }
        }
        assert!(checked > 10, "only {checked} candidates");
    }

    /// The .text section of the running test, by its section headers.
    fn text_of_this_program() -> Vec<u8> {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let u16_at = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap()) as usize;
        let (shoff, shnum) = (u64_at(40), u16_at(60));
        const SHF_EXECINSTR: usize = 4;
        (0..shnum)
            .map(|i| shoff + i * 64)
            .filter(|&s| u64_at(s + 8) & SHF_EXECINSTR != 0)
            .map(|s| file[u64_at(s + 24)..u64_at(s + 24) + u64_at(s + 32)].to_vec())
            .max_by_key(Vec::len)
            .unwrap()
    }
}
