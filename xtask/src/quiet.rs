//! Proof by disassembly that quiet system calls are quiet, and leaf calls leaves (part of `cargo xtask lint`).
//!
//! A *quiet* call's handler runs with the program's vector registers in place. So nothing that it can reach may touch one, and it must not wait,
//! for another thread would. Here: from the handler's address in `linux_handlers`, along all direct calls and jumps, there is no vector
//! register and no indirect call or jump. Functions that never return (panics) are where a path ends, and so is the one that saves the vector
//! registers for what it calls. The same holds for the first handlers of *brief* calls, in `linux_brief_handlers`. A *leaf* call has no stack: it may
//! only load, into R11 and EAX, and ends in `jmp *%rcx`.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::run;

/// The kernel's functions: address and name, then instructions.
pub(crate) struct Listing {
    functions: BTreeMap<u64, Function>,
}

struct Function {
    name: String,
    instructions: Vec<String>,
}

/// What the tables of the kernel say.
struct Tables {
    handlers: Vec<u64>,
    brief_handlers: Vec<u64>,
    routes: Vec<u64>,
}

impl Listing {
    /// Reads what `objdump -d` prints.
    pub(crate) fn parse(text: &str) -> Self {
        let mut functions = BTreeMap::new();
        let mut current = None;
        for line in text.lines() {
            if let Some((address, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
                current = u64::from_str_radix(address, 16).ok();
                if let Some(address) = current {
                    functions.insert(address, Function { name: name.to_owned(), instructions: Vec::new() });
                }
            } else if let Some((_, instruction)) = line.split_once(":\t")
                && let Some(function) = current.and_then(|address| functions.get_mut(&address))
            {
                function.instructions.push(instruction.trim().to_owned());
            }
        }
        Self { functions }
    }

    fn named(&self, name: &str) -> Option<u64> {
        self.functions.iter().find(|(_, function)| function.name == name).map(|(&address, _)| address)
    }

    /// The function that an address lies in.
    fn around(&self, address: u64) -> Option<(u64, &Function)> {
        self.functions.range(..=address).next_back().map(|(&start, function)| (start, function))
    }

    /// Whether an instruction is a jump through a table that the compiler made of a `match`: one that begins with an address in the same function.
    /// (The function is looked at as a whole, wherever the jump goes.)
    fn is_match(&self, instruction: &str, function: u64, word: Word<'_>) -> bool {
        let entry = jump_table(instruction).and_then(word);
        entry.is_some_and(|entry| self.around(entry).is_some_and(|(start, _)| start == function))
    }

    /// What is wrong with a quiet handler.
    fn faults_of_handler(&self, handler: u64, word: Word<'_>) -> Vec<String> {
        let (mut faults, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![handler]);
        while let Some(address) = open.pop() {
            let Some((start, function)) = self.around(address) else {
                faults.push(format!("{address:#x} is no code"));
                continue;
            };
            let ends = function.name == LOUD || NEVER_RETURN.iter().any(|prefix| function.name.starts_with(prefix));
            if !seen.insert(start) || ends {
                continue;
            }
            for instruction in &function.instructions {
                if let Some(fault) = fault_of(instruction)
                    && !self.is_match(instruction, start, word)
                {
                    faults.push(format!("{fault} in {}: {instruction}", function.name));
                }
                open.extend(target(instruction).filter(|&to| self.around(to).is_none_or(|(other, _)| other != start)));
            }
        }
        faults
    }

    /// What is wrong with the leaf calls.
    fn faults_of_leaves(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut count = 0;
        for function in self.functions.values().filter(|function| function.name.starts_with("leaf_get")) {
            count += 1;
            let (last, loads) = function.instructions.split_last().map_or(("", &[][..]), |(last, loads)| (last.as_str(), loads));
            if last != "jmp    *%rcx" || !loads.iter().all(|load| is_load(load)) {
                faults.push(format!("{} does more than load: {:?}", function.name, function.instructions));
            }
        }
        if count == 0 {
            faults.push("there are no leaf calls".to_owned());
        }
        faults
    }
}

/// Reads a word of the kernel's data.
type Word<'a> = &'a dyn Fn(u64) -> Option<u64>;

/// Where the table of `jmp *table(,%register,8)` is.
fn jump_table(instruction: &str) -> Option<u64> {
    let operand = instruction.strip_prefix("jmp")?.trim().strip_prefix('*')?;
    let (table, index) = operand.split_once("(,%")?;
    let (sign, digits) = table.strip_prefix('-').map_or((1, table), |digits| (-1_i64, digits));
    let offset = i64::from_str_radix(digits.strip_prefix("0x")?, 16).ok()?;
    index.ends_with(",8)").then_some((sign * offset) as u64)
}

/// Saves the vector registers, calls, and restores them.
const LOUD: &str = "call_loudly";
/// Prefixes of functions that a path ends in.
const NEVER_RETURN: [&str; 4] = ["core::panicking::", "core::option::expect_failed", "core::option::unwrap_failed", "core::result::unwrap_failed"];

fn fault_of(instruction: &str) -> Option<&'static str> {
    let code = instruction.split('#').next().unwrap_or(instruction);
    let operation = code.split_whitespace().next().unwrap_or("");
    let is_transfer = operation.starts_with("call") || operation.starts_with('j');
    if ["%xmm", "%ymm", "%zmm", "%mm", "%st"].iter().any(|register| code.contains(register)) {
        Some("a vector register")
    } else if is_transfer && code.contains('*') {
        Some("an indirect call or jump")
    } else {
        None
    }
}

