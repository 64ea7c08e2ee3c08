//! Numbers as text, appended to bytes: what long texts are mostly made of. `core::fmt` takes several times as many instructions.

use alloc::vec::Vec;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Digits of the largest number, in decimal.
const MOST: usize = 20;

/// Appends `value` in decimal, with spaces before it up to `width` columns.
pub fn decimal(text: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b' '; MOST];
    let mut at = MOST;
    loop {
        at -= 1;
        digits[at] = DIGITS[(value % 10) as usize];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at.min(MOST.saturating_sub(width))..]);
}

/// Appends `value` in hexadecimal, with zeros before it up to `width` digits.
pub fn hexadecimal(text: &mut Vec<u8>, value: u64, width: usize) {
    let needed = (u64::BITS - (value | 1).leading_zeros()).div_ceil(4);
    let digits = needed.max(u32::try_from(width).unwrap_or(0));
    text.reserve(digits as usize);
    for at in (0..digits).rev() {
        text.push(DIGITS[(value.unbounded_shr(4 * at) & 15) as usize]);
    }
}

/// Appends spaces until there are `length` bytes.
pub fn pad(text: &mut Vec<u8>, length: usize) {
    text.resize(text.len().max(length), b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{format, string::String};

    #[test]
    fn numbers_look_as_those_of_the_standard_library() {
        for value in [0, 1, 9, 10, 15, 16, 0xdead_beef, 999_999_999, u64::MAX / 10, u64::MAX] {
            for width in [0, 1, 2, 8, 20] {
                let (mut ours, mut hex) = (Vec::new(), Vec::new());
                decimal(&mut ours, value, width);
                hexadecimal(&mut hex, value, width);
                assert_eq!(String::from_utf8(ours).unwrap(), format!("{value:>width$}"));
                assert_eq!(String::from_utf8(hex).unwrap(), format!("{value:0>width$x}"));
            }
        }
    }

    #[test]
    fn padding_makes_longer_and_never_shorter() {
        let mut text = b"abc".to_vec();
        pad(&mut text, 2);
        assert_eq!(text, b"abc");
        pad(&mut text, 5);
        assert_eq!(text, b"abc  ");
    }
}
