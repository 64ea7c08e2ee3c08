//! The bootable kernel binary: picks platform and drivers, nothing else.
fn main() {}
