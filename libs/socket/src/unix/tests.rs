//! Local sockets on host threads.

use std::sync::atomic::AtomicU32;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use vfs::anon::AnonInode;
use vfs::io::{SliceSink, VecSink};
use vfs::{FileKind, Inode, Location, Metadata};

use super::*;
use crate::options::name::{SO_PASSCRED, SO_PEEK_OFF, SO_PEERCRED, SO_RCVTIMEO, SO_SNDBUF};
use crate::{SocketFile, options};

const NONBLOCK: OpenFlags = OpenFlags::NONBLOCK;
const BLOCK: OpenFlags = OpenFlags::empty();
const NONE: MessageFlags = MessageFlags::empty();

fn identity() -> Identity {
    let ucred = Ucred { pid: 42, uid: 1000, gid: 100 };
    Identity { effective: ucred, real: ucred, groups: vec![4, 27] }
}

/// A world of its own for each test.
fn domain() -> &'static Domain {
    std::boxed::Box::leak(std::boxed::Box::new(Domain::new(identity)))
}

/// A file tree of sockets in one directory.
#[derive(Default)]
struct Tree(std::sync::Mutex<std::collections::HashMap<Vec<u8>, Arc<dyn Inode>>>);

impl Paths for Tree {
    fn make(&self, path: &[u8], mode: u16) -> Result<Arc<dyn Inode>> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut tree = self.0.lock().unwrap();
        if tree.contains_key(path) {
            return Err(Errno::EEXIST);
        }
        let ino = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let inode = AnonInode::new(Metadata::new(9, ino, FileKind::Socket, mode), 0, None);
        tree.insert(path.to_vec(), inode.clone());
        Ok(inode)
    }

    fn find(&self, path: &[u8]) -> Result<Arc<dyn Inode>> {
        self.0.lock().unwrap().get(path).cloned().ok_or(Errno::ENOENT)
    }
}

fn sun(name: &str) -> Vec<u8> {
    [b"\x01\x00", name.as_bytes()].concat()
}

fn recv(socket: &UnixSocket, room: usize) -> Result<Vec<u8>> {
    recv_with(socket, room, NONE).map(|(bytes, _)| bytes)
}

fn recv_with(socket: &UnixSocket, room: usize, flags: MessageFlags) -> Result<(Vec<u8>, Received)> {
    let mut sink = VecSink::new(room);
    let received = socket.receive(&mut sink, flags, NONBLOCK)?;
    Ok((sink.into_vec(), received))
}

fn send(socket: &UnixSocket, data: &[u8]) -> Result<usize> {
    socket.write(&mut &*data, NONBLOCK)
}

fn send_files(socket: &UnixSocket, data: &[u8], files: Vec<Arc<OpenFile>>) -> Result<usize> {
    let mut data = data;
    let message = Outgoing { files, ..Outgoing::plain(&mut data) };
    socket.send(message, &Tree::default(), NONBLOCK)
}

fn send_to(socket: &UnixSocket, tree: &Tree, to: &str, data: &[u8]) -> Result<usize> {
    let (to, mut data) = (sun(to), data);
    let message = Outgoing { to: Some(&to), ..Outgoing::plain(&mut data) };
    socket.send(message, tree, NONBLOCK)
}

/// The open file of a socket, as a descriptor would hold it.
fn open(socket: Arc<UnixSocket>) -> Arc<OpenFile> {
    let inode = AnonInode::new(Metadata::new(0, 1, FileKind::Socket, 0o777), 0, None);
    OpenFile::new(SocketFile::new(socket), Location::nameless(inode, "socket:[1]"), OpenFlags::RDWR)
}

