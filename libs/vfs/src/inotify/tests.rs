use super::*;
use crate::io::VecSink;
use crate::testing::Tree;
use std::string::String;

struct Watching {
    tree: Tree,
    instance: Arc<Inotify>,
}

impl Watching {
    fn new() -> Self {
        Self { tree: Tree::empty(), instance: Inotify::new().unwrap() }
    }

    fn watch(&self, path: &str, mask: Happening) -> Result<i32> {
        self.instance.add_watch(self.tree.at(path)?.inode(), mask)
    }

    /// Descriptor, what, and name of all events so far; cookies must come in pairs.
    fn events(&self) -> Vec<(i32, Happening, String)> {
        let mut sink = VecSink::new(1 << 20);
        if self.instance.read(&mut 0, &mut sink, OpenFlags::NONBLOCK).is_err() {
            return Vec::new();
        }
        let bytes = sink.into_vec();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut events) = (0, Vec::new());
        while at < bytes.len() {
            let len = word(at + 12) as usize;
            let name = bytes[at + 16..at + 16 + len].split(|byte| *byte == 0).next().unwrap_or(b"");
            let name = String::from_utf8(name.to_vec()).unwrap();
            events.push((word(at) as i32, Happening::from_bits_retain(word(at + 4)), name));
            at += HEAD + len;
        }
        events
    }
}

fn event(descriptor: i32, what: Happening, name: &str) -> (i32, Happening, String) {
    (descriptor, what, name.into())
}

#[test]
fn a_directory_hears_of_its_names_and_a_file_of_itself() {
    let w = Watching::new();
    w.tree.mkdir("/d").unwrap();
    assert_eq!(w.watch("/d", Happening::ALL_EVENTS), Ok(1));
    w.tree.write("/d/f", b"x").unwrap();
    assert_eq!(w.watch("/d/f", Happening::ALL_EVENTS), Ok(2));
    w.tree.unlink("/d/f").unwrap();
    let expected = [
        event(1, Happening::CREATE, "f"),
        event(1, Happening::OPEN, "f"),
        event(1, Happening::MODIFY, "f"),
        event(1, Happening::CLOSE_WRITE, "f"),
        event(2, Happening::ATTRIB, ""),
        event(2, Happening::DELETE_SELF, ""),
        event(2, Happening::IGNORED, ""),
        event(1, Happening::DELETE, "f"),
    ];
    assert_eq!(w.events(), expected);
    w.tree.rmdir("/d").unwrap();
    assert_eq!(w.events(), [event(1, Happening::DELETE_SELF, ""), event(1, Happening::IGNORED, "")]);
    assert_eq!(w.instance.remove_watch(1), Err(Errno::EINVAL));
}

#[test]
fn a_removed_file_in_use_goes_with_its_last_user() {
    let w = Watching::new();
    w.tree.write("/f", b"").unwrap();
    let file = w.tree.open("/f", OpenFlags::RDONLY).unwrap();
    w.watch("/f", Happening::DELETE_SELF).unwrap();
    w.tree.unlink("/f").unwrap();
    assert_eq!(w.events(), []);
    drop(file);
    assert_eq!(w.events(), [event(1, Happening::DELETE_SELF, ""), event(1, Happening::IGNORED, "")]);
}

#[test]
fn moves_have_both_ends_and_the_moved() {
    let w = Watching::new();
    for path in ["/a", "/b", "/a/sub"] {
        w.tree.mkdir(path).unwrap();
    }
    w.watch("/a", Happening::MOVED_FROM | Happening::MOVED_TO).unwrap();
    w.watch("/b", Happening::MOVED_FROM | Happening::MOVED_TO).unwrap();
    w.watch("/a/sub", Happening::MOVE_SELF).unwrap();
    w.tree.rename("/a/sub", "/b/new").unwrap();
    let expected = [
        event(1, Happening::MOVED_FROM | Happening::ISDIR, "sub"),
        event(2, Happening::MOVED_TO | Happening::ISDIR, "new"),
        event(3, Happening::MOVE_SELF, ""),
    ];
    assert_eq!(w.events(), expected);
}

#[test]
fn equal_events_in_a_row_are_one_and_a_watch_may_be_for_one_only() {
    let w = Watching::new();
    w.tree.write("/f", b"x").unwrap();
    let file = w.tree.open("/f", OpenFlags::WRONLY).unwrap();
    w.watch("/f", Happening::MODIFY).unwrap();
    file.write(&mut b"1".as_slice()).unwrap();
    file.write(&mut b"2".as_slice()).unwrap();
    assert_eq!(w.events(), [event(1, Happening::MODIFY, "")]);
    assert_eq!(w.watch("/f", Happening::MODIFY | Happening::MASK_CREATE), Err(Errno::EEXIST));
    assert_eq!(w.watch("/f", Happening::MODIFY | Happening::ONESHOT), Ok(1));
    file.write(&mut b"3".as_slice()).unwrap();
    file.write(&mut b"4".as_slice()).unwrap();
    assert_eq!(w.events(), [event(1, Happening::MODIFY, ""), event(1, Happening::IGNORED, "")]);
    assert_eq!(w.watch("/f", Happening::MODIFY), Ok(2));
}

#[test]
fn a_small_buffer_gets_whole_events_or_einval() {
    let w = Watching::new();
    w.watch("/", Happening::CREATE).unwrap();
    w.tree.write("/a-file", b"").unwrap();
    w.tree.write("/b-file", b"").unwrap();
    let read = |room| w.instance.read(&mut 0, &mut VecSink::new(room), OpenFlags::NONBLOCK);
    assert_eq!(read(31), Err(Errno::EINVAL));
    assert_eq!(read(63), Ok(32));
    assert_eq!(read(64), Ok(32));
    assert_eq!(read(64), Err(Errno::EAGAIN));
}

#[test]
fn two_instances_watch_one_file_independently() {
    let (w, other) = (Watching::new(), Inotify::new().unwrap());
    w.tree.write("/f", b"x").unwrap();
    w.watch("/f", Happening::ATTRIB).unwrap();
    assert_eq!(other.add_watch(w.tree.at("/f").unwrap().inode(), Happening::ATTRIB), Ok(1));
    other.remove_watch(1).unwrap();
    w.tree.context().change_mode(&w.tree.at("/f").unwrap(), 0o600).unwrap();
    assert_eq!(w.events(), [event(1, Happening::ATTRIB, "")]);
    assert!(other.poll().contains(Events::IN), "its own IGNORED");
}
