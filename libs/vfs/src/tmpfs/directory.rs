//! The names in a directory: own ones, over those of an optional lower directory.
//!
//! Invariant: a name is never visible twice. An own name that the lower directory has too is `hidden` there.
//! Cookies: names shown from below keep the lower directory's cookies, own ones get growing numbers above [`OWN`], so a
//! listing that goes on after changes neither repeats nor skips an entry that stayed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use dcache::Text;
use hashbrown::{HashMap, HashSet};

use super::Node;
use crate::inode::Inode;
use crate::types::{DirEntry, FileKind};
use crate::{Errno, Result};

/// Own cookies are above this.
const OWN: u64 = 1 << 48;

/// A name made here.
struct Slot {
    cookie: u64,
    node: Arc<Node>,
}

/// The names in a directory.
pub(super) struct Directory {
    own: HashMap<Text, Slot>,
    /// Own names by cookie.
    order: BTreeMap<u64, Text>,
    /// Lower names that do not count any more.
    hidden: HashSet<Text>,
    lower: Option<Arc<dyn Inode>>,
    last_cookie: u64,
    /// The directory was removed: nothing can be added.
    removed: bool,
}

/// What a name stands for.
pub(super) enum Found {
    /// A node made here, or moved.
    Own(Arc<Node>),
    /// An object of the lower tree.
    Lower(Arc<dyn Inode>),
}

impl Directory {
    pub(super) fn new(lower: Option<Arc<dyn Inode>>) -> Self {
        Self {
            own: HashMap::new(),
            order: BTreeMap::new(),
            hidden: HashSet::new(),
            lower,
            last_cookie: OWN,
            removed: false,
        }
    }

    /// A directory over `lower`, which need not be asked if it is empty.
    pub(super) fn over(lower: &Arc<dyn Inode>) -> Self {
        let mut empty = true;
        let read = lower.read_dir(0, &mut |_| {
            empty = false;
            ControlFlow::Break(())
        });
        Self::new((read.is_err() || !empty).then(|| lower.clone()))
    }

    /// What `name` stands for.
    pub(super) fn find(&self, name: &[u8]) -> Result<Found> {
        if let Some(slot) = self.own.get(name) {
            return Ok(Found::Own(slot.node.clone()));
        }
        match &self.lower {
            Some(lower) if !self.hidden.contains(name) => lower.lookup(name).map(Found::Lower),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Fails unless `name` can be added.
    pub(super) fn require_free(&self, name: &[u8]) -> Result<()> {
        if self.removed {
            return Err(Errno::ENOENT);
        }
        match self.find(name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Fails unless `name`, which was looked up just now and not found, can be added: the lower directory does not change.
    pub(super) fn require_still_free(&self, name: &[u8]) -> Result<()> {
        match (self.removed, self.own.contains_key(name)) {
            (true, _) => Err(Errno::ENOENT),
            (_, true) => Err(Errno::EEXIST),
            _ => Ok(()),
        }
    }

    /// Adds `name`, which is free or was removed by [`Directory::remove`].
    pub(super) fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        self.last_cookie += 1;
        let name = Text::new(name);
        self.order.insert(self.last_cookie, name.clone());
        self.own.insert(name, Slot { cookie: self.last_cookie, node });
    }

    /// Takes `name` out; a lower name is hidden.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(slot) = self.own.remove(name) {
            self.order.remove(&slot.cookie);
        } else if self.lower.is_some() {
            self.hidden.insert(Text::new(name));
        }
    }

    /// Takes `name` out, if it is one of this file system's own and no directory's: what it stood for. `None` for one that may be lower.
    ///
    /// # Errors
    /// `EISDIR`.
    pub(super) fn take_file(&mut self, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let Some((text, slot)) = self.own.remove_entry(name) else { return Ok(None) };
        if slot.node.kind() == FileKind::Directory {
            self.own.insert(text, slot);
            return Err(Errno::EISDIR);
        }
        self.order.remove(&slot.cookie);
        Ok(Some(slot.node))
    }

    /// Puts another node in the place of `name`, in the order too.
    pub(super) fn replace(&mut self, name: &[u8], node: Arc<Node>) {
        if let Some(slot) = self.own.get_mut(name) {
            slot.node = node;
        } else {
            self.remove(name);
            self.insert(name, node);
        }
    }

    /// Whether no name is left.
    pub(super) fn is_empty(&self) -> Result<bool> {
        if !self.own.is_empty() {
            return Ok(false);
        }
        Ok(self.visit_lower(0, &mut |_| ControlFlow::Break(()))?.is_continue())
    }

    /// Lets nothing be added any more.
    pub(super) fn mark_removed(&mut self) {
        self.removed = true;
    }

    /// Empties the directory of its own nodes.
    pub(super) fn take_nodes(&mut self) -> Vec<Arc<Node>> {
        self.own.drain().map(|(_, slot)| slot.node).collect()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Number of own names.
    pub(super) fn own_len(&self) -> usize {
        self.own.len()
    }

    /// Visits the entries after `cookie`.
    pub(super) fn visit(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        if cookie < OWN && self.visit_lower(cookie, visit)?.is_break() {
            return Ok(());
        }
        for (&next, name) in self.order.range(cookie.max(OWN) + 1..) {
            let node = &self.own[name].node;
            let entry = DirEntry { ino: node.ino(), kind: node.kind(), name: name.bytes(), next };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn visit_lower(
        &self,
        cookie: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        if let Some(lower) = &self.lower {
            lower.read_dir(cookie, &mut |entry| {
                if self.hidden.contains(entry.name) || self.own.contains_key(entry.name) {
                    return ControlFlow::Continue(());
                }
                flow = visit(entry);
                flow
            })?;
        }
        Ok(flow)
    }
}
