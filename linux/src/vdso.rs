//! The vDSO in the kernel: the pages every program gets, and their clock parameters.
//!
//! Two frames are made once: the data page, which the kernel rewrites when the wall clock is set, and a copy of the image.

#![expect(unsafe_code, reason = "writes the data page in place")]

use alloc::sync::Arc;

use addr::{PAGE_SIZE, VirtAddr};
use frame::{Frame, Mappable, MappingId};
use kernel::mm::{AddressSpace, Backing, MapFlags, MapRequest, Name, Placement, Prot, Sharing};
use linux_abi::Errno;
use sync::{Mutex, OnceCell};
use vdso::{Data, Slot};

const _: () = assert!(vdso::CPU_ID_OFFSET == arch_x86_64::percpu::CPU_ID);
const _: () = assert!(vdso::PAGE == PAGE_SIZE);

/// Page 0 is the data page, page 1 the image.
struct Pages {
    data: Frame,
    image: Frame,
    writer: Mutex<()>,
}

static PAGES: OnceCell<Arc<Pages>> = OnceCell::new();

impl Mappable for Pages {
    fn frame(&self, index: u64) -> Result<Frame, Errno> {
        match index {
            0 => Ok(self.data.clone()),
            1 => Ok(self.image.clone()),
            _ => Err(Errno::EIO),
        }
    }

    fn mapping_size(&self) -> u64 {
        2 * PAGE_SIZE as u64
    }

    fn mapping_id(&self) -> MappingId {
        MappingId::default()
    }
}

impl Pages {
    fn new() -> Result<Arc<Self>, Errno> {
        let (data, image) = (Frame::alloc_zeroed()?, Frame::alloc_zeroed()?);
        image.write(0, vdso::image());
        let pages = Arc::new(Self { data, image, writer: Mutex::new(()) });
        pages.publish();
        Ok(pages)
    }

    fn publish(&self) {
        let parameters = kernel::clock::vdso_parameters();
        let slot = Slot::new(parameters.base_tsc, parameters.mult, parameters.shift, parameters.realtime_base_ns);
        let _one_writer = self.writer.lock();
        // SAFETY: the frame lives as long as `self`; programs map it read-only.
        unsafe { Data::publish(self.data.as_ptr().cast(), slot) };
    }
}

/// Tells programs about a changed clock.
pub fn update() {
    if let Some(pages) = PAGES.get() {
        pages.publish();
    }
}

fn request(pages: &Arc<Pages>, at: VirtAddr, page: u64, prot: Prot, name: &[u8]) -> MapRequest {
    let offset = page * PAGE_SIZE as u64;
    let backing = Backing::File { object: pages.clone(), offset, sharing: Sharing::SharedReadOnly };
    MapRequest {
        hint: at + offset,
        len: PAGE_SIZE as u64,
        prot,
        placement: Placement::Fixed,
        backing,
        flags: MapFlags::empty(),
        name: Some(Name::from(name)),
    }
}

/// Maps the vDSO into `space`; returns the address of its ELF header.
///
/// # Errors
/// `ENOMEM`.
pub fn map(space: &AddressSpace) -> Result<VirtAddr, Errno> {
    let pages = match PAGES.get() {
        Some(pages) => pages,
        None => {
            let new = Pages::new()?;
            PAGES.get_or_init(|| new)
        }
    };
    let at = space.map(MapRequest::anonymous(2 * PAGE_SIZE as u64, Prot::empty()))?;
    space.map(request(pages, at, 0, Prot::READ, b"[vvar]"))?;
    space.map(request(pages, at, 1, Prot::READ | Prot::EXEC, b"[vdso]"))?;
    Ok(at + PAGE_SIZE as u64)
}
