//! `/dev/oxv-torture`, there only under `oxv run --torture`: lets a test hold a mutex of the kernel, and do worse.
//!
//! What can be written to it: `kernel::torture::request`.

use linux_abi::Errno;
use vfs::File;
use vfs::io::Source;
use vfs::types::OpenFlags;

/// The device.
pub(crate) struct Device;

/// Longest request, in bytes.
const MAX_REQUEST: usize = 32;

impl File for Device {
    fn read(&self, _position: &mut u64, _sink: &mut dyn vfs::io::Sink, _flags: OpenFlags) -> Result<usize, Errno> {
        Ok(0)
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, _flags: OpenFlags) -> Result<usize, Errno> {
        let mut text = [0; MAX_REQUEST];
        let len = source.read(&mut text)?;
        let request = core::str::from_utf8(&text[..len]).map_err(|_| Errno::EINVAL)?;
        kernel::torture::request(request)?;
        Ok(len)
    }
}
