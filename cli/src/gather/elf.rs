//! What the gatherer needs to know of an ELF file: machine, interpreter, and the dynamic section's library names.
//!
//! Used by `ldso.rs` for the library closure and by `mod.rs` to refuse what cannot run here.

use std::fs::File;
use std::io;

use object::elf::{self, DynamicTag, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

/// The dynamic-linking facts of one x86-64 ELF file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) interpreter: Option<String>,
    pub(crate) needed: Vec<String>,
    pub(crate) rpath: Option<String>,
    pub(crate) runpath: Option<String>,
    /// True for `ET_EXEC` and `ET_DYN`.
    pub(crate) loadable: bool,
    /// The lowest page the file is linked at: 0 for position-independent ones.
    pub(crate) base: u64,
    /// Bytes of memory its segments take.
    pub(crate) memory: u64,
}

/// Why a file is not an x86-64 ELF file.
#[derive(Debug)]
pub(crate) enum ElfError {
    NotElf,
    /// Another architecture, by its usual name.
    Machine(String),
    Broken(String),
    Io(io::Error),
}

/// Reads the headers and the dynamic section of `file`.
///
/// # Errors
/// `NotElf` without the magic number, `Machine` for other architectures, `Broken` for headers that contradict
/// themselves, `Io` when reading fails.
pub(crate) fn parse(file: File) -> Result<Elf, ElfError> {
    let length = file.metadata().map_err(ElfError::Io)?.len();
    let cache = ReadCache::new(file);
    parse_data(&cache, length)
}

fn parse_data<'data, R: ReadRef<'data>>(data: R, length: u64) -> Result<Elf, ElfError> {
    let ident = data.read_bytes_at(0, length.min(20)).map_err(|()| broken("the file cannot be read"))?;
    check_ident(ident)?;
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(broken)?;
    let segments = header.program_headers(LittleEndian, data).map_err(broken)?;
    let mut result = Elf { loadable: matches!(header.e_type.get(LittleEndian), elf::ET_EXEC | elf::ET_DYN), ..Elf::default() };
    let loads = || segments.iter().filter(|s| s.p_type.get(LittleEndian) == elf::PT_LOAD);
    result.base = loads().map(|s| s.p_vaddr.get(LittleEndian) & !0xfff).min().unwrap_or(0);
    result.memory = loads().map(|s| s.p_memsz.get(LittleEndian)).sum();
    for segment in segments {
        if let Some(name) = segment.interpreter(LittleEndian, data).map_err(broken)? {
            result.interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
        if let Some(entries) = segment.dynamic(LittleEndian, data).map_err(broken)? {
            let entries: Vec<_> = entries.iter().map(|d| (d.d_tag.get(LittleEndian), d.d_val.get(LittleEndian))).collect();
            read_dynamic(&mut result, data, segments, &entries)?;
        }
    }
    Ok(result)
}

fn read_dynamic<'data, R: ReadRef<'data>>(
    result: &mut Elf,
    data: R,
    segments: &[elf::ProgramHeader64<LittleEndian>],
    entries: &[(DynamicTag, u64)],
) -> Result<(), ElfError> {
    let value = |tag: DynamicTag| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
    let Some(strings) = value(elf::DT_STRTAB) else { return Ok(()) };
    let size = value(elf::DT_STRSZ).unwrap_or(0);
    let offset = file_offset(segments, strings).ok_or_else(|| broken("the string table is outside the file"))?;
    let table = data.read_bytes_at(offset, size).map_err(|()| broken("the string table is outside the file"))?;
    let text = |at: u64| {
        let tail = table.get(at as usize..).unwrap_or_default();
        String::from_utf8_lossy(tail.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
    };
    for &(tag, value) in entries.iter().take_while(|(tag, _)| *tag != elf::DT_NULL) {
        match tag {
            elf::DT_NEEDED => result.needed.push(text(value)),
            elf::DT_RPATH => result.rpath = Some(text(value)),
            elf::DT_RUNPATH => result.runpath = Some(text(value)),
            _ => {}
        }
    }
    Ok(())
}

fn file_offset(segments: &[elf::ProgramHeader64<LittleEndian>], address: u64) -> Option<u64> {
    let loads = segments.iter().filter(|s| s.p_type.get(LittleEndian) == elf::PT_LOAD);
    let mut offsets = loads.filter_map(|s| {
        let into = address.checked_sub(s.p_vaddr.get(LittleEndian))?;
        (into < s.p_filesz.get(LittleEndian)).then(|| s.p_offset.get(LittleEndian) + into)
    });
    offsets.next()
}

fn check_ident(ident: &[u8]) -> Result<(), ElfError> {
    if !ident.starts_with(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let [.., low, high] = ident else { return Err(broken("the file header is cut off")) };
    if ident.len() < 20 {
        return Err(broken("the file header is cut off"));
    }
    let big_endian = ident[5] == 2;
    let machine = if big_endian { u16::from_be_bytes([*low, *high]) } else { u16::from_le_bytes([*low, *high]) };
    match (machine, ident[4]) {
        (62, 2) => Ok(()),
        (62, _) => Err(ElfError::Machine("x86-64 with 32-bit pointers (x32)".into())),
        (number, class) => Err(ElfError::Machine(machine_name(number, class, big_endian))),
    }
}

fn machine_name(number: u16, class: u8, big_endian: bool) -> String {
    let name = match (number, class) {
        (3 | 6, _) => "32-bit x86 (i386)",
        (40, _) => "32-bit ARM (arm)",
        (183, _) => "64-bit ARM (aarch64)",
        (243, 1) => "32-bit RISC-V",
        (243, _) => "64-bit RISC-V (riscv64)",
        (8, _) => "MIPS",
        (20, _) => "32-bit PowerPC",
        (21, _) if big_endian => "64-bit PowerPC (ppc64)",
        (21, _) => "64-bit PowerPC (ppc64le)",
        (22, _) => "IBM Z (s390x)",
        (258, _) => "LoongArch",
        _ => return format!("another machine (ELF machine number {number})"),
    };
    name.into()
}

fn broken(cause: impl ToString) -> ElfError {
    ElfError::Broken(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ident(class: u8, machine: u16) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        bytes.extend(machine.to_le_bytes());
        bytes
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Elf, ElfError> {
        parse_data(bytes, bytes.len() as u64)
    }

    #[test]
    fn other_machines_are_named() {
        for (class, machine, name) in [(2, 183, "aarch64"), (1, 3, "i386"), (1, 62, "x32"), (2, 999, "999")] {
            let error = parse_bytes(&ident(class, machine)).expect_err("wrong machine");
            assert!(matches!(&error, ElfError::Machine(m) if m.contains(name)), "{error:?}");
        }
    }

    #[test]
    fn cut_off_and_foreign_files_are_told_apart() {
        assert!(matches!(parse_bytes(b""), Err(ElfError::NotElf)));
        assert!(matches!(parse_bytes(b"hello, world, this is text"), Err(ElfError::NotElf)));
        assert!(matches!(parse_bytes(b"\x7fELF"), Err(ElfError::Broken(_))));
        assert!(matches!(parse_bytes(&ident(2, 62)), Err(ElfError::Broken(_))));
    }

    #[test]
    fn the_test_program_itself_has_an_interpreter_and_libc() {
        let elf = parse(File::open("/proc/self/exe").expect("open")).expect("parse");
        assert!(elf.loadable);
        assert!(elf.interpreter.is_some_and(|i| i.contains("ld-linux")));
        assert!(elf.needed.iter().any(|n| n.starts_with("libc.so")));
    }
}