fn listener(domain: &'static Domain, tree: &Tree, kind: Kind, backlog: usize) -> Arc<UnixSocket> {
    let socket = UnixSocket::new(domain, kind);
    socket.bind(&sun("/s"), tree).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

fn connected(kind: Kind) -> (Arc<UnixSocket>, Arc<UnixSocket>) {
    let (domain, tree) = (domain(), Tree::default());
    let server = listener(domain, &tree, kind, 5);
    let client = UnixSocket::new(domain, kind);
    client.connect(&sun("/s"), &tree, NONBLOCK).unwrap();
    let accepted = server.accept_next(NONBLOCK).unwrap();
    (client, accepted)
}

#[test]
fn a_stream_goes_both_ways_and_ends_each_way() {
    let (a, b) = connected(Kind::Stream);
    send(&a, b"ping").unwrap();
    send(&b, b"pong").unwrap();
    assert_eq!((recv(&a, 9).unwrap(), recv(&b, 9).unwrap()), (b"pong".to_vec(), b"ping".to_vec()));
    assert_eq!(recv(&a, 9), Err(Errno::EAGAIN));
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!((recv(&b, 9).unwrap(), send(&a, b"x")), (vec![], Err(Errno::EPIPE)));
    assert!(b.poll().contains(Events::RDHUP | Events::IN | Events::OUT) && !b.poll().contains(Events::HUP));
    send(&b, b"still").unwrap();
    assert_eq!(recv(&a, 9).unwrap(), b"still");
    b.close();
    assert_eq!(recv(&a, 9).unwrap(), b"");
    assert!(a.poll().contains(Events::HUP | Events::RDHUP | Events::IN) && !a.poll().contains(Events::ERR));
}

#[test]
fn what_was_sent_before_a_close_is_received() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    send(&a, b"last words").unwrap();
    a.close();
    drop(a);
    assert_eq!(recv(&b, 99).unwrap(), b"last words");
    assert_eq!(recv(&b, 99).unwrap(), b"");
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
}

#[test]
fn closing_with_unread_data_is_an_error_for_its_sender_once() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    send(&a, b"never read").unwrap();
    b.close();
    assert!(a.poll().contains(Events::ERR | Events::HUP));
    assert_eq!(recv(&a, 9), Err(Errno::ECONNRESET));
    assert_eq!(recv(&a, 9).unwrap(), b"");
}

#[test]
fn connections_wait_in_order_and_the_backlog_bounds_them() {
    let (domain, tree) = (domain(), Tree::default());
    let server = listener(domain, &tree, Kind::Stream, 1);
    assert!(!server.poll().contains(Events::IN));
    let clients: Vec<_> = (0..3).map(|_| UnixSocket::new(domain, Kind::Stream)).collect();
    assert_eq!(clients[0].poll(), Events::HUP | Events::WRITABLE | Events::WRBAND);
    let connect = |client: &UnixSocket| client.connect(&sun("/s"), &tree, NONBLOCK);
    assert_eq!(clients.iter().map(|client| connect(client)).collect::<Vec<_>>(), [Ok(()), Ok(()), Err(Errno::EAGAIN)]);
    assert_eq!(server.poll(), Events::READABLE);
    assert_eq!(connect(&clients[0]), Err(Errno::EISCONN));
    send(&clients[0], b"0").unwrap();
    let first = server.accept_next(NONBLOCK).unwrap();
    assert_eq!(recv(&first, 9).unwrap(), b"0");
    connect(&clients[2]).unwrap();
    server.close();
    assert_eq!(recv(&clients[2], 9), Err(Errno::ECONNRESET), "it was never accepted");
    assert_eq!(UnixSocket::new(domain, Kind::Stream).connect(&sun("/s"), &tree, NONBLOCK), Err(Errno::ECONNREFUSED));
    assert_eq!(UnixSocket::new(domain, Kind::Stream).connect(&sun("/no"), &tree, NONBLOCK), Err(Errno::ENOENT));
}

#[test]
fn a_blocked_connect_goes_on_when_one_is_accepted() {
    let (domain, tree) = (domain(), Arc::new(Tree::default()));
    let server = listener(domain, &tree, Kind::Stream, 0);
    let connect = |tree: &Tree| {
        let client = UnixSocket::new(domain, Kind::Stream);
        client.connect(&sun("/s"), tree, BLOCK).map(|()| client)
    };
    let _first = connect(&tree).unwrap();
    let other = tree.clone();
    let second = std::thread::spawn(move || connect(&other).map(|client| send(&client, b"here")));
    std::thread::sleep(Duration::from_millis(20));
    drop(server.accept_next(BLOCK).unwrap());
    let accepted = server.accept_next(BLOCK).unwrap();
    assert_eq!(second.join().unwrap().unwrap(), Ok(4));
    assert_eq!(recv(&accepted, 9).unwrap(), b"here");
}

