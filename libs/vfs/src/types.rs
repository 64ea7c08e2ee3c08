//! Plain values of the file system: kinds, modes, metadata, times, flags, poll events. Numbers are Linux's x86-64 ABI.

use alloc::boxed::Box;

use bitflags::bitflags;

use crate::{Errno, Result};

/// Longest file name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path, in bytes, with its terminating zero.
pub const PATH_MAX: usize = 4096;
/// Most symbolic links followed in one walk.
pub const SYMLINK_MAX: u32 = 40;
/// Largest file offset.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// A point in time, or a span, in seconds and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timespec {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nsec: u32,
}

impl Timespec {
    /// The time `ns` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// Gives the current wall-clock time. File systems get it as an argument; they read no clock themselves.
pub type Clock = fn() -> Timespec;

/// What kind of object an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named or anonymous pipe.
    Fifo,
    /// A socket.
    Socket,
    /// An anonymous inode (epoll, eventfd, timerfd): no type bits in `st_mode`, as on Linux.
    Anonymous,
}

impl FileKind {
    /// The `S_IFMT` bits of `st_mode`.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Anonymous => 0,
        }
    }

    /// The kind that the `S_IFMT` bits of `mode` name.
    #[must_use]
    pub const fn from_mode_bits(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// The `d_type` of a directory entry.
    #[must_use]
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// Builds a device number as Linux encodes it in `st_rdev`.
#[must_use]
pub const fn make_dev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
}

/// The major number of a device.
#[must_use]
pub const fn dev_major(dev: u64) -> u32 {
    (((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff)) as u32
}

/// The minor number of a device.
#[must_use]
pub const fn dev_minor(dev: u64) -> u32 {
    ((dev & 0xff) | ((dev >> 12) & !0xff)) as u32
}

/// What `stat` tells about an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Kind of object.
    pub kind: FileKind,
    /// Permission bits, set-id bits and sticky bit (`0o7777`).
    pub mode: u16,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Preferred block size of I/O, in bytes.
    pub block_size: u32,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of the content.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

impl Metadata {
    /// Metadata of an object without content: one link, mode and owner given, 4 KiB blocks.
    #[must_use]
    pub fn new(dev: u64, ino: u64, kind: FileKind, mode: u16) -> Self {
        let zero = Timespec::default();
        Self {
            dev, ino, kind, mode, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, block_size: 4096, blocks: 0,
            atime: zero, mtime: zero, ctime: zero, btime: zero,
        }
    }

    /// Mode and owner.
    #[must_use]
    pub const fn permissions(&self) -> Permissions {
        Permissions { mode: self.mode, uid: self.uid, gid: self.gid }
    }

    /// `st_mode`: kind and permissions.
    #[must_use]
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | u32::from(self.mode)
    }
}

/// What decides who may do what with an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Permissions {
    /// Whether `credentials` may do `access` to an object of this kind: owner, then group, then others; the superuser may do
    /// everything but execute a file that nobody may execute.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn allow(&self, kind: FileKind, access: Access, credentials: &Credentials) -> Result<()> {
        let granted = if credentials.privileged() {
            let executable = self.mode & 0o111 != 0 || kind == FileKind::Directory;
            if executable { Access::all() } else { Access::READ | Access::WRITE }
        } else {
            let shift = if credentials.uid == self.uid {
                6
            } else if credentials.in_group(self.gid) {
                3
            } else {
                0
            };
            Access::from_bits_truncate((self.mode >> shift) as u8)
        };
        if granted.contains(access) { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// Changes to an inode's attributes; `None` leaves a value alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// New permission bits.
    pub mode: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New access time.
    pub atime: Option<Timespec>,
    /// New modification time.
    pub mtime: Option<Timespec>,
}

/// What a new inode starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Its kind: anything but a symbolic link.
    pub kind: FileKind,
    /// Permission bits, the umask already applied.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device nodes.
    pub rdev: u64,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Kind of the object.
    pub kind: FileKind,
    /// File name.
    pub name: &'a [u8],
    /// Pass this as the cookie to go on *after* this entry.
    pub next: u64,
}

