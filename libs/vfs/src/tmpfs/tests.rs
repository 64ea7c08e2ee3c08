//! Tests of the writable layer over a read-only tree, of mappings, seals and attributes.

use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use super::{Options, SEAL_EXEC, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE, TmpFs};
use crate::inode::{Allocate, Inode, MapKind, XattrMode};
use crate::testing::{Tree, clock, image};
use crate::{Errno, FileKind, OpenFlags, RenameMode, SetAttributes};

fn big() -> Vec<u8> {
    (0..3 * 4096 + 100u32).map(|i| (i / 7) as u8).collect()
}

fn first_byte(inode: &Arc<dyn Inode>, index: u64, kind: MapKind) -> u8 {
    let mut byte = [0];
    inode.clone().mappable(kind).unwrap().frame(index).unwrap().read(0, &mut byte);
    byte[0]
}

#[test]
fn lower_files_are_read_and_written_page_by_page() {
    let data = big();
    let tree = Tree::layered(&[("/d/f", &data)]);
    assert_eq!(tree.read("/d/f").unwrap(), data);
    let used = tree.root.inode().statfs().free;
    let file = tree.open("/d/f", OpenFlags::RDWR).unwrap();
    file.write_at(4096 + 10, &mut b"XY".as_slice()).unwrap();
    assert_eq!(used - tree.root.inode().statfs().free, 1, "one page copied, not the file");
    let mut expected = data.clone();
    expected[4106..4108].copy_from_slice(b"XY");
    drop(file);
    assert_eq!(tree.read("/d/f").unwrap(), expected, "kept though nobody had it open");
    let file = tree.open("/d/f", OpenFlags::RDWR | OpenFlags::APPEND).unwrap();
    file.write(&mut b"tail".as_slice()).unwrap();
    expected.extend_from_slice(b"tail");
    assert_eq!(tree.read("/d/f").unwrap(), expected);
}

#[test]
fn a_shrunk_lower_file_never_shows_its_old_end() {
    let data = big();
    for cut in [0, 1, 4095, 4096, 4097, 3 * 4096, 3 * 4096 + 50] {
        let tree = Tree::layered(&[("/f", &data)]);
        let file = tree.open("/f", OpenFlags::RDWR).unwrap();
        file.truncate(cut).unwrap();
        file.truncate(data.len() as u64 + 5000).unwrap();
        let got = tree.read("/f").unwrap();
        assert_eq!(got.len(), data.len() + 5000);
        assert_eq!(got[..cut as usize], data[..cut as usize], "cut at {cut}");
        assert!(got[cut as usize..].iter().all(|b| *b == 0), "cut at {cut}");
        let page = got.len() as u64 / 4096;
        assert_eq!(first_byte(file.inode(), page.min(2).max(cut.div_ceil(4096)), MapKind::Private), 0);
    }
}

#[test]
fn inode_numbers_do_not_change_when_a_file_is_written() {
    let tree = Tree::layered(&[("/a", b"1"), ("/b", b"2")]);
    let before = tree.at("/a").unwrap().inode().metadata().ino;
    tree.write("/a", b"changed").unwrap();
    tree.write("/new", b"").unwrap();
    assert_eq!(tree.at("/a").unwrap().inode().metadata().ino, before);
    let numbers: std::collections::BTreeSet<_> =
        ["/a", "/b", "/new", "/"].map(|p| tree.at(p).unwrap().inode().metadata().ino).into();
    assert_eq!(numbers.len(), 4);
}

#[test]
fn removed_lower_names_stay_removed_and_can_be_made_anew() {
    let tree = Tree::layered(&[("/d/a", b"1"), ("/d/b", b"2")]);
    tree.unlink("/d/a").unwrap();
    assert_eq!(tree.read("/d/a").err(), Some(Errno::ENOENT));
    assert_eq!(tree.list("/d"), ["b"]);
    assert_eq!(tree.rmdir("/d").err(), Some(Errno::ENOTEMPTY));
    tree.write("/d/a", b"new").unwrap();
    assert_eq!(tree.read("/d/a").unwrap(), b"new");
    assert_eq!(tree.list("/d"), ["a", "b"]);
    tree.unlink("/d/a").unwrap();
    tree.unlink("/d/b").unwrap();
    tree.rmdir("/d").unwrap();
    tree.mkdir("/d").unwrap();
    assert!(tree.list("/d").is_empty(), "a new directory does not show the old names");
}

