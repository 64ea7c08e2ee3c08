//! The `oxv` host program.
fn main() {}
