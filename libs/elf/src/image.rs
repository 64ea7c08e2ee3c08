//! The program headers: segments, interpreter, stack wishes; and the plan of mappings made from them.

use alloc::vec::Vec;
use core::ops::Range;

use addr::{PAGE_SIZE, layout};

use crate::header::{u32_at, u64_at};
use crate::{ElfError, Header, Kind, PHDR_SIZE};

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_TLS: u32 = 7;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const PAGE: u64 = PAGE_SIZE as u64;

/// Access rights of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Protection {
    fn from_flags(flags: u32) -> Self {
        Self { read: flags & PF_R != 0, write: flags & PF_W != 0, execute: flags & PF_X != 0 }
    }
}

/// A PT_LOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// Address without bias.
    pub address: u64,
    /// Bytes from the file.
    pub file_size: u64,
    /// Bytes in memory; the rest is zero.
    pub memory_size: u64,
    /// Access rights.
    pub protection: Protection,
    /// Required alignment, a power of two of at least a page.
    pub align: u64,
}

impl Segment {
    /// Pages the segment covers, without bias.
    #[must_use]
    pub const fn pages(&self) -> Range<u64> {
        page_down(self.address)..page_up(self.address + self.memory_size)
    }
}

/// What the program headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// How addresses are meant.
    pub kind: Kind,
    /// Entry point without bias.
    pub entry: u64,
    /// PT_LOADs in ascending order.
    pub segments: Vec<Segment>,
    /// Address of the program headers in memory without bias: PT_PHDR, or where a segment covers them; 0 if nowhere.
    pub phdr_address: u64,
    /// Number of program headers.
    pub phnum: u16,
    /// Where in the file the interpreter's path is (with its terminating zero).
    pub interpreter: Option<Range<u64>>,
    /// PT_GNU_STACK asks for (or its absence implies) an executable stack.
    pub executable_stack: bool,
    /// Whether there is a PT_TLS.
    pub has_tls: bool,
}

const fn page_down(a: u64) -> u64 {
    a & !(PAGE - 1)
}

const fn page_up(a: u64) -> u64 {
    page_down(a + (PAGE - 1))
}

impl Image {
    /// Reads the program headers `table` of a file of `file_size` bytes.
    ///
    /// # Errors
    /// The first inconsistency.
    pub fn parse(header: &Header, table: &[u8], file_size: u64) -> Result<Self, ElfError> {
        if table.len() < header.phdrs_len() {
            return Err(ElfError::Truncated);
        }
        let mut image = Self {
            kind: header.kind,
            entry: header.entry,
            segments: Vec::new(),
            phdr_address: 0,
            phnum: header.phnum,
            interpreter: None,
            executable_stack: true,
            has_tls: false,
        };
        for entry in table.chunks_exact(PHDR_SIZE).take(usize::from(header.phnum)) {
            image.add(entry, file_size)?;
        }
        if image.segments.is_empty() {
            return Err(ElfError::NothingToLoad);
        }
        if image.phdr_address == 0 {
            image.phdr_address = image.address_of_offset(header.phoff).unwrap_or(0);
        }
        Ok(image)
    }

    fn add(&mut self, entry: &[u8], file_size: u64) -> Result<(), ElfError> {
        let flags = u32_at(entry, 4);
        match u32_at(entry, 0) {
            PT_LOAD => self.add_segment(entry, flags, file_size)?,
            PT_INTERP if self.interpreter.is_none() => self.interpreter = Some(interpreter_range(entry, file_size)?),
            PT_PHDR => self.phdr_address = u64_at(entry, 16),
            PT_GNU_STACK => self.executable_stack = flags & PF_X != 0,
            PT_TLS => self.has_tls = true,
            _ => {}
        }
        Ok(())
    }

