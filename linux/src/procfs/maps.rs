//! `/proc/PID/maps`, `smaps` and `smaps_rollup`.
//!
//! The first two are made area by area while they are read: a program may have a great many, and whoever reads a page of them pays for no more.

use alloc::sync::Arc;
use alloc::vec::Vec;

use addr::VirtAddr;
use kernel::mm::{AddressSpace, AreaFlags, AreaUsage, Prot, Usage, VmaInfo};
use linux_abi::Errno;
use vfs::synth::Entry;
use vfs::synth::records::{RecordFile, Records};
use vfs::synth::text::{decimal, hexadecimal, pad};
use vfs::types::{dev_major, dev_minor};

use crate::process::Process;

/// Column at which names start.
const NAME_COLUMN: usize = 73;
/// Columns for the name of a count and its colon.
const LABEL_COLUMNS: usize = 16;

/// The areas of a process, from the lowest on, each as `append` writes it. Keys are addresses.
struct AreasOf<A> {
    process: Arc<Process>,
    append: A,
}

impl<A> Records for AreasOf<A>
where
    A: Fn(&AddressSpace, VirtAddr, &mut Vec<u8>) -> Option<VirtAddr> + Send + Sync + 'static,
{
    fn append(&self, key: u64, text: &mut Vec<u8>) -> Result<Option<u64>, Errno> {
        Ok((self.append)(&self.process.space(), VirtAddr(key), text).map(|end| end.0))
    }
}

fn by_area<A>(process: &Arc<Process>, append: A) -> Entry
where
    A: Fn(&AddressSpace, VirtAddr, &mut Vec<u8>) -> Option<VirtAddr> + Copy + Send + Sync + 'static,
{
    let process = process.clone();
    Entry::Open { mode: 0o444, open: Arc::new(move || Ok(Arc::new(RecordFile::new(AreasOf { process: process.clone(), append })))) }
}

/// `maps`.
pub(super) fn maps(process: &Arc<Process>) -> Entry {
    by_area(process, |space, from, text| {
        let area = space.area_from(from)?;
        line(text, &area);
        Some(area.end)
    })
}

/// `smaps`.
pub(super) fn smaps(process: &Arc<Process>) -> Entry {
    by_area(process, |space, from, text| {
        let used = space.usage_from(from)?;
        paragraph(text, &used);
        Some(used.area.end)
    })
}

/// What both files say about an area.
fn line(text: &mut Vec<u8>, area: &VmaInfo) {
    let begin = text.len();
    let bit = |prot: Prot, letter: u8| if area.prot.contains(prot) { letter } else { b'-' };
    let sharing = if area.flags.contains(AreaFlags::SHARED) { b's' } else { b'p' };
    let id = area.id.unwrap_or_default();
    hexadecimal(text, area.start.0, 8);
    text.push(b'-');
    hexadecimal(text, area.end.0, 8);
    text.extend_from_slice(&[b' ', bit(Prot::READ, b'r'), bit(Prot::WRITE, b'w'), bit(Prot::EXEC, b'x'), sharing, b' ']);
    hexadecimal(text, area.offset, 8);
    text.push(b' ');
    hexadecimal(text, dev_major(id.device).into(), 2);
    text.push(b':');
    hexadecimal(text, dev_minor(id.device).into(), 2);
    text.push(b' ');
    decimal(text, id.inode, 0);
    text.push(b' ');
    if let Some(name) = &area.name {
        pad(text, begin + NAME_COLUMN);
        // A newline in a name would look like another line.
        for part in name.split_inclusive(|&byte| byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(before) => {
                    text.extend_from_slice(before);
                    text.extend_from_slice(b"\\012");
                }
                None => text.extend_from_slice(part),
            }
        }
    }
    text.push(b'\n');
}

/// What `smaps` says about an area.
fn paragraph(text: &mut Vec<u8>, AreaUsage { area, usage, may_have_large_pages }: &AreaUsage) {
    let page = if area.flags.contains(AreaFlags::PAGES_1G) {
        1 << 30
    } else if area.flags.contains(AreaFlags::PAGES_2M) {
        2 << 20
    } else {
        addr::PAGE_SIZE as u64
    };
    line(text, area);
    put(text, &[("Size", area.end - area.start), ("KernelPageSize", page), ("MMUPageSize", page), ("Rss", usage.rss)]);
    put(text, &[("Pss", usage.pss_4096ths >> 12), ("Pss_Dirty", usage.pss_dirty_4096ths >> 12)]);
    put_counts(text, usage);
    put(text, &[("Locked", locked_4096ths(area, usage) >> 12)]);
    label(text, "THPeligible");
    decimal(text, u64::from(*may_have_large_pages), 8);
    text.extend_from_slice(b"\nVmFlags: ");
    put_flags(text, area);
    text.push(b'\n');
}

