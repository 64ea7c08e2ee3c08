//! Who is bound to which name.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};

use vfs::{FileKind, Inode};

use super::address::{Name, Parsed, parse};
use super::{Domain, UnixSocket};
use crate::{Errno, Kind, Paths, Result};

/// Device and inode number: a socket in the file tree.
type InodeKey = (u64, u64);

/// The sockets that can be found by name.
pub(super) struct Names {
    /// By name outside of the file tree; sockets of different kinds do not see each other.
    hidden: BTreeMap<(Kind, Box<[u8]>), Weak<UnixSocket>>,
    paths: BTreeMap<InodeKey, Weak<UnixSocket>>,
    /// The last name that was chosen for a socket.
    chosen: u32,
}

/// Names that are chosen have five hexadecimal digits.
const CHOSEN_NAMES: u32 = 1 << 20;

impl Names {
    pub(super) const fn new() -> Self {
        Self { hidden: BTreeMap::new(), paths: BTreeMap::new(), chosen: 0 }
    }

    fn is_taken(&self, kind: Kind, name: &[u8]) -> bool {
        self.hidden.contains_key(&(kind, Box::from(name)))
    }
}

fn key(inode: &Arc<dyn Inode>) -> InodeKey {
    let metadata = inode.metadata();
    (metadata.dev, metadata.ino)
}

impl UnixSocket {
    /// `bind`.
    pub(super) fn bind_to(&self, address: &[u8], paths: &dyn Paths) -> Result<()> {
        let parsed = parse(address)?;
        if parsed == Parsed::Unnamed {
            return self.choose_name();
        }
        let _binding = self.binding.lock();
        if self.name.get().is_some() {
            return Err(Errno::EINVAL);
        }
        match parsed {
            Parsed::Path(path) => self.take_path(path, paths),
            Parsed::Abstract(name) => self.take_hidden(name),
            Parsed::Unnamed => Ok(()),
        }
    }

    /// Gives the socket a name that no other has, unless it has one.
    pub(super) fn choose_name(&self) -> Result<()> {
        let _binding = self.binding.lock();
        if self.name.get().is_some() {
            return Ok(());
        }
        for _ in 0..CHOSEN_NAMES {
            let number = {
                let mut names = self.domain.names.lock();
                names.chosen = (names.chosen + 1) % CHOSEN_NAMES;
                names.chosen
            };
            match self.take_hidden(format!("{number:05x}").as_bytes()) {
                Err(Errno::EADDRINUSE) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::ENOSPC)
    }

    fn take_path(&self, path: &[u8], paths: &dyn Paths) -> Result<()> {
        let inode = paths.make(path, 0o777).map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
        self.domain.names.lock().paths.insert(key(&inode), self.me.clone());
        let _first = self.name.set(Name::path(path, inode));
        Ok(())
    }

    fn take_hidden(&self, name: &[u8]) -> Result<()> {
        let mut names = self.domain.names.lock();
        if names.is_taken(self.kind(), name) {
            return Err(Errno::EADDRINUSE);
        }
        names.hidden.insert((self.kind(), Box::from(name)), self.me.clone());
        drop(names);
        let _first = self.name.set(Name::hidden(name));
        Ok(())
    }

    /// The name is free again. (That in the file tree stays, and refuses connections.)
    pub(super) fn give_up_name(&self) {
        let Some(name) = self.name.get() else { return };
        let mut names = self.domain.names.lock();
        let mine = |other: &Weak<Self>| other.ptr_eq(&self.me);
        if let Some(inode) = &name.inode {
            let key = key(inode);
            if names.paths.get(&key).is_some_and(mine) {
                names.paths.remove(&key);
            }
        } else if let Ok(Parsed::Abstract(hidden)) = parse(&name.address) {
            let key = (self.kind(), Box::from(hidden));
            if names.hidden.get(&key).is_some_and(mine) {
                names.hidden.remove(&key);
            }
        }
    }
}

impl Domain {
    /// The socket that is bound to `address`.
    ///
    /// # Errors
    /// `ECONNREFUSED` when there is none, `EPROTOTYPE` when it is of another kind, and those of a path walk.
    pub(super) fn find(&self, address: &[u8], kind: Kind, paths: &dyn Paths) -> Result<Arc<UnixSocket>> {
        let found = match parse(address)? {
            Parsed::Unnamed => return Err(Errno::EINVAL),
            Parsed::Abstract(name) => self.names.lock().hidden.get(&(kind, Box::from(name))).and_then(Weak::upgrade),
            Parsed::Path(path) => {
                let inode = paths.find(path)?;
                if inode.kind() != FileKind::Socket {
                    return Err(Errno::ECONNREFUSED);
                }
                self.names.lock().paths.get(&key(&inode)).and_then(Weak::upgrade)
            }
        };
        let socket = found.filter(|socket| !socket.is_dead()).ok_or(Errno::ECONNREFUSED)?;
        if socket.kind() == kind { Ok(socket) } else { Err(Errno::EPROTOTYPE) }
    }
}
