//! The initial stack of a new program, byte for byte as Linux lays it out (linux-abi.md §1.1).
//!
//! Upwards from the stack pointer: argc, argv pointers, 0, environment pointers, 0, auxiliary vector, AT_NULL, padding,
//! 16 random bytes, platform, argument strings, environment strings, name of the executable, 8 zero bytes.

use alloc::vec::Vec;

use linux_abi::auxvec;

/// Everything the auxiliary vector tells that the stack itself does not determine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxValues {
    /// Where the vDSO is mapped; 0 leaves the entry out.
    pub vdso: u64,
    /// Smallest signal stack: size of a signal frame on this CPU.
    pub minsigstksz: u64,
    /// How many bytes of `struct rseq` the kernel knows.
    pub rseq_feature_size: u64,
    /// How `struct rseq` must be aligned, in bytes.
    pub rseq_align: u64,
    /// CPUID.1 EDX.
    pub hwcap: u64,
    /// Bit 1: the program may use the FSGSBASE instructions.
    pub hwcap2: u64,
    /// Program headers in memory.
    pub phdr: u64,
    /// Their number.
    pub phnum: u64,
    /// Where the dynamic linker is loaded, 0 without one.
    pub base: u64,
    /// Entry point of the program itself.
    pub entry: u64,
    /// Real and effective user and group.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// 1: whoever started the program is not to be trusted with its rights.
    pub secure: u64,
}

/// The arguments do not fit in the room the caller set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig;

/// A finished initial stack: `bytes` belong at `pointer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackImage {
    /// The initial stack pointer, a multiple of 16.
    pub pointer: u64,
    /// Contents from `pointer` to the top of the stack.
    pub bytes: Vec<u8>,
    /// Address of the first argument string.
    pub arg_start: u64,
    /// End of the argument strings.
    pub arg_end: u64,
    /// End of the environment strings.
    pub env_end: u64,
    /// Address of the auxiliary vector.
    pub auxv_start: u64,
    /// Bytes of the auxiliary vector, with AT_NULL.
    pub auxv_len: u64,
}

const PLATFORM: &[u8] = b"x86_64\0";
/// AT_FLAGS to AT_NULL: entries of the vector that are always there, plus AT_SYSINFO_EHDR.
const AUX_ENTRIES: usize = 23;

/// What goes onto the stack.
#[derive(Clone, Copy, Debug)]
pub struct StackContents<'a> {
    /// Arguments, without terminating zeros.
    pub argv: &'a [Vec<u8>],
    /// `NAME=value` strings.
    pub envp: &'a [Vec<u8>],
    /// What AT_EXECFN names.
    pub execfn: &'a [u8],
    /// For AT_RANDOM: the C library makes its stack canary from these.
    pub random: [u8; 16],
    /// The rest.
    pub aux: AuxValues,
}

/// Where the strings end up, from low to high.
struct Strings {
    random: u64,
    platform: u64,
    args: u64,
    envs: u64,
    execfn: u64,
}

fn strings_len(strings: &[Vec<u8>]) -> u64 {
    strings.iter().map(|s| s.len() as u64 + 1).sum()
}

impl Strings {
    fn place(top: u64, c: &StackContents<'_>) -> Option<Self> {
        let execfn = top.checked_sub(8 + c.execfn.len() as u64 + 1)?;
        let envs = execfn.checked_sub(strings_len(c.envp))?;
        let args = envs.checked_sub(strings_len(c.argv))?;
        let platform = args.checked_sub(PLATFORM.len() as u64)?;
        let random = platform.checked_sub(16)? & !15;
        Some(Self { random, platform, args, envs, execfn })
    }
}

fn push_pointers(words: &mut Vec<u64>, strings: &[Vec<u8>], mut at: u64) {
    for s in strings {
        words.push(at);
        at += s.len() as u64 + 1;
    }
    words.push(0);
}

