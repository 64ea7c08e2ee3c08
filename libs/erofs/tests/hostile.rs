//! Damaged and malicious images: the reader gives errors, never panics, never runs long.
//!
//! `cargo test -p erofs --test hostile -- --ignored` goes on for as many seconds as `EROFS_FUZZ_SECONDS` says; the
//! coverage-guided twin is in `fuzz/`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use erofs::write::Options;
use erofs::{Damage, Error, Image, Unsupported};
use support::sample::{resolve, sample};
use support::walk::walk;
use support::{Aligned, build};

/// Offsets in the superblock, and of it.
const SUPER: usize = 1024;
const FEATURE_COMPAT: usize = SUPER + 8;

/// The sample without a checksum, so that damage in the first block gets past it.
fn image() -> Vec<u8> {
    let mut image = build(&sample(), &Options::default());
    image[FEATURE_COMPAT] &= !1;
    image
}

/// Numbers as good as random, the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Changes some bytes of the metadata: bits, bytes, or numbers to extremes.
fn mutate(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(12) {
        // Half of the changes hit the superblock and the first inodes.
        let area = if random.below(2) == 0 {
            SUPER..8192
        } else {
            SUPER..bytes.len()
        };
        let at = area.start + random.below(area.len());
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at..]
                .iter_mut()
                .take(1 << random.below(4))
                .for_each(|byte| *byte = 0xff),
            _ => bytes[at..]
                .iter_mut()
                .take(1 << random.below(4))
                .for_each(|byte| *byte = 0),
        }
    }
}

fn fuzz(random: &mut Random, mut go_on: impl FnMut(usize) -> bool) {
    let original = image();
    let mut aligned = Aligned::new(&original);
    let mut round = 0;
    while go_on(round) {
        aligned.bytes_mut().copy_from_slice(&original);
        mutate(aligned.bytes_mut(), random);
        let len = if random.below(8) == 0 {
            random.below(original.len())
        } else {
            original.len()
        };
        let start = Instant::now();
        walk(&aligned.bytes()[..len]);
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "round {round} took {:?}",
            start.elapsed()
        );
        round += 1;
    }
}

#[test]
fn mutated_images_give_errors_at_worst() {
    fuzz(&mut Random(0x00e0_f5e1_e2e0_f5e1), |round| round < 300);
}

#[test]
#[ignore = "runs as long as EROFS_FUZZ_SECONDS says, 60 by default"]
fn mutated_images_for_longer() {
    let seconds =
        std::env::var("EROFS_FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let seed = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_nanos() as u64
        | 1;
    eprintln!("seed {seed}");
    fuzz(&mut Random(seed), |_| Instant::now() < end);
}

#[test]
fn every_truncation_is_noticed() {
    let image = image();
    for len in (0..image.len()).step_by(997).chain([
        0,
        1023,
        1024,
        1151,
        1152,
        4095,
        4096,
        image.len() - 1,
    ]) {
        let error = Image::new(&image[..len]).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn noise_is_not_an_image() {
    let mut random = Random(77);
    let noise: Vec<u8> = (0..10_000).map(|_| random.next() as u8).collect();
    assert!(matches!(Image::new(&noise), Err(Error::BadMagic(_))));
}

#[test]
fn damage_of_the_first_block_is_found_by_the_checksum() {
    let mut image = build(&sample(), &Options::default());
    image[2000] ^= 1;
    assert!(matches!(Image::new(&image), Err(Error::BadChecksum { .. })));
}

#[test]
fn what_is_not_implemented_is_named() {
    let with = |offset: usize, byte: u8| {
        let mut image = image();
        image[SUPER + offset] = byte;
        Image::new(&image).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(12, 9), Error::Unsupported(Unsupported::BlockSize(9)));
    assert_eq!(
        with(80, 0x20),
        Error::Unsupported(Unsupported::Features(0x20))
    );
    assert_eq!(
        with(90, 1),
        Error::Unsupported(Unsupported::DirBlockSize(1))
    );
}

/// Puts `bytes` at `offset` of the inode at `path`; returns what reading the inode gives.
fn with_inode(path: &str, offset: usize, bytes: &[u8]) -> Result<(), Error> {
    let mut image = image();
    let nid = resolve(&Image::new(&image).unwrap(), path).nid;
    let at = nid as usize * 32 + offset;
    image[at..at + bytes.len()].copy_from_slice(bytes);
    Image::new(&image)?.inode(nid).map(|_| ())
}

fn damage(result: Result<(), Error>) -> Damage {
    match result {
        Err(Error::Corrupt { damage, .. }) => damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_inodes_are_described() {
    const XATTR_COUNT: usize = 2;
    const MODE: usize = 4;
    const SIZE: usize = 8;
    const BLOCK: usize = 16;
    const NSEC: usize = 40;
    assert_eq!(
        damage(with_inode("/big", SIZE, &u64::MAX.to_le_bytes())),
        Damage::DataOutside
    );
    assert_eq!(
        damage(with_inode("/big", BLOCK, &u32::MAX.to_le_bytes())),
        Damage::DataOutside
    );
    assert_eq!(damage(with_inode("/big", MODE, &[0, 0])), Damage::Mode(0));
    assert_eq!(
        damage(with_inode("/big", NSEC, &u32::MAX.to_le_bytes())),
        Damage::Time(u32::MAX)
    );
    assert_eq!(
        damage(with_inode("/small", SIZE, &4090_u64.to_le_bytes())),
        Damage::InlineTail
    );
    assert_eq!(
        damage(with_inode("/", MODE, &0o100_644_u16.to_le_bytes())),
        Damage::RootNotADirectory
    );
    // 256 KiB of attributes fit into the image; the tail then lies elsewhere, or the attributes are damaged.
    let _ = with_inode("/small", XATTR_COUNT, &[0xff, 0xff]);
    assert!(matches!(
        with_inode("/big", 0, &[9, 0]),
        Err(Error::Unsupported(Unsupported::Chunked(_)))
    ));
    assert!(matches!(
        with_inode("/big", 0, &[0xff, 0]),
        Err(Error::Unsupported(Unsupported::InodeFormat { .. }))
    ));
}

#[test]
fn node_numbers_outside_are_damage() {
    let bytes = image();
    let image = Image::new(&bytes).unwrap();
    for nid in [
        u64::MAX,
        u64::MAX / 32,
        bytes.len() as u64 / 32,
        bytes.len() as u64 / 32 - 1,
    ] {
        if let Err(error) = image.inode(nid) {
            assert!(
                matches!(error, Error::Corrupt { .. } | Error::Unsupported(_)),
                "{error}"
            );
        }
    }
    assert_eq!(
        damage(image.inode(u64::MAX).map(|_| ())),
        Damage::InodeOutside
    );
}
