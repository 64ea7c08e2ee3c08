//! The Linux kernel mounts what the writer wrote, where the tests may mount (root, and a kernel with EROFS).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use erofs::write::{Content, Entry, Node, Options};
use support::build;
use support::sample::sample;

/// Mounts in a mount namespace of its own, and copies everything out of there.
const SCRIPT: &str = r#"mount -t erofs -o loop,ro "$1" "$2" && cp -a "$2/." "$3""#;

#[test]
fn linux_mounts_the_image_and_sees_what_was_put_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let tree = sample();
    fs::write(path("image"), build(&tree, &Options::default())).unwrap();
    if !may_mount() {
        return;
    }
    fs::create_dir(path("mnt")).unwrap();
    fs::create_dir(path("out")).unwrap();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", SCRIPT, "sh"])
        .args(["image", "mnt", "out"].map(path))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    // Attributes larger than the file system of the tests takes are of no interest here.
    assert!(
        text.lines().all(|line| line.contains("setting attribute")),
        "{text}"
    );
    for (guest, entry) in tree.iter() {
        compare(&path("out").join(guest.strip_prefix("/").unwrap()), entry);
    }
}

/// Whether this process may mount an image of mkfs.erofs: if that fails, our own cannot be judged.
fn may_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["src", "mnt", "out"] {
        fs::create_dir(path(name)).unwrap();
    }
    if support::erofs_utils(
        "mkfs.erofs",
        &[path("image").as_os_str(), path("src").as_os_str()],
    )
    .is_none()
    {
        return false;
    }
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", SCRIPT, "sh"])
        .args(["image", "mnt", "out"].map(path))
        .output();
    let mounted = status.is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("SKIPPED: cannot mount EROFS images here");
    }
    mounted
}

fn compare(path: &Path, entry: &Entry) {
    let metadata = path
        .symlink_metadata()
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let file_type = metadata.file_type();
    match &entry.node {
        Node::File(Content::Bytes(bytes)) => {
            assert_eq!(&fs::read(path).unwrap(), bytes, "{path:?}")
        }
        Node::File(Content::Host(_)) => unreachable!("the sample has none"),
        Node::Directory => assert!(file_type.is_dir()),
        Node::Symlink(target) => {
            assert_eq!(
                fs::read_link(path).unwrap().as_os_str().as_encoded_bytes(),
                target
            );
        }
        Node::CharDevice(number) => {
            assert!(file_type.is_char_device() && rdev(&metadata) == (number.major, number.minor))
        }
        Node::BlockDevice(number) => {
            assert!(file_type.is_block_device() && rdev(&metadata) == (number.major, number.minor))
        }
        Node::Fifo => assert!(file_type.is_fifo()),
        Node::Socket => assert!(file_type.is_socket()),
        Node::HardLink(_) => {
            assert_eq!(metadata.nlink(), 3);
            return;
        }
    }
    let expected = &entry.attributes;
    if !file_type.is_symlink() {
        assert_eq!(
            metadata.mode() & 0o7777,
            u32::from(expected.mode),
            "{path:?}"
        );
    }
    assert_eq!(
        (metadata.uid(), metadata.gid()),
        (expected.uid, expected.gid),
        "{path:?}"
    );
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (expected.mtime, i64::from(expected.mtime_nsec)),
        "{path:?}"
    );
    for (name, value) in expected
        .xattrs
        .iter()
        .filter(|(name, value)| name.starts_with(b"user.") && value.len() < 1000)
    {
        let mut buffer = vec![0; value.len() + 1];
        let len = rustix::fs::getxattr(path, name.as_slice(), &mut buffer).unwrap();
        assert_eq!(&buffer[..len], value);
    }
}

fn rdev(metadata: &fs::Metadata) -> (u32, u32) {
    (
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev()),
    )
}