/// The auxiliary vector, in Linux's order.
fn auxv(a: &AuxValues, s: &Strings) -> Vec<(u32, u64)> {
    let mut v = Vec::with_capacity(AUX_ENTRIES + 1);
    if a.vdso != 0 {
        v.push((auxvec::AT_SYSINFO_EHDR, a.vdso));
    }
    v.extend([
        (auxvec::AT_MINSIGSTKSZ, a.minsigstksz),
        (auxvec::AT_HWCAP, a.hwcap),
        (auxvec::AT_PAGESZ, 4096),
        (auxvec::AT_CLKTCK, 100),
        (auxvec::AT_PHDR, a.phdr),
        (auxvec::AT_PHENT, crate::PHDR_SIZE as u64),
        (auxvec::AT_PHNUM, a.phnum),
        (auxvec::AT_BASE, a.base),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, a.entry),
        (auxvec::AT_UID, u64::from(a.uid)),
        (auxvec::AT_EUID, u64::from(a.euid)),
        (auxvec::AT_GID, u64::from(a.gid)),
        (auxvec::AT_EGID, u64::from(a.egid)),
        (auxvec::AT_SECURE, a.secure),
        (auxvec::AT_RANDOM, s.random),
        (auxvec::AT_HWCAP2, a.hwcap2),
        (auxvec::AT_EXECFN, s.execfn),
        (auxvec::AT_PLATFORM, s.platform),
        (auxvec::AT_RSEQ_FEATURE_SIZE, a.rseq_feature_size),
        (auxvec::AT_RSEQ_ALIGN, a.rseq_align),
        (auxvec::AT_NULL, 0),
    ]);
    v
}

impl StackImage {
    /// Lays out a stack that ends at `top` (a multiple of 16) and takes at most `limit` bytes.
    ///
    /// # Errors
    /// [`TooBig`]: the system call's `E2BIG`.
    pub fn build(top: u64, limit: u64, contents: &StackContents<'_>) -> Result<Self, TooBig> {
        let strings = Strings::place(top, contents).ok_or(TooBig)?;
        let mut words = Vec::with_capacity(contents.argv.len() + contents.envp.len() + 2 * AUX_ENTRIES + 5);
        words.push(contents.argv.len() as u64);
        push_pointers(&mut words, contents.argv, strings.args);
        push_pointers(&mut words, contents.envp, strings.envs);
        let auxv_word = words.len() as u64;
        words.extend(auxv(&contents.aux, &strings).iter().flat_map(|&(key, value)| [u64::from(key), value]));
        let words_len = words.len() as u64 * 8;
        let pointer = strings.random.checked_sub(words_len).ok_or(TooBig)? & !15;
        if top - pointer > limit {
            return Err(TooBig);
        }
        Ok(Self {
            bytes: fill(top, pointer, &words, &strings, contents),
            pointer,
            arg_start: strings.args,
            arg_end: strings.envs,
            env_end: strings.execfn,
            auxv_start: pointer + auxv_word * 8,
            auxv_len: words_len - auxv_word * 8,
        })
    }
}