#[test]
fn names_are_told_and_taken_once() {
    let (domain, tree) = (domain(), Tree::default());
    let server = listener(domain, &tree, Kind::Stream, 5);
    assert_eq!(&*server.name(), b"\x01\x00/s\0");
    assert_eq!(server.bind(&sun("/t"), &tree), Err(Errno::EINVAL));
    let other = UnixSocket::new(domain, Kind::Stream);
    assert_eq!(&*other.name(), b"\x01\x00");
    assert_eq!(other.bind(&sun("/s"), &tree), Err(Errno::EADDRINUSE));
    assert_eq!(other.listen(1), Err(Errno::EINVAL));
    other.connect(&sun("/s"), &tree, NONBLOCK).unwrap();
    assert_eq!(&*other.peer_name().unwrap(), b"\x01\x00/s\0");
    let accepted = server.accept_next(NONBLOCK).unwrap();
    assert_eq!((&*accepted.name(), &*accepted.peer_name().unwrap()), (b"\x01\x00/s\0".as_slice(), b"\x01\x00".as_slice()));
    assert_eq!(server.peer_name(), Err(Errno::ENOTCONN));
    accepted.close();
    other.close();
    UnixSocket::new(domain, Kind::Stream).connect(&sun("/s"), &tree, NONBLOCK).expect("the listener still has its name");
    let packets = UnixSocket::new(domain, Kind::SeqPacket);
    assert_eq!(packets.connect(&sun("/s"), &tree, NONBLOCK), Err(Errno::EPROTOTYPE));
}

#[test]
fn abstract_names_go_with_their_socket() {
    let (domain, tree) = (domain(), Tree::default());
    let a = UnixSocket::new(domain, Kind::Datagram);
    a.bind(&sun("\0name"), &tree).unwrap();
    let b = UnixSocket::new(domain, Kind::Datagram);
    assert_eq!(b.bind(&sun("\0name"), &tree), Err(Errno::EADDRINUSE));
    UnixSocket::new(domain, Kind::Stream).bind(&sun("\0name"), &tree).expect("other kinds have names of their own");
    assert_eq!(send_to(&b, &tree, "\0name", b"hello"), Ok(5));
    a.close();
    assert_eq!(send_to(&b, &tree, "\0name", b"hello"), Err(Errno::ECONNREFUSED));
    b.bind(&sun("\0name"), &tree).unwrap();
    let chosen = UnixSocket::new(domain, Kind::Datagram);
    chosen.bind(&sun(""), &tree).unwrap();
    assert_eq!(chosen.name().len(), 8);
}

#[test]
fn packets_keep_their_ends() {
    for kind in [Kind::Datagram, Kind::SeqPacket] {
        let [a, b] = UnixSocket::pair(domain(), kind);
        for packet in [b"first".as_slice(), b"", b"third"] {
            assert_eq!(send(&a, packet), Ok(packet.len()));
        }
        let (bytes, cut) = recv_with(&b, 3, NONE).unwrap();
        assert_eq!((bytes.as_slice(), cut.len, cut.flags), (b"fir".as_slice(), 3, MessageFlags::TRUNC));
        let (bytes, empty) = recv_with(&b, 3, NONE).unwrap();
        assert_eq!((bytes.len(), empty.len, empty.flags), (0, 0, NONE));
        let (_, looked) = recv_with(&b, 1, MessageFlags::PEEK | MessageFlags::TRUNC).unwrap();
        assert_eq!((looked.len, looked.flags), (5, MessageFlags::TRUNC));
        assert_eq!(recv(&b, 9).unwrap(), b"third");
        assert_eq!(recv(&b, 9), Err(Errno::EAGAIN));
    }
}

