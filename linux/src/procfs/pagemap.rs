//! `/proc/PID/pagemap`: one word for each page of the address space (Linux: Documentation/admin-guide/mm/pagemap.rst).
//!
//! Frame numbers are not told, as on Linux without privileges, and soft-dirty bits are not kept, as on a Linux built without them.

use alloc::sync::Arc;
use alloc::vec;

use addr::{PAGE_SIZE, VirtAddr, layout};
use kernel::mm::PageState;
use linux_abi::Errno;
use vfs::OpenFlags;
use vfs::file::File;
use vfs::io::{Sink, Source};
use vfs::synth::Entry;

use crate::process::Process;

const WORD: u64 = 8;
const PAGE: u64 = PAGE_SIZE as u64;
/// Pages looked up at a time.
const CHUNK: u64 = 512;

const EXCLUSIVE: u64 = 1 << 56;
const FILE_OR_SHARED: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;

pub(super) fn entry(process: &Arc<Process>) -> Entry {
    let process = process.clone();
    Entry::Open { mode: 0o400, open: Arc::new(move || Ok(Arc::new(PageMap(process.clone())))) }
}

struct PageMap(Arc<Process>);

fn word(state: PageState) -> u64 {
    PRESENT | if state.own { EXCLUSIVE } else { 0 } | if state.from_object { FILE_OR_SHARED } else { 0 }
}

impl File for PageMap {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize, Errno> {
        if !position.is_multiple_of(WORD) || !(sink.remaining() as u64).is_multiple_of(WORD) {
            return Err(Errno::EINVAL);
        }
        let first = *position / WORD;
        let count = (layout::USER_MAX / PAGE).saturating_sub(first).min(sink.remaining() as u64 / WORD).min(CHUNK);
        if count == 0 {
            return Ok(0);
        }
        let mut bytes = vec![0; (count * WORD) as usize];
        let start = VirtAddr(first * PAGE);
        self.0.space().page_states(start, start + count * PAGE, |at, state| {
            let place = ((at - start) / PAGE * WORD) as usize;
            bytes[place..place + WORD as usize].copy_from_slice(&word(state).to_le_bytes());
        });
        let done = sink.write(&bytes)?;
        *position += done as u64;
        Ok(done)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn seekable(&self) -> bool {
        true
    }
}