fn locked_4096ths(area: &VmaInfo, usage: &Usage) -> u64 {
    if area.flags.contains(AreaFlags::LOCKED) { usage.pss_4096ths } else { 0 }
}

/// The content of `smaps_rollup`.
pub(super) fn smaps_rollup(space: &AddressSpace) -> Vec<u8> {
    let mut text = Vec::new();
    let (mut sum, mut locked, mut first, mut end) = (Usage::default(), 0, None, VirtAddr(0));
    while let Some(AreaUsage { area, usage, .. }) = space.usage_from(end) {
        sum.add(&usage);
        locked += locked_4096ths(&area, &usage);
        first.get_or_insert(area.start);
        end = area.end;
    }
    let Some(first) = first else { return text };
    hexadecimal(&mut text, first.0, 8);
    text.push(b'-');
    hexadecimal(&mut text, end.0, 8);
    text.extend_from_slice(b" ---p 00000000 00:00 0                          [rollup]\n");
    let of_objects = sum.pss_file_4096ths + sum.pss_shared_memory_4096ths;
    put(&mut text, &[("Rss", sum.rss), ("Pss", sum.pss_4096ths >> 12), ("Pss_Dirty", sum.pss_dirty_4096ths >> 12)]);
    put(&mut text, &[("Pss_Anon", (sum.pss_4096ths - of_objects) >> 12), ("Pss_File", sum.pss_file_4096ths >> 12), ("Pss_Shmem", sum.pss_shared_memory_4096ths >> 12)]);
    put_counts(&mut text, &sum);
    put(&mut text, &[("Locked", locked >> 12)]);
    text
}

/// What `smaps` and `smaps_rollup` have in common.
fn put_counts(text: &mut Vec<u8>, usage: &Usage) {
    let lines = [
        ("Shared_Clean", usage.shared_clean), ("Shared_Dirty", usage.shared_dirty), ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty), ("Referenced", usage.referenced), ("Anonymous", usage.anonymous), ("KSM", 0),
        ("LazyFree", usage.lazy_free), ("AnonHugePages", usage.anonymous_large), ("ShmemPmdMapped", 0), ("FilePmdMapped", 0),
        ("Shared_Hugetlb", usage.shared_explicit), ("Private_Hugetlb", usage.private_explicit), ("Swap", 0), ("SwapPss", 0),
    ];
    put(text, &lines);
}

/// Lines with a count of bytes each.
fn put(text: &mut Vec<u8>, lines: &[(&str, u64)]) {
    for (name, bytes) in lines {
        label(text, name);
        decimal(text, bytes / 1024, 8);
        text.extend_from_slice(b" kB\n");
    }
}

fn label(text: &mut Vec<u8>, name: &str) {
    let begin = text.len();
    text.extend_from_slice(name.as_bytes());
    text.push(b':');
    pad(text, begin + LABEL_COLUMNS);
}

/// `VmFlags`: two letters each, in the order of Linux's bits (proc_pid_smaps(5)).
fn put_flags(text: &mut Vec<u8>, area: &VmaInfo) {
    let (prot, flag) = (|right| area.prot.contains(right), |flag| area.flags.contains(flag));
    let shared = flag(AreaFlags::SHARED);
    let explicit = area.flags.intersects(AreaFlags::PAGES_2M | AreaFlags::PAGES_1G);
    let all = [
        (b"rd ", prot(Prot::READ)), (b"wr ", prot(Prot::WRITE)), (b"ex ", prot(Prot::EXEC)), (b"sh ", shared && !flag(AreaFlags::NEVER_WRITABLE)),
        (b"mr ", true), (b"mw ", !flag(AreaFlags::NEVER_WRITABLE)), (b"me ", true), (b"ms ", shared), (b"gd ", flag(AreaFlags::GROWS_DOWN)),
        (b"uw ", flag(AreaFlags::WATCHED)), (b"lo ", flag(AreaFlags::LOCKED)), (b"dc ", flag(AreaFlags::DONT_FORK)),
        (b"ac ", !shared && prot(Prot::WRITE) && !flag(AreaFlags::NO_RESERVE)), (b"nr ", flag(AreaFlags::NO_RESERVE)), (b"ht ", explicit),
        (b"wf ", flag(AreaFlags::WIPE_ON_FORK)), (b"dd ", flag(AreaFlags::DONT_DUMP)), (b"sd ", !flag(AreaFlags::TRACKED)),
        (b"hg ", flag(AreaFlags::HUGE_PAGE)), (b"nh ", flag(AreaFlags::NO_HUGE_PAGE)),
    ];
    for (name, _) in all.iter().filter(|(_, set)| *set) {
        text.extend_from_slice(*name);
    }
}