#[test]
fn a_connected_datagram_socket_hears_its_peer_only() {
    let (domain, tree) = (domain(), Tree::default());
    let [a, b, c] = ["/a", "/b", "/c"].map(|name| {
        let socket = UnixSocket::new(domain, Kind::Datagram);
        socket.bind(&sun(name), &tree).unwrap();
        socket
    });
    a.connect(&sun("/b"), &tree, NONBLOCK).unwrap();
    assert_eq!(send_to(&c, &tree, "/a", b"x"), Err(Errno::EPERM));
    assert_eq!(send(&c, b"x"), Err(Errno::ENOTCONN));
    send(&a, b"to b").unwrap();
    let (bytes, received) = recv_with(&b, 9, NONE).unwrap();
    assert_eq!((bytes.as_slice(), received.from.as_deref()), (b"to b".as_slice(), Some(b"\x01\x00/a\0".as_slice())));
    b.close();
    assert_eq!(send(&a, b"x"), Err(Errno::ECONNREFUSED));
    assert_eq!(send(&a, b"x"), Err(Errno::ENOTCONN), "the connection is gone");
}

#[test]
fn senders_to_a_full_socket_wait_and_poll_tells_when_not() {
    let (domain, tree) = (domain(), Tree::default());
    let server = UnixSocket::new(domain, Kind::Datagram);
    server.bind(&sun("/s"), &tree).unwrap();
    let client = UnixSocket::new(domain, Kind::Datagram);
    client.connect(&sun("/s"), &tree, NONBLOCK).unwrap();
    let sent = (0..100).take_while(|_| send(&client, b"x").is_ok()).count();
    assert_eq!(sent, MAX_QUEUED_PACKETS + 1);
    assert!(!client.poll().contains(Events::OUT));
    let blocked = client.clone();
    let sender = std::thread::spawn(move || blocked.write(&mut b"late".as_slice(), BLOCK));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(recv(&server, 9).unwrap(), b"x");
    assert_eq!(sender.join().unwrap(), Ok(4));
    recv(&server, 9).unwrap();
    assert!(client.poll().contains(Events::OUT));
}

#[test]
fn a_send_limit_holds_back_and_reading_lets_go() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    options_set(&a, SO_SNDBUF, 4096);
    let data = vec![7; 100_000];
    assert_eq!(send(&a, &data), Ok(8192));
    assert_eq!((send(&a, b"x"), a.poll().contains(Events::OUT)), (Err(Errno::EAGAIN), false));
    recv(&b, 4096).unwrap();
    assert!(!a.poll().contains(Events::OUT), "half full is not writable");
    recv(&b, 4096).unwrap();
    assert!(a.poll().contains(Events::OUT));
    let [c, d] = UnixSocket::pair(domain(), Kind::SeqPacket);
    options_set(&c, SO_SNDBUF, 4096);
    assert_eq!(send(&c, &data), Err(Errno::EMSGSIZE));
    assert_eq!((send(&c, &data[..8000]), send(&c, b"x")), (Ok(8000), Err(Errno::EAGAIN)));
    assert_eq!(recv(&d, 9000).unwrap().len(), 8000);
    assert_eq!(send(&c, b"x"), Ok(1));
}

fn options_set(socket: &UnixSocket, option: u32, value: i32) {
    socket.set_option(options::SOL_SOCKET, option, &value.to_le_bytes()).unwrap();
}

#[test]
fn peeking_takes_nothing_and_can_go_on() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    send(&a, b"abcdef").unwrap();
    assert_eq!(recv_with(&b, 3, MessageFlags::PEEK).unwrap().0, b"abc");
    assert_eq!(recv_with(&b, 3, MessageFlags::PEEK).unwrap().0, b"abc");
    options_set(&b, SO_PEEK_OFF, 0);
    assert_eq!(recv_with(&b, 2, MessageFlags::PEEK).unwrap().0, b"ab");
    assert_eq!(recv_with(&b, 2, MessageFlags::PEEK).unwrap().0, b"cd");
    assert_eq!(recv(&b, 1).unwrap(), b"a");
    assert_eq!(recv_with(&b, 9, MessageFlags::PEEK).unwrap().0, b"ef");
    assert_eq!(recv_with(&b, 9, MessageFlags::PEEK).map(|_| ()), Err(Errno::EAGAIN));
    assert_eq!(recv(&b, 9).unwrap(), b"bcdef");
}