/// What `statfs` tells about a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Magic number of the type.
    pub magic: u64,
    /// Bytes in a block.
    pub block_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// `ST_*` flags.
    pub flags: u64,
}

impl StatFs {
    /// A file system without storage of its own.
    #[must_use]
    pub const fn pseudo(magic: u64) -> Self {
        Self { magic, block_size: 4096, blocks: 0, free: 0, files: 0, files_free: 0, flags: 0 }
    }
}

/// `TMPFS_MAGIC`
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `PROC_SUPER_MAGIC`
pub const PROC_MAGIC: u64 = 0x9fa0;
/// `SYSFS_MAGIC`
pub const SYSFS_MAGIC: u64 = 0x6265_6572;
/// `EROFS_SUPER_MAGIC_V1`
pub const EROFS_MAGIC: u64 = 0xe0f5_e1e2;
/// `OVERLAYFS_SUPER_MAGIC`
pub const OVERLAY_MAGIC: u64 = 0x794c_7630;
/// `PIPEFS_MAGIC`
pub const PIPEFS_MAGIC: u64 = 0x5049_5045;
/// `ANON_INODE_FS_MAGIC`
pub const ANON_INODE_MAGIC: u64 = 0x0904_1934;
/// `SOCKFS_MAGIC`
pub const SOCKFS_MAGIC: u64 = 0x534f_434b;

/// A path name or file name that is kept: bytes, not text.
pub type Name = Box<[u8]>;

bitflags! {
    /// The flags of `open`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// Write only.
        const WRONLY = 0o1;
        /// Read and write.
        const RDWR = 0o2;
        /// Create when missing.
        const CREAT = 0o100;
        /// Fail when it exists.
        const EXCL = 0o200;
        /// Do not become the controlling terminal.
        const NOCTTY = 0o400;
        /// Empty the file.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Do not block.
        const NONBLOCK = 0o4000;
        /// Data reaches storage before a write returns.
        const DSYNC = 0o10000;
        /// `SIGIO` on readiness.
        const ASYNC = 0o20000;
        /// Bypass the page cache.
        const DIRECT = 0o40000;
        /// Always set by 64-bit programs' libraries; no effect.
        const LARGEFILE = 0o100_000;
        /// Must be a directory.
        const DIRECTORY = 0o200_000;
        /// Do not follow a symbolic link at the end.
        const NOFOLLOW = 0o400_000;
        /// Do not update the access time.
        const NOATIME = 0o1_000_000;
        /// Close on `execve`.
        const CLOEXEC = 0o2_000_000;
        /// `O_SYNC` without the `O_DSYNC` bit.
        const SYNC_BIT = 0o4_000_000;
        /// Only a handle to the place in the tree.
        const PATH = 0o10_000_000;
        /// `O_TMPFILE` without the `O_DIRECTORY` bit.
        const TMPFILE_BIT = 0o20_000_000;
        const _ = !0;
    }
}

impl OpenFlags {
    /// Neither write flag.
    pub const RDONLY: Self = Self::empty();
    /// An unnamed file in the given directory.
    pub const TMPFILE: Self = Self::TMPFILE_BIT.union(Self::DIRECTORY);
    /// The two access-mode bits.
    pub const ACCESS_MODE: Self = Self::WRONLY.union(Self::RDWR);
    /// What `F_SETFL` may change.
    pub const SETTABLE: Self =
        Self::APPEND.union(Self::NONBLOCK).union(Self::ASYNC).union(Self::DIRECT).union(Self::NOATIME);
    /// Flags that act only during `open` and are not kept by the open file.
    pub const ONLY_AT_OPEN: Self =
        Self::CREAT.union(Self::EXCL).union(Self::NOCTTY).union(Self::TRUNC).union(Self::CLOEXEC);

