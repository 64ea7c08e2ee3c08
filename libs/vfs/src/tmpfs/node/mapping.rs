//! The pages of a regular file as `mmap` sees them.

use alloc::sync::Arc;

use frame::{Frame, Mappable, Mappers, MappingId};

use super::super::content::Content;
use super::Node;
use crate::Result;
use crate::inode::{Allocate, Inode, MapKind};

/// A file's pages as `mmap` sees them.
pub(super) struct Mapping {
    pub(super) node: Arc<Node>,
    pub(super) kind: MapKind,
}

impl Mapping {
    fn content(&self) -> &Content {
        self.node.content().expect("only regular files are mapped")
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