#[test]
fn lower_directories_can_be_renamed_with_everything_in_them() {
    let tree = Tree::layered(&[("/usr/lib/x/f", b"f"), ("/usr/lib/g", b"g"), ("/other/h", b"h")]);
    tree.rename("/usr/lib", "/other/lib2").unwrap();
    assert_eq!(tree.read("/other/lib2/x/f").unwrap(), b"f");
    assert_eq!(tree.at("/usr/lib").err(), Some(Errno::ENOENT));
    assert_eq!(tree.list("/other"), ["h", "lib2"]);
    tree.write("/other/lib2/new", b"n").unwrap();
    tree.rename("/other/lib2", "/usr/lib").unwrap();
    assert_eq!(tree.list("/usr/lib"), ["g", "new", "x"]);
    tree.rename_with("/usr", "/other", RenameMode::Exchange).unwrap();
    assert_eq!(tree.list("/usr"), ["h"]);
    assert_eq!(tree.read("/other/lib/g").unwrap(), b"g");
    assert_eq!(tree.list("/"), ["other", "usr"]);
}

#[test]
fn changed_attributes_of_lower_objects_are_kept() {
    let tree = Tree::layered(&[("/d/f", b"x")]);
    tree.context().change_mode(&tree.at("/d/f").unwrap(), 0o600).unwrap();
    tree.context().change_mode(&tree.at("/d").unwrap(), 0o711).unwrap();
    assert_eq!(tree.at("/d/f").unwrap().inode().metadata().mode, 0o600);
    assert_eq!(tree.at("/d").unwrap().inode().metadata().mode, 0o711);
}

#[test]
fn names_added_deep_below_are_kept_without_anybody_holding_on() {
    let tree = Tree::layered(&[("/a/b/c/f", b"x")]);
    tree.write("/a/b/c/new", b"n").unwrap();
    assert_eq!(tree.list("/a/b/c"), ["f", "new"]);
    assert_eq!(tree.read("/a/b/c/new").unwrap(), b"n");
}

#[test]
fn writing_through_a_mapping_changes_the_times() {
    let tree = Tree::layered(&[]);
    tree.write("/f", b"text").unwrap();
    let inode = tree.open("/f", OpenFlags::RDWR).unwrap().inode().clone();
    let before = inode.metadata();
    inode.clone().mappable(MapKind::Shared).unwrap().written();
    let after = inode.metadata();
    assert!(after.mtime > before.mtime && after.ctime > before.ctime && after.atime == before.atime);
}

#[test]
fn a_shared_mapping_of_a_lower_file_sees_later_writes() {
    let data = big();
    let tree = Tree::layered(&[("/f", &data)]);
    let file = tree.open("/f", OpenFlags::RDWR).unwrap();
    let shared = file.inode().clone().mappable(MapKind::Shared).unwrap();
    let private = file.inode().clone().mappable(MapKind::Private).unwrap();
    let in_place = private.frame(1).unwrap();
    assert_eq!(in_place.ref_count(), usize::MAX, "lent out of the image");
    let page = shared.frame(1).unwrap();
    file.write_at(4096, &mut b"Z".as_slice()).unwrap();
    let mut byte = [0];
    page.read(0, &mut byte);
    assert_eq!(&byte, b"Z");
    page.write(1, b"!");
    assert_eq!(tree.read("/f").unwrap()[4096..4098], *b"Z!");
    assert_eq!(private.frame(1).unwrap().phys(), page.phys());
    assert_eq!(shared.frame(99).err(), Some(Errno::EIO));
}

