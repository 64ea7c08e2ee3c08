//! Functions that say anything: nothing panics, nothing runs for ever, nothing is changed that must not be.
//!
//! `fuzz/` does the same with coverage.

#[path = "support/walk.rs"]
mod walk;

use proptest::prelude::*;

/// A function that looks like QEMU's virtio-serial, as [`walk::walk`] wants it.
fn plausible() -> Vec<u8> {
    let mut words = [0u32; 6 + 64];
    (words[1], words[4], words[5]) = (0xffff_f000, 0xffff_c000, u32::MAX);
    let registers = &mut words[6..];
    (registers[0], registers[1], registers[2], registers[11]) = (0x1043_1af4, 0x0010_0007, 0x0780_0001, 0x1100_1af4);
    (registers[5], registers[8], registers[9], registers[13]) = (0xfebd_1000, 0xfe00_000c, 0, 0x98);
    // MSI-X, then virtio's four: (offset, next, kind, len).
    (registers[0x98 / 4], registers[0x9c / 4], registers[0xa0 / 4]) = (0x001f_8411, 1, 0x801);
    for (offset, next, kind, len) in [(0x84usize, 0x74u32, 2u32, 20u32), (0x74, 0x64, 4, 16), (0x64, 0x54, 3, 16), (0x54, 0, 1, 16)] {
        registers[offset / 4] = 9 | next << 8 | len << 16 | kind << 24;
        registers[offset / 4 + 1] = 4;
        registers[offset / 4 + 2] = 0x1000 * (kind - 1);
        registers[offset / 4 + 3] = 0x1000;
    }
    registers[0x84 / 4 + 4] = 4;
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_single_byte_may_be_wrong() {
    let good = plausible();
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xfc, 0xff, good[at] ^ 0x10, good[at].wrapping_add(1)] {
            let mut bad = good.clone();
            bad[at] = value;
            walk::walk(&bad);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..280)) {
        walk::walk(&bytes);
    }

    #[test]
    fn any_damage_is_survived(damage in proptest::collection::vec((0usize..280, any::<u8>()), 1..12)) {
        let mut bytes = plausible();
        damage.into_iter().for_each(|(at, value)| bytes[at] = value);
        walk::walk(&bytes);
    }
}
