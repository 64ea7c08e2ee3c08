//! Adds names to addresses: kernel back-traces from the kernel's ELF file, crash reports of the program from the files
//! that were gathered for it.
//!
//! Kernel lines have absolute addresses (`#2 0xffffffff80123456`); program lines have `OBJECT+0xOFFSET`, where OBJECT is a
//! guest path and OFFSET counts from where its first page is mapped.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use addr2line::Loader;

use crate::gather::elf;

/// Where the kernel image begins.
const KERNEL_START: u64 = 0xffff_ffff_8000_0000;

/// Where symbols are found.
#[derive(Debug)]
pub(crate) struct Symbols {
    pub(crate) kernel: PathBuf,
    /// Guest path → host file, for what was gathered. Others are looked for at the same path on this machine.
    pub(crate) files: HashMap<PathBuf, PathBuf>,
}

impl Symbols {
    /// What is needed to explain the kernel's log.
    pub(crate) fn kernel_only(&self) -> Symbols {
        Symbols { kernel: self.kernel.clone(), files: HashMap::new() }
    }

    /// A kernel log with names behind the addresses.
    pub(crate) fn explain_kernel(&self, log: &str) -> String {
        // Reading symbols takes a moment; most logs have no address.
        if !log.contains("0xffffffff8") {
            return log.into();
        }
        let Ok(loader) = Loader::new(&self.kernel) else { return log.into() };
        explain_lines(log, |line| {
            let address = line.split_whitespace().find_map(kernel_address)?;
            describe(&loader, call_address(line, address))
        })
    }

    /// A program's crash report with names behind `OBJECT+0xOFFSET`.
    pub(crate) fn explain_program(&self, report: &str) -> String {
        let mut objects: HashMap<String, Option<Object>> = HashMap::new();
        explain_lines(report, |line| {
            let (path, offset) = line.split_whitespace().find_map(object_offset)?;
            let object = objects.entry(path.to_owned()).or_insert_with(|| Object::open(&self.host_file(path)));
            let object = object.as_ref()?;
            describe(&object.loader, call_address(line, object.base + offset))
        })
    }

    fn host_file(&self, guest: &str) -> PathBuf {
        let guest = Path::new(guest);
        self.files.get(guest).map_or_else(|| guest.to_owned(), PathBuf::clone)
    }
}

struct Object {
    loader: Loader,
    /// Address of the first page in the file's own terms: 0 for PIE and libraries.
    base: u64,
}

impl Object {
    fn open(path: &Path) -> Option<Object> {
        let elf = elf::parse(File::open(path).ok()?).ok()?;
        Some(Object { loader: Loader::new(path).ok()?, base: elf.base })
    }
}

fn explain_lines(text: &str, mut explain: impl FnMut(&str) -> Option<String>) -> String {
    let add = |line: &str| match explain(line) {
        Some(name) => format!("{line}  {name}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(add).collect()
}

/// Back-trace lines after the first hold return addresses; the call is just before.
fn call_address(line: &str, address: u64) -> u64 {
    let number = line.trim_start().strip_prefix('#').and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok());
    if number.is_some_and(|n| n > 0) { address - 1 } else { address }
}

fn kernel_address(word: &str) -> Option<u64> {
    let digits = word.find("0x").map(|at| &word[at + 2..])?;
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).ok().filter(|&address| address >= KERNEL_START)
}

fn object_offset(word: &str) -> Option<(&str, u64)> {
    let (path, digits) = word.trim_start_matches(['(', '[']).rsplit_once("+0x")?;
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let offset = u64::from_str_radix(&digits[..end], 16).ok()?;
    path.starts_with('/').then_some((path, offset))
}

/// `outer::function (file.rs:12) < inlined::into (other.rs:3)`, as much of it as the file tells.
fn describe(loader: &Loader, address: u64) -> Option<String> {
    let mut names = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let Some(function) = frame.function else { continue };
            let name = function.demangle().map(|n| n.into_owned()).ok()?;
            names.push(format!("{name}{}", frame.location.map(location).unwrap_or_default()));
        }
    }
    if names.is_empty() {
        let symbol = loader.find_symbol(address)?;
        names.push(addr2line::demangle_auto(symbol.into(), None).into_owned());
    }
    Some(names.join(" < "))
}

fn location(location: addr2line::Location<'_>) -> String {
    match (location.file, location.line) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        (Some(file), None) => format!(" ({file})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_lines() {
        assert_eq!(kernel_address("rip=0xffffffff80200010,"), Some(0xffff_ffff_8020_0010));
        assert_eq!(kernel_address("0x400000"), None);
        assert_eq!(object_offset("(/usr/lib/libc.so.6+0x1a2b)"), Some(("/usr/lib/libc.so.6", 0x1a2b)));
        assert_eq!(object_offset("rax+0x10"), None);
    }

    #[test]
    fn return_addresses_are_taken_back_into_the_call() {
        assert_eq!(call_address(" #0 0x10", 0x10), 0x10);
        assert_eq!(call_address(" #3 0x10", 0x10), 0xf);
        assert_eq!(call_address("rip 0x10", 0x10), 0x10);
    }

    #[test]
    fn a_function_of_this_program_is_named() {
        let program = std::env::current_exe().expect("path");
        let symbols = Symbols { kernel: "/none".into(), files: HashMap::from([("/guest/p".into(), program.clone())]) };
        let loader = Loader::new(&program).expect("load");
        let elf = elf::parse(File::open(&program).expect("open")).expect("parse");
        // The entry point is `_start` in every C program.
        let entry = std::fs::read(&program).expect("read")[24..32].try_into().map(u64::from_le_bytes).expect("header");
        assert!(loader.find_symbol(entry).is_some());
        let report = symbols.explain_program(&format!("at /guest/p+{:#x}", entry - elf.base));
        assert!(report.contains("_start"), "{report}");
        assert_eq!(symbols.explain_kernel("panic at 0xffffffff80000000"), "panic at 0xffffffff80000000");
    }
}
