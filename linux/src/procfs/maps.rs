//! `/proc/PID/maps` and `smaps`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use kernel::mm::{AddressSpace, AreaFlags, Prot, VmaInfo};
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

fn kb(bytes: u64) -> u64 {
    bytes / 1024
}

/// The content of `smaps`: what is resident is known, who shares it is not told.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn smaps(space: &AddressSpace) -> Result<Vec<u8>, Errno> {
    check_room(space, 768)?;
    let mut out = Vec::new();
    for area in space.areas() {
        out.extend(line(&area));
        let large = space.large_page_bytes_in(area.start, area.end);
        out.extend(counters(area.end - area.start, rss(space, &area), large).into_bytes());
        out.extend_from_slice(b"VmFlags:");
        let flags = [(Prot::READ, " rd"), (Prot::WRITE, " wr"), (Prot::EXEC, " ex")];
        for (_, name) in flags.iter().filter(|(prot, _)| area.prot.contains(*prot)) {
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b'\n');
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
    let resident = areas.iter().map(|area| rss(space, area)).sum();
    let large = areas.iter().map(|area| space.large_page_bytes_in(area.start, area.end)).sum();
    let mut text = String::new();
    let _ = writeln!(text, "{:08x}-{:08x} ---p 00000000 00:00 0 [rollup]", first.start.0, last.end.0);
    let counters = counters(0, resident, large);
    // The first line is the size of one area, which a sum does not have.
    text.push_str(counters.split_once('\n').map_or("", |(_, rest)| rest));
    Ok(text.into_bytes())
}

fn rss(space: &AddressSpace, area: &VmaInfo) -> u64 {
    space.resident_pages_in(area.start, area.end) * addr::PAGE_SIZE as u64
}

fn counters(size: u64, resident: u64, large: u64) -> String {
    let mut text = String::new();
    let all = [
        ("Size", size), ("KernelPageSize", 4096), ("MMUPageSize", 4096), ("Rss", resident), ("Pss", resident),
        ("Shared_Clean", 0), ("Shared_Dirty", 0), ("Private_Clean", 0), ("Private_Dirty", resident), ("Referenced", resident),
        ("Anonymous", 0), ("AnonHugePages", large), ("Shared_Hugetlb", 0), ("Private_Hugetlb", 0), ("Swap", 0), ("SwapPss", 0),
        ("Locked", 0),
    ];
    for (name, bytes) in all {
        let label = alloc::format!("{name}:");
        let _ = writeln!(text, "{label:<16}{:>8} kB", kb(bytes));
    }
    text
}