    fn add_segment(&mut self, entry: &[u8], flags: u32, file_size: u64) -> Result<(), ElfError> {
        let index = self.segments.len();
        let align = u64_at(entry, 48);
        let segment = Segment {
            offset: u64_at(entry, 8),
            address: u64_at(entry, 16),
            file_size: u64_at(entry, 32),
            memory_size: u64_at(entry, 40),
            protection: Protection::from_flags(flags),
            align: if align.is_power_of_two() { align.max(PAGE) } else { PAGE },
        };
        if segment.memory_size == 0 {
            return Ok(());
        }
        check_segment(&segment, index, file_size)?;
        if self.segments.last().is_some_and(|last| page_up(last.address + last.memory_size) > page_down(segment.address)) {
            self.check_shared_page(&segment, index)?;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Segments may share a page (old linkers), but not overlap.
    fn check_shared_page(&self, segment: &Segment, index: usize) -> Result<(), ElfError> {
        match self.segments.last() {
            Some(last) if last.address + last.memory_size > segment.address => Err(ElfError::UnorderedSegments(index)),
            _ => Ok(()),
        }
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| offset >= s.offset && offset - s.offset < s.file_size)?;
        Some(segment.address + (offset - segment.offset))
    }

    /// Pages from the first to the last segment, without bias.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        match (self.segments.first(), self.segments.last()) {
            (Some(first), Some(last)) => first.pages().start..last.pages().end,
            _ => 0..0,
        }
    }

    /// The largest alignment any segment wants.
    #[must_use]
    pub fn align(&self) -> u64 {
        self.segments.iter().map(|s| s.align).max().unwrap_or(PAGE)
    }

    /// The steps that load the image with every address moved up by `bias` (0 for [`Kind::Fixed`]).
    #[must_use]
    pub fn plan(&self, bias: u64) -> Plan {
        let mut steps = Vec::with_capacity(self.segments.len() * 2);
        for segment in &self.segments {
            segment_steps(segment, bias, &mut steps);
        }
        Plan {
            steps,
            entry: self.entry.wrapping_add(bias),
            phdr: if self.phdr_address == 0 { 0 } else { self.phdr_address.wrapping_add(bias) },
            end: self.span().end + bias,
        }
    }
}

fn check_segment(s: &Segment, index: usize, file_size: u64) -> Result<(), ElfError> {
    if s.file_size > s.memory_size || s.address % PAGE != s.offset % PAGE {
        return Err(ElfError::BadSegment(index));
    }
    match s.address.checked_add(s.memory_size) {
        Some(end) if end <= layout::USER_MAX => {}
        _ => return Err(ElfError::AddressOutOfRange(s.address)),
    }
    match s.offset.checked_add(s.file_size) {
        Some(end) if end <= file_size || s.file_size == 0 => Ok(()),
        Some(_) => Err(ElfError::SegmentBeyondFile(index)),
        None => Err(ElfError::BadSegment(index)),
    }
}

fn interpreter_range(entry: &[u8], file_size: u64) -> Result<Range<u64>, ElfError> {
    let (offset, size) = (u64_at(entry, 8), u64_at(entry, 32));
    let end = offset.checked_add(size).ok_or(ElfError::BadInterpreter)?;
    if !(2..=linux_abi::fs::PATH_MAX as u64).contains(&size) || end > file_size {
        return Err(ElfError::BadInterpreter);
    }
    Ok(offset..end)
}

/// One step of loading, at final addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanStep {
    /// Map pages of the file privately.
    MapFile {
        /// Page-aligned.
        address: u64,
        /// Whole pages.
        len: u64,
        /// Page-aligned offset in the file.
        offset: u64,
        /// Access rights.
        protection: Protection,
    },
    /// Zero the rest of a file page: the start of .bss.
    Zero {
        /// First byte.
        address: u64,
        /// Bytes, less than a page.
        len: u64,
    },
    /// Map zero pages.
    MapZero {
        /// Page-aligned.
        address: u64,
        /// Whole pages.
        len: u64,
        /// Access rights.
        protection: Protection,
    },
}

/// How to load an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<PlanStep>,
    /// Entry point.
    pub entry: u64,
    /// Where the program headers will be, 0 if they are not loaded.
    pub phdr: u64,
    /// End of the last segment's pages: where brk starts.
    pub end: u64,
}

