//! Tests of names as a program sees them: walk, open, create, remove, rename, permissions, mounts.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use crate::file::SeekFrom;
use crate::mount::MountMode;
use crate::testing::{Tree, clock, image, read_all};
use crate::tmpfs::{Options, TmpFs};
use crate::walk::{Follow, Resolve};
use crate::{Access, Errno, FileKind, OpenFlags, RenameMode, SetAttributes, Timespec};

const CREATE: OpenFlags = OpenFlags::CREAT.union(OpenFlags::RDWR);

fn error<T>(result: crate::Result<T>) -> Errno {
    result.err().expect("must fail")
}

#[test]
fn a_whiteout_stays_where_a_file_was_that_took_no_others_place() {
    let tree = Tree::empty();
    tree.write("/file", b"1").unwrap();
    tree.write("/taken", b"2").unwrap();
    assert_eq!(tree.rename_with("/file", "/taken", RenameMode::NewWhiteout), Err(Errno::EEXIST));
    assert_eq!(tree.rename_with("/file", "/new", RenameMode::NewWhiteout), Ok(()));
    let whiteout = tree.at("/file").unwrap().inode().metadata();
    assert_eq!((whiteout.kind, whiteout.rdev), (FileKind::CharDevice, 0));
    assert_eq!(tree.rename_with("/new", "/taken", RenameMode::Whiteout), Ok(()));
    assert_eq!(tree.at("/new").unwrap().inode().kind(), FileKind::CharDevice);
}

#[test]
fn dot_dot_at_the_root_stays_there() {
    let tree = Tree::empty();
    tree.mkdir("/a").unwrap();
    assert!(tree.at("/../../a/..").unwrap().same(&tree.root));
    assert_eq!(tree.at("/../a/./../a").unwrap().path_from(&tree.root), b"/a");
}

#[test]
fn a_path_through_a_file_is_enotdir_and_a_missing_one_enoent() {
    let tree = Tree::empty();
    tree.write("/f", b"x").unwrap();
    assert_eq!(error(tree.at("/f/g")), Errno::ENOTDIR);
    assert_eq!(error(tree.at("/f/")), Errno::ENOTDIR);
    assert_eq!(error(tree.at("/f/.")), Errno::ENOTDIR);
    assert_eq!(error(tree.at("/g/h")), Errno::ENOENT);
    assert_eq!(error(tree.at("")), Errno::ENOENT);
}

#[test]
fn names_and_paths_have_length_limits() {
    let tree = Tree::empty();
    let long = "n".repeat(255);
    tree.write(&std::format!("/{long}"), b"").unwrap();
    assert_eq!(error(tree.at(&std::format!("/{long}n"))), Errno::ENAMETOOLONG);
    assert_eq!(error(tree.write(&std::format!("/{long}n"), b"")), Errno::ENAMETOOLONG);
    assert!(tree.at(&"/".repeat(4095)).is_ok());
    assert_eq!(error(tree.at(&"/".repeat(4096))), Errno::ENAMETOOLONG);
}

#[test]
fn forty_links_are_followed_and_not_one_more() {
    let tree = Tree::empty();
    tree.write("/l0", b"end").unwrap();
    for i in 0..41 {
        tree.symlink(&std::format!("l{i}"), &std::format!("/l{}", i + 1)).unwrap();
    }
    assert_eq!(tree.read("/l40").unwrap(), b"end");
    assert_eq!(error(tree.read("/l41")), Errno::ELOOP);
    tree.symlink("loop", "/loop").unwrap();
    assert_eq!(error(tree.at("/loop")), Errno::ELOOP);
}

#[test]
fn a_trailing_slash_follows_a_link_and_wants_a_directory() {
    let tree = Tree::empty();
    tree.mkdir("/d").unwrap();
    tree.symlink("d", "/l").unwrap();
    let context = tree.context();
    assert_eq!(context.lookup(&tree.root, b"/l", Follow::No).unwrap().inode().kind(), FileKind::Symlink);
    assert_eq!(context.lookup(&tree.root, b"/l/", Follow::No).unwrap().inode().kind(), FileKind::Directory);
    tree.write("/f", b"").unwrap();
    tree.symlink("f/", "/m").unwrap();
    assert_eq!(error(tree.at("/m")), Errno::ENOTDIR);
    assert_eq!(error(tree.open("/f/", CREATE)), Errno::EISDIR);
    assert_eq!(error(tree.unlink("/f/")), Errno::ENOTDIR);
    tree.mkdir("/e/").unwrap();
    tree.rmdir("/e/").unwrap();
}