    /// Whether the access mode lets data be read.
    #[must_use]
    pub fn can_read(self) -> bool {
        !self.contains(Self::PATH) && self.bits() & 3 != 1
    }

    /// Whether the access mode lets data be written.
    #[must_use]
    pub fn can_write(self) -> bool {
        !self.contains(Self::PATH) && self.bits() & 3 != 0
    }

    /// Whether data may be read through the open file. Access mode 3 gives no right to that.
    #[inline]
    #[must_use]
    pub fn grants_read(self) -> bool {
        self.bits() & (Self::PATH.bits() | 1) == 0
    }

    /// Whether data may be written through the open file. Access mode 3 gives no right to that.
    #[inline]
    #[must_use]
    pub fn grants_write(self) -> bool {
        !self.contains(Self::PATH) && (self.bits() + 1) & 2 != 0
    }

    /// Whether calls must not block.
    #[must_use]
    pub fn nonblocking(self) -> bool {
        self.contains(Self::NONBLOCK)
    }
}

bitflags! {
    /// Readiness of a file, in the bits of `poll` and `epoll`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// Data can be read.
        const IN = 0x1;
        /// Urgent data can be read.
        const PRI = 0x2;
        /// Data can be written.
        const OUT = 0x4;
        /// An error is pending; always reported.
        const ERR = 0x8;
        /// The other side is gone; always reported.
        const HUP = 0x10;
        /// The descriptor is not open (`poll` only).
        const NVAL = 0x20;
        /// As `IN`.
        const RDNORM = 0x40;
        /// Band data.
        const RDBAND = 0x80;
        /// As `OUT`.
        const WRNORM = 0x100;
        /// Band data can be written.
        const WRBAND = 0x200;
        /// There is news of a directory; only told by signals.
        const MSG = 0x400;
        /// The peer has shut down its writing side.
        const RDHUP = 0x2000;
    }
}

impl Events {
    /// `IN` with its synonym.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// `OUT` with its synonym.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
    /// Reported whether asked for or not.
    pub const ALWAYS: Self = Self::ERR.union(Self::HUP);
}

/// The identity that permission checks use.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Credentials {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: alloc::vec::Vec<u32>,
}

impl Credentials {
    /// User and group 0.
    #[must_use]
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: alloc::vec::Vec::new() }
    }

    /// Whether checks are skipped.
    #[must_use]
    pub fn privileged(&self) -> bool {
        self.uid == 0
    }

    /// Whether `gid` is the group or one of the supplementary groups.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

bitflags! {
    /// What a permission check asks for (the numbers of `access`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Execute, or search a directory.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_mode_three_grants_nothing() {
        let grants = |bits| (OpenFlags::from_bits_retain(bits).grants_read(), OpenFlags::from_bits_retain(bits).grants_write());
        assert_eq!([0, 1, 2, 3].map(grants), [(true, false), (false, true), (true, true), (false, false)]);
        let path = OpenFlags::PATH | OpenFlags::RDWR;
        assert!(!path.grants_read() && !path.grants_write());
    }

    #[test]
    fn device_numbers_survive_a_round_trip() {
        for (major, minor) in [(1, 3), (0, 25), (4095, 255), (70000, 1_000_000)] {
            let dev = make_dev(major, minor);
            assert_eq!((dev_major(dev), dev_minor(dev)), (major, minor));
        }
        assert_eq!(make_dev(1, 3), 0x103);
    }

    #[test]
    fn access_mode_three_reads_and_writes() {
        let flags = OpenFlags::from_bits_retain(3);
        assert!(flags.can_read() && flags.can_write());
        assert!(OpenFlags::RDONLY.can_read() && !OpenFlags::RDONLY.can_write());
        assert!(!OpenFlags::PATH.can_read());
    }

    #[test]
    fn dirent_types_are_linux_numbers() {
        assert_eq!(FileKind::Regular.dirent_type(), 8);
        assert_eq!(FileKind::Directory.dirent_type(), 4);
        assert_eq!(FileKind::Symlink.dirent_type(), 10);
    }
}
