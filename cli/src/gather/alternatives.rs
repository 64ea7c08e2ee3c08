//! The names that `update-alternatives(1)` gives to programs: `/usr/bin/javac` leads through `/etc/alternatives` into a package,
//! in whose list of files it is not.

use std::fs;
use std::path::Path;

use super::tree::{Root, Tree};

const ALTERNATIVES: &str = "/etc/alternatives";
const DIRECTORIES: [&str; 2] = ["/usr/bin", "/usr/sbin"];

/// Adds those that lead to files in `tree`.
pub(super) fn add(tree: &mut Tree, root: &Root) {
    for directory in DIRECTORIES.map(Path::new) {
        let Ok(entries) = fs::read_dir(root.host(directory)) else { continue };
        for entry in entries.flatten() {
            let is_alternative = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(ALTERNATIVES));
            let link = directory.join(entry.file_name());
            if is_alternative && root.resolve(&link).is_ok_and(|file| tree.get(&file).is_some()) {
                // It was resolved just now; if it has gone since, so be it.
                let _ = tree.add(root, &link);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_those_come_whose_file_is_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |path: &str| dir.path().join(path);
        for directory in ["usr/bin", "etc/alternatives", "usr/lib/jvm/bin"] {
            fs::create_dir_all(at(directory)).expect("mkdir");
        }
        for name in ["java", "other"] {
            fs::write(at(&format!("usr/lib/jvm/bin/{name}")), "x").expect("write");
            symlink(format!("/usr/lib/jvm/bin/{name}"), at(&format!("etc/alternatives/{name}"))).expect("link");
            symlink(format!("/etc/alternatives/{name}"), at(&format!("usr/bin/{name}"))).expect("link");
        }
        symlink("/etc/alternatives/gone", at("usr/bin/gone")).expect("link");
        symlink("/usr/lib/jvm/bin/java", at("usr/bin/plain")).expect("link");
        let root = Root::new(dir.path());
        let mut tree = Tree::default();
        tree.add(&root, Path::new("/usr/lib/jvm/bin/java")).expect("add");
        add(&mut tree, &root);
        let has = |path: &str| tree.get(Path::new(path)).is_some();
        assert!(has("/usr/bin/java") && has("/etc/alternatives/java"));
        assert!(!has("/usr/bin/other") && !has("/usr/bin/gone") && !has("/usr/bin/plain"));
    }
}
