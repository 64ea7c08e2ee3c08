//! Why a file cannot be loaded.

use core::fmt;

/// What is wrong with an ELF file. `Display` completes the sentence "cannot start X: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Shorter than an ELF header.
    Truncated,
    /// No ELF magic.
    NotElf,
    /// 32-bit.
    Not64Bit,
    /// Big-endian.
    NotLittleEndian,
    /// Unknown `e_version`.
    BadVersion(u32),
    /// For another processor (`e_machine`).
    WrongMachine(u16),
    /// An object or core file (`e_type`).
    NotExecutable(u16),
    /// `e_phentsize` is not 56.
    BadProgramHeaderSize(u16),
    /// No or too many program headers.
    BadProgramHeaderCount(u16),
    /// No PT_LOAD.
    NothingToLoad,
    /// A PT_LOAD whose file size exceeds its memory size, wraps, or whose offset and address differ modulo the page size.
    BadSegment(usize),
    /// A PT_LOAD that reaches outside the program's half.
    AddressOutOfRange(u64),
    /// A PT_LOAD starts before the end of the one before.
    UnorderedSegments(usize),
    /// A PT_LOAD needs bytes beyond the end of the file.
    SegmentBeyondFile(usize),
    /// A PT_INTERP that is empty, too long or not zero-terminated.
    BadInterpreter,
}

/// Names of `e_machine` values that people try.
fn machine_name(machine: u16) -> &'static str {
    match machine {
        3 => "32-bit x86",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "S/390",
        40 => "32-bit ARM",
        183 => "64-bit ARM (aarch64)",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another processor",
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated => f.write_str("the file is too short to be a program"),
            Self::NotElf => f.write_str("it is neither an ELF program nor a script starting with #!"),
            Self::Not64Bit => f.write_str("it is a 32-bit program; only 64-bit x86 programs run here"),
            Self::NotLittleEndian => f.write_str("it is a big-endian program; only x86-64 programs run here"),
            Self::BadVersion(v) => write!(f, "its ELF version is {v}, not 1"),
            Self::WrongMachine(m) => {
                write!(f, "it is a program for {} (ELF machine {m}); only x86-64 programs run here", machine_name(m))
            }
            Self::NotExecutable(1) => f.write_str("it is an object file, not a linked program"),
            Self::NotExecutable(4) => f.write_str("it is a core file, not a program"),
            Self::NotExecutable(t) => write!(f, "its ELF type is {t}, not a program"),
            Self::BadProgramHeaderSize(n) => write!(f, "its program headers are {n} bytes each, not 56"),
            Self::BadProgramHeaderCount(n) => write!(f, "it has {n} program headers"),
            Self::NothingToLoad => f.write_str("it has no loadable segment"),
            Self::BadSegment(i) => write!(f, "its loadable segment {i} is inconsistent; the file is damaged"),
            Self::AddressOutOfRange(a) => write!(f, "it wants to be loaded at {a:#x}, outside a program's addresses"),
            Self::UnorderedSegments(i) => write!(f, "its loadable segment {i} overlaps the one before"),
            Self::SegmentBeyondFile(i) => write!(f, "the file ends inside loadable segment {i}; it is truncated"),
            Self::BadInterpreter => f.write_str("the name of its dynamic linker (PT_INTERP) is damaged"),
        }
    }
}

impl core::error::Error for ElfError {}
