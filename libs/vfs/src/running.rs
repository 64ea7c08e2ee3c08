//! Writing and executing a file exclude each other (`ETXTBSY`).
//!
//! Each regular file counts in one number who has it open for writing (upwards from zero) and who executes it (downwards), as Linux's `i_writecount`. Whoever comes
//! second finds the number on the wrong side of zero. So an open looks at nothing but the file's own inode.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicI32, Ordering};

use crate::inode::Inode;
use crate::{Errno, Result};

/// Above zero: how many have the file open for writing. Below: how many execute it, negative.
///
/// What is written, and read in order to be executed, is ordered by the content's own lock, so the number itself orders nothing.
#[derive(Debug, Default)]
pub struct WriteCount(AtomicI32);

impl WriteCount {
    fn begin_writing(&self) -> Result<()> {
        self.change(|count| (count >= 0).then_some(count + 1))
    }

    fn end_writing(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn begin_running(&self) -> Result<()> {
        self.change(|count| (count <= 0).then_some(count - 1))
    }

    fn end_running(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn change(&self, next: impl FnMut(i32) -> Option<i32>) -> Result<()> {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(Err(Errno::ETXTBSY), |_| Ok(()))
    }
}

/// A file that is being executed, as long as this exists.
#[must_use = "dropping it lets others write to the file"]
pub struct Running(Arc<dyn Inode>);

impl Running {
    /// From now on, nobody may open `inode` for writing.
    ///
    /// # Errors
    /// `ETXTBSY` when somebody has.
    pub fn new(inode: Arc<dyn Inode>) -> Result<Self> {
        inode.write_count().map_or(Ok(()), WriteCount::begin_running)?;
        Ok(Self(inode))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(count) = self.0.write_count() {
            count.end_running();
        }
    }
}

/// `inode` is about to be opened for writing. True: it counts that, and [`end_writing`] is to be called in the end.
///
/// # Errors
/// `ETXTBSY` when it is being executed.
pub(crate) fn begin_writing(inode: &dyn Inode) -> Result<bool> {
    let Some(count) = inode.write_count() else { return Ok(false) };
    count.begin_writing().map(|()| true)
}

/// Who has opened `inode` for writing closes it.
pub(crate) fn end_writing(inode: &dyn Inode) {
    if let Some(count) = inode.write_count() {
        count.end_writing();
    }
}

/// Fails if `inode` is being executed.
///
/// # Errors
/// `ETXTBSY`.
pub fn require_idle(inode: &dyn Inode) -> Result<()> {
    let running = inode.write_count().is_some_and(|count| count.0.load(Ordering::Relaxed) < 0);
    if running { Err(Errno::ETXTBSY) } else { Ok(()) }
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
        let twice = [Running::new(inode.clone()).unwrap(), Running::new(inode.clone()).unwrap()];
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
            assert_eq!(Running::new(inode.clone()).err(), Some(Errno::ETXTBSY));
            drop(writer);
        }
        let running = Running::new(inode.clone()).unwrap();
        assert_eq!(tree.open("/program", OpenFlags::WRONLY).err(), Some(Errno::ETXTBSY));
        drop(running);
        // A refused one is not counted.
        assert!(Running::new(inode.clone()).is_ok());
        let made = tree.open("/made", OpenFlags::WRONLY | OpenFlags::CREAT).unwrap();
        assert_eq!(Running::new(made.inode().clone()).err(), Some(Errno::ETXTBSY));
    }
}