#[test]
fn credentials_come_when_asked_for_and_part_messages() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    send(&a, b"before").unwrap();
    options_set(&b, SO_PASSCRED, 1);
    send(&a, b"after").unwrap();
    send(&a, b"more").unwrap();
    let (bytes, received) = recv_with(&b, 99, NONE).unwrap();
    assert_eq!((bytes.as_slice(), received.credentials), (b"before".as_slice(), Some(Ucred::UNKNOWN)));
    let (bytes, received) = recv_with(&b, 99, NONE).unwrap();
    assert_eq!((bytes.as_slice(), received.credentials), (b"aftermore".as_slice(), Some(identity().real)));
    assert_eq!(a.option(options::SOL_SOCKET, SO_PEERCRED), Ok(Value::Bytes(identity().effective.to_bytes().to_vec())));
    let single = UnixSocket::new(domain(), Kind::Stream);
    assert_eq!(single.option(options::SOL_SOCKET, SO_PEERCRED), Ok(Value::Bytes(Ucred::NOBODY.to_bytes().to_vec())));
}

#[test]
fn files_come_with_the_first_byte_and_end_a_read() {
    let domain = domain();
    let [a, b] = UnixSocket::pair(domain, Kind::Stream);
    let file = open(UnixSocket::new(domain, Kind::Stream));
    send(&a, b"plain").unwrap();
    send_files(&a, b"with", vec![file.clone()]).unwrap();
    send(&a, b"behind").unwrap();
    assert_eq!(domain.files_in_flight(), 1);
    let (bytes, looked) = recv_with(&b, 99, MessageFlags::PEEK).unwrap();
    assert_eq!((bytes.as_slice(), looked.files.len(), domain.files_in_flight()), (b"plainwith".as_slice(), 1, 1));
    let (bytes, received) = recv_with(&b, 7, NONE).unwrap();
    assert_eq!((bytes.as_slice(), received.files.len()), (b"plainwi".as_slice(), 1));
    assert!(Arc::ptr_eq(&received.files[0], &file) && domain.files_in_flight() == 0);
    assert_eq!(recv(&b, 99).unwrap(), b"thbehind");
}

#[test]
fn files_that_nobody_receives_are_closed() {
    for kind in [Kind::Stream, Kind::Datagram, Kind::SeqPacket] {
        let domain = domain();
        let [a, b] = UnixSocket::pair(domain, kind);
        let [c, d] = UnixSocket::pair(domain, Kind::Stream);
        send_files(&a, b"x", vec![open(c)]).unwrap();
        assert_eq!(recv(&d, 9), Err(Errno::EAGAIN));
        b.close();
        assert_eq!((recv(&d, 9).unwrap(), domain.files_in_flight()), (vec![], 0), "{kind:?}");
        // Read without looking at what came along.
        let [e, f] = UnixSocket::pair(domain, kind);
        let [g, h] = UnixSocket::pair(domain, Kind::Stream);
        send_files(&e, b"x", vec![open(g)]).unwrap();
        f.read(&mut VecSink::new(9), NONBLOCK).unwrap();
        assert_eq!((recv(&h, 9).unwrap(), domain.files_in_flight()), (vec![], 0), "{kind:?}");
    }
}

#[test]
fn sockets_lost_in_their_own_queues_are_collected() {
    let domain = domain();
    let [a, b] = UnixSocket::pair(domain, Kind::Stream);
    let [weak_a, weak_b] = [&a, &b].map(Arc::downgrade);
    let [a, b] = [open(a), open(b)];
    let socket = |file: &OpenFile| file.downcast::<SocketFile>().unwrap().socket().common().kind();
    assert_eq!(socket(&a), Kind::Stream);
    // Each is in its own queue, and a third, with a witness, in one of them.
    let [witness, third] = UnixSocket::pair(domain, Kind::Stream);
    for (to, file) in [(&weak_a, b.clone()), (&weak_b, a.clone()), (&weak_a, open(third))] {
        send_files(&to.upgrade().unwrap(), b"x", vec![file]).unwrap();
    }
    domain.collect();
    assert_eq!(domain.files_in_flight(), 3, "descriptors still lead to all");
    drop((a, b));
    domain.collect();
    assert_eq!(domain.files_in_flight(), 0);
    assert!(weak_a.upgrade().is_none() && weak_b.upgrade().is_none());
    assert_eq!(recv(&witness, 9).unwrap(), b"", "what was in a lost queue is closed, too");
}