fn segment_steps(s: &Segment, bias: u64, steps: &mut Vec<PlanStep>) {
    let start = page_down(s.address) + bias;
    let file_end = s.address + bias + s.file_size;
    let memory_end = page_up(s.address + bias + s.memory_size);
    let mapped_end = if s.file_size == 0 { start } else { page_up(file_end) };
    if mapped_end > start {
        let offset = page_down(s.offset);
        steps.push(PlanStep::MapFile { address: start, len: mapped_end - start, offset, protection: s.protection });
    }
    if s.memory_size > s.file_size && mapped_end > file_end && s.protection.write {
        steps.push(PlanStep::Zero { address: file_end, len: mapped_end - file_end });
    }
    if memory_end > mapped_end {
        steps.push(PlanStep::MapZero { address: mapped_end, len: memory_end - mapped_end, protection: s.protection });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HEADER_SIZE;

    fn phdr(kind: u32, flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Vec<u8> {
        let mut e = Vec::new();
        e.extend(kind.to_le_bytes());
        e.extend(flags.to_le_bytes());
        for v in [offset, vaddr, vaddr, filesz, memsz, 0x1000] {
            e.extend(v.to_le_bytes());
        }
        e
    }

    fn header(phnum: usize) -> Header {
        Header { kind: Kind::Relocatable, entry: 0x1040, phoff: 64, phnum: phnum as u16 }
    }

    fn parse(entries: &[Vec<u8>], size: u64) -> Result<Image, ElfError> {
        Image::parse(&header(entries.len()), &entries.concat(), size)
    }

    #[test]
    fn bss_is_zeroed_to_the_page_end_and_then_mapped() {
        let image = parse(&[phdr(PT_LOAD, PF_R | PF_W, 0x2e10, 0x3e10, 0x230, 0x3000)], 0x4000).unwrap();
        let rw = Protection { read: true, write: true, execute: false };
        assert_eq!(
            image.plan(0x10_0000).steps,
            [
                PlanStep::MapFile { address: 0x10_3000, len: 0x2000, offset: 0x2000, protection: rw },
                PlanStep::Zero { address: 0x10_4040, len: 0xfc0 },
                PlanStep::MapZero { address: 0x10_5000, len: 0x2000, protection: rw },
            ]
        );
        assert_eq!(image.plan(0x10_0000).end, 0x10_7000);
    }

    #[test]
    fn pure_bss_maps_no_file_pages() {
        let image = parse(&[phdr(PT_LOAD, PF_R | PF_W, 0x1000, 0x5000, 0, 0x10)], 0x1000).unwrap();
        assert!(matches!(image.plan(0).steps[..], [PlanStep::MapZero { address: 0x5000, len: 0x1000, .. }]));
    }

    #[test]
    fn damaged_segments_are_named() {
        let big_file = phdr(PT_LOAD, PF_R, 0, 0, 0x20, 0x10);
        assert_eq!(parse(&[big_file], 0x1000), Err(ElfError::BadSegment(0)));
        let misaligned = phdr(PT_LOAD, PF_R, 0x10, 0x20, 0x10, 0x10);
        assert_eq!(parse(&[misaligned], 0x1000), Err(ElfError::BadSegment(0)));
        let kernel = phdr(PT_LOAD, PF_R, 0, 0xffff_8000_0000_0000, 0x10, 0x10);
        assert!(matches!(parse(&[kernel], 0x1000), Err(ElfError::AddressOutOfRange(_))));
        let long = phdr(PT_LOAD, PF_R, 0, 0, 0x2000, 0x2000);
        assert_eq!(parse(core::slice::from_ref(&long), 0x1000), Err(ElfError::SegmentBeyondFile(0)));
        let overlapping = phdr(PT_LOAD, PF_R, 0x1000, 0x1000, 0x10, 0x10);
        assert_eq!(parse(&[long, overlapping], 0x8000), Err(ElfError::UnorderedSegments(1)));
        assert_eq!(parse(&[phdr(PT_TLS, PF_R, 0, 0, 0, 0)], 0x1000), Err(ElfError::NothingToLoad));
    }

    #[test]
    fn phdr_address_is_found_through_a_segment() {
        let image = parse(&[phdr(PT_LOAD, PF_R, 0, 0x40_0000, 0x800, 0x800)], 0x1000).unwrap();
        assert_eq!(image.phdr_address, 0x40_0040);
    }

    #[test]
    fn without_gnu_stack_the_stack_is_executable() {
        let load = phdr(PT_LOAD, PF_R, 0, 0, 0x800, 0x800);
        assert!(parse(core::slice::from_ref(&load), 0x1000).unwrap().executable_stack);
        assert!(!parse(&[load, phdr(PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0)], 0x1000).unwrap().executable_stack);
    }

    #[test]
    fn this_very_test_program_parses() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let header = Header::parse(&bytes[..HEADER_SIZE]).unwrap();
        let table = &bytes[header.phoff as usize..][..header.phdrs_len()];
        let image = Image::parse(&header, table, bytes.len() as u64).unwrap();
        assert_eq!(image.kind, Kind::Relocatable);
        assert!(image.has_tls && !image.executable_stack);
        let interpreter = image.interpreter.clone().unwrap();
        assert!(bytes[interpreter.start as usize..interpreter.end as usize].starts_with(b"/lib64/ld-linux"));
    }

    proptest::proptest! {
        #[test]
        fn hostile_tables_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 56..560), size: u64) {
            let header = header(bytes.len() / PHDR_SIZE);
            if let Ok(image) = Image::parse(&header, &bytes, size) {
                let _plan = image.plan(0);
            }
        }

        #[test]
        fn hostile_segments_never_panic(offset: u64, vaddr: u64, filesz: u64, memsz: u64, size: u64) {
            if let Ok(image) = parse(&[phdr(PT_LOAD, PF_R | PF_W, offset, vaddr, filesz, memsz)], size) {
                let _plan = image.plan(0);
            }
        }

        #[test]
        fn hostile_headers_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let mut with_magic = b"\x7fELF".to_vec();
            with_magic.extend(&bytes);
            let _ = Header::parse(&bytes);
            let _ = Header::parse(&with_magic);
        }
    }
}