/// Where a direct call or jump goes.
fn target(instruction: &str) -> Option<u64> {
    let mut words = instruction.split_whitespace();
    let operation = words.next()?;
    let is_transfer = operation.starts_with("call") || operation.starts_with('j');
    let operand = words.next().filter(|_| is_transfer)?;
    u64::from_str_radix(operand.trim_start_matches("0x"), 16).ok()
}

/// A load into R11 or EAX.
fn is_load(instruction: &str) -> bool {
    let Some((from, to)) = instruction.strip_prefix("mov").map(str::trim).and_then(|operands| operands.rsplit_once(',')) else { return false };
    matches!(to, "%r11" | "%eax") && (from.starts_with("%gs:") || from.ends_with("(%r11)"))
}

/// The words of a table in the kernel's data.
fn table(kernel: &Path, name: &str) -> Result<Vec<u64>> {
    let symbols = run::output(Command::new("nm").arg("-S").arg(kernel))?;
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {name}"))).with_context(|| format!("no symbol {name}"))?;
    let mut words = line.split(' ').map(|word| u64::from_str_radix(word, 16));
    let (Some(Ok(start)), Some(Ok(size))) = (words.next(), words.next()) else { anyhow::bail!("odd symbol: {line}") };
    let range = [format!("--start-address={start:#x}"), format!("--stop-address={:#x}", start + size)];
    let dump = run::output(Command::new("objdump").arg("-s").args(range).arg(kernel))?;
    Ok(words_of(&dump))
}

/// The word of the kernel's data at `address`.
fn data_word(kernel: &Path, address: u64) -> Option<u64> {
    let range = [format!("--start-address={address:#x}"), format!("--stop-address={:#x}", address + 8)];
    let dump = run::output(Command::new("objdump").arg("-s").args(range).arg(kernel)).ok()?;
    words_of(&dump).first().copied()
}

