//! Random numbers for the program: a ChaCha20 generator per machine, seeded from RDRAND, the clock and whatever drivers add.
//!
//! Each request draws a fresh key for itself under the lock and generates outside it, so a long request holds nobody up
//! and no fault happens with the lock held; the state that made earlier output is gone (fast key erasure).

use linux_abi::Errno;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sync::{Mutex, OnceCell};
use vfs::io::Sink;

type Seed = [u8; 32];

static GENERATOR: OnceCell<Mutex<ChaCha20Rng>> = OnceCell::new();

/// Hardware entropy mixed with the time stamp counter, which differs between boots even where RDRAND is missing.
fn hardware_seed() -> Seed {
    let mut seed = [0; 32];
    for chunk in seed.chunks_exact_mut(8) {
        let word = arch_x86_64::cpu::rdrand().unwrap_or(0) ^ arch_x86_64::cpu::rdtsc() ^ kernel::clock::realtime_ns();
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    seed
}

fn generator() -> &'static Mutex<ChaCha20Rng> {
    GENERATOR.get_or_init(|| Mutex::new(ChaCha20Rng::from_seed(hardware_seed())))
}

/// Mixes in what a hardware generator delivered (virtio-rng).
pub fn add_entropy(bytes: &[u8]) {
    for chunk in bytes.chunks(32) {
        let mut rng = generator().lock();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        for (s, b) in seed.iter_mut().zip(chunk) {
            *s ^= b;
        }
        *rng = ChaCha20Rng::from_seed(seed);
    }
}

/// A generator of the caller's own.
fn fork() -> ChaCha20Rng {
    let mut seed = [0; 32];
    generator().lock().fill_bytes(&mut seed);
    ChaCha20Rng::from_seed(seed)
}

/// Fills `buffer`.
pub fn fill(buffer: &mut [u8]) {
    fork().fill_bytes(buffer);
}

/// A random number.
#[must_use]
pub fn next_u64() -> u64 {
    fork().next_u64()
}

/// Fills `sink`; returns how many bytes it took.
///
/// # Errors
/// `EFAULT` when it took none.
pub fn fill_sink(sink: &mut dyn Sink) -> Result<usize, Errno> {
    let mut rng = fork();
    let mut chunk = [0; 256];
    let mut done = 0;
    while sink.remaining() > 0 {
        let len = sink.remaining().min(chunk.len());
        rng.fill_bytes(&mut chunk[..len]);
        match sink.write(&chunk[..len]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
