//! Any bytes as an image: everything the reader offers is called on them.
#![no_main]

#[path = "../../tests/support/walk.rs"]
mod walk;

use libfuzzer_sys::fuzz_target;

/// Where the superblock's compatible features are; bit 0 says that it has a checksum.
const FEATURE_COMPAT: usize = 1024 + 8;

fuzz_target!(|bytes: &[u8]| {
    let mut image = bytes.to_vec();
    // No fuzzer guesses a checksum.
    if let Some(features) = image.get_mut(FEATURE_COMPAT) {
        *features &= !1;
    }
    walk::walk(&image);
});
