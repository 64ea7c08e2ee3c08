//! Images made by the writer, read back and checked by erofs-utils.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use erofs::write::{Attributes, Content, Entry, Node, Options, Sharing, Tree, WriteError, plan};
use erofs::{BlockRef, Image};
use support::sample::{attributes, contents, device, resolve, sample, verify};
use support::{Aligned, build, fsck};

#[test]
fn everything_written_is_read_back() {
    let tree = sample();
    let aligned = Aligned::new(&build(&tree, &Options::default()));
    let image = Image::new(aligned.bytes()).unwrap();
    verify(&image, &tree);
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

/// fsck.erofs 1.5 says so only in words: its exit status is 0 for a wrong checksum.
#[test]
fn fsck_notices_damage_so_that_its_acceptance_means_something() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut image = build(&sample(), &Options::default());
    image[2000] ^= 1;
    fs::write(file.path(), image).unwrap();
    match Command::new("fsck.erofs").arg(file.path()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() || text.contains("<E>"), "{text}");
        }
        Err(error) => eprintln!("SKIPPED: fsck.erofs: {error}"),
    }
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
fn a_root_that_does_not_fit_beside_the_superblock_gets_blocks_of_its_own() {
    let xattrs = [(b"user.large".to_vec(), vec![1; 3000])].into();
    let mut tree = Tree::new();
    let attributes = Attributes {
        xattrs,
        ..attributes(0o755)
    };
    tree.insert("/", Entry::directory(attributes)).unwrap();
    for i in 0..5000 {
        tree.insert(format!("/{i}"), Entry::bytes("x", Attributes::file(0o644)))
            .unwrap();
    }
    let bytes = build(&tree, &Options::default());
    let image = Image::new(&bytes).unwrap();
    verify(&image, &tree);
    assert!(image.root_nid() >= 128);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    fsck(file.path());
}

#[test]
fn an_empty_tree_is_an_image_of_one_block() {
    let bytes = build(&Tree::new(), &Options::default());
    assert_eq!(bytes.len(), 4096);
    let names: Vec<_> = Image::new(&bytes)
        .unwrap()
        .root()
        .unwrap()
        .read_dir(0)
        .unwrap()
        .map(|entry| entry.unwrap().name)
        .collect();
    assert_eq!(names, [&b"."[..], b".."]);
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
