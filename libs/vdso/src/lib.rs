//! The vDSO: the shared object in which programs read clocks without entering the kernel.
//!
//! [`image`] is a complete ELF shared object, assembled from `vdso.S`; the kernel maps it into every program, with a page that
//! starts with [`Data`] right before it, and names its address in AT_SYSINFO_EHDR. The functions are leaves: no stack, no
//! FS, no floating point; clocks they do not know go to the kernel.
//!
//! **Protocol.** [`Data`] has four slots. The writer fills the one after that in use, then counts the generation up by a slot's size, which puts
//! the slot in use whose offset is the generation's lowest byte (release). A reader takes the generation, reads the slot it names, and
//! starts over if the generation has changed meanwhile. No reader ever waits for a writer, even one that was stopped half-way.

#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "the image is assembled, and read by address")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Offset of the CPU's number in the block behind GS; `arch_x86_64::percpu` must agree.
pub const CPU_ID_OFFSET: usize = 40;
/// Bytes of the data page before the image, and of the page the image fits in.
pub const PAGE: usize = 4096;

global_asm!(include_str!("vdso.S"), cpu_id = const CPU_ID_OFFSET, options(att_syntax));

unsafe extern "C" {
    static vdso_start: u8;
    static vdso_end: u8;
}

/// The ELF image; at most a page.
#[must_use]
pub fn image() -> &'static [u8] {
    let start = &raw const vdso_start;
    let end = &raw const vdso_end;
    // SAFETY: the assembler puts the image between the two symbols, in read-only memory.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// How to turn the time stamp counter into clocks: `((tsc − base_tsc) · mult >> shift) + base` nanoseconds, with a 128-bit product.
///
/// Both bases are early by as much as makes the difference positive even on a CPU whose counter lags: by 2^`shift` ticks, which are `mult`
/// nanoseconds exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    base_tsc: u64,
    mult: u64,
    /// Unix time, then monotonic time, at `base_tsc`: in the order of the numbers of these clocks.
    bases_ns: [u64; 2],
    shift: u32,
    /// Fills the slot to a cache line.
    pad: [u32; 7],
}

impl Slot {
    /// The slot for clocks that are at `(tsc − base_tsc) · mult >> shift` nanoseconds of monotonic time, whose zero is `realtime_base_ns` of Unix time.
    ///
    /// # Panics
    /// If `shift` is above 63.
    #[must_use]
    pub const fn new(base_tsc: u64, mult: u64, shift: u32, realtime_base_ns: u64) -> Self {
        assert!(shift < u64::BITS, "a shift within a word");
        let bases_ns = [realtime_base_ns.wrapping_sub(mult), 0_u64.wrapping_sub(mult)];
        Self { base_tsc: base_tsc.wrapping_sub(1 << shift), mult, bases_ns, shift, pad: [0; 7] }
    }
}

/// Slots, as many as a byte has offsets for.
const SLOTS: usize = 256 / size_of::<Slot>();

/// What the data page starts with.
#[repr(C)]
pub struct Data {
    generation: AtomicU32,
    pad: [u32; 3],
    slots: [Slot; SLOTS],
}

