//! Property tests: whatever tree the writer accepts, the reader gives back and fsck.erofs accepts.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};

use erofs::write::{Attributes, Entry, Node, Options, Sharing, Tree, plan};
use erofs::{BlockRef, DeviceNumber, Image, Kind};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use support::sample::{resolve, verify};
use support::{Aligned, build, fsck};

/// Sizes around which the layout changes, and others.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..200_usize,
        3900..4200_usize,
        Just(4096),
        Just(8192),
        8000..30_000_usize
    ]
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let name = "(user|trusted|security)\\.[a-z]{1,20}".prop_map(String::into_bytes);
    let value = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 3000..6000)];
    prop_oneof![3 => Just(BTreeMap::new()), 1 => btree_map(name, value, 0..4)]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (
        0..=0o7777_u16,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..1_000_000_000_u32,
        xattrs(),
    )
        .prop_map(|(mode, uid, gid, mtime, mtime_nsec, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime,
            mtime_nsec,
            xattrs,
        })
}

fn node() -> impl Strategy<Value = Node> {
    let device = || {
        (0..1_u32 << 12, 0..1_u32 << 20).prop_map(|(major, minor)| DeviceNumber { major, minor })
    };
    prop_oneof![
        6 => (size(), any::<u8>()).prop_map(|(size, byte)| Entry::bytes(vec![byte; size], Attributes::default()).node),
        1 => Just(Node::Directory),
        2 => "[a-z/.]{1,100}".prop_map(|target| Node::Symlink(target.into_bytes())),
        1 => "[a-z]{4000,4095}".prop_map(|target| Node::Symlink(target.into_bytes())),
        1 => device().prop_map(Node::CharDevice),
        1 => device().prop_map(Node::BlockDevice),
        1 => Just(Node::Fifo),
    ]
}

/// Paths whose directories never are the names of anything else.
fn path() -> impl Strategy<Value = String> {
    (vec("dir[A-D]", 0..4), "[!-.0-9a-z~é]{1,30}|x{120,255}")
        .prop_map(|(dirs, name)| format!("{}/{name}", dirs.join("/")))
        .prop_filter("reserved names", |path| {
            !path.ends_with("/.") && !path.ends_with("/..")
        })
}

fn tree() -> impl Strategy<Value = Tree> {
    vec((path(), node(), attributes()), 0..120).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, node, attributes) in entries {
            tree.insert(path, Entry { node, attributes }).unwrap();
        }
        tree
    })
}

fn sharing() -> impl Strategy<Value = Sharing> {
    prop_oneof![Just(Sharing::Separate), Just(Sharing::Identical)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_tree_comes_back(tree in tree(), sharing in sharing()) {
        let aligned = Aligned::new(&build(&tree, &Options { sharing, ..Options::default() }));
        let image = Image::new(aligned.bytes()).unwrap();
        verify(&image, &tree);
        for (path, _) in tree.iter() {
            let inode = resolve(&image, path.to_str().unwrap());
            if inode.kind == Kind::Regular && inode.size >= 4096 {
                for index in 0..inode.size.div_ceil(4096) {
                    prop_assert!(matches!(inode.block(index), Ok(Some(BlockRef::InPlace(_)))));
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, aligned.bytes()).unwrap();
        fsck(&path);
    }
}

/// Counts what is written, and sees that it comes in small pieces.
#[derive(Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(bytes.len() <= 1 << 20);
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_of_gigabytes_stream_through_with_progress() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("sparse");
    fs::File::create(&host)
        .unwrap()
        .set_len((1 << 30) + 1)
        .unwrap();
    let mut tree = Tree::new();
    tree.insert("a", Entry::host(&host, Attributes::file(0o644)))
        .unwrap();
    let plan = plan(&tree, &Options::default()).unwrap();
    let (mut counter, mut reports) = (Counter::default(), Vec::new());
    plan.write(&mut counter, &mut |done, total| reports.push((done, total)))
        .unwrap();
    assert_eq!(counter.0, plan.image_size());
    assert!(reports.len() > 500 && reports.is_sorted());
    assert_eq!(reports.last(), Some(&(counter.0, counter.0)));
}