#[test]
fn punching_holes_zeroes_own_and_lower_bytes() {
    let data = big();
    let tree = Tree::layered(&[("/f", &data)]);
    tree.write("/own", &data).unwrap();
    for path in ["/f", "/own"] {
        let file = tree.open(path, OpenFlags::RDWR).unwrap();
        file.inode().allocate(Allocate::PunchHole, 100, 8192).unwrap();
        let got = tree.read(path).unwrap();
        assert_eq!(got.len(), data.len());
        assert_eq!(got[..100], data[..100]);
        assert!(got[100..8292].iter().all(|b| *b == 0));
        assert_eq!(got[8292..], data[8292..]);
    }
}

/// Notes what it is told to forget; `None` stands for private pages that may have changed.
struct Listener(std::sync::Mutex<Vec<(u64, u64, Option<bool>)>>);

impl frame::Mapper for Listener {
    fn forget(&self, lost: &frame::Lost<'_>, _leave: &dyn Fn()) -> frame::Mapped {
        let private = match lost.private {
            frame::LostPrivate::All => None,
            frame::LostPrivate::Unchanged(was_ours) => Some(was_ours(lost.pages.start, addr::PhysAddr(1))),
        };
        self.0.lock().unwrap().push((lost.pages.start, lost.pages.end.min(99), private));
        frame::Mapped::Still
    }
}

#[test]
fn pages_that_a_file_loses_leave_its_mappings() {
    let tree = Tree::on(TmpFs::mount(Options::new(1, clock)));
    tree.write("/f", &[1; 9 * 4096]).unwrap();
    let file = tree.open("/f", OpenFlags::RDWR).unwrap();
    let pages = file.inode().clone().mappable(MapKind::Shared).unwrap();
    assert_eq!(pages.mapping_id(), file.inode().clone().mappable(MapKind::Private).unwrap().mapping_id());
    let listener = Arc::new(Listener(std::sync::Mutex::default()));
    let mapper: Arc<dyn frame::Mapper> = listener.clone();
    pages.mappers().unwrap().register(&Arc::downgrade(&mapper)).unwrap();
    file.truncate(5 * 4096 + 1).unwrap();
    file.inode().allocate(Allocate::PunchHole, 0, 4097).unwrap();
    file.inode().allocate(Allocate::PunchHole, 4095, 2 * 4096).unwrap();
    file.inode().allocate(Allocate::PunchHole, 4095, 1 << 40).unwrap();
    file.truncate(9 * 4096).unwrap();
    assert_eq!(*listener.0.lock().unwrap(), [(6, 99, None), (0, 1, Some(false)), (1, 2, Some(false)), (2, 5, Some(false))]);
    file.truncate(3 * 4096).unwrap();
    assert_eq!(pages.frame(3).err(), Some(Errno::EIO));
}

#[test]
fn a_private_mapping_of_a_hole_sees_later_writes() {
    let tree = Tree::on(TmpFs::mount(Options::new(1, clock)));
    let file = tree.open("/f", OpenFlags::RDWR | OpenFlags::CREAT).unwrap();
    file.truncate(4096).unwrap();
    let frame = file.inode().clone().mappable(MapKind::Private).unwrap().frame(0).unwrap();
    assert_eq!(file.write_at(7, &mut b"x".as_slice()).unwrap(), 1);
    let mut byte = [0];
    frame.read(7, &mut byte);
    assert_eq!(byte, *b"x");
}

#[test]
fn fallocate_reserves_and_grows() {
    let tree = Tree::on(TmpFs::mount(Options { max_pages: 8, ..Options::new(1, clock) }));
    tree.write("/f", b"x").unwrap();
    let inode = tree.at("/f").unwrap().inode().clone();
    inode.allocate(Allocate::KeepSize, 0, 2 * 4096).unwrap();
    assert_eq!(inode.metadata().size, 1);
    inode.allocate(Allocate::Grow, 0, 4 * 4096).unwrap();
    assert_eq!((inode.metadata().size, inode.metadata().blocks), (4 * 4096, 32));
    assert_eq!(inode.allocate(Allocate::Grow, 0, 9 * 4096), Err(Errno::ENOSPC));
    assert_eq!(inode.allocate(Allocate::Grow, u64::MAX, 9), Err(Errno::EFBIG));
}

