//! Images made by the writer, read back and checked by erofs-utils.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use erofs::write::{Attributes, Content, Entry, Node, Options, Sharing, Tree, WriteError, plan};
use erofs::{BlockRef, DeviceNumber, Image, Inode, Kind};
use support::{Aligned, build, fsck};

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 70_000,
        gid: 80_000,
        mtime: 1_700_000_000,
        mtime_nsec: 123_456_789,
        ..Default::default()
    }
}

fn device(node: fn(DeviceNumber) -> Node, major: u32, minor: u32) -> Entry {
    Entry {
        node: node(DeviceNumber { major, minor }),
        attributes: attributes(0o600),
    }
}

/// A tree with one of everything.
fn sample() -> Tree {
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

fn resolve<'a>(image: &Image<'a>, path: &str) -> Inode<'a> {
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

fn contents(inode: &Inode<'_>) -> Vec<u8> {
    let mut bytes = vec![0; inode.size as usize + 10];
    let len = inode.read_at(0, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn everything_written_is_read_back() {
    let tree = sample();
    let aligned = Aligned::new(&build(&tree, &Options::default()));
    let image = Image::new(aligned.bytes()).unwrap();
    for (path, entry) in tree.iter() {
        let inode = resolve(&image, path.to_str().unwrap());
        match &entry.node {
            Node::File(Content::Bytes(bytes)) => assert_eq!(&contents(&inode), bytes, "{path:?}"),
            Node::Symlink(target) => assert_eq!(inode.read_link().unwrap(), target),
            Node::CharDevice(number) | Node::BlockDevice(number) => assert_eq!(inode.rdev, *number),
            Node::HardLink(_) => {
                assert_eq!(inode.nid, resolve(&image, "/small").nid);
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
    assert_eq!(
        image.super_block().inodes.get() as usize,
        plan(&tree, &Options::default()).unwrap().inode_count()
    );
}

#[test]
fn link_counts_are_those_of_linux() {
    let bytes = build(&sample(), &Options::default());
    let image = Image::new(&bytes).unwrap();
    assert_eq!(resolve(&image, "/small").nlink, 3);
    assert_eq!(resolve(&image, "/implicit").nlink, 3);
    assert_eq!(resolve(&image, "/empty-dir").nlink, 2);
    assert_eq!(resolve(&image, "/").nlink, 2 + 4);
    assert_eq!(resolve(&image, "/implicit").mode, 0o040_755);
}

#[test]
fn dot_and_dot_dot_lead_to_the_directory_and_its_parent() {
    let bytes = build(&sample(), &Options::default());
    let image = Image::new(&bytes).unwrap();
    let dir = resolve(&image, "/implicit/dir");
    assert_eq!(dir.lookup(b".").unwrap().unwrap().nid, dir.nid);
    assert_eq!(
        dir.lookup(b"..").unwrap().unwrap().nid,
        resolve(&image, "/implicit").nid
    );
    assert_eq!(resolve(&image, "/..").nid, image.root_nid());
}

#[test]
fn a_listing_is_sorted_and_continues_from_every_cookie() {
    let bytes = build(&sample(), &Options::default());
    let image = Image::new(&bytes).unwrap();
    let dir = resolve(&image, "/many");
    let all: Vec<_> = dir.read_dir(0).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), 1002);
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    for (position, entry) in all.iter().enumerate() {
        let next = dir
            .read_dir(entry.next_cookie)
            .unwrap()
            .next()
            .transpose()
            .unwrap();
        assert_eq!(next.as_ref(), all.get(position + 1));
    }
    assert!(
        dir.lookup(b"file-with-a-rather-long-name-1000")
            .unwrap()
            .is_none()
    );
    assert!(dir.lookup(b"zzz").unwrap().is_none());
    assert!(dir.lookup(b"!").unwrap().is_none());
}

#[test]
fn files_of_a_page_and_more_map_in_place_to_the_last_page() {
    let aligned = Aligned::new(&build(&sample(), &Options::default()));
    let image = Image::new(aligned.bytes()).unwrap();
    let big = resolve(&image, "/big");
    let whole = contents(&big);
    for index in 0..big.size.div_ceil(4096) {
        let Some(BlockRef::InPlace(page)) = big.block(index).unwrap() else {
            panic!("block {index} is not in place")
        };
        let expected = &whole[index as usize * 4096..];
        let used = expected.len().min(4096);
        assert_eq!(page[..used], expected[..used]);
        assert!(page[used..].iter().all(|&byte| byte == 0));
    }
    assert_eq!(big.block(big.size.div_ceil(4096)).unwrap(), None);
    assert_eq!(
        resolve(&image, "/small").block(0).unwrap(),
        Some(BlockRef::Tail(b"hello\n"))
    );
    assert_eq!(resolve(&image, "/empty").block(0).unwrap(), None);
}

#[test]
fn an_image_that_is_not_aligned_is_copied_from() {
    let mut shifted =
        Aligned::new(&[&[0], build(&sample(), &Options::default()).as_slice()].concat());
    let image = Image::new(&shifted.bytes_mut()[1..]).unwrap();
    assert_eq!(
        resolve(&image, "/page").block(0).unwrap(),
        Some(BlockRef::Tail(&[7; 4096]))
    );
}

#[test]
fn the_same_tree_gives_the_same_image() {
    assert_eq!(
        build(&sample(), &Options::default()),
        build(&sample(), &Options::default())
    );
}

#[test]
fn identical_files_share_blocks_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    fs::write(&host, vec![5; 500_000]).unwrap();
    let mut tree = Tree::new();
    tree.insert("a", Entry::host(&host, attributes(0o644)))
        .unwrap();
    tree.insert("b", Entry::bytes(vec![5; 500_000], attributes(0o600)))
        .unwrap();
    tree.insert("c", Entry::bytes(vec![6; 500_000], attributes(0o600)))
        .unwrap();
    let shared = build(
        &tree,
        &Options {
            sharing: Sharing::Identical,
            ..Options::default()
        },
    );
    assert_eq!(
        build(&tree, &Options::default()).len() - shared.len(),
        500_000_usize.next_multiple_of(4096)
    );
    let image = Image::new(&shared).unwrap();
    for (name, byte) in [("a", 5), ("b", 5), ("c", 6)] {
        assert_eq!(contents(&resolve(&image, name)), vec![byte; 500_000]);
    }
    let path = dir.path().join("image");
    fs::write(&path, &shared).unwrap();
    fsck(&path);
}

#[test]
fn fsck_and_dump_accept_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = Options {
        volume_name: "oxv".into(),
        build_time: 1_700_000_000,
        ..Options::default()
    };
    fs::write(&path, build(&sample(), &options)).unwrap();
    fsck(&path);
    let _ = support::erofs_utils(
        "dump.erofs",
        &["-s".as_ref(), "-S".as_ref(), path.as_os_str()],
    );
}

#[test]
fn fsck_extracts_what_was_put_in() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("image"), dir.path().join("out"));
    let tree = sample();
    fs::write(&path, build(&tree, &Options::default())).unwrap();
    let extract = format!("--extract={}", out.display());
    let args = [
        extract.as_ref(),
        "--no-preserve-owner".as_ref(),
        path.as_os_str(),
    ];
    if support::erofs_utils("fsck.erofs", &args).is_none() {
        return;
    }
    for (path, entry) in tree.iter() {
        let extracted = out.join(path.strip_prefix("/").unwrap());
        match &entry.node {
            Node::File(Content::Bytes(bytes)) => {
                assert_eq!(&fs::read(extracted).unwrap(), bytes, "{path:?}")
            }
            Node::Directory => assert!(extracted.is_dir()),
            _ => assert!(extracted.symlink_metadata().is_ok(), "{path:?}"),
        }
    }
}