/// The 64-bit words that `objdump -s` shows.
fn words_of(dump: &str) -> Vec<u64> {
    let mut bytes = Vec::new();
    for line in dump.lines().filter_map(|line| line.strip_prefix(' ')) {
        // The address, then four groups of eight digits, then the same as text.
        for group in line.split(' ').skip(1).take(4).filter(|group| group.len() == 8) {
            bytes.extend((0..4).filter_map(|i| u8::from_str_radix(group.get(2 * i..2 * i + 2)?, 16).ok()));
        }
    }
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// Everything wrong with the quiet and the leaf calls of a kernel.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub(crate) fn check(kernel: &Path, listing: &Listing) -> Result<Vec<String>> {
    let brief_handlers = table(kernel, "linux_brief_handlers")?;
    let tables = Tables { handlers: table(kernel, "linux_handlers")?, brief_handlers, routes: table(kernel, "linux_routes")? };
    let mut found = listing.faults_of_leaves();
    for (kind, handlers) in [("quiet", &tables.handlers), ("brief", &tables.brief_handlers)] {
        let route = listing.named(&format!("syscall_route_{kind}")).with_context(|| format!("no {kind} route"))?;
        let numbers: Vec<_> = (0..tables.routes.len()).filter(|&number| tables.routes[number] == route).collect();
        if numbers.is_empty() {
            found.push(format!("there are no {kind} calls"));
        }
        for number in numbers {
            let faults = listing.faults_of_handler(handlers[number], &|address| data_word(kernel, address));
            found.extend(faults.into_iter().map(|fault| format!("{kind} call {number}: {fault}")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Listing, is_load, jump_table, words_of};

    const LISTING: &str = "\
ffffffff80200000 <quiet>:
ffffffff80200000:\tmov    0x8(%rdi),%rax
ffffffff80200004:\tcall   ffffffff80200020 <helper>
ffffffff80200009:\tjne    ffffffff80200000 <quiet>
ffffffff8020000b:\tjmp    ffffffff80200030 <core::panicking::panic>

ffffffff80200020 <helper>:
ffffffff80200020:\tret

ffffffff80200030 <core::panicking::panic>:
ffffffff80200030:\tmovaps %xmm0,(%rsp)

ffffffff80200040 <loud>:
ffffffff80200040:\tcall   ffffffff80200050 <copy>

ffffffff80200048 <rare>:
ffffffff80200048:\tcall   ffffffff80200060 <call_loudly>

ffffffff80200050 <copy>:
ffffffff80200050:\tmovups (%rsi),%xmm0
ffffffff80200058:\tcall   *0x18(%rax)

ffffffff80200060 <call_loudly>:
ffffffff80200060:\tmovaps %xmm0,(%rsp)
";

    #[test]
    fn what_a_handler_reaches_is_looked_at() {
        let listing = Listing::parse(LISTING);
        let none = &|_| None;
        assert!(listing.faults_of_handler(0xffff_ffff_8020_0000, none).is_empty());
        assert!(listing.faults_of_handler(0xffff_ffff_8020_0048, none).is_empty(), "it saves the registers");
        let faults = listing.faults_of_handler(0xffff_ffff_8020_0040, none);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("vector") && faults[1].contains("indirect"));
    }

    #[test]
    fn a_match_may_jump_through_its_table_and_nothing_else() {
        assert_eq!(jump_table("jmp    *-0x7fc0ca78(,%rcx,8)"), Some(0xffff_ffff_803f_3588));
        assert_eq!((jump_table("jmp    *%rax"), jump_table("call   *-0x7fc0ca78(,%rcx,8)")), (None, None));
        let listing = Listing::parse("10 <match>:\n10:\tjmp    *0x100(,%rcx,8)\n18:\tret\n\n20 <other>:\n20:\tret\n");
        assert!(listing.faults_of_handler(0x10, &|at| (at == 0x100).then_some(0x18)).is_empty());
        assert_eq!(listing.faults_of_handler(0x10, &|_| Some(0x20)).len(), 1);
    }

    #[test]
    fn leaves_load_and_nothing_else() {
        assert!(is_load("mov    %gs:0x8,%r11") && is_load("mov    0x10(%r11),%eax"));
        assert!(!is_load("mov    %eax,0x10(%r11)") && !is_load("mov    0x10(%r11),%rdi") && !is_load("push   %rax"));
        let leaf = |body: &str| Listing::parse(&format!("10 <leaf_getpid>:\n10:\tmov    %gs:0x8,%r11\n{body}"));
        assert!(leaf("18:\tjmp    *%rcx\n").faults_of_leaves().is_empty());
        assert_eq!(leaf("18:\tpush   %rax\n19:\tjmp    *%rcx\n").faults_of_leaves().len(), 1);
        assert_eq!(Listing::parse("").faults_of_leaves().len(), 1);
    }

    #[test]
    fn tables_are_read_from_a_dump() {
        let dump = "\nkernel:     file format elf64-x86-64\n\nContents of section .data:\n ffffffff80300000 00102080 ffffffff 40102080 ffffffff  .. ......\n";
        assert_eq!(words_of(dump), [0xffff_ffff_8020_1000, 0xffff_ffff_8020_1040]);
    }
}
