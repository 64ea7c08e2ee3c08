//! The code of stubs, and the jump to one.

use crate::pattern::{Pattern, Site};

/// Bytes of `jmp rel32`.
pub const JUMP: usize = 5;
/// Bytes of a stub.
pub const STUB: usize = 32;
/// Where in a stub the kernel's entry is.
const ENTRY: usize = STUB - 8;
/// Where the stub of a [`Pattern::Compare`] goes on behind the call.
pub(crate) const BEHIND: u64 = 13;
/// Where it stands once the comparison is done.
pub(crate) const COMPARED: u64 = BEHIND + 6;
/// The instruction that stops a CPU which comes to a site in the middle of a change.
pub const INT3: u8 = 0xcc;

/// The distance operand of an instruction that ends at `end`.
fn distance(end: u64, to: u64) -> Option<[u8; 4]> {
    let distance = i32::try_from(to.wrapping_sub(end) as i64).ok()?;
    Some(distance.to_le_bytes())
}

/// `jmp to`, to be put at `from`; `None` if that is too far.
#[must_use]
pub fn jump_to(from: u64, to: u64) -> Option<[u8; JUMP]> {
    let [a, b, c, d] = distance(from + JUMP as u64, to)?;
    Some([0xe9, a, b, c, d])
}

/// Whether a site can reach all of a page of stubs at `page`, and the stubs there the site.
#[must_use]
pub fn reaches(site: u64, page: u64) -> bool {
    const FAR: u64 = 0x7fff_0000;
    site.abs_diff(page) < FAR
}

struct Writer {
    code: [u8; STUB],
    at: usize,
    address: u64,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.code[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    /// An instruction whose last operand is the distance to `to`.
    fn relative(&mut self, opcode: &[u8], to: u64) -> Option<&mut Self> {
        self.put(opcode);
        let operand = distance(self.address + self.at as u64 + 4, to)?;
        Some(self.put(&operand))
    }
}

/// The stub of `site` at `address`, which goes to the kernel at `entry`; `None` if it is too far away.
#[must_use]
pub fn code(site: &Site, address: u64, entry: u64) -> Option<[u8; STUB]> {
    const LEA_RCX: [u8; 3] = [0x48, 0x8d, 0x0d];
    const JMP_INDIRECT: [u8; 2] = [0xff, 0x25];
    let mut out = Writer { code: [INT3; STUB], at: 0, address };
    let entry_at = address + ENTRY as u64;
    match site.pattern {
        Pattern::Number(_) => {
            out.put(&site.original()).relative(&LEA_RCX, site.return_address())?.relative(&JMP_INDIRECT, entry_at)?;
        }
        Pattern::Compare(immediate) => {
            out.relative(&LEA_RCX, address + BEHIND)?.relative(&JMP_INDIRECT, entry_at)?;
            out.put(&[0x48, 0x3d]).put(&immediate.to_le_bytes()).relative(&[0xe9], site.end())?;
        }
    }
    out.at = ENTRY;
    out.put(&entry.to_le_bytes());
    Some(out.code)
}

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// `rflags` after `cmp $immediate,%rax` (SDM vol. 2, CMP).
#[must_use]
pub fn flags_after_compare(rax: u64, immediate: i32, rflags: u64) -> u64 {
    let other = i64::from(immediate) as u64;
    let result = rax.wrapping_sub(other);
    let flag = |bit, set| if set { bit } else { 0 };
    rflags & !(CF | PF | AF | ZF | SF | OF)
        | flag(CF, rax < other)
        | flag(PF, (result as u8).count_ones().is_multiple_of(2))
        | flag(AF, rax & 15 < other & 15)
        | flag(ZF, result == 0)
        | flag(SF, (result as i64) < 0)
        | flag(OF, (rax as i64).overflowing_sub(other as i64).1)
}
