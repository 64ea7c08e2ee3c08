//! Writing and executing a file exclude each other (`ETXTBSY`).
//!
//! Who opens a file for writing is counted by its inode ([`Inode::writers`]), then looks whether the file is being executed; who executes it enters it in a list, then
//! looks at the count. Both go through the list's lock in between, so one of the two sees the other.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use sync::Mutex;

use crate::inode::Inode;
use crate::{Errno, Result};

/// Device and inode number, once for each [`Running`]. Few programs run at a time.
static RUNNING: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// A file that is being executed, as long as this exists.
#[derive(Debug)]
#[must_use = "dropping it lets others write to the file"]
pub struct Running((u64, u64));

impl Running {
    /// From now on, nobody may open `inode` for writing.
    ///
    /// # Errors
    /// `ETXTBSY` when somebody has.
    pub fn new(inode: &dyn Inode) -> Result<Self> {
        let id = id(inode);
        RUNNING.lock().push(id);
        let running = Self(id);
        // Ordered by the lock, as the module says.
        let written = inode.writers().is_some_and(|writers| writers.load(Ordering::Relaxed) > 0);
        if written { Err(Errno::ETXTBSY) } else { Ok(running) }
    }
}

/// `inode` is about to be opened for writing. True: it counts that, and [`end_writing`] is to be called in the end.
///
/// # Errors
/// `ETXTBSY` when it is being executed.
pub(crate) fn begin_writing(inode: &dyn Inode) -> Result<bool> {
    let Some(writers) = inode.writers() else { return require_idle(inode).map(|()| false) };
    writers.fetch_add(1, Ordering::Relaxed);
    require_idle(inode).inspect_err(|_| end_writing(inode))?;
    Ok(true)
}

/// Who has opened `inode` for writing closes it.
pub(crate) fn end_writing(inode: &dyn Inode) {
    if let Some(writers) = inode.writers() {
        // Pairs with nothing: what was written is ordered by the content's own lock.
        writers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = RUNNING.lock();
        if let Some(at) = running.iter().position(|other| *other == self.0) {
            running.swap_remove(at);
        }
    }
}

fn id(inode: &dyn Inode) -> (u64, u64) {
    let metadata = inode.metadata();
    (metadata.dev, metadata.ino)
}

/// Fails if `inode` is being executed.
///
/// # Errors
/// `ETXTBSY`.
pub fn require_idle(inode: &dyn Inode) -> Result<()> {
    let id = id(inode);
    if RUNNING.lock().contains(&id) { Err(Errno::ETXTBSY) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenFlags;
    use crate::testing::Tree;

    #[test]
    fn a_program_is_not_written_to_while_it_runs() {
        let tree = Tree::empty();
        tree.write("/program", b"text").unwrap();
        let inode = tree.open("/program", OpenFlags::RDONLY).unwrap().inode().clone();
        let twice = [Running::new(&*inode).unwrap(), Running::new(&*inode).unwrap()];
        for flags in [OpenFlags::WRONLY, OpenFlags::RDWR, OpenFlags::RDONLY | OpenFlags::TRUNC, OpenFlags::WRONLY | OpenFlags::CREAT] {
            assert_eq!(tree.open("/program", flags).err(), Some(Errno::ETXTBSY));
        }
        assert!(tree.open("/program", OpenFlags::RDONLY).is_ok());
        let [first, second] = twice;
        drop(first);
        assert_eq!(tree.open("/program", OpenFlags::RDWR).err(), Some(Errno::ETXTBSY));
        drop(second);
        assert!(tree.open("/program", OpenFlags::RDWR | OpenFlags::TRUNC).is_ok());
    }

    #[test]
    fn a_file_is_not_executed_while_it_is_open_for_writing() {
        let tree = Tree::layered(&[("program", b"text")]);
        let inode = tree.open("/program", OpenFlags::RDONLY).unwrap().inode().clone();
        let writers = [OpenFlags::WRONLY, OpenFlags::RDWR | OpenFlags::APPEND, OpenFlags::WRONLY | OpenFlags::CREAT].map(|flags| tree.open("/program", flags).unwrap());
        for writer in writers {
            assert_eq!(Running::new(&*inode).err(), Some(Errno::ETXTBSY));
            drop(writer);
        }
        let running = Running::new(&*inode).unwrap();
        assert_eq!(tree.open("/program", OpenFlags::WRONLY).err(), Some(Errno::ETXTBSY));
        drop(running);
        // A refused one is not counted.
        assert!(Running::new(&*inode).is_ok());
        let made = tree.open("/made", OpenFlags::WRONLY | OpenFlags::CREAT).unwrap();
        assert_eq!(Running::new(&**made.inode()).err(), Some(Errno::ETXTBSY));
    }
}
