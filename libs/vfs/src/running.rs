//! Files that are being executed: nobody may write to them (`ETXTBSY`).

use alloc::vec::Vec;

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
    /// From now on, nobody may open `inode` for writing. Who has it open already may go on.
    pub fn new(inode: &dyn Inode) -> Self {
        let id = id(inode);
        RUNNING.lock().push(id);
        Self(id)
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
        let twice = [Running::new(&*inode), Running::new(&*inode)];
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
}
