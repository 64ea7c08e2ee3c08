//! The pages of a regular file as `mmap` sees them. As on Linux, the file that was mapped stays open as long as a mapping has its pages: it counts
//! as a writer, and its locks are held.

use alloc::sync::Arc;

use frame::{Frame, Mappable, Mappers, MappingId};

use super::super::content::Content;
use super::Node;
use crate::Result;
use crate::file::OpenFile;
use crate::inode::{Allocate, Inode, MapKind};

/// A file's pages as `mmap` sees them.
pub(super) struct Mapping {
    node: Arc<Node>,
    kind: MapKind,
    /// What it was mapped by.
    _file: Option<Arc<OpenFile>>,
    /// [`Content::begin_writable_mapping`] has counted it.
    counted: bool,
}

impl Mapping {
    /// Of a file that nobody need have open.
    pub(super) fn new(node: Arc<Node>, kind: MapKind) -> Self {
        Self { node, kind, _file: None, counted: false }
    }

    /// Of `file`, which is an open file of `node`.
    pub(super) fn of_file(node: Arc<Node>, kind: MapKind, file: Arc<OpenFile>) -> Self {
        let writable = kind == MapKind::Shared && file.flags().can_write();
        let mut made = Self { node, kind, _file: Some(file), counted: false };
        made.counted = writable && made.content().begin_writable_mapping();
        made
    }

    fn content(&self) -> &Content {
        self.node.content().expect("only regular files are mapped")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.counted {
            self.content().end_writable_mapping();
        }
    }
}

impl Mappable for Mapping {
    fn frame(&self, index: u64) -> Result<Frame> {
        if self.kind == MapKind::Shared {
            self.node.mark_dirty();
        }
        self.content().map_page(&self.node.fs, index, self.kind)
    }

    fn ready_frame(&self, index: u64) -> Option<Frame> {
        self.content().ready_page(index, self.kind)
    }

    fn mapping_size(&self) -> u64 {
        self.content().size()
    }

    fn mapping_id(&self) -> MappingId {
        self.content().id()
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(self.content().mappers())
    }

    fn written(&self) {
        self.node.touch();
    }

    fn punch_hole(&self, start: u64, end: u64) -> Result<()> {
        self.node.allocate(Allocate::PunchHole, start, end - start)
    }
}
