//! `/proc/PID/maps`, `smaps` and `smaps_rollup`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use kernel::mm::{AddressSpace, AreaFlags, Prot, Usage, VmaInfo};
use linux_abi::Errno;
use vfs::types::{dev_major, dev_minor};

/// Column at which names start.
const NAME_COLUMN: usize = 73;

fn line(area: &VmaInfo) -> Vec<u8> {
    let bit = |prot: Prot, letter: char| if area.prot.contains(prot) { letter } else { '-' };
    let sharing = if area.flags.contains(AreaFlags::SHARED) { 's' } else { 'p' };
    let id = area.id.unwrap_or_default();
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        area.start.0,
        area.end.0,
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXEC, 'x'),
        sharing,
        area.offset,
        dev_major(id.device),
        dev_minor(id.device),
        id.inode,
    );
    let mut bytes = text.into_bytes();
    if let Some(name) = &area.name {
        bytes.resize(bytes.len().max(NAME_COLUMN), b' ');
        // A newline in a name would look like another line.
        for &byte in name.iter() {
            if byte == b'\n' { bytes.extend_from_slice(b"\\012") } else { bytes.push(byte) }
        }
    }
    bytes.push(b'\n');
    bytes
}

/// Whether there is memory for a text with `bytes` bytes for each area, and the list of areas beside it: a program may have a great
/// many, and a `Vec` that grows has twice what it needs.
fn check_room(space: &AddressSpace, bytes: usize) -> Result<(), Errno> {
    let needed = space.area_count() * (2 * size_of::<VmaInfo>() + 3 * bytes);
    if kernel::mm::has_memory_for(needed) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// The content of `maps`.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn maps(space: &AddressSpace) -> Result<Vec<u8>, Errno> {
    check_room(space, 128)?;
    Ok(space.areas().iter().flat_map(line).collect())
}

/// The content of `smaps`.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn smaps(space: &AddressSpace) -> Result<Vec<u8>, Errno> {
    check_room(space, 1024)?;
    let mut out = Vec::new();
    for area in space.areas() {
        let usage = space.usage(area.start);
        let page = if area.flags.contains(AreaFlags::PAGES_1G) {
            1 << 30
        } else if area.flags.contains(AreaFlags::PAGES_2M) {
            2 << 20
        } else {
            addr::PAGE_SIZE as u64
        };
        out.extend(line(&area));
        let mut text = String::new();
        put(&mut text, &[("Size", area.end - area.start), ("KernelPageSize", page), ("MMUPageSize", page), ("Rss", usage.rss)]);
        put(&mut text, &[("Pss", usage.pss_4096ths >> 12), ("Pss_Dirty", usage.pss_dirty_4096ths >> 12)]);
        put_counts(&mut text, &usage);
        let locked = if area.flags.contains(AreaFlags::LOCKED) { usage.pss_4096ths >> 12 } else { 0 };
        put(&mut text, &[("Locked", locked)]);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "THPeligible:    {:>8}", u8::from(space.may_have_large_pages(area.start)));
        let _ = writeln!(text, "VmFlags: {}", flags(&area));
        out.extend_from_slice(text.as_bytes());
    }
    Ok(out)
}

/// The content of `smaps_rollup`.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn smaps_rollup(space: &AddressSpace) -> Result<Vec<u8>, Errno> {
    check_room(space, 0)?;
    let areas = space.areas();
    let (Some(first), Some(last)) = (areas.first(), areas.last()) else { return Ok(Vec::new()) };
    let (mut sum, mut locked) = (Usage::default(), 0);
    for area in &areas {
        let usage = space.usage(area.start);
        sum.add(&usage);
        locked += if area.flags.contains(AreaFlags::LOCKED) { usage.pss_4096ths } else { 0 };
    }
    let mut text = String::new();
    let _ = writeln!(text, "{:08x}-{:08x} ---p 00000000 00:00 0                          [rollup]", first.start.0, last.end.0);
    let of_objects = sum.pss_file_4096ths + sum.pss_shared_memory_4096ths;
    put(&mut text, &[("Rss", sum.rss), ("Pss", sum.pss_4096ths >> 12), ("Pss_Dirty", sum.pss_dirty_4096ths >> 12)]);
    put(&mut text, &[("Pss_Anon", (sum.pss_4096ths - of_objects) >> 12), ("Pss_File", sum.pss_file_4096ths >> 12), ("Pss_Shmem", sum.pss_shared_memory_4096ths >> 12)]);
    put_counts(&mut text, &sum);
    put(&mut text, &[("Locked", locked >> 12)]);
    Ok(text.into_bytes())
}

/// What both files have in common.
fn put_counts(text: &mut String, usage: &Usage) {
    let lines = [
        ("Shared_Clean", usage.shared_clean), ("Shared_Dirty", usage.shared_dirty), ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty), ("Referenced", usage.referenced), ("Anonymous", usage.anonymous), ("KSM", 0),
        ("LazyFree", usage.lazy_free), ("AnonHugePages", usage.anonymous_large), ("ShmemPmdMapped", 0), ("FilePmdMapped", 0),
        ("Shared_Hugetlb", usage.shared_explicit), ("Private_Hugetlb", usage.private_explicit), ("Swap", 0), ("SwapPss", 0),
    ];
    put(text, &lines);
}

fn put(text: &mut String, lines: &[(&str, u64)]) {
    for (name, bytes) in lines {
        let label = alloc::format!("{name}:");
        let _ = writeln!(text, "{label:<16}{:>8} kB", bytes / 1024);
    }
}

/// `VmFlags`: two letters each, in the order of Linux's bits (proc_pid_smaps(5)).
fn flags(area: &VmaInfo) -> String {
    let (prot, flag) = (|right| area.prot.contains(right), |flag| area.flags.contains(flag));
    let shared = flag(AreaFlags::SHARED);
    let explicit = area.flags.intersects(AreaFlags::PAGES_2M | AreaFlags::PAGES_1G);
    let all = [
        ("rd", prot(Prot::READ)), ("wr", prot(Prot::WRITE)), ("ex", prot(Prot::EXEC)), ("sh", shared && !flag(AreaFlags::NEVER_WRITABLE)),
        ("mr", true), ("mw", !flag(AreaFlags::NEVER_WRITABLE)), ("me", true), ("ms", shared), ("gd", flag(AreaFlags::GROWS_DOWN)),
        ("uw", flag(AreaFlags::WATCHED)), ("lo", flag(AreaFlags::LOCKED)), ("dc", flag(AreaFlags::DONT_FORK)),
        ("ac", !shared && prot(Prot::WRITE) && !flag(AreaFlags::NO_RESERVE)), ("nr", flag(AreaFlags::NO_RESERVE)), ("ht", explicit),
        ("wf", flag(AreaFlags::WIPE_ON_FORK)), ("dd", flag(AreaFlags::DONT_DUMP)), ("sd", !flag(AreaFlags::TRACKED)),
        ("hg", flag(AreaFlags::HUGE_PAGE)), ("nh", flag(AreaFlags::NO_HUGE_PAGE)),
    ];
    let mut text = String::new();
    for (name, _) in all.iter().filter(|(_, set)| *set) {
        text.push_str(name);
        text.push(' ');
    }
    text
}
