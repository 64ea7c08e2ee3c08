//! A tree with one of everything, and the check that an image has what a tree says.

use std::collections::BTreeMap;

use erofs::write::{Attributes, Content, Entry, Node, Tree};
use erofs::{DeviceNumber, Image, Inode};

pub(crate) fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 70_000,
        gid: 80_000,
        mtime: 1_700_000_000,
        mtime_nsec: 123_456_789,
        ..Default::default()
    }
}

pub(crate) fn device(node: fn(DeviceNumber) -> Node, major: u32, minor: u32) -> Entry {
    Entry {
        node: node(DeviceNumber { major, minor }),
        attributes: attributes(0o600),
    }
}

/// A tree with one of everything.
pub(crate) fn sample() -> Tree {
    let mut tree = Tree::new();
    let mut add = |path: &str, entry| assert!(tree.insert(path, entry).unwrap().is_none());
    add("/", Entry::directory(attributes(0o755)));
    add("/empty", Entry::bytes([], attributes(0o644)));
    add("/small", Entry::bytes("hello\n", attributes(0o4755)));
    add("/page", Entry::bytes(vec![7; 4096], attributes(0o644)));
    add(
        "/almost-page",
        Entry::bytes(vec![8; 4095], attributes(0o644)),
    );
    add(
        "/big",
        Entry::bytes(
            (0..100_001u32)
                .map(|i| (i % 251) as u8)
                .collect::<Vec<u8>>(),
            attributes(0o644),
        ),
    );
    add("/implicit/dir/file", Entry::bytes("x", attributes(0o644)));
    add("/empty-dir", Entry::directory(attributes(0o1777)));
    add("/link", Entry::symlink("small"));
    add("/long-link", Entry::symlink("x".repeat(4095)));
    add("/hard", Entry::hard_link("/small"));
    add("/implicit/hard2", Entry::hard_link("hard"));
    add("/dev/null", device(Node::CharDevice, 1, 3));
    add("/dev/odd", device(Node::BlockDevice, 0xabc, 0xabcde));
    add(
        "/dev/fifo",
        Entry {
            node: Node::Fifo,
            attributes: attributes(0o600),
        },
    );
    add(
        "/dev/socket",
        Entry {
            node: Node::Socket,
            attributes: attributes(0o600),
        },
    );
    // Sorts before `.`.
    add("/-dash", Entry::bytes("dash", attributes(0o644)));
    for i in 0..1000 {
        add(
            &format!("/many/file-with-a-rather-long-name-{i}"),
            Entry::bytes(format!("{i}"), attributes(0o644)),
        );
    }
    let xattrs = BTreeMap::from([
        (b"user.comment".to_vec(), b"text".to_vec()),
        (
            b"security.capability".to_vec(),
            vec![1, 0, 0, 2, 0, 0x20, 0, 0],
        ),
        (b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0]),
    ]);
    add(
        "/with-xattrs",
        Entry::bytes(
            "attributed",
            Attributes {
                xattrs,
                ..attributes(0o644)
            },
        ),
    );
    let large = BTreeMap::from([
        (b"user.large".to_vec(), vec![9; 20_000]),
        (b"user.more".to_vec(), vec![3; 5]),
    ]);
    add(
        "/large-xattrs",
        Entry::bytes(
            "data",
            Attributes {
                xattrs: large,
                ..attributes(0o644)
            },
        ),
    );
    tree
}

pub(crate) fn resolve<'a>(image: &Image<'a>, path: &str) -> Inode<'a> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .fold(image.root().unwrap(), |dir, name| {
            let entry = dir
                .lookup(name.as_bytes())
                .unwrap()
                .unwrap_or_else(|| panic!("{path}: no {name}"));
            let inode = image.inode(entry.nid).unwrap();
            assert_eq!(entry.kind, Some(inode.kind));
            inode
        })
}

pub(crate) fn contents(inode: &Inode<'_>) -> Vec<u8> {
    let mut bytes = vec![0; inode.size as usize + 10];
    let len = inode.read_at(0, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// Asserts that `image` has what `tree` says. Hard links are compared with what they name in the end.
pub(crate) fn verify(image: &Image<'_>, tree: &Tree) {
    for (path, entry) in tree.iter() {
        let inode = resolve(image, path.to_str().unwrap());
        match &entry.node {
            Node::File(Content::Bytes(bytes)) => assert_eq!(&contents(&inode), bytes, "{path:?}"),
            Node::Symlink(target) => assert_eq!(inode.read_link().unwrap(), target),
            Node::CharDevice(number) | Node::BlockDevice(number) => assert_eq!(inode.rdev, *number),
            Node::HardLink(_) => {
                assert_eq!(inode.nid, resolve(image, "/small").nid);
                continue;
            }
            _ => {}
        }
        let expected = &entry.attributes;
        assert_eq!(inode.mode & 0o7777, expected.mode, "{path:?}");
        assert_eq!((inode.uid, inode.gid), (expected.uid, expected.gid));
        assert_eq!(
            (inode.mtime, inode.mtime_nsec),
            (expected.mtime, expected.mtime_nsec)
        );
        for (name, value) in &expected.xattrs {
            assert_eq!(inode.xattr(name).unwrap(), Some(value.as_slice()));
        }
        assert_eq!(inode.xattrs().unwrap().count(), expected.xattrs.len());
    }
}