#[test]
fn invalid_trees_are_refused_with_the_path() {
    type Check = fn(&WriteError) -> bool;
    let file = || Entry::bytes("x", attributes(0o644));
    let cases: Vec<(Vec<(&str, Entry)>, Check)> = vec![
        (
            vec![("a", file()), ("a/b", file())],
            |e| matches!(e, WriteError::NotADirectory(p) if p == Path::new("/a")),
        ),
        (vec![("/", file())], |e| {
            matches!(e, WriteError::NotADirectory(_))
        }),
        (vec![("a", Entry::hard_link("b"))], |e| {
            matches!(e, WriteError::LinkTarget { .. })
        }),
        (vec![("a", Entry::hard_link("a"))], |e| {
            matches!(e, WriteError::LinkTarget { .. })
        }),
        (vec![("a", Entry::hard_link("/")), ("b", file())], |e| {
            matches!(e, WriteError::LinkTarget { .. })
        }),
        (
            vec![("a", Entry::hard_link("f")), ("a/b", file()), ("f", file())],
            |e| matches!(e, WriteError::NotADirectory(_)),
        ),
        (vec![("a", Entry::symlink(""))], |e| {
            matches!(e, WriteError::SymlinkTarget(_))
        }),
        (vec![("a", Entry::host("/", attributes(0o644)))], |e| {
            matches!(e, WriteError::NotARegularFile(_))
        }),
        (
            vec![("a", Entry::host("/no/such", attributes(0o644)))],
            |e| matches!(e, WriteError::Host { .. }),
        ),
        (vec![("a", device(Node::CharDevice, 4096, 0))], |e| {
            matches!(e, WriteError::DeviceNumber(_))
        }),
        (vec![("a", Entry::bytes("", attributes(0o100_644)))], |e| {
            matches!(e, WriteError::Mode(_))
        }),
    ];
    for (entries, check) in cases {
        let mut tree = Tree::new();
        for (path, entry) in &entries {
            tree.insert(path, entry.clone()).unwrap();
        }
        let error = plan(&tree, &Options::default())
            .map(|_| ())
            .expect_err("the tree is invalid");
        assert!(check(&error), "{entries:?}: {error}");
    }
    for path in ["../a", "a/../b", &"x".repeat(256), "nul\0"] {
        assert!(
            matches!(Tree::new().insert(path, file()), Err(WriteError::Path(_))),
            "{path:?}"
        );
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    fs::write(&host, vec![1; 10_000]).unwrap();
    let mut tree = Tree::new();
    tree.insert("a", Entry::host(&host, attributes(0o644)))
        .unwrap();
    let plan = plan(&tree, &Options::default()).unwrap();
    fs::write(&host, vec![1; 9_999]).unwrap();
    let result = plan.write(&mut Vec::new(), &mut |_, _| {});
    assert!(matches!(result, Err(WriteError::Shrank(path)) if path == host));
}