#[test]
fn links_are_relative_to_where_they_are() {
    let tree = Tree::empty();
    tree.mkdir("/a").unwrap();
    tree.mkdir("/a/b").unwrap();
    tree.write("/a/f", b"1").unwrap();
    tree.symlink("../f", "/a/b/up").unwrap();
    tree.symlink("/a/b", "/short").unwrap();
    assert_eq!(tree.read("/short/up").unwrap(), b"1");
}

#[test]
fn open_create_makes_follows_or_refuses() {
    let tree = Tree::empty();
    tree.symlink("target", "/dangling").unwrap();
    assert_eq!(error(tree.open("/dangling", CREATE | OpenFlags::EXCL)), Errno::EEXIST);
    assert_eq!(error(tree.open("/dangling", CREATE | OpenFlags::NOFOLLOW)), Errno::ELOOP);
    tree.open("/dangling", CREATE).unwrap();
    assert!(tree.at("/target").is_ok(), "O_CREAT makes what a dangling link names");
    assert!(tree.open("/target", CREATE).is_ok());
    assert_eq!(error(tree.open("/target", CREATE | OpenFlags::EXCL)), Errno::EEXIST);
    tree.mkdir("/d").unwrap();
    assert_eq!(error(tree.open("/d", CREATE)), Errno::EISDIR);
    assert_eq!(error(tree.open("/d", OpenFlags::WRONLY)), Errno::EISDIR);
    assert_eq!(error(tree.open("/d/..", CREATE)), Errno::EISDIR);
    assert_eq!(error(tree.open("/target", OpenFlags::DIRECTORY)), Errno::ENOTDIR);
    assert_eq!(error(tree.open("/d", OpenFlags::CREAT | OpenFlags::DIRECTORY)), Errno::EINVAL);
    assert_eq!(error(tree.open("/missing/x", CREATE)), Errno::ENOENT);
    assert_eq!(error(tree.open("/dangling", OpenFlags::NOFOLLOW)), Errno::ELOOP);
}

