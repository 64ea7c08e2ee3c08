//! What every image has, whatever the program: the top-level directories and links, and small files from /etc.

use std::path::Path;

use super::tree::{Node, Root, Tree};

/// Links on systems with a merged `/usr`, directories elsewhere.
const TOP_LINKS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

const DIRECTORIES: [(&str, u32); 12] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];

/// Read by C libraries and language run times; each is small.
const FILES: [&str; 22] = [
    "/etc/debian_version",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/profile",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/rpc",
    "/etc/services",
    "/etc/shells",
    "/etc/timezone",
    "/usr/lib/locale/C.utf8/LC_CTYPE",
    "/var/run",
    "/var/lock",
];

/// The rest of the one locale that is always there.
const LOCALE: &str = "/usr/lib/locale/C.utf8";

const TERMINFO: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];

/// For systems whose /etc has no such file.
const FALLBACKS: [(&str, &str); 4] = [
    ("/etc/group", "root:x:0:\n"),
    ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
];

/// Adds the links at the top first, so that everything added later lands behind them.
pub(crate) fn add(tree: &mut Tree, root: &Root, host_name: &str) {
    for path in TOP_LINKS {
        // Absent on this system, then also in the guest.
        let _ = tree.add(root, Path::new(path));
    }
    for (path, mode) in DIRECTORIES {
        tree.insert(Path::new(path), Node::directory(mode));
    }
    for path in FILES {
        // Absent or unreadable ones are not needed.
        let _ = tree.add(root, Path::new(path));
    }
    let locale = Path::new(LOCALE);
    let _ = tree.add_recursive(&root.host(locale), locale);
    for (path, text) in FALLBACKS {
        if tree.host_file(Path::new(path)).is_none() {
            tree.insert(Path::new(path), Node::bytes(text.into(), 0o644));
        }
    }
    tree.insert(Path::new("/etc/hostname"), Node::bytes(format!("{host_name}\n").into(), 0o644));
}

/// Adds the description of the terminal type `term`.
pub(crate) fn add_terminfo(tree: &mut Tree, root: &Root, term: &str) {
    let Some(first) = term.chars().next().filter(|_| !term.contains('/')) else { return };
    for directory in TERMINFO {
        // Each type is in one of them.
        let _ = tree.add(root, &Path::new(directory).join(first.to_string()).join(term));
    }
}