impl Data {
    /// Publishes new parameters. One writer at a time.
    ///
    /// # Safety
    /// `data` points to a data page that only programs read.
    pub unsafe fn publish(data: *mut Self, slot: Slot) {
        // SAFETY: the generation is only accessed atomically; the unused slot is ours.
        unsafe {
            let generation = (*data).generation.load(Ordering::Relaxed).wrapping_add(size_of::<Slot>() as u32);
            let unused = &raw mut (*data).slots[generation as usize / size_of::<Slot>() % SLOTS];
            unused.write_volatile(slot);
            (*data).generation.store(generation, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::transmute;

    use super::*;

    fn word(at: usize) -> usize {
        u64::from_le_bytes(image()[at..at + 8].try_into().unwrap()) as usize
    }

    /// The dynamic symbols, found as a dynamic linker does: PT_DYNAMIC, then the tables; there are no section headers.
    fn symbols() -> Vec<(String, usize)> {
        let dynamic = word(64 + 56 + 8);
        let entry = |tag| (0..).map(|i| dynamic + 16 * i).find(|&at| word(at) == tag).map(|at| word(at + 8)).unwrap();
        let (hash, strings, table) = (entry(4), entry(5), entry(6));
        let count = word(hash) >> 32;
        let name = |at: usize| {
            let text = &image()[strings + (word(at) & 0xffff_ffff)..];
            String::from_utf8(text[..text.iter().position(|&b| b == 0).unwrap()].to_vec()).unwrap()
        };
        (1..count).map(|i| table + 24 * i).map(|at| (name(at), word(at + 8))).collect()
    }

    /// The image mapped on this machine with a data page before it, as the kernel does.
    struct Mapped(*mut u8);

    impl Mapped {
        fn new() -> Self {
            let (rw, rx) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
            // SAFETY: fresh memory.
            unsafe {
                let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
                assert_ne!(at, libc::MAP_FAILED);
                let at = at.cast::<u8>();
                std::ptr::copy_nonoverlapping(image().as_ptr(), at.add(PAGE), image().len());
                assert_eq!(libc::mprotect(at.add(PAGE).cast(), PAGE, rx), 0);
                Self(at)
            }
        }

        fn publish(&self, slot: Slot) {
            // SAFETY: the first page is the data page.
            unsafe { Data::publish(self.0.cast(), slot) };
        }

        fn function(&self, name: &str) -> *const u8 {
            let (_, value) = symbols().into_iter().find(|(n, _)| n == name).unwrap();
            // SAFETY: the symbol lies in the image.
            unsafe { self.0.add(PAGE + value) }
        }

        fn clock_gettime(&self, clock: i32) -> (i32, [i64; 2]) {
            // SAFETY: the symbol is this function.
            let f: extern "C" fn(i32, *mut [i64; 2]) -> i32 = unsafe { transmute(self.function("__vdso_clock_gettime")) };
            let mut out = [-1; 2];
            (f(clock, &mut out), out)
        }
    }

    /// A slot in which the time stands (nearly) still at `ns`, whatever the counter.
    fn fixed(ns: u64, realtime_base_ns: u64) -> Slot {
        // 2⁶⁰ ticks ago: (2⁶⁰ + a bit) · 8 ns >> 63 = ns, or a bit more
        // SAFETY: reading the counter has no effect.
        let now = unsafe { core::arch::x86_64::_rdtsc() };
        Slot::new(now.wrapping_sub(1 << 60), ns << 3, 63, realtime_base_ns)
    }

    #[test]
    fn it_is_a_shared_object_with_five_functions() {
        assert!(image().len() <= PAGE);
        let mut names: Vec<_> = symbols().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let expected =
            ["__vdso_clock_getres", "__vdso_clock_gettime", "__vdso_getcpu", "__vdso_gettimeofday", "__vdso_time"];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_dynamic_linker_finds_versioned_symbols() {
        let path = std::env::temp_dir().join(format!("vdso-test-{}.so", std::process::id()));
        std::fs::write(&path, image()).unwrap();
        let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the object has no constructors; the names are terminated.
        unsafe {
            let handle = libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null(), "{:?}", std::ffi::CStr::from_ptr(libc::dlerror()));
            for name in [c"__vdso_clock_gettime", c"__vdso_time", c"__vdso_getcpu"] {
                assert!(!libc::dlvsym(handle, name.as_ptr(), c"LINUX_2.6".as_ptr()).is_null(), "{name:?}");
            }
            assert!(libc::dlsym(handle, c"clock_gettime_missing".as_ptr()).is_null());
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn clocks_are_scaled_and_offset() {
        let vdso = Mapped::new();
        vdso.publish(fixed(5_000_000_123, 1_700_000_000_000_000_000));
        for clock in [1, 4, 6, 7] {
            let (code, [sec, nsec]) = vdso.clock_gettime(clock);
            assert_eq!((code, sec), (0, 5), "clock {clock}");
            assert!((100..2_000_000).contains(&nsec), "{nsec}");
        }
        for clock in [0, 5, 11] {
            assert_eq!(vdso.clock_gettime(clock).1[0], 1_700_000_005, "clock {clock}");
        }
    }

    #[test]
    fn every_shift_works() {
        let vdso = Mapped::new();
        for shift in [1, 10, 32, 62, 63] {
            // SAFETY: reading the counter has no effect.
            let tsc = unsafe { core::arch::x86_64::_rdtsc() };
            // 2^40 ticks ago; mult chosen so that a tick is 1/2^10 ns where the multiplier has room.
            let mult = if shift >= 10 { 1u128 << (shift - 10) } else { 1 };
            let mult = u64::try_from(mult).unwrap();
            vdso.publish(Slot::new(tsc.wrapping_sub(1 << 40), mult, shift, 0));
            let (_, [sec, nsec]) = vdso.clock_gettime(1);
            let expected = if shift >= 10 { 1u64 << 30 } else { 1u64 << (40 - shift) };
            let got = sec as u64 * 1_000_000_000 + nsec as u64;
            assert!(got >= expected && got - expected < expected / 8 + 1_000_000_000, "shift {shift}: {got} {expected}");
        }
    }

    #[test]
    fn a_counter_that_lags_a_little_is_a_little_early() {
        let vdso = Mapped::new();
        // SAFETY: reading the counter has no effect.
        let now = unsafe { core::arch::x86_64::_rdtsc() };
        // One nanosecond per tick; the base is 2⁴⁰ ticks ahead, and wall-clock time then is 10⁶ seconds.
        vdso.publish(Slot::new(now.wrapping_add(1 << 40), 1 << 62, 62, 1_000_000_000_000_000));
        let (_, [sec, _]) = vdso.clock_gettime(0);
        assert!((998_900..998_960).contains(&sec), "{sec}");
    }

    #[test]
    fn a_second_publication_replaces_the_first() {
        let vdso = Mapped::new();
        vdso.publish(fixed(1_000_500_000, 0));
        vdso.publish(fixed(9_000_500_000, 0));
        assert_eq!(vdso.clock_gettime(1).1[0], 9);
        for seconds in 3..20 {
            vdso.publish(fixed(seconds * 1_000_000_000 + 500_000, 0));
            assert_eq!(vdso.clock_gettime(1).1[0], seconds as i64);
        }
    }

    #[test]
    fn unknown_clocks_go_to_the_kernel() {
        let vdso = Mapped::new();
        vdso.publish(fixed(1, 0));
        assert_eq!(vdso.clock_gettime(77).0, -22);
        let (code, [sec, nsec]) = vdso.clock_gettime(3);
        assert!(code == 0 && sec >= 0 && nsec > 0);
    }

    #[test]
    fn time_and_timeval_follow_the_wall_clock() {
        let vdso = Mapped::new();
        vdso.publish(fixed(2_000_700_000, 100_000_000_000));
        // SAFETY: the symbol is this function.
        let time: extern "C" fn(*mut i64) -> i64 = unsafe { transmute(vdso.function("__vdso_time")) };
        // SAFETY: as above.
        let timeofday: extern "C" fn(*mut [i64; 2], *mut u64) -> i32 =
            unsafe { transmute(vdso.function("__vdso_gettimeofday")) };
        let mut t = 0;
        assert_eq!((time(&mut t), t), (102, 102));
        assert_eq!(time(std::ptr::null_mut()), 102);
        let (mut tv, mut zone) = ([0; 2], u64::MAX);
        assert_eq!(timeofday(&mut tv, &mut zone), 0);
        assert!(tv[0] == 102 && (600..100_000).contains(&tv[1]) && zone == 0, "{tv:?}");
        assert_eq!(timeofday(std::ptr::null_mut(), std::ptr::null_mut()), 0);
    }

    #[test]
    fn resolutions_are_one_nanosecond_or_a_tick() {
        let vdso = Mapped::new();
        // SAFETY: the symbol is this function.
        let getres: extern "C" fn(i32, *mut [i64; 2]) -> i32 = unsafe { transmute(vdso.function("__vdso_clock_getres")) };
        let mut out = [7; 2];
        assert_eq!((getres(1, &mut out), out), (0, [0, 1]));
        assert_eq!((getres(6, &mut out), out), (0, [0, 4_000_000]));
        assert_eq!(getres(1, std::ptr::null_mut()), 0);
        assert_eq!(getres(99, std::ptr::null_mut()), -22);
    }
}
