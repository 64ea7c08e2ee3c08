//! The reader on images made by mkfs.erofs.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use erofs::{Error, Image, Inode, Kind, Unsupported};
use rustix::fs::{XattrFlags, setxattr};
use support::sample::{contents, resolve};
use support::{Aligned, erofs_utils};

/// Makes files of all the sizes around which layouts change, links, and directories of several blocks.
fn populate(root: &Path) {
    for size in [
        0, 1, 100, 2000, 4000, 4032, 4064, 4095, 4096, 4097, 8191, 8192, 8193, 123_456,
    ] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i % 253) as u8 + 1).collect();
        fs::write(root.join(format!("size-{size}")), bytes).unwrap();
    }
    fs::create_dir_all(root.join("many/deep/er")).unwrap();
    for i in 0..700 {
        fs::write(
            root.join(format!("many/{i}-{}", "n".repeat(i % 200))),
            format!("{i}"),
        )
        .unwrap();
    }
    symlink("size-100", root.join("link")).unwrap();
    symlink("t".repeat(4000), root.join("long-link")).unwrap();
    fs::hard_link(root.join("size-100"), root.join("many/hard")).unwrap();
}

fn compare(image: &Image<'_>, host: &Path, inode: &Inode<'_>) {
    let metadata = host.symlink_metadata().unwrap();
    assert_eq!(u32::from(inode.mode), metadata.mode(), "{host:?}");
    assert_eq!(
        (inode.uid, inode.gid),
        (metadata.uid(), metadata.gid()),
        "{host:?}"
    );
    assert_eq!(u64::from(inode.nlink), metadata.nlink(), "{host:?}");
    match inode.kind {
        Kind::Regular => assert_eq!(contents(inode), fs::read(host).unwrap(), "{host:?}"),
        Kind::Symlink => {
            assert_eq!(
                inode.read_link().unwrap(),
                fs::read_link(host).unwrap().as_os_str().as_bytes()
            );
        }
        Kind::Directory => compare_directory(image, host, inode),
        _ => {}
    }
}

fn compare_directory(image: &Image<'_>, host: &Path, dir: &Inode<'_>) {
    let mut expected: Vec<_> = fs::read_dir(host)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    expected.extend([b".".to_vec(), b"..".to_vec()]);
    expected.sort();
    let names: Vec<_> = dir
        .read_dir(0)
        .unwrap()
        .map(|entry| entry.unwrap().name.to_vec())
        .collect();
    assert_eq!(names, expected);
    for name in names.iter().filter(|name| *name != b"." && *name != b"..") {
        let entry = dir.lookup(name).unwrap().unwrap();
        compare(
            image,
            &host.join(OsStr::from_bytes(name)),
            &image.inode(entry.nid).unwrap(),
        );
    }
}

/// Runs mkfs.erofs on `source`; gives the image, when it is installed.
fn mkfs(source: &Path, options: &[&str]) -> Option<Aligned> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend([image.as_os_str(), source.as_os_str()]);
    erofs_utils("mkfs.erofs", &args)?;
    Some(Aligned::new(&fs::read(image).unwrap()))
}

#[test]
fn every_uncompressed_variant_is_read() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let variants: [&[&str]; 5] = [
        &[],
        &["-Eforce-inode-compact"],
        &["-Eforce-inode-extended", "-Enosbcrc"],
        &["-Enoinline_data"],
        &["-T1234567"],
    ];
    for options in variants {
        let Some(aligned) = mkfs(source.path(), options) else {
            return;
        };
        let image = Image::new(aligned.bytes()).unwrap();
        compare(&image, source.path(), &image.root().unwrap());
        assert!(support::walk::walk(aligned.bytes()) > 700);
    }
}

#[test]
fn compact_inodes_have_the_time_of_the_image() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "x").unwrap();
    let Some(aligned) = mkfs(source.path(), &["-Eforce-inode-compact", "-T1234567"]) else {
        return;
    };
    let image = Image::new(aligned.bytes()).unwrap();
    let file = resolve(&image, "file");
    assert_eq!((file.mtime, file.mtime_nsec), (1_234_567, 0));
}

#[test]
fn inline_and_shared_attributes_are_read() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let path = source.path().join(name);
        fs::write(&path, name).unwrap();
        let set =
            |attribute: &str, value: &[u8]| setxattr(&path, attribute, value, XattrFlags::empty());
        if let Err(error) =
            set("user.shared", b"the same").and_then(|()| set("user.own", name.as_bytes()))
        {
            eprintln!(
                "SKIPPED: no extended attributes in {}: {error}",
                path.display()
            );
            return;
        }
    }
    let Some(aligned) = mkfs(source.path(), &["-x1"]) else {
        return;
    };
    let image = Image::new(aligned.bytes()).unwrap();
    for name in ["a", "b", "c"] {
        let file = resolve(&image, name);
        assert_eq!(file.xattr(b"user.shared").unwrap(), Some(&b"the same"[..]));
        assert_eq!(file.xattr(b"user.own").unwrap(), Some(name.as_bytes()));
        assert_eq!(file.xattr(b"user.other").unwrap(), None);
        assert_eq!(file.xattrs().unwrap().count(), 2);
    }
}

#[test]
fn compressed_and_chunked_images_are_refused_by_name() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), vec![b'a'; 100_000]).unwrap();
    let Some(chunked) = mkfs(source.path(), &["--chunksize=4096"]) else {
        return;
    };
    let error = Image::new(chunked.bytes()).map(|_| ()).unwrap_err();
    assert_eq!(error, Error::Unsupported(Unsupported::Features(0x4)));

    let Some(compressed) = mkfs(source.path(), &["-zlz4"]) else {
        return;
    };
    let image = Image::new(compressed.bytes()).unwrap();
    let nid = image.root().unwrap().lookup(b"file").unwrap().unwrap().nid;
    let error = image.inode(nid).map(|_| ()).unwrap_err();
    assert_eq!(error, Error::Unsupported(Unsupported::Compressed(nid)));
}
