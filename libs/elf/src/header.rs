//! The ELF header: which machine, and where the program headers are.

use crate::ElfError;

/// Bytes of a 64-bit ELF header.
pub const HEADER_SIZE: usize = 64;
/// Bytes of a 64-bit program header.
pub const PHDR_SIZE: usize = 56;
/// Linux refuses program header tables larger than 64 KiB.
const MAX_PHDRS: u16 = (65536 / PHDR_SIZE) as u16;
const EM_X86_64: u16 = 62;

/// How the addresses in the file are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ET_EXEC: at exactly these addresses.
    Fixed,
    /// ET_DYN: anywhere.
    Relocatable,
}

/// What the ELF header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// ET_EXEC or ET_DYN.
    pub kind: Kind,
    /// `e_entry`, without bias.
    pub entry: u64,
    /// File offset of the program headers.
    pub phoff: u64,
    /// Number of program headers.
    pub phnum: u16,
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Header {
    /// Reads the header from the first bytes of a file.
    ///
    /// # Errors
    /// The first thing that keeps the file from being a 64-bit x86 program.
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        if bytes.len() < HEADER_SIZE {
            return Err(ElfError::Truncated);
        }
        Self::check_identity(bytes)?;
        let kind = match u16_at(bytes, 16) {
            2 => Kind::Fixed,
            3 => Kind::Relocatable,
            other => return Err(ElfError::NotExecutable(other)),
        };
        let phnum = u16_at(bytes, 56);
        if phnum == 0 || phnum > MAX_PHDRS {
            return Err(ElfError::BadProgramHeaderCount(phnum));
        }
        if usize::from(u16_at(bytes, 54)) != PHDR_SIZE {
            return Err(ElfError::BadProgramHeaderSize(u16_at(bytes, 54)));
        }
        Ok(Self { kind, entry: u64_at(bytes, 24), phoff: u64_at(bytes, 32), phnum })
    }

    fn check_identity(bytes: &[u8]) -> Result<(), ElfError> {
        const ELFCLASS64: u8 = 2;
        const ELFDATA2LSB: u8 = 1;
        if bytes[5] != ELFDATA2LSB {
            return Err(ElfError::NotLittleEndian);
        }
        let machine = u16_at(bytes, 18);
        if bytes[4] != ELFCLASS64 {
            return Err(if machine == 3 { ElfError::Not64Bit } else { ElfError::WrongMachine(machine) });
        }
        if machine != EM_X86_64 {
            return Err(ElfError::WrongMachine(machine));
        }
        match u32_at(bytes, 20) {
            1 => Ok(()),
            v => Err(ElfError::BadVersion(v)),
        }
    }

    /// Bytes of the program header table.
    #[must_use]
    pub const fn phdrs_len(&self) -> usize {
        self.phnum as usize * PHDR_SIZE
    }
}
