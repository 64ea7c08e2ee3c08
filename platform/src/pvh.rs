//! PVH start info: what the hypervisor passes in `ebx` at entry (Xen's public `arch-x86/hvm/start_info.h`, version 1).
//!
//! QEMU (`-kernel`), Firecracker, Cloud Hypervisor and Xen fill it. [`StartInfo::parse`] trusts none of it.

use crate::bytes::{u32_at, u64_at};
use crate::memory_map::{MemoryKind, MemoryMap, MemoryRegion};
use crate::PhysMemory;
use addr::PhysAddr;
use core::ops::Range;

const MAGIC: u32 = 0x336e_c578;
const HEADER_LEN: usize = 56;
const MODULE_LEN: usize = 32;
const REGION_LEN: usize = 24;
/// More entries than any real map has: the count is garbage.
const MAX_ENTRIES: u32 = 4096;
/// Longest command line accepted, in bytes.
pub const MAX_COMMAND_LINE: usize = 4096;

/// Why the start info could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The structure or something it points to lies outside readable memory.
    OutOfRange,
    /// The magic number is not PVH's.
    BadMagic,
    /// Version 0 has no memory map.
    NoMemoryMap,
    /// A region or module ends beyond the address space, or there are too many regions.
    BadMemoryMap,
    /// The command line is not UTF-8, or has no end.
    BadCommandLine,
    /// The first module's addresses wrap around.
    BadModule,
}

/// The start info, decoded.
#[derive(Clone, Debug)]
pub struct StartInfo<'m> {
    /// The command line; empty when none was given.
    pub command_line: &'m str,
    /// Physical address of ACPI's root pointer, unless the hypervisor gave none.
    pub rsdp: Option<PhysAddr>,
    /// The cleaned memory map. Modules and the kernel itself lie inside its usable regions.
    pub memory: MemoryMap,
    /// The first module (QEMU's `-initrd`).
    pub initrd: Option<Range<PhysAddr>>,
}

impl<'m> StartInfo<'m> {
    /// Decodes the start info at `address`.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub fn parse(memory: &impl PhysMemory<'m>, address: PhysAddr) -> Result<Self, Error> {
        let header = memory.bytes(address, HEADER_LEN).ok_or(Error::OutOfRange)?;
        let field32 = |offset| u32_at(header, offset).ok_or(Error::OutOfRange);
        let field64 = |offset| u64_at(header, offset).ok_or(Error::OutOfRange);
        if field32(0)? != MAGIC {
            return Err(Error::BadMagic);
        }
        if field32(4)? == 0 {
            return Err(Error::NoMemoryMap);
        }
        Ok(Self {
            initrd: first_module(memory, field32(12)?, PhysAddr(field64(16)?))?,
            command_line: command_line(memory, PhysAddr(field64(24)?))?,
            rsdp: Some(PhysAddr(field64(32)?)).filter(|p| p.0 != 0),
            memory: memory_map(memory, PhysAddr(field64(40)?), field32(48)?)?,
        })
    }
}

fn first_module<'m>(
    memory: &impl PhysMemory<'m>,
    count: u32,
    list: PhysAddr,
) -> Result<Option<Range<PhysAddr>>, Error> {
    if count == 0 {
        return Ok(None);
    }
    let module = memory.bytes(list, MODULE_LEN).ok_or(Error::OutOfRange)?;
    let start = u64_at(module, 0).ok_or(Error::OutOfRange)?;
    let len = u64_at(module, 8).ok_or(Error::OutOfRange)?;
    let end = start.checked_add(len).ok_or(Error::BadModule)?;
    Ok((len != 0).then_some(PhysAddr(start)..PhysAddr(end)))
}

fn command_line<'m>(memory: &impl PhysMemory<'m>, start: PhysAddr) -> Result<&'m str, Error> {
    if start.0 == 0 {
        return Ok("");
    }
    // The length is unknown and the view may end soon after the text, so look for the end in small steps.
    let mut len = 0;
    loop {
        let byte = memory.bytes(start, len + 1).ok_or(Error::OutOfRange)?[len];
        if byte == 0 {
            break;
        }
        len += 1;
        if len > MAX_COMMAND_LINE {
            return Err(Error::BadCommandLine);
        }
    }
    let text = memory.bytes(start, len).ok_or(Error::OutOfRange)?;
    core::str::from_utf8(text).map_err(|_| Error::BadCommandLine)
}

fn memory_map<'m>(memory: &impl PhysMemory<'m>, start: PhysAddr, count: u32) -> Result<MemoryMap, Error> {
    if count == 0 || count > MAX_ENTRIES {
        return Err(Error::BadMemoryMap);
    }
    let table = memory.bytes(start, count as usize * REGION_LEN).ok_or(Error::OutOfRange)?;
    if table.chunks_exact(REGION_LEN).filter_map(raw_region).any(|(start, len, _)| start.checked_add(len).is_none()) {
        return Err(Error::BadMemoryMap);
    }
    let regions = table.chunks_exact(REGION_LEN).filter_map(raw_region).map(|(start, len, kind)| MemoryRegion {
        start: PhysAddr(start),
        end: PhysAddr(start + len),
        kind: MemoryKind::from_e820(kind),
    });
    MemoryMap::new(regions).map_err(|_| Error::BadMemoryMap)
}

