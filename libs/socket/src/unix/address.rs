//! Addresses of local sockets (`unix(7)`): paths, abstract names, and none.

use alloc::sync::Arc;
use alloc::vec::Vec;

use vfs::Inode;

use crate::{AF_UNIX, Address, Errno, Result};

/// Bytes of the family.
const FAMILY: usize = 2;
/// Bytes of `sun_path`.
const PATH: usize = 108;

/// An address as a program gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parsed<'a> {
    /// A path in the file tree.
    Path(&'a [u8]),
    /// A name outside of it, its leading zero byte not included.
    Abstract(&'a [u8]),
    /// Nothing but the family: `bind` chooses a name.
    Unnamed,
}

/// Reads a `struct sockaddr_un`.
///
/// # Errors
/// `EINVAL` for a wrong family or length.
pub(super) fn parse(address: &[u8]) -> Result<Parsed<'_>> {
    let (family, rest) = address.split_first_chunk::<FAMILY>().ok_or(Errno::EINVAL)?;
    if u16::from_le_bytes(*family) != AF_UNIX || rest.len() > PATH {
        return Err(Errno::EINVAL);
    }
    Ok(match rest {
        [] => Parsed::Unnamed,
        [0, name @ ..] => Parsed::Abstract(name),
        path => Parsed::Path(path.split(|byte| *byte == 0).next().unwrap_or_default()),
    })
}

/// The family alone: the address of a socket without a name.
pub(super) fn unnamed() -> Address {
    AF_UNIX.to_le_bytes().into()
}

/// What a bound socket is called.
pub(super) struct Name {
    /// As the program sees it.
    pub(super) address: Address,
    /// The socket's inode, if the name is a path: keeps its number from being used again.
    pub(super) inode: Option<Arc<dyn Inode>>,
}

impl Name {
    /// A name in the file tree.
    pub(super) fn path(path: &[u8], inode: Arc<dyn Inode>) -> Self {
        Self { address: assemble(&[path, &[0]]), inode: Some(inode) }
    }

    /// A name outside of it.
    pub(super) fn hidden(name: &[u8]) -> Self {
        Self { address: assemble(&[&[0], name]), inode: None }
    }
}

fn assemble(parts: &[&[u8]]) -> Address {
    let mut bytes: Vec<u8> = AF_UNIX.to_le_bytes().to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_end_at_a_zero_and_abstract_names_do_not() {
        assert_eq!(parse(b"\x01\x00/tmp/s\0rest"), Ok(Parsed::Path(b"/tmp/s")));
        assert_eq!(parse(b"\x01\x00/tmp/s"), Ok(Parsed::Path(b"/tmp/s")));
        assert_eq!(parse(b"\x01\x00\0a\0b"), Ok(Parsed::Abstract(b"a\0b")));
        assert_eq!(parse(b"\x01\x00"), Ok(Parsed::Unnamed));
    }

    #[test]
    fn other_families_and_lengths_are_refused() {
        for bad in [b"".as_slice(), b"\x01", b"\x02\x00abc", &[b"\x01\x00".as_slice(), &[b'x'; 109]].concat()] {
            assert_eq!(parse(bad), Err(Errno::EINVAL));
        }
        assert!(parse(&[b"\x01\x00".as_slice(), &[b'x'; 108]].concat()).is_ok());
    }
}
