//! The code of stubs, and the jump to one.

use crate::pattern::{Pattern, Site};

/// Bytes of `jmp rel32`.
pub const JUMP: usize = 5;
/// Bytes of a stub.
pub const STUB: usize = 32;
/// Where in a stub the kernel's entry is.
const ENTRY: usize = STUB - 8;
/// The instruction that stops a CPU which comes to a site in the middle of a change.
pub const INT3: u8 = 0xcc;

/// The distance operand of an instruction that ends at `end`.
fn distance(end: u64, to: u64) -> Option<[u8; 4]> {
    let distance = i32::try_from(to.wrapping_sub(end) as i64).ok()?;
    Some(distance.to_le_bytes())
}

/// The jump from `site` to its stub; `None` if that is too far, or would change the instruction behind the one that it replaces.
#[must_use]
pub fn jump(site: &Site, stub: u64) -> Option<[u8; JUMP]> {
    let [a, b, c, d] = distance(site.end(), stub)?;
    let jump = [0xe9, a, b, c, d];
    let kept = site.kept();
    (jump[JUMP - kept..] == site.original()[JUMP - kept..]).then_some(jump)
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
    if matches!(site.pattern, Pattern::Number(_)) {
        out.put(&site.original());
    }
    out.relative(&LEA_RCX, site.return_address())?.relative(&JMP_INDIRECT, entry_at)?;
    out.at = ENTRY;
    out.put(&entry.to_le_bytes());
    Some(out.code)
}
