//! Calls everything the reader offers on a whole image: what the mutation tests and the fuzz target do.

use std::collections::HashSet;

use erofs::{BlockRef, Image, Inode, Kind};

/// Bounds the walk: a hostile directory may contain itself, and a hostile file may be as large as the image.
const INODES_MAX: usize = 2000;
const BLOCKS_MAX: u64 = 64;
const NAMES_MAX: usize = 10_000;

/// Reads all of `bytes` as an image; returns how many inodes could be read. Panics only if the reader does.
pub(crate) fn walk(bytes: &[u8]) -> usize {
    let Ok(image) = Image::new(bytes) else {
        return 0;
    };
    let mut queue = vec![image.root_nid()];
    let mut seen = HashSet::new();
    let mut read = 0;
    while let Some(nid) = queue.pop() {
        if seen.len() < INODES_MAX
            && seen.insert(nid)
            && let Ok(inode) = image.inode(nid)
        {
            read += 1;
            visit(&inode, &mut queue);
        }
    }
    read
}

fn visit(inode: &Inode<'_>, queue: &mut Vec<u64>) {
    if let Ok(xattrs) = inode.xattrs() {
        let _ = xattrs
            .take(NAMES_MAX)
            .map(|xattr| xattr.map(|xattr| xattr.name_len()))
            .last();
    }
    let _ = inode.xattr(b"user.absent");
    let _ = inode.read_link();
    match inode.kind {
        Kind::Directory => list(inode, queue),
        Kind::Regular => read(inode),
        _ => assert!(inode.read_at(0, &mut [0]).is_err()),
    }
}

fn list(dir: &Inode<'_>, queue: &mut Vec<u64>) {
    let mut cookie = 0;
    for entry in dir.read_dir(0).expect("it is a directory").take(NAMES_MAX) {
        let Ok(entry) = entry else { break };
        assert!(entry.next_cookie > cookie, "cookies ascend");
        cookie = entry.next_cookie;
        let _ = dir.lookup(entry.name);
        queue.push(entry.nid);
    }
    for cookie in [1, 13, 4095, 4097, dir.size, dir.size + 1, u64::MAX] {
        let _ = dir.read_dir(cookie).expect("it is a directory").next();
    }
    for name in [&b""[..], b"a", b"zzzz", b"\xff"] {
        let _ = dir.lookup(name);
    }
}

fn read(file: &Inode<'_>) {
    let mut page = [0; 5000];
    for index in (0..file.size.div_ceil(4096).min(BLOCKS_MAX)).chain([file.size / 4096, u64::MAX]) {
        match file.block(index).expect("it is a file") {
            Some(BlockRef::InPlace(bytes)) => assert_eq!(bytes.as_ptr().addr() % 4096, 0),
            Some(BlockRef::Tail(bytes)) => assert!((1..=4096).contains(&bytes.len())),
            None => assert!(index.saturating_mul(4096) >= file.size),
        }
        let got = file
            .read_at(index.saturating_mul(4096), &mut page)
            .expect("it is a file");
        assert_eq!(
            got as u64,
            file.size
                .saturating_sub(index.saturating_mul(4096))
                .min(5000)
        );
    }
}
