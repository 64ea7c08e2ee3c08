//! What may be rewritten: the two patterns, and doubts.
//!
//! That a `syscall` was executed proves that it is an instruction. What is around it must be inferred from the bytes, and they are the program's:
//! anything may stand there. When in doubt a site is left alone, which costs nothing but time.

/// Bytes of `mov $imm32,%eax`.
const MOV: usize = 5;
/// Bytes of `syscall`.
const SYSCALL: usize = 2;
/// Bytes of `cmp $imm32,%rax`.
const COMPARE: usize = 6;
/// How many bytes before the return address [`Site::recognise`] likes to see.
pub const BEFORE: usize = 160;
/// How many bytes from the return address on.
pub const AFTER: usize = COMPARE;

/// What stands at a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// `mov $nr,%eax; syscall` (`b8 imm32 0f 05`), with this number.
    Number(u32),
    /// `syscall; cmp $imm,%rax` (`0f 05 48 3d imm32`), with −4095 or −4096 as the immediate operand.
    Compare(i32),
}

/// A place in the program that may be rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Address of the first byte that changes.
    pub at: u64,
    /// What stands there.
    pub pattern: Pattern,
}

/// Why a `syscall` is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// Other instructions are around it.
    OtherCode,
    /// The bytes before it may belong to another instruction than they seem to.
    Unclear,
    /// The jump would lie on two pages.
    CrossesPage,
}

/// Bytes that change the meaning of `b8`, or end another instruction.
const fn may_be_prefix(byte: u8) -> bool {
    matches!(byte, 0x40..=0x4f | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

impl Site {
    /// The site whose `syscall` returns to `return_address`, having been executed with `number` in RAX. `before` are the bytes that end at
    /// that address, `after` those that start there: up to [`BEFORE`] and [`AFTER`], fewer where the mapping ends.
    ///
    /// # Errors
    /// [`Rejection`]. Bytes that make no sense are never a site.
    pub fn recognise(before: &[u8], after: &[u8], return_address: u64, number: u64) -> Result<Self, Rejection> {
        let compared = match compare_after(before, after) {
            Some(immediate) => Self { at: return_address.wrapping_sub(SYSCALL as u64), pattern: Pattern::Compare(immediate) }.on_one_page(),
            None => Err(Rejection::OtherCode),
        };
        let Some(found) = number_before(before).filter(|&found| u64::from(found) == number) else { return compared };
        if !is_clear(before) {
            return compared.map_err(|_| Rejection::Unclear);
        }
        let numbered = Self { at: return_address.wrapping_sub((MOV + SYSCALL) as u64), pattern: Pattern::Number(found) }.on_one_page();
        numbered.or(compared).map_err(|_| Rejection::CrossesPage)
    }

    fn on_one_page(self) -> Result<Self, Rejection> {
        if self.at % PAGE > PAGE - crate::JUMP as u64 { Err(Rejection::CrossesPage) } else { Ok(self) }
    }

    /// One past the last byte of the jump: with [`Pattern::Compare`] it ends inside the comparison, whose bytes stay.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.at + crate::JUMP as u64
    }

    /// The lowest address of a stub that the jump may lead to, and how many addresses from there on: with [`Pattern::Compare`] all bytes of
    /// the distance but the lowest are the comparison's. `None`: any that is in reach.
    #[must_use]
    pub const fn stub_window(&self) -> Option<(u64, u64)> {
        match self.pattern {
            Pattern::Number(_) => None,
            Pattern::Compare(_) => {
                let [.., a, b, c] = self.original();
                Some((self.end().wrapping_add(u32::from_le_bytes([0, a, b, c]) as u64), 1 << u8::BITS))
            }
        }
    }

    /// How many bytes at the end of the jump are as before: what they belong to is executed after the call.
    pub(crate) const fn kept(&self) -> usize {
        match self.pattern {
            Pattern::Number(_) => 0,
            Pattern::Compare(_) => crate::JUMP - SYSCALL,
        }
    }

    /// Where the system call returns to.
    #[must_use]
    pub const fn return_address(&self) -> u64 {
        match self.pattern {
            Pattern::Number(_) => self.at + (MOV + SYSCALL) as u64,
            Pattern::Compare(_) => self.at + SYSCALL as u64,
        }
    }

    /// The bytes that [`crate::stub::jump_to`] replaces.
    #[must_use]
    pub const fn original(&self) -> [u8; crate::JUMP] {
        match self.pattern {
            Pattern::Number(number) => {
                let [a, b, c, d] = number.to_le_bytes();
                [0xb8, a, b, c, d]
            }
            Pattern::Compare(immediate) => [0x0f, 0x05, 0x48, 0x3d, immediate.to_le_bytes()[0]],
        }
    }
}

const PAGE: u64 = 4096;

/// The number that `mov $nr,%eax; syscall` at the end of `before` loads, if it is that.
fn number_before(before: &[u8]) -> Option<u32> {
    let [.., prefix, 0xb8, a, b, c, d, 0x0f, 0x05] = *before else { return None };
    (!may_be_prefix(prefix)).then(|| u32::from_le_bytes([a, b, c, d]))
}

/// The operand of the comparison after a `syscall`, if it is that.
fn compare_after(before: &[u8], after: &[u8]) -> Option<i32> {
    match (before, after) {
        ([.., 0x0f, 0x05], [0x48, 0x3d, low @ (0x00 | 0x01), 0xf0, 0xff, 0xff, ..]) => Some(i32::from_le_bytes([*low, 0xf0, 0xff, 0xff])),
        _ => None,
    }
}

/// Whether the `mov` before the `syscall` is an instruction however one reads the code before it.
fn is_clear(before: &[u8]) -> bool {
    insn::is_instruction(before, MOV + SYSCALL)
}