/// `(start, len, type)` of a table entry; `None` for the empty or type-0 entries some firmware (qboot) leaves behind.
fn raw_region(entry: &[u8]) -> Option<(u64, u64, u32)> {
    let (start, len, kind) = (u64_at(entry, 0)?, u64_at(entry, 8)?, u32_at(entry, 16)?);
    (len != 0 && kind != 0).then_some((start, len, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::fake::FakeMemory;

    fn words(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn header(modules: u32, entries: u32) -> Vec<u8> {
        let mut h = Vec::new();
        for v in [MAGIC, 1, 0, modules] {
            h.extend(v.to_le_bytes());
        }
        h.extend(words(&[0x2000, 0x3000, 0xf34d0, 0x4000]));
        h.extend(entries.to_le_bytes());
        h.extend([0; 4]);
        h
    }

    /// What QEMU 7.2's microvm passes with `-m 64 -initrd`.
    fn microvm() -> FakeMemory {
        let mut m = FakeMemory::default();
        m.put(0x1000, header(1, 6));
        m.put(0x2000, words(&[67_104_768, 20, 0, 40_349_204_480]));
        m.put(0x3000, *b"log=debug stdio=ttt name=\"a b\"\0");
        m.put(
            0x4000,
            words(&[
                0, 654_336, 1, 654_336, 1024, 2, 851_968, 131_072, 4, 983_040, 65_536, 2, 1_048_576, 66_060_288, 1, 0,
                0, 0,
            ]),
        );
        m
    }

    #[test]
    fn microvm_start_info_is_decoded() {
        let info = StartInfo::parse(&microvm(), PhysAddr(0x1000)).expect("valid");
        assert_eq!(info.command_line, "log=debug stdio=ttt name=\"a b\"");
        assert_eq!(info.rsdp, Some(PhysAddr(0xf34d0)));
        assert_eq!(info.initrd, Some(PhysAddr(67_104_768)..PhysAddr(67_104_788)));
        assert_eq!(info.memory.regions().len(), 5);
        assert_eq!(info.memory.usable_bytes(), 0x9f000 + 66_060_288);
        assert_eq!(info.memory.regions()[2].kind, MemoryKind::AcpiNvs);
    }

    #[test]
    fn a_missing_start_info_is_out_of_range() {
        assert_eq!(StartInfo::parse(&FakeMemory::default(), PhysAddr(0)).err(), Some(Error::OutOfRange));
    }

    fn rejected(change: impl FnOnce(&mut Vec<u8>)) -> Option<Error> {
        let mut h = header(1, 6);
        change(&mut h);
        let mut m = microvm();
        m.pieces.remove(0);
        m.put(0x1000, h);
        StartInfo::parse(&m, PhysAddr(0x1000)).err()
    }

    #[test]
    fn hostile_headers_are_errors() {
        assert_eq!(rejected(|h| h[0] ^= 1), Some(Error::BadMagic));
        assert_eq!(rejected(|h| h[4] = 0), Some(Error::NoMemoryMap));
        assert_eq!(rejected(|h| h.truncate(55)), Some(Error::OutOfRange));
        assert_eq!(rejected(|h| h[16] = 1), Some(Error::OutOfRange), "module list elsewhere");
        assert_eq!(rejected(|h| h[24..32].fill(0xff)), Some(Error::OutOfRange), "command line at the end of space");
        assert_eq!(rejected(|h| h[48..52].fill(0xff)), Some(Error::BadMemoryMap), "four billion regions");
        assert_eq!(rejected(|h| h[48] = 0), Some(Error::BadMemoryMap));
        assert_eq!(rejected(|h| h[48] = 7), Some(Error::OutOfRange), "map longer than memory");
    }

    fn with_piece(index: usize, at: u64, bytes: Vec<u8>) -> Option<Error> {
        let mut m = microvm();
        m.pieces.remove(index);
        m.put(at, bytes);
        StartInfo::parse(&m, PhysAddr(0x1000)).err()
    }

    #[test]
    fn hostile_contents_are_errors() {
        assert_eq!(with_piece(1, 0x2000, words(&[u64::MAX, 2, 0, 0])), Some(Error::BadModule));
        assert_eq!(with_piece(2, 0x3000, vec![b'a'; 5000]), Some(Error::BadCommandLine));
        assert_eq!(with_piece(2, 0x3000, vec![0xff, 0]), Some(Error::BadCommandLine));
        assert_eq!(with_piece(2, 0x3000, vec![b'a'; 50]), Some(Error::OutOfRange), "no terminator");
        assert_eq!(with_piece(3, 0x4000, words(&[u64::MAX, 2, 1].repeat(6))), Some(Error::BadMemoryMap));
    }

    #[test]
    fn no_command_line_is_an_empty_one() {
        assert_eq!(rejected(|h| h[24..32].fill(0)), None);
    }
}
