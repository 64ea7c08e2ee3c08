//! /dev/ptmx and /dev/pts: pseudo terminals. What they do is in `vfs::tty::pty`; this names them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;

use linux_abi::Errno;
use sync::{Mutex, OnceCell};
use vfs::ops::Context;
use vfs::tmpfs::{Node, Options, TmpFs};
use vfs::tty::Tty;
use vfs::tty::pty::{Master, Pty};
use vfs::types::make_dev;
use vfs::walk::{Resolve, Viewer};
use vfs::{Credentials, File, FileKind, Inode, NewInode, OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::entry::with_task;
use crate::sys::file::{install, now};
use crate::terminal::{self, Processes};

/// Device number of the file system.
const DEV: u64 = 0x19;
/// `DEVPTS_SUPER_MAGIC`
const MAGIC: u64 = 0x1cd1;
/// Group `tty`, which Debian gives terminals to.
const TTY_GROUP: u32 = 5;
/// Major number of slave sides.
const MAJOR: u32 = 136;
/// As /proc/sys/kernel/pty/max.
const MAX: u32 = 4096;

static DIRECTORY: OnceCell<Arc<Node>> = OnceCell::new();
static PTYS: Mutex<BTreeMap<u32, Arc<Pty>>> = Mutex::new(BTreeMap::new());

/// The root directory of /dev/pts.
///
/// # Errors
/// `EEXIST` never.
pub(crate) fn directory() -> Result<Arc<dyn Inode>, Errno> {
    let root = DIRECTORY.get_or_init(|| TmpFs::mount(Options { magic: MAGIC, cached_names: false, ..Options::new(DEV, now) })).clone();
    TmpFs::add_device(&root, b"ptmx", &device(5, 2, 0o666, 0), Arc::new(|_| open_master()))?;
    if terminal::wanted() {
        let console = device(MAJOR, terminal::NUMBER, 0o620, 0);
        TmpFs::add_device(&root, b"0", &console, Arc::new(terminal::open))?;
    }
    Ok(root)
}

fn device(major: u32, minor: u32, mode: u16, uid: u32) -> NewInode {
    let gid = if major == MAJOR { TTY_GROUP } else { 0 };
    NewInode { kind: FileKind::CharDevice, mode, uid, gid, rdev: make_dev(major, minor) }
}

/// Opens /dev/ptmx: a new pseudo terminal.
///
/// # Errors
/// `ENOSPC` when there are too many, `ENOMEM`.
pub(crate) fn open_master() -> Result<Arc<dyn File>, Errno> {
    let root = DIRECTORY.get().ok_or(Errno::ENXIO)?;
    let first = if terminal::wanted() { terminal::NUMBER + 1 } else { terminal::NUMBER };
    let mut ptys = PTYS.lock();
    let number = (first..MAX).find(|number| !ptys.contains_key(number)).ok_or(Errno::ENOSPC)?;
    let pty = Pty::new(number, Arc::new(Processes), Box::new(forget));
    let uid = with_task(|task| task.cred().fsuid).unwrap_or(0);
    let slave = pty.clone();
    let opener = Arc::new(move |flags| slave.open_slave(flags));
    TmpFs::add_device(root, format!("{number}").as_bytes(), &device(MAJOR, number, 0o620, uid), opener)?;
    ptys.insert(number, pty.clone());
    Ok(pty.master())
}

/// The master side is closed.
fn forget(number: u32) {
    let pty = PTYS.lock().remove(&number);
    if let Some(root) = DIRECTORY.get() {
        // Somebody may have removed the name already.
        let _missing = root.unlink(format!("{number}").as_bytes());
    }
    drop(pty);
}

/// The terminal of pseudo terminal `number`.
pub(crate) fn find(number: u32) -> Option<Arc<Tty>> {
    PTYS.lock().get(&number).map(|pty| pty.tty().clone())
}

/// Opens the slave side of `number`, whatever its name.
pub(crate) fn open_slave(number: u32, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    let pty = PTYS.lock().get(&number).cloned().ok_or(Errno::ENXIO)?;
    pty.open_slave(flags)
}

/// `ioctl(TIOCGPTPEER)`: the slave side of master `file` under a new descriptor.
///
/// # Errors
/// `ENOTTY` for another file, `EIO` while it is locked, `EMFILE`.
pub(crate) fn open_peer(ctx: &Ctx<'_>, file: &OpenFile, flags: u32) -> SysResult {
    let number = file.downcast::<Master>().ok_or(Errno::ENOTTY)?.pty().tty().number();
    let flags = OpenFlags::from_bits_retain(flags);
    let (mounts, credentials) = (&ctx.fs().mounts, Credentials::root());
    let root = mounts.root();
    let context = Context { viewer: Viewer { mounts, root: &root, credentials: &credentials }, umask: 0 };
    let slave = context.open(&root, format!("/dev/pts/{number}").as_bytes(), flags, 0, Resolve::empty())?;
    install(ctx, slave, flags)
}