/// The bytes from `pointer` to `top`.
fn fill(top: u64, pointer: u64, words: &[u64], s: &Strings, c: &StackContents<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((top - pointer) as usize);
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    bytes.resize((s.random - pointer) as usize, 0);
    bytes.extend(c.random);
    bytes.resize((s.platform - pointer) as usize, 0);
    bytes.extend(PLATFORM);
    for string in c.argv.iter().chain(c.envp) {
        bytes.extend(string);
        bytes.push(0);
    }
    bytes.extend(c.execfn);
    bytes.resize((top - pointer) as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7fff_ffff_e000;

    fn build(argv: &[&str], envp: &[&str]) -> StackImage {
        let argv: Vec<Vec<u8>> = argv.iter().map(|s| s.as_bytes().to_vec()).collect();
        let envp: Vec<Vec<u8>> = envp.iter().map(|s| s.as_bytes().to_vec()).collect();
        let aux = AuxValues { vdso: 0x7000, phdr: 0x40_0040, phnum: 9, entry: 0x40_1000, ..AuxValues::default() };
        let random = *b"0123456789abcdef";
        let contents = StackContents { argv: &argv, envp: &envp, execfn: b"/bin/x", random, aux };
        StackImage::build(TOP, 128 << 10, &contents).unwrap()
    }

    fn word(s: &StackImage, at: u64) -> u64 {
        let i = (at - s.pointer) as usize;
        u64::from_le_bytes(s.bytes[i..i + 8].try_into().unwrap())
    }

    fn string(s: &StackImage, at: u64) -> &[u8] {
        let tail = &s.bytes[(at - s.pointer) as usize..];
        &tail[..tail.iter().position(|&b| b == 0).unwrap()]
    }

    fn aux(s: &StackImage, key: u32) -> Option<u64> {
        (0..s.auxv_len / 16).find_map(|i| {
            let at = s.auxv_start + i * 16;
            (word(s, at) == u64::from(key)).then(|| word(s, at + 8))
        })
    }

    #[test]
    fn arguments_and_environment_are_reachable_from_the_stack_pointer() {
        let s = build(&["prog", "", "two words"], &["A=1", "B="]);
        assert!(s.pointer.is_multiple_of(16));
        assert_eq!(s.pointer + s.bytes.len() as u64, TOP);
        assert_eq!(word(&s, s.pointer), 3);
        let arg = |i: u64| string(&s, word(&s, s.pointer + 8 * (1 + i)));
        assert_eq!((arg(0), arg(1), arg(2)), (&b"prog"[..], &b""[..], &b"two words"[..]));
        assert_eq!(word(&s, s.pointer + 32), 0);
        assert_eq!(string(&s, word(&s, s.pointer + 40)), b"A=1");
        assert_eq!(word(&s, s.pointer + 56), 0);
        assert_eq!(s.auxv_start, s.pointer + 64);
    }

    #[test]
    fn every_needed_auxiliary_entry_is_there() {
        let s = build(&["p"], &[]);
        assert_eq!(aux(&s, auxvec::AT_PHDR), Some(0x40_0040));
        assert_eq!(aux(&s, auxvec::AT_PHENT), Some(56));
        assert_eq!(aux(&s, auxvec::AT_PAGESZ), Some(4096));
        assert_eq!(aux(&s, auxvec::AT_BASE), Some(0));
        assert_eq!(aux(&s, auxvec::AT_SYSINFO_EHDR), Some(0x7000));
        assert_eq!(string(&s, aux(&s, auxvec::AT_EXECFN).unwrap()), b"/bin/x");
        assert_eq!(string(&s, aux(&s, auxvec::AT_PLATFORM).unwrap()), b"x86_64");
        let random = aux(&s, auxvec::AT_RANDOM).unwrap();
        assert_eq!(&s.bytes[(random - s.pointer) as usize..][..16], b"0123456789abcdef");
        assert!(s.bytes.ends_with(&[0; 8]));
    }

    #[test]
    fn argument_strings_are_contiguous_and_precede_the_environment() {
        let s = build(&["a", "bc"], &["X=1"]);
        assert_eq!(s.arg_end - s.arg_start, 5);
        assert_eq!(string(&s, s.arg_end), b"X=1");
        assert_eq!(s.env_end - s.arg_end, 4);
    }

    #[test]
    fn too_many_arguments_are_refused() {
        let argv = alloc::vec![alloc::vec![b'x'; 5000]; 40];
        let c = StackContents { argv: &argv, envp: &[], execfn: b"x", random: [0; 16], aux: AuxValues::default() };
        assert_eq!(StackImage::build(TOP, 128 << 10, &c), Err(TooBig));
        assert_eq!(StackImage::build(4096, 128 << 10, &c), Err(TooBig));
    }

    proptest::proptest! {
        #[test]
        fn any_arguments_round_trip(argv in proptest::collection::vec("[a-z]{0,40}", 0..20), envp in proptest::collection::vec("[A-Z]=[a-z]{0,40}", 0..20)) {
            let s = build(&argv.iter().map(String::as_str).collect::<Vec<_>>(), &envp.iter().map(String::as_str).collect::<Vec<_>>());
            proptest::prop_assert!(s.pointer.is_multiple_of(16));
            proptest::prop_assert_eq!(s.pointer + s.bytes.len() as u64, TOP);
            for (i, a) in argv.iter().enumerate() {
                proptest::prop_assert_eq!(string(&s, word(&s, s.pointer + 8 + 8 * i as u64)), a.as_bytes());
            }
            for (i, e) in envp.iter().enumerate() {
                proptest::prop_assert_eq!(string(&s, word(&s, s.pointer + 16 + 8 * (argv.len() + i) as u64)), e.as_bytes());
            }
        }
    }
}