#[test]
fn o_trunc_empties_and_o_append_goes_to_the_end() {
    let tree = Tree::empty();
    tree.write("/f", b"hello").unwrap();
    let append = tree.open("/f", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap();
    append.seek(SeekFrom::Start(1)).unwrap();
    append.write(&mut b" you".as_slice()).unwrap();
    assert_eq!(append.position(), 9);
    // Linux appends even for pwrite.
    append.write_at(0, &mut b"!".as_slice()).unwrap();
    assert_eq!(tree.read("/f").unwrap(), b"hello you!");
    tree.open("/f", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    assert_eq!(tree.read("/f").unwrap(), b"");
}

#[test]
fn access_modes_are_checked_with_ebadf() {
    let tree = Tree::empty();
    tree.write("/f", b"x").unwrap();
    let mut byte = crate::io::VecSink::new(1);
    assert_eq!(tree.open("/f", OpenFlags::WRONLY).unwrap().read(&mut byte), Err(Errno::EBADF));
    assert_eq!(tree.open("/f", OpenFlags::RDONLY).unwrap().write(&mut b"y".as_slice()), Err(Errno::EBADF));
    let path = tree.open("/f", OpenFlags::PATH | OpenFlags::RDWR).unwrap();
    assert_eq!(path.read(&mut byte), Err(Errno::EBADF));
    assert_eq!(path.seek(SeekFrom::Start(0)), Err(Errno::EBADF));
    assert_eq!(tree.open("/f", OpenFlags::RDONLY).unwrap().truncate(0), Err(Errno::EINVAL));
}

#[test]
fn seek_goes_past_the_end_but_not_before_the_start() {
    let tree = Tree::empty();
    tree.write("/f", b"0123456789").unwrap();
    let file = tree.open("/f", OpenFlags::RDWR).unwrap();
    assert_eq!(file.seek(SeekFrom::End(-3)), Ok(7));
    assert_eq!(read_all(&file).unwrap(), b"789");
    assert_eq!(file.seek(SeekFrom::Current(-11)), Err(Errno::EINVAL));
    assert_eq!(file.seek(SeekFrom::Start(i64::MAX)), Ok(i64::MAX as u64));
    assert_eq!(file.seek(SeekFrom::Current(1)), Err(Errno::EOVERFLOW));
    assert_eq!(file.write(&mut b"x".as_slice()), Err(Errno::EFBIG));
    file.seek(SeekFrom::Start(20)).unwrap();
    file.write(&mut b"z".as_slice()).unwrap();
    assert_eq!(tree.read("/f").unwrap(), b"0123456789\0\0\0\0\0\0\0\0\0\0z");
}

#[test]
fn sparse_files_know_their_holes() {
    let tree = Tree::empty();
    let file = tree.open("/f", CREATE).unwrap();
    file.write_at(3 * 4096, &mut b"x".as_slice()).unwrap();
    file.truncate(10 * 4096).unwrap();
    assert_eq!(file.seek(SeekFrom::Data(0)), Ok(3 * 4096));
    assert_eq!(file.seek(SeekFrom::Hole(0)), Ok(0));
    assert_eq!(file.seek(SeekFrom::Hole(3 * 4096)), Ok(4 * 4096));
    assert_eq!(file.seek(SeekFrom::Data(5 * 4096)), Err(Errno::ENXIO));
    assert_eq!(file.seek(SeekFrom::Hole(10 * 4096)), Err(Errno::ENXIO));
    assert_eq!(file.inode().metadata().blocks, 8);
}

#[test]
fn shrinking_and_growing_again_reads_zeros() {
    let tree = Tree::empty();
    tree.write("/f", &[7; 10_000]).unwrap();
    let file = tree.open("/f", OpenFlags::RDWR).unwrap();
    file.truncate(5_000).unwrap();
    file.truncate(9_000).unwrap();
    let data = tree.read("/f").unwrap();
    assert_eq!(data.len(), 9_000);
    assert!(data[..5_000].iter().all(|b| *b == 7) && data[5_000..].iter().all(|b| *b == 0));
}

#[test]
fn the_page_limit_gives_enospc_and_frees_on_removal() {
    let options = Options { max_pages: 4, ..Options::new(1, clock) };
    let tree = Tree::on(TmpFs::mount(options));
    tree.write("/a", &[1; 4 * 4096]).unwrap();
    assert_eq!(error(tree.write("/b", b"x")), Errno::ENOSPC);
    assert_eq!(tree.root.inode().statfs().free, 0);
    tree.unlink("/a").unwrap();
    tree.write("/b", b"x").unwrap();
    assert_eq!(tree.root.inode().statfs().free, 3);
}

#[test]
fn an_unlinked_open_file_lives_on_and_its_path_says_so() {
    let tree = Tree::empty();
    tree.write("/f", b"data").unwrap();
    let file = tree.open("/f", OpenFlags::RDONLY).unwrap();
    tree.unlink("/f").unwrap();
    assert_eq!(read_all(&file).unwrap(), b"data");
    assert_eq!(file.path(&tree.root), b"/f (deleted)");
    assert_eq!(file.inode().metadata().nlink, 0);
}

#[test]
fn hard_links_share_one_inode() {
    let tree = Tree::empty();
    tree.write("/a", b"1").unwrap();
    tree.mkdir("/d").unwrap();
    tree.link("/a", "/d/b").unwrap();
    tree.write("/d/b", b"22").unwrap();
    assert_eq!(tree.read("/a").unwrap(), b"22");
    assert_eq!(tree.at("/a").unwrap().inode().metadata().nlink, 2);
    assert_eq!(error(tree.link("/a", "/d")), Errno::EEXIST);
    assert_eq!(error(tree.link("/d", "/e")), Errno::EPERM);
    tree.unlink("/a").unwrap();
    assert_eq!(tree.at("/d/b").unwrap().inode().metadata().nlink, 1);
    // Two names of one file: rename does nothing.
    tree.link("/d/b", "/c").unwrap();
    tree.rename("/c", "/d/b").unwrap();
    assert!(tree.at("/c").is_ok() && tree.at("/d/b").is_ok());
}

#[test]
fn directories_go_only_when_empty() {
    let tree = Tree::empty();
    tree.mkdir("/d").unwrap();
    tree.mkdir("/d/e").unwrap();
    assert_eq!(error(tree.mkdir("/d")), Errno::EEXIST);
    assert_eq!(error(tree.mkdir("/")), Errno::EEXIST);
    assert_eq!(error(tree.rmdir("/d")), Errno::ENOTEMPTY);
    assert_eq!(error(tree.unlink("/d")), Errno::EISDIR);
    assert_eq!(error(tree.rmdir("/d/e/.")), Errno::EINVAL);
    assert_eq!(error(tree.rmdir("/d/e/..")), Errno::ENOTEMPTY);
    assert_eq!(error(tree.rmdir("/")), Errno::EBUSY);
    assert_eq!(tree.at("/d").unwrap().inode().metadata().nlink, 3);
    let inside = tree.at("/d/e").unwrap();
    tree.rmdir("/d/e").unwrap();
    assert_eq!(inside.working_directory(&tree.root), Err(Errno::ENOENT));
    let made = tree.context().open(&inside, b"x", CREATE, 0o600, Resolve::empty());
    assert_eq!(error(made), Errno::ENOENT);
    assert_eq!(tree.at("/d").unwrap().inode().metadata().nlink, 2);
}

#[test]
fn rename_replaces_what_may_be_replaced() {
    let tree = Tree::empty();
    for dir in ["/d", "/d/sub", "/e", "/full", "/full/x"] {
        tree.mkdir(dir).unwrap();
    }
    tree.write("/f", b"f").unwrap();
    assert_eq!(error(tree.rename("/f", "/d")), Errno::EISDIR);
    assert_eq!(error(tree.rename("/d", "/f")), Errno::ENOTDIR);
    assert_eq!(error(tree.rename("/d", "/full")), Errno::ENOTEMPTY);
    assert_eq!(error(tree.rename("/d", "/d/sub/x")), Errno::EINVAL);
    assert_eq!(error(tree.rename("/d/sub", "/d")), Errno::ENOTEMPTY);
    assert_eq!(error(tree.rename("/none", "/x")), Errno::ENOENT);
    assert_eq!(error(tree.rename("/f", "/g/")), Errno::ENOTDIR);
    assert_eq!(error(tree.rename_with("/f", "/e", RenameMode::NoReplace)), Errno::EEXIST);
    assert_eq!(error(tree.rename("/d/.", "/x")), Errno::EBUSY);
    tree.rename("/d", "/e").unwrap();
    assert_eq!(tree.list("/e"), ["sub"]);
    assert_eq!(error(tree.at("/d")), Errno::ENOENT);
    tree.rename("/f", "/e/g").unwrap();
    assert_eq!(tree.read("/e/g").unwrap(), b"f");
}

#[test]
fn rename_is_seen_by_open_files_and_working_directories() {
    let tree = Tree::empty();
    tree.mkdir("/a").unwrap();
    tree.mkdir("/a/b").unwrap();
    tree.mkdir("/z").unwrap();
    let cwd = tree.at("/a/b").unwrap();
    tree.rename("/a", "/z/new").unwrap();
    assert_eq!(cwd.working_directory(&tree.root).unwrap(), b"/z/new/b");
    let up = tree.context().lookup(&cwd, b"../..", Follow::Yes).unwrap();
    assert_eq!(up.path_from(&tree.root), b"/z");
}

#[test]
fn exchange_swaps_files_and_directories() {
    let tree = Tree::empty();
    tree.mkdir("/d").unwrap();
    tree.write("/d/in", b"").unwrap();
    tree.write("/f", b"file").unwrap();
    tree.rename_with("/d", "/f", RenameMode::Exchange).unwrap();
    assert_eq!(tree.read("/d").unwrap(), b"file");
    assert_eq!(tree.list("/f"), ["in"]);
    assert_eq!(error(tree.rename_with("/f", "/none", RenameMode::Exchange)), Errno::ENOENT);
    assert_eq!(error(tree.rename_with("/f", "/f/in", RenameMode::Exchange)), Errno::EINVAL);
}

#[test]
fn openat2_confines_a_walk() {
    let tree = Tree::empty();
    tree.mkdir("/jail").unwrap();
    tree.mkdir("/jail/d").unwrap();
    tree.write("/secret", b"s").unwrap();
    tree.write("/jail/ok", b"ok").unwrap();
    tree.symlink("/ok", "/jail/abs").unwrap();
    tree.symlink("../secret", "/jail/out").unwrap();
    let jail = tree.at("/jail").unwrap();
    let open = |path: &str, resolve| tree.context().open(&jail, path.as_bytes(), OpenFlags::RDONLY, 0, resolve);
    assert_eq!(error(open("out", Resolve::BENEATH)), Errno::EXDEV);
    assert_eq!(error(open("/jail/ok", Resolve::BENEATH)), Errno::EXDEV);
    assert_eq!(error(open("d/../../secret", Resolve::BENEATH)), Errno::EXDEV);
    assert!(open("d/../ok", Resolve::BENEATH).is_ok());
    assert_eq!(read_all(&open("abs", Resolve::IN_ROOT).unwrap()).unwrap(), b"ok");
    assert_eq!(error(open("../secret", Resolve::IN_ROOT)), Errno::ENOENT);
    assert_eq!(error(open("abs", Resolve::NO_SYMLINKS)), Errno::ELOOP);
    assert!(open("out", Resolve::empty()).is_ok());
}

#[test]
fn a_root_below_the_top_cannot_be_left() {
    let mut tree = Tree::empty();
    tree.mkdir("/jail").unwrap();
    tree.write("/secret", b"s").unwrap();
    let outside = tree.root.clone();
    tree.root = tree.at("/jail").unwrap();
    assert!(tree.at("/..").unwrap().same(&tree.root));
    assert_eq!(error(tree.at("/../secret")), Errno::ENOENT);
    assert_eq!(outside.working_directory(&tree.root).unwrap(), b"(unreachable)/");
}

#[test]
fn mounts_are_crossed_both_ways() {
    let tree = Tree::empty();
    tree.mkdir("/mnt").unwrap();
    tree.mkdir("/mnt/covered").unwrap();
    let other = TmpFs::mount(Options::new(77, clock));
    tree.mounts.mount(tree.at("/mnt").unwrap(), other, "tmpfs", "two", MountMode::empty()).unwrap();
    assert!(tree.list("/mnt").is_empty());
    tree.mkdir("/mnt/d").unwrap();
    let inside = tree.at("/mnt/d").unwrap();
    assert_eq!(inside.inode().metadata().dev, 77);
    assert_eq!(inside.path_from(&tree.root), b"/mnt/d");
    assert!(tree.at("/mnt/d/../..").unwrap().same(&tree.root));
    tree.write("/f", b"").unwrap();
    assert_eq!(error(tree.rename("/f", "/mnt/f")), Errno::EXDEV);
    assert_eq!(error(tree.link("/f", "/mnt/f")), Errno::EXDEV);
    assert_eq!(error(tree.rmdir("/mnt")), Errno::EBUSY);
    assert_eq!(error(tree.rename("/mnt", "/m")), Errno::EBUSY);
    let crossing = tree.context().open(&tree.root, b"mnt/d", OpenFlags::RDONLY, 0, Resolve::NO_XDEV);
    assert_eq!(error(crossing), Errno::EXDEV);
    let list: Vec<_> = tree.mounts.list(&tree.root).into_iter().map(|m| (m.path, m.parent_id, m.dev)).collect();
    assert_eq!(list, [(b"/".to_vec(), 1, 5), (b"/mnt".to_vec(), 1, 77)]);
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let tree = Tree::empty();
    tree.mkdir("/ro").unwrap();
    let files = image(&[("/f", b"data")]);
    tree.mounts.mount(tree.at("/ro").unwrap(), files, "erofs", "image", MountMode::READ_ONLY).unwrap();
    assert_eq!(tree.read("/ro/f").unwrap(), b"data");
    assert_eq!(error(tree.open("/ro/f", OpenFlags::WRONLY)), Errno::EROFS);
    assert_eq!(error(tree.open("/ro/new", CREATE)), Errno::EROFS);
    assert_eq!(error(tree.mkdir("/ro/d")), Errno::EROFS);
    assert_eq!(error(tree.unlink("/ro/f")), Errno::EROFS);
    assert_eq!(error(tree.context().change_mode(&tree.at("/ro/f").unwrap(), 0)), Errno::EROFS);
    assert!(tree.open("/ro/f", CREATE - OpenFlags::RDWR).is_ok(), "O_CREAT of an existing file only opens it");
}

#[test]
fn permissions_bind_everybody_but_root() {
    let tree = Tree::empty();
    tree.mkdir("/private").unwrap();
    tree.write("/private/f", b"x").unwrap();
    tree.write("/mine", b"x").unwrap();
    let context = tree.context();
    context.change_mode(&tree.at("/private").unwrap(), 0o700).unwrap();
    context.change_mode(&tree.at("/mine").unwrap(), 0o640).unwrap();
    context.change_owner(&tree.at("/mine").unwrap(), Some(0), Some(1000)).unwrap();
    assert_eq!(error(context.check(&tree.at("/mine").unwrap(), Access::EXECUTE)), Errno::EACCES);
    let tree = tree.as_user(1000);
    assert_eq!(error(tree.read("/private/f")), Errno::EACCES);
    assert_eq!(error(tree.open("/new", CREATE)), Errno::EACCES);
    assert_eq!(tree.read("/mine").unwrap(), b"x", "by group");
    assert_eq!(error(tree.open("/mine", OpenFlags::WRONLY)), Errno::EACCES);
    assert_eq!(error(tree.open("/mine", OpenFlags::TRUNC)), Errno::EACCES);
    assert_eq!(error(tree.context().change_mode(&tree.at("/mine").unwrap(), 0o777)), Errno::EPERM);
    assert_eq!(error(tree.context().change_owner(&tree.at("/mine").unwrap(), Some(1000), None)), Errno::EPERM);
}

#[test]
fn a_sticky_directory_protects_others_files() {
    let tree = Tree::empty();
    tree.mkdir("/tmp").unwrap();
    tree.context().change_mode(&tree.at("/tmp").unwrap(), 0o1777).unwrap();
    tree.write("/tmp/roots", b"").unwrap();
    let tree = tree.as_user(1000);
    tree.write("/tmp/users", b"").unwrap();
    assert_eq!(error(tree.unlink("/tmp/roots")), Errno::EPERM);
    assert_eq!(error(tree.rename("/tmp/roots", "/tmp/x")), Errno::EPERM);
    assert_eq!(error(tree.rename("/tmp/users", "/tmp/roots")), Errno::EPERM);
    tree.unlink("/tmp/users").unwrap();
}

#[test]
fn umask_and_setgid_directories_shape_new_files() {
    let mut tree = Tree::empty();
    tree.umask = 0o027;
    tree.mkdir("/g").unwrap();
    assert_eq!(tree.at("/g").unwrap().inode().metadata().mode, 0o750);
    let context = tree.context();
    context.change_owner(&tree.at("/g").unwrap(), None, Some(50)).unwrap();
    context.change_mode(&tree.at("/g").unwrap(), 0o2755).unwrap();
    tree.write("/g/f", b"").unwrap();
    tree.mkdir("/g/d").unwrap();
    let file = tree.at("/g/f").unwrap().inode().metadata();
    let dir = tree.at("/g/d").unwrap().inode().metadata();
    assert_eq!((file.gid, file.mode), (50, 0o640));
    assert_eq!((dir.gid, dir.mode), (50, 0o2750));
}

#[test]
fn an_unnamed_file_can_get_a_name() {
    let tree = Tree::empty();
    tree.mkdir("/d").unwrap();
    assert_eq!(error(tree.open("/d", OpenFlags::TMPFILE)), Errno::EINVAL);
    let file = tree.open("/d", OpenFlags::TMPFILE | OpenFlags::RDWR).unwrap();
    file.write(&mut b"later".as_slice()).unwrap();
    assert!(tree.list("/d").is_empty());
    assert_eq!(file.inode().metadata().nlink, 0);
    tree.context().link(file.location(), &tree.root, b"/d/named").unwrap();
    assert_eq!(tree.read("/d/named").unwrap(), b"later");
}

#[test]
fn a_listing_survives_changes_between_calls() {
    let tree = Tree::layered(&[("/l1", b""), ("/l2", b""), ("/l3", b"")]);
    for i in 0..5 {
        tree.write(&std::format!("/o{i}"), b"").unwrap();
    }
    let dir = tree.open("/", OpenFlags::DIRECTORY).unwrap();
    let mut seen: Vec<String> = Vec::new();
    for round in 0.. {
        let before = seen.len();
        dir.read_dir(&mut |entry| {
            if seen.len() >= before + 2 {
                return ControlFlow::Break(());
            }
            seen.push(String::from_utf8(entry.name.to_vec()).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
        let _ = tree.unlink(&std::format!("/{}", seen.last().unwrap()));
        if round < 3 {
            tree.write(&std::format!("/late{round}"), b"").unwrap();
        }
    }
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "nothing twice: {seen:?}");
    for name in [".", "..", "l1", "l2", "l3", "o0", "o1", "o2", "o3", "o4"] {
        assert!(unique.contains(&name.to_string()), "{name} was there all the time");
    }
}

#[test]
fn times_follow_the_rules() {
    use crate::ops::SetTime;
    let tree = Tree::empty();
    tree.write("/f", b"").unwrap();
    let place = tree.at("/f").unwrap();
    let before = place.inode().metadata();
    tree.write("/f", b"x").unwrap();
    assert!(place.inode().metadata().mtime > before.mtime);
    let past = Timespec { sec: -5, nsec: 7 };
    tree.context().change_times(&place, SetTime::Omit, SetTime::To(past), clock()).unwrap();
    let after = place.inode().metadata();
    assert_eq!((after.mtime, after.atime), (past, before.atime));
    assert!(after.ctime > before.ctime);
    let tree = tree.as_user(5);
    let place = tree.at("/f").unwrap();
    assert_eq!(error(tree.context().change_times(&place, SetTime::To(past), SetTime::Now, clock())), Errno::EPERM);
    assert_eq!(error(tree.context().change_times(&place, SetTime::Now, SetTime::Now, clock())), Errno::EACCES);
}

#[test]
fn special_files_are_made_by_root_and_open_as_they_should() {
    let tree = Tree::empty();
    let context = tree.context();
    context.make(&tree.root, b"/sock", FileKind::Socket, 0o666, 0).unwrap();
    context.make(&tree.root, b"/dev", FileKind::CharDevice, 0o666, 0x103).unwrap();
    assert_eq!(error(tree.open("/sock", OpenFlags::RDONLY)), Errno::ENXIO);
    assert_eq!(error(tree.open("/dev", OpenFlags::RDONLY)), Errno::ENXIO);
    let tree = tree.as_user(9);
    let made = tree.context().make(&tree.root, b"/dev2", FileKind::CharDevice, 0o666, 0x103);
    assert_eq!(error(made), Errno::EPERM);
}

#[test]
fn deep_trees_neither_overflow_the_stack_nor_leak() {
    let tree = Tree::empty();
    let mut here = tree.root.clone();
    for _ in 0..20_000 {
        here = tree.context().make(&here, b"d", FileKind::Directory, 0o755, 0).unwrap();
    }
    assert_eq!(here.path_from(&tree.root).len(), 40_000);
    drop(here);
    // The tree itself is dropped iteratively too.
    std::thread::Builder::new().stack_size(256 << 10).spawn(move || drop(tree)).unwrap().join().unwrap();
}

#[test]
fn attributes_of_symlinks_cannot_be_changed_by_chmod() {
    let tree = Tree::empty();
    tree.symlink("x", "/l").unwrap();
    let link = tree.context().lookup(&tree.root, b"/l", Follow::No).unwrap();
    assert_eq!(error(tree.context().change_mode(&link, 0o777)), Errno::EOPNOTSUPP);
    assert_eq!(link.inode().metadata().size, 1);
    link.inode().set_attributes(&SetAttributes::default()).unwrap();
}

#[test]
fn what_is_mounted_in_a_synthetic_tree_is_found_again() {
    use crate::synth::{Entry, Fixed, mount};
    let empty = || Entry::fixed(Vec::new());
    let sub = Entry::fixed(std::vec![("here", empty()), ("there", empty())]);
    let tree = Tree::on(mount(std::sync::Arc::new(Fixed(std::vec![("sub", sub)])), 3, crate::types::PROC_MAGIC, clock));
    let other = TmpFs::mount(Options::new(9, clock));
    tree.mounts.mount(tree.at("/sub/here").unwrap(), other, "tmpfs", "two", MountMode::empty()).unwrap();
    tree.write("/sub/here/f", b"x").unwrap();
    assert_eq!(tree.read("/sub/here/f").unwrap(), b"x");
    assert_eq!(tree.at("/sub/there").unwrap().inode().metadata().dev, 3);
    let place = tree.at("/sub/here").unwrap();
    tree.mounts.unmount(&place, crate::mount::Lazy::No).unwrap();
    drop(place);
    assert_eq!(tree.read("/sub/here/f").err(), Some(Errno::ENOENT));
}

#[test]
fn binds_show_a_tree_twice_and_unmount_only_when_unused() {
    use crate::mount::Lazy;
    let tree = Tree::empty();
    for path in ["/a", "/a/in", "/a/m", "/b", "/c"] {
        tree.mkdir(path).unwrap();
    }
    tree.mounts.mount(tree.at("/a/m").unwrap(), TmpFs::mount(Options::new(9, clock)), "tmpfs", "m", MountMode::empty()).unwrap();
    tree.write("/a/m/f", b"m").unwrap();
    tree.mounts.bind(&tree.at("/a").unwrap(), tree.at("/b").unwrap()).unwrap();
    tree.mounts.bind_all(&tree.at("/a").unwrap(), tree.at("/c").unwrap()).unwrap();
    tree.write("/b/in/f", b"same").unwrap();
    assert_eq!(tree.read("/a/in/f").unwrap(), b"same");
    assert_eq!(tree.read("/b/m/f").err(), Some(Errno::ENOENT));
    assert_eq!(tree.read("/c/m/f").unwrap(), b"m");
    assert_eq!(tree.at("/b/in").unwrap().path_from(&tree.root), b"/b/in");
    assert_eq!(tree.rename("/b/in/f", "/a/f"), Err(Errno::EXDEV));
    tree.mounts.remount(&tree.at("/b").unwrap(), MountMode::READ_ONLY).unwrap();
    assert_eq!(tree.write("/b/in/g", b"").err(), Some(Errno::EROFS));
    assert_eq!(tree.mounts.unmount(&tree.at("/a").unwrap(), Lazy::No), Err(Errno::EINVAL));
    let file = tree.open("/b/in/f", OpenFlags::RDONLY).unwrap();
    assert_eq!(tree.mounts.unmount(&tree.at("/b").unwrap(), Lazy::No), Err(Errno::EBUSY));
    drop(file);
    assert_eq!(tree.mounts.unmount(&tree.at("/b").unwrap(), Lazy::No), Ok(()));
    assert_eq!(tree.list("/b"), [""; 0]);
    assert_eq!(tree.mounts.unmount(&tree.at("/c").unwrap(), Lazy::No), Err(Errno::EBUSY));
    assert_eq!(tree.mounts.unmount(&tree.at("/c").unwrap(), Lazy::Yes), Ok(()));
    assert_eq!(tree.read("/a/m/f").unwrap(), b"m");
}

#[test]
fn names_that_were_missed_are_found_once_they_exist() {
    let tree = Tree::empty();
    tree.mkdir("/d").unwrap();
    for round in 0..3 {
        for path in ["/d/f", "/d/s", "/d/g", "/d/sub"] {
            assert_eq!(tree.at(path).err(), Some(Errno::ENOENT), "{round} {path}");
        }
        tree.write("/d/f", b"x").unwrap();
        tree.symlink("f", "/d/s").unwrap();
        tree.link("/d/f", "/d/g").unwrap();
        tree.mkdir("/d/sub").unwrap();
        for path in ["/d/f", "/d/s", "/d/g", "/d/sub"] {
            assert!(tree.at(path).is_ok(), "{round} {path}");
        }
        tree.rename("/d/f", "/d/sub/f").unwrap();
        assert_eq!((tree.at("/d/f").err(), tree.read("/d/sub/f").unwrap()), (Some(Errno::ENOENT), b"x".to_vec()));
        for path in ["/d/sub/f", "/d/s", "/d/g"] {
            tree.unlink(path).unwrap();
        }
        tree.rmdir("/d/sub").unwrap();
    }
}

#[test]
fn dropping_what_is_kept_changes_nothing() {
    let tree = Tree::layered(&[("/usr/lib/file", b"below"), ("/usr/other", b"")]);
    tree.write("/usr/lib/new", b"above").unwrap();
    let file = tree.open("/usr/lib/file", OpenFlags::RDONLY).unwrap();
    assert_eq!(tree.at("/usr/none").err(), Some(Errno::ENOENT));
    for _ in 0..3 {
        crate::keeper::drop_unused();
        assert_eq!((tree.read("/usr/lib/new").unwrap(), tree.read("/usr/lib/file").unwrap()), (b"above".to_vec(), b"below".to_vec()));
        assert_eq!(tree.at("/usr/none").err(), Some(Errno::ENOENT));
    }
    assert_eq!(file.path(&tree.root), b"/usr/lib/file");
}

#[test]
fn threads_walk_while_names_move() {
    let tree = Tree::empty();
    for path in ["/a", "/a/stays", "/b"] {
        tree.mkdir(path).unwrap();
    }
    tree.write("/a/stays/f", b"x").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = OnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(tree.read("/a/stays/f").unwrap(), b"x");
                    // There or not: only what stays is certain.
                    drop((tree.at("/a/moves"), tree.at("/b/moves")));
                    crate::keeper::drop_unused();
                }
            });
        }
        for _ in 0..2_000 {
            tree.write("/a/moves", b"y").unwrap();
            tree.rename("/a/moves", "/b/moves").unwrap();
            assert!(tree.at("/a/moves").is_err());
            tree.unlink("/b/moves").unwrap();
            assert!(tree.at("/b/moves").is_err());
        }
    });
}

/// Stops other threads however a test goes on.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