#[test]
fn a_socket_in_the_queue_of_one_that_can_be_received_is_kept() {
    let domain = domain();
    let [outer, sender] = UnixSocket::pair(domain, Kind::Stream);
    let [inner, feeder] = UnixSocket::pair(domain, Kind::Stream);
    let [leaf, witness] = UnixSocket::pair(domain, Kind::Stream);
    send_files(&feeder, b"x", vec![open(leaf)]).unwrap();
    send_files(&sender, b"x", vec![open(inner)]).unwrap();
    domain.collect();
    assert_eq!((domain.files_in_flight(), recv(&witness, 9)), (2, Err(Errno::EAGAIN)));
    let (_, received) = recv_with(&outer, 9, NONE).unwrap();
    drop(received);
    assert_eq!((domain.files_in_flight(), recv(&witness, 9)), (0, Ok(vec![])));
}

#[test]
fn a_long_chain_of_queued_sockets_is_dropped_without_recursion() {
    let domain = domain();
    let [first, mut sender] = UnixSocket::pair(domain, Kind::Stream);
    let mut senders = vec![];
    for _ in 0..2_000 {
        let [next, its_sender] = UnixSocket::pair(domain, Kind::Stream);
        send_files(&sender, b"x", vec![open(next)]).unwrap();
        senders.push(core::mem::replace(&mut sender, its_sender));
    }
    let small_stack = std::thread::Builder::new().stack_size(64 << 10);
    small_stack.spawn(move || first.close()).unwrap().join().unwrap();
    assert_eq!(domain.files_in_flight(), 0);
}

#[test]
fn a_connection_that_waits_to_be_accepted_can_hold_files() {
    let (domain, tree) = (domain(), Tree::default());
    let server = listener(domain, &tree, Kind::Stream, 5);
    let client = UnixSocket::new(domain, Kind::Stream);
    client.connect(&sun("/s"), &tree, NONBLOCK).unwrap();
    let [kept, witness] = UnixSocket::pair(domain, Kind::Stream);
    send_files(&client, b"x", vec![open(kept)]).unwrap();
    domain.collect();
    assert_eq!(recv(&witness, 9), Err(Errno::EAGAIN));
    server.close();
    assert_eq!((recv(&witness, 9).unwrap(), domain.files_in_flight()), (vec![], 0));
}

#[test]
fn a_receive_timeout_ends_a_wait() {
    let [a, _b] = UnixSocket::pair(domain(), Kind::Stream);
    let timeout: Vec<u8> = [0_u64, 5_000].into_iter().flat_map(u64::to_le_bytes).collect();
    a.set_option(options::SOL_SOCKET, SO_RCVTIMEO, &timeout).unwrap();
    let begin = std::time::Instant::now();
    assert_eq!(a.read(&mut SliceSink::new(&mut [0; 4]), BLOCK), Err(Errno::EAGAIN));
    assert!(begin.elapsed() >= Duration::from_millis(5));
}

#[test]
fn threads_move_a_long_stream_through_a_small_limit() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    options_set(&a, SO_SNDBUF, 1);
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7) as u8).collect();
    let expected = data.clone();
    let writer = std::thread::spawn(move || {
        let sent = a.write(&mut data.as_slice(), BLOCK);
        a.close();
        sent
    });
    let mut sink = VecSink::new(usize::MAX);
    while b.read(&mut sink, BLOCK).unwrap() > 0 {}
    assert_eq!((writer.join().unwrap(), sink.into_vec() == expected), (Ok(1_000_000), true));
}