#[test]
fn seals_of_a_memfd_hold() {
    let node = TmpFs::unnamed_file(Options::new(1, clock), 1, 0o777, Some(0));
    let inode: Arc<dyn Inode> = node;
    let mut position = 0;
    inode.write_at(&mut position, crate::inode::Append::No, &mut b"abcd".as_slice()).unwrap();
    inode.add_seals(SEAL_GROW).unwrap();
    assert_eq!(inode.truncate(5), Err(Errno::EPERM));
    position = 2;
    let mut source: &[u8] = b"xyz";
    assert_eq!(inode.write_at(&mut position, crate::inode::Append::No, &mut source), Ok(2));
    inode.add_seals(SEAL_SHRINK | SEAL_WRITE | SEAL_SEAL).unwrap();
    assert_eq!(inode.truncate(1), Err(Errno::EPERM));
    position = 0;
    assert_eq!(inode.write_at(&mut position, crate::inode::Append::No, &mut b"q".as_slice()), Err(Errno::EPERM));
    assert_eq!(inode.add_seals(0), Err(Errno::EPERM));
    assert_eq!(inode.seals(), Ok(0xf));
    assert_eq!(Tree::empty().root.inode().seals(), Err(Errno::EINVAL));
}

/// A memfd, open for reading and writing, or only for reading.
fn memfd(mode: u16, flags: OpenFlags) -> Arc<crate::OpenFile> {
    let node = TmpFs::unnamed_file(Options::new(1, clock), 1, mode, Some(0));
    crate::OpenFile::new(node.clone(), crate::Location::nameless(node, "/memfd:"), flags)
}

#[test]
fn a_file_is_not_sealed_against_writing_while_it_is_mapped_for_that() {
    let map = |file: &Arc<crate::OpenFile>, kind| file.inode().clone().mapped_by(file.clone(), kind).unwrap();
    let file = memfd(0o777, OpenFlags::RDWR);
    let (first, second) = (map(&file, MapKind::Shared), map(&file, MapKind::Shared));
    assert_eq!(file.inode().add_seals(SEAL_WRITE | SEAL_GROW), Err(Errno::EBUSY));
    drop(first);
    assert_eq!(file.inode().add_seals(SEAL_WRITE), Err(Errno::EBUSY));
    assert_eq!(file.inode().seals(), Ok(0));
    // That against future writing is for mappings to come.
    file.inode().add_seals(SEAL_FUTURE_WRITE).unwrap();
    drop(second);
    let _later = map(&file, MapKind::Shared);
    file.inode().add_seals(SEAL_WRITE).unwrap();
    let read_only = memfd(0o777, OpenFlags::RDONLY);
    let _mappings = [map(&read_only, MapKind::Shared), map(&file, MapKind::Private)];
    read_only.inode().add_seals(SEAL_WRITE).unwrap();
}

#[test]
fn a_sealed_right_to_execute_stays() {
    for (mode, sealed, other) in [(0o777, 0x3e, 0o666), (0o666, 0x20, 0o700)] {
        let file = memfd(mode, OpenFlags::RDWR);
        file.inode().add_seals(SEAL_EXEC).unwrap();
        assert_eq!(file.inode().seals(), Ok(sealed));
        let change = |mode| file.inode().set_attributes(&SetAttributes { mode: Some(mode), ..SetAttributes::default() });
        assert_eq!(change(other), Err(Errno::EPERM));
        assert_eq!(change(mode & !0o222), Ok(()));
    }
}

