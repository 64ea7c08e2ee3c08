//! CRC-32C (Castagnoli) as the superblock uses it: reflected, initial value all ones, not inverted at the end.
//!
//! Bit by bit, since it runs once per mount over 3 KiB.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Continues the checksum `crc` over `bytes`.
pub(crate) fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

fn step(crc: u32) -> u32 {
    (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_check_value_of_the_standard() {
        assert_eq!(!super::update(!0, b"123456789"), 0xe306_9283);
    }
}