#[test]
fn waitall_waits_for_all() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    let reader = std::thread::spawn(move || {
        let mut sink = VecSink::new(10);
        b.receive(&mut sink, MessageFlags::WAITALL, BLOCK).map(|received| (received.len, sink.into_vec()))
    });
    for part in [b"0123".as_slice(), b"45", b"6789rest"] {
        std::thread::sleep(Duration::from_millis(5));
        send(&a, part).unwrap();
    }
    assert_eq!(reader.join().unwrap(), Ok((10, b"0123456789".to_vec())));
}

fn send_urgent(socket: &UnixSocket, data: &[u8]) -> Result<usize> {
    let mut source = data;
    socket.send(Outgoing { flags: MessageFlags::OOB, ..Outgoing::plain(&mut source) }, &Tree::default(), NONBLOCK)
}

fn urgent(socket: &UnixSocket, flags: MessageFlags) -> Result<Vec<u8>> {
    recv_with(socket, 1, flags | MessageFlags::OOB).map(|(bytes, received)| {
        assert_eq!(received.flags, MessageFlags::OOB);
        bytes
    })
}

#[test]
fn an_urgent_byte_is_received_apart_and_ends_what_is_received() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    assert_eq!(urgent(&b, NONE), Err(Errno::EINVAL));
    assert_eq!(send_urgent(&a, b""), Err(Errno::EOPNOTSUPP));
    assert_eq!(send_urgent(&a, b"hello"), Ok(5));
    assert!(b.poll().contains(Events::PRI | Events::IN));
    assert_eq!(send(&a, b"world"), Ok(5));
    assert_eq!(urgent(&b, MessageFlags::PEEK).unwrap(), b"o");
    assert_eq!(urgent(&b, NONE).unwrap(), b"o");
    assert_eq!(urgent(&b, NONE), Err(Errno::EINVAL));
    assert!(!b.poll().contains(Events::PRI));
    // The place ends a piece although the byte is gone.
    assert_eq!(recv_with(&b, 20, MessageFlags::PEEK).unwrap().0, b"hell");
    assert_eq!(recv(&b, 20).unwrap(), b"hell");
    assert_eq!(recv(&b, 20).unwrap(), b"world");
    assert_eq!(recv(&b, 20), Err(Errno::EAGAIN));
}

#[test]
fn an_urgent_byte_that_nobody_asks_for_is_lost() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    send_urgent(&a, b"ab!").unwrap();
    send(&a, b"cd").unwrap();
    assert_eq!(recv(&b, 20).unwrap(), b"ab");
    assert_eq!(recv(&b, 20).unwrap(), b"cd");
    send_urgent(&a, b"!").unwrap();
    assert_eq!(recv(&b, 20), Err(Errno::EAGAIN), "it alone is nothing to receive");
    assert_eq!(urgent(&b, NONE), Err(Errno::EINVAL), "and was passed");
    // A second one makes the first an ordinary byte.
    send_urgent(&a, b"hello").unwrap();
    send_urgent(&a, b"wor").unwrap();
    assert_eq!(urgent(&b, NONE).unwrap(), b"r");
    assert_eq!(recv(&b, 20).unwrap(), b"hellowo");
    assert_eq!(recv(&b, 20), Err(Errno::EAGAIN));
}

#[test]
fn an_urgent_byte_may_stay_in_its_place() {
    let [a, b] = UnixSocket::pair(domain(), Kind::Stream);
    b.set_option(options::SOL_SOCKET, options::name::SO_OOBINLINE, &1_i32.to_le_bytes()).unwrap();
    send_urgent(&a, b"ab!").unwrap();
    send(&a, b"cd").unwrap();
    assert_eq!(urgent(&b, NONE), Err(Errno::EINVAL));
    assert_eq!(recv(&b, 20).unwrap(), b"ab");
    assert_eq!(recv(&b, 20).unwrap(), b"!cd");
    let [a, _b] = UnixSocket::pair(domain(), Kind::SeqPacket);
    assert_eq!(send_urgent(&a, b"x"), Err(Errno::EOPNOTSUPP));
}