#[test]
fn a_mapped_file_stays_open() {
    let tree = Tree::empty();
    tree.write("/program", b"text").unwrap();
    let inode = tree.at("/program").unwrap().inode().clone();
    let file = tree.open("/program", OpenFlags::RDWR).unwrap();
    let mapping = inode.clone().mapped_by(file.clone(), MapKind::Private).unwrap();
    drop(file);
    assert_eq!(crate::running::Running::new(inode.clone()).err(), Some(Errno::ETXTBSY));
    drop(mapping);
    assert!(crate::running::Running::new(inode).is_ok());
}

#[test]
fn extended_attributes_have_classes() {
    let tree = Tree::layered(&[("/f", b"")]);
    let inode = tree.at("/f").unwrap().inode().clone();
    assert_eq!(inode.get_xattr(b"user.a"), Err(Errno::ENODATA));
    inode.set_xattr(b"user.a", b"1", XattrMode::Create).unwrap();
    assert_eq!(inode.set_xattr(b"user.a", b"1", XattrMode::Create), Err(Errno::EEXIST));
    assert_eq!(inode.set_xattr(b"user.b", b"1", XattrMode::Replace), Err(Errno::ENODATA));
    assert_eq!(inode.set_xattr(b"nonsense", b"1", XattrMode::Any), Err(Errno::EOPNOTSUPP));
    inode.set_xattr(b"security.x", b"2", XattrMode::Any).unwrap();
    assert_eq!(inode.list_xattr().unwrap(), b"security.x\0user.a\0");
    inode.remove_xattr(b"user.a").unwrap();
    assert_eq!(inode.remove_xattr(b"user.a"), Err(Errno::ENODATA));
}

#[test]
fn parallel_writers_of_one_file_lose_nothing() {
    let tree = Arc::new(Tree::empty());
    tree.write("/log", b"").unwrap();
    std::thread::scope(|scope| {
        for id in 0..4u8 {
            let tree = &tree;
            scope.spawn(move || {
                let file = tree.open("/log", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap();
                for _ in 0..500 {
                    assert_eq!(file.write(&mut [id; 7].as_slice()), Ok(7));
                }
            });
        }
    });
    let data = tree.read("/log").unwrap();
    assert_eq!(data.len(), 4 * 500 * 7);
    assert!(data.chunks(7).all(|record| record.iter().all(|b| *b == record[0])), "records are whole");
}

#[test]
fn parallel_changes_of_names_keep_the_tree_consistent() {
    let tree = Arc::new(Tree::layered(&[("/a/x", b""), ("/b/y", b"")]));
    std::thread::scope(|scope| {
        for id in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                for round in 0..200 {
                    let name = std::format!("/a/{id}");
                    tree.mkdir(&name).unwrap();
                    tree.write(&std::format!("{name}/f"), b"z").unwrap();
                    let target = std::format!("/b/{id}");
                    tree.rename(&name, &target).unwrap();
                    let _ = tree.rename(if round % 2 == 0 { "/a/x" } else { "/b/x" }, if round % 2 == 0 { "/b/x" } else { "/a/x" });
                    tree.unlink(&std::format!("{target}/f")).unwrap();
                    tree.rmdir(&target).unwrap();
                }
            });
        }
    });
    let mut left: Vec<String> = tree.list("/a");
    left.extend(tree.list("/b"));
    left.sort();
    assert_eq!(left, ["x", "y"]);
    assert_eq!(tree.at("/a").unwrap().inode().metadata().nlink, 2);
}

#[test]
fn erofs_links_and_specials_come_through() {
    use erofs::write::{Attributes, Entry, Tree as Plan, plan};
    let mut files = Plan::new();
    files.insert("/f", Entry::bytes("x", Attributes::file(0o644))).unwrap();
    let _ = plan(&files, &erofs::write::Options::default());
    let root = image(&[("/f", b"x"), ("/empty", b"")]);
    assert_eq!(root.lookup(b"f").unwrap().kind(), FileKind::Regular);
    assert_eq!(root.lookup(b"nope").err(), Some(Errno::ENOENT));
    assert_eq!(root.lookup(b"f").unwrap().lookup(b"g").err(), Some(Errno::ENOTDIR));
    let f = root.lookup(b"f").unwrap();
    assert!(Arc::ptr_eq(&f, &root.lookup(b"f").unwrap()), "one inode for all its users");
    let tail = f.clone().mappable(MapKind::Private).unwrap();
    assert_eq!(tail.frame(0).unwrap().phys(), tail.frame(0).unwrap().phys());
    assert_eq!(tail.frame(1).err(), Some(Errno::EIO));
}

