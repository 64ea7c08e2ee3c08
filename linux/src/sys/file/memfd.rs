//! `memfd_create`: files without a name, in memory, of pages of any size.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use kernel::mm::{PageSize, has_huge_pages};
use linux_abi::Errno;
use vfs::file::OpenFile;
use vfs::tmpfs::{self, SEAL_EXEC, SEAL_SEAL, TmpFs};
use vfs::types::{OpenFlags, PATH_MAX, SetAttributes};
use vfs::{Inode, Location};

use super::huge_file::HugeFile;
use super::open::{install, new_ino};
use super::{now, only};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// Device number of the memory behind memfds, shown by `stat`.
const DEVICE: u64 = 1;
/// Longest name.
const NAME_MAX: usize = 249;
const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_HUGETLB: u32 = 4;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;
const MFD_ALL: u32 = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC;

/// Where `MFD_HUGETLB`, `SHM_HUGETLB` and `MAP_HUGETLB` say how large: the size's logarithm, 0 for the default of 2 MiB.
const SIZE_SHIFT: u32 = 26;
const SIZE_MASK: u32 = 0x3f;

/// The size of pages that the flags of one of the `HUGETLB` calls ask for; `None` for one that there is not.
pub(crate) fn size_of_huge_pages(flags: u32) -> Option<PageSize> {
    match flags >> SIZE_SHIFT & SIZE_MASK {
        0 | 21 => Some(PageSize::Size2M),
        30 if has_huge_pages() => Some(PageSize::Size1G),
        _ => None,
    }
}

/// `memfd_create`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EMFILE`; `ENODEV` for huge pages of a size that there is not.
pub fn memfd_create(ctx: &Ctx<'_>, name: UserPtr<u8>, flags: u32) -> SysResult {
    let sizes = if flags & MFD_HUGETLB != 0 { SIZE_MASK << SIZE_SHIFT } else { 0 };
    only(flags, MFD_ALL | sizes)?;
    if flags & MFD_NOEXEC_SEAL != 0 && flags & MFD_EXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name.read_string(NAME_MAX.min(PATH_MAX) + 1, Errno::EINVAL)?;
    let sealable = flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0;
    let seals = match (sealable, flags & MFD_NOEXEC_SEAL != 0) {
        (false, _) => SEAL_SEAL,
        (true, true) => SEAL_EXEC,
        (true, false) => 0,
    };
    let mode = if flags & MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let node: Arc<dyn Inode> = if flags & MFD_HUGETLB != 0 {
        HugeFile::new(size_of_huge_pages(flags).ok_or(Errno::ENODEV)?, mode, seals)
    } else {
        // Not in a mounted file system, so only the machine limits it.
        TmpFs::unnamed_file(tmpfs::Options::new(DEVICE, now), new_ino(), mode, Some(seals))
    };
    let credentials = ctx.cred().for_files().clone();
    let owner = SetAttributes { uid: Some(credentials.uid), gid: Some(credentials.gid), ..SetAttributes::default() };
    node.set_attributes(&owner)?;
    let label = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    let place = Location::nameless(node.clone(), &label);
    let open = OpenFlags::RDWR | if flags & MFD_CLOEXEC != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    install(ctx, OpenFile::new(node.open(open)?, place, open), open)
}
