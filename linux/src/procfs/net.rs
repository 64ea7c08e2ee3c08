//! /proc/net: the local sockets. There is no other network.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;

use socket::{SocketFile, Value};
use socket::options::{SOL_SOCKET, name::SO_ACCEPTCONN};
use vfs::synth::Entry;
use vfs::OpenFile;

use crate::process::all_tables;

/// `SO_ACCEPTCON` of `struct socket`.
const LISTENS: u32 = 1 << 16;
/// `SS_UNCONNECTED`, `SS_CONNECTED`.
const UNCONNECTED: u32 = 1;
const CONNECTED: u32 = 3;

/// The directory.
pub(super) fn directory() -> Entry {
    Entry::fixed(alloc::vec![("unix", Entry::file(|| Ok(unix().into_bytes())))])
}

/// All local sockets that have a descriptor, one a line.
fn unix() -> String {
    let mut sockets: BTreeMap<u64, Arc<OpenFile>> = BTreeMap::new();
    for table in all_tables() {
        let open = table.open_descriptors().into_iter().filter_map(|fd| table.get_of_other(fd).ok());
        sockets.extend(open.filter(|file| file.downcast::<SocketFile>().is_some()).map(|file| (file.inode().metadata().ino, file)));
    }
    let mut out = String::from("Num       RefCount Protocol Flags    Type St Inode Path\n");
    for (ino, file) in sockets {
        if let Some(socket) = file.downcast::<SocketFile>() {
            line(&mut out, ino, socket);
        }
    }
    out
}

fn line(out: &mut String, ino: u64, socket: &SocketFile) {
    /// Of the family, in front of an address.
    const FAMILY: usize = 2;
    let socket = socket.socket();
    let listens = socket.option(SOL_SOCKET, SO_ACCEPTCONN).is_ok_and(|value| matches!(value, Value::Int(1)));
    let (flags, state) = (if listens { LISTENS } else { 0 }, if socket.peer_name().is_ok() { CONNECTED } else { UNCONNECTED });
    let kind = socket.common().kind().number();
    // Writing into a String cannot fail. Addresses of kernel objects are not shown, as on Linux without privileges.
    let _ = write!(out, "{:016x}: {:08x} {:08x} {flags:08x} {kind:04x} {state:02x} {ino:5}", 0, 2, 0);
    let address = socket.name();
    let path = address.get(FAMILY..).unwrap_or_default();
    if !path.is_empty() {
        // One outside the file tree begins with a zero, and all its zeros are shown so.
        let shown = if path[0] == 0 { path } else { path.split(|&byte| byte == 0).next().unwrap_or_default() };
        let text: alloc::vec::Vec<u8> = shown.iter().map(|&byte| if byte == 0 { b'@' } else { byte }).collect();
        let _ = write!(out, " {}", String::from_utf8_lossy(&text));
    }
    out.push('\n');
}