/// A generator of numbers that look random: xorshift64*.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// The file's content as a plain vector.
struct Model(Vec<u8>);

impl Model {
    fn range(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let len = self.0.len();
        (from as usize).min(len)..(to as usize).min(len)
    }

    fn allocate(&mut self, how: Allocate, from: u64, to: u64) -> bool {
        let (size, page) = (self.0.len() as u64, 4096);
        let whole = from.is_multiple_of(page) && to.is_multiple_of(page);
        match how {
            Allocate::Grow => self.0.resize(size.max(to) as usize, 0),
            Allocate::KeepSize => {}
            Allocate::PunchHole | Allocate::ZeroRangeKeepSize => {
                let range = self.range(from, to);
                self.0[range].fill(0);
            }
            Allocate::ZeroRange => {
                self.0.resize(size.max(to) as usize, 0);
                self.0[from as usize..to as usize].fill(0);
            }
            Allocate::Collapse if whole && to < size => drop(self.0.drain(from as usize..to as usize)),
            Allocate::Insert if whole && from < size => {
                let hole = vec![0; (to - from) as usize];
                drop(self.0.splice(from as usize..from as usize, hole));
            }
            Allocate::Collapse | Allocate::Insert => return false,
        }
        true
    }
}

const WAYS: [Allocate; 7] = [
    Allocate::Grow, Allocate::KeepSize, Allocate::PunchHole, Allocate::ZeroRange, Allocate::ZeroRangeKeepSize, Allocate::Collapse,
    Allocate::Insert,
];

/// Random writes, reads, truncations and allocations on a file, against a vector.
fn exercise(tree: &Tree, path: &str, seed: u64) {
    const LIMIT: u64 = 40_000;
    let file = tree.open(path, OpenFlags::RDWR).unwrap();
    let mut model = Model(tree.read(path).unwrap());
    let mut numbers = Numbers(seed);
    for step in 0..600 {
        let (from, len) = (numbers.below(LIMIT), 1 + numbers.below(9_000));
        let (pages, count) = (numbers.below(8) * 4096, (1 + numbers.below(2)) * 4096);
        match numbers.below(6) {
            0 | 1 => {
                let data: Vec<u8> = (0..len).map(|at| (at * 7 + step) as u8 | 1).collect();
                assert_eq!(file.write_at(from, &mut &*data), Ok(data.len()));
                let end = (from + len) as usize;
                model.0.resize(model.0.len().max(end), 0);
                model.0[from as usize..end].copy_from_slice(&data);
            }
            2 => {
                file.truncate(from).unwrap();
                model.0.resize(from as usize, 0);
            }
            3 => {
                let mut sink = crate::io::VecSink::new(len as usize);
                file.read_at(from, &mut sink).unwrap();
                assert_eq!(sink.into_vec(), model.0[model.range(from, from + len)], "seed {seed} step {step}");
            }
            _ => {
                let how = WAYS[numbers.below(7) as usize];
                let (from, len) = if matches!(how, Allocate::Collapse | Allocate::Insert) { (pages, count) } else { (from, len) };
                if model.0.len() as u64 > 2 * LIMIT && how == Allocate::Insert {
                    continue;
                }
                let done = file.allocate(how, from, len);
                assert_eq!(done.is_ok(), model.allocate(how, from, from + len), "{how:?} {from} {len}: seed {seed} step {step}");
            }
        }
        assert_eq!(file.inode().metadata().size, model.0.len() as u64, "seed {seed} step {step}");
        if step % 20 == 0 {
            assert!(tree.read(path).unwrap() == model.0, "seed {seed} step {step}");
            check_holes(&file, &model.0);
        }
    }
}

