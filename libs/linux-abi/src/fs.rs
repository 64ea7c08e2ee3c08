//! Files: metadata, directory entries, polling.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::time::Timespec;

/// Longest path in bytes, including the terminating zero.
pub const PATH_MAX: usize = 4096;
/// Longest file name in bytes.
pub const NAME_MAX: usize = 255;
/// Most entries in one `iovec` array.
pub const IOV_MAX: usize = 1024;
/// Most bytes one `read` or `write` moves.
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

/// `struct iovec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Iovec {
    /// Program address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// `struct stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stat {
    /// Device the inode is on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Zero.
    pub pad0: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: i64,
    /// Preferred I/O size.
    pub blksize: i64,
    /// 512-byte blocks allocated.
    pub blocks: i64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Zero.
    pub unused: [i64; 3],
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTimestamp {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
    /// Zero.
    pub reserved: i32,
}

/// `struct statx`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// Which fields are valid (`STATX_*`).
    pub mask: u32,
    /// Preferred I/O size.
    pub blksize: u32,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Zero.
    pub pad0: u16,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks allocated.
    pub blocks: u64,
    /// Which bits of `attributes` are supported.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: StatxTimestamp,
    /// Creation.
    pub btime: StatxTimestamp,
    /// Last change of the inode.
    pub ctime: StatxTimestamp,
    /// Last change of content.
    pub mtime: StatxTimestamp,
    /// Major number of a device node.
    pub rdev_major: u32,
    /// Minor number of a device node.
    pub rdev_minor: u32,
    /// Major number of the inode's device.
    pub dev_major: u32,
    /// Minor number of the inode's device.
    pub dev_minor: u32,
    /// Mount id.
    pub mnt_id: u64,
    /// Memory alignment for direct I/O.
    pub dio_mem_align: u32,
    /// Offset alignment for direct I/O.
    pub dio_offset_align: u32,
    /// Zero.
    pub spare: [u64; 12],
}

/// `struct statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statfs {
    /// Magic number of the file system.
    pub kind: i64,
    /// Preferred I/O size.
    pub bsize: i64,
    /// Blocks in all.
    pub blocks: i64,
    /// Free blocks.
    pub bfree: i64,
    /// Blocks free for ordinary users.
    pub bavail: i64,
    /// Inodes in all.
    pub files: i64,
    /// Free inodes.
    pub ffree: i64,
    /// File system id.
    pub fsid: [i32; 2],
    /// Longest name.
    pub namelen: i64,
    /// Fragment size.
    pub frsize: i64,
    /// Mount flags (`ST_*`).
    pub flags: i64,
    /// Zero.
    pub spare: [i64; 4],
}

/// The fixed head of `struct linux_dirent64`; the zero-terminated name follows, and the record is padded to 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C, packed)]
pub struct Dirent64 {
    /// Inode number.
    pub ino: u64,
    /// Cookie of the next entry.
    pub off: i64,
    /// Bytes of the whole record.
    pub reclen: u16,
    /// `DT_*`.
    pub kind: u8,
}

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pollfd {
    /// Descriptor; negative entries are skipped.
    pub fd: i32,
    /// Requested events.
    pub events: i16,
    /// Events that happened.
    pub revents: i16,
}

/// `struct epoll_event` (packed on x86-64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C, packed)]
pub struct EpollEvent {
    /// `EPOLL*` bits.
    pub events: u32,
    /// The program's cookie.
    pub data: u64,
}

/// `struct flock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flock {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i16,
    /// What `start` counts from.
    pub whence: i16,
    /// Zero.
    pub pad0: u32,
    /// First byte.
    pub start: i64,
    /// Bytes, 0 = to the end.
    pub len: i64,
    /// Process holding the lock.
    pub pid: i32,
    /// Zero.
    pub pad1: u32,
}

/// `struct open_how`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: u64,
    /// Permissions of a new file.
    pub mode: u64,
    /// `RESOLVE_*`.
    pub resolve: u64,
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Winsize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// Width in pixels.
    pub xpixel: u16,
    /// Height in pixels.
    pub ypixel: u16,
}

/// The kernel's `struct termios` (what `TCGETS` copies).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Control modes.
    pub cflag: u32,
    /// Local modes.
    pub lflag: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub cc: [u8; 19],
}

/// Packs a device number the way `stat` reports it.
#[must_use]
pub const fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;
    use crate::raw;

    #[test]
    fn layouts_match_the_headers() {
        assert_eq!(size_of::<Stat>(), size_of::<raw::stat>());
        assert_eq!(offset_of!(Stat, rdev), offset_of!(raw::stat, st_rdev));
        assert_eq!(offset_of!(Stat, atime), offset_of!(raw::stat, st_atime));
        assert_eq!(size_of::<Statx>(), size_of::<raw::statx>());
        assert_eq!(offset_of!(Statx, atime), offset_of!(raw::statx, stx_atime));
        assert_eq!(offset_of!(Statx, mnt_id), offset_of!(raw::statx, stx_mnt_id));
        assert_eq!(size_of::<Statfs>(), size_of::<raw::statfs>());
        assert_eq!(size_of::<EpollEvent>(), size_of::<raw::epoll_event>());
        assert_eq!(size_of::<Pollfd>(), 8);
        assert_eq!(size_of::<Dirent64>(), 19);
        assert_eq!(size_of::<Flock>(), size_of::<raw::flock>());
        assert_eq!(size_of::<Termios>(), 36);
    }

    #[test]
    fn device_numbers_pack_like_glibc() {
        assert_eq!(makedev(8, 1), 0x801);
        assert_eq!(makedev(0, 0x123), 0x100_023);
    }
}