/// What is told to be a hole reads as zeros, and holes and data take turns to the end.
fn check_holes(file: &crate::OpenFile, content: &[u8]) {
    let (inode, size) = (file.inode(), content.len() as u64);
    let mut at = 0;
    while at < size {
        let Ok(data) = inode.seek_data(at) else {
            assert!(content[at as usize..].iter().all(|byte| *byte == 0));
            return;
        };
        assert!(content[at as usize..data as usize].iter().all(|byte| *byte == 0));
        at = inode.seek_hole(data).unwrap();
        assert!(at > data && at <= size);
    }
}

#[test]
fn random_changes_of_a_file_are_those_of_a_vector() {
    for seed in 1..=5 {
        let data: Vec<u8> = (0..30_000_u32).map(|at| (at % 251) as u8).collect();
        let tree = Tree::layered(&[("/below", &data)]);
        tree.write("/own", b"").unwrap();
        exercise(&tree, "/own", seed * 77);
        exercise(&tree, "/below", seed * 1_000_003);
    }
}

/// Random changes of names, against a map of paths.
#[test]
fn random_changes_of_names_are_those_of_a_map() {
    use std::collections::BTreeMap;
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "name-of-some-length", "x"];
    for seed in 1..=4_u64 {
        let tree = Tree::layered(&[("/a", b"below-a"), ("/d0/a", b"below-d0-a"), ("/d0/b", b"b")]);
        tree.mkdir("/d1").unwrap();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        model.insert("/a".into(), b"below-a".to_vec());
        model.insert("/d0/a".into(), b"below-d0-a".to_vec());
        model.insert("/d0/b".into(), b"b".to_vec());
        let mut numbers = Numbers(seed * 31_337);
        for step in 0..800_u64 {
            let path = |numbers: &mut Numbers| {
                let directory = ["", "/d0", "/d1"][numbers.below(3) as usize];
                std::format!("{directory}/{}", NAMES[numbers.below(6) as usize])
            };
            let (one, two) = (path(&mut numbers), path(&mut numbers));
            let content = std::format!("{step}").into_bytes();
            match numbers.below(6) {
                0 => {
                    tree.write(&one, &content).unwrap();
                    // Other names of the file change with it only if they are the same file; links are not made here.
                    model.insert(one.clone(), content);
                }
                1 => assert_eq!(tree.unlink(&one).is_ok(), model.remove(&one).is_some(), "{seed} {step}"),
                2 => {
                    assert_eq!(tree.rename(&one, &two).is_ok(), model.contains_key(&one), "{seed} {step}");
                    if let Some(moved) = model.remove(&one) {
                        model.insert(two.clone(), moved);
                    }
                }
                3 => {
                    let both = model.contains_key(&one) && model.contains_key(&two);
                    assert_eq!(tree.rename_with(&one, &two, crate::RenameMode::Exchange).is_ok(), both, "{seed} {step}");
                    if both && one != two {
                        let (a, b) = (model.remove(&one).unwrap(), model.remove(&two).unwrap());
                        model.insert(one.clone(), b);
                        model.insert(two.clone(), a);
                    }
                }
                4 => {
                    crate::keeper::drop_unused();
                }
                _ => assert_eq!(tree.read(&one).ok(), model.get(&one).cloned(), "{seed} {step} {one}"),
            }
            for path in [&one, &two] {
                assert_eq!(tree.read(path).ok(), model.get(path).cloned(), "{seed} {step} {path}");
            }
        }
        for directory in ["/", "/d0", "/d1"] {
            let prefix = if directory == "/" { "/".to_owned() } else { std::format!("{directory}/") };
            let expected: Vec<_> = model.keys().filter_map(|path| path.strip_prefix(&prefix)).filter(|name| !name.contains('/')).map(str::to_owned).collect();
            let mut listed = tree.list(directory);
            listed.retain(|name| name != "d0" && name != "d1");
            assert_eq!(listed, expected, "{seed} {directory}");
        }
    }
}
