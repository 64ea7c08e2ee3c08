//! What CPUID tells, as `/proc/cpuinfo` shows it.

use alloc::string::String;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::fmt::Write;

use kernel::percpu::{apic_id_of, cpu_count};

/// Names of the feature bits, in Linux's words: leaf, register (0 = eax … 3 = edx), then bit and name.
type Names = &'static [(u32, &'static str)];

const LEAF_1_EDX: Names = &[
    (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"), (8, "cx8"), (9, "apic"),
    (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"), (19, "clflush"),
    (23, "mmx"), (24, "fxsr"), (25, "sse"), (26, "sse2"), (27, "ss"), (28, "ht"),
];
const EXTENDED_EDX: Names =
    &[(11, "syscall"), (20, "nx"), (22, "mmxext"), (25, "fxsr_opt"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")];
const LEAF_1_ECX: Names = &[
    (0, "pni"), (1, "pclmulqdq"), (9, "ssse3"), (12, "fma"), (13, "cx16"), (17, "pcid"), (19, "sse4_1"), (20, "sse4_2"),
    (21, "x2apic"), (22, "movbe"), (23, "popcnt"), (24, "tsc_deadline_timer"), (25, "aes"), (26, "xsave"), (28, "avx"),
    (29, "f16c"), (30, "rdrand"), (31, "hypervisor"),
];
const EXTENDED_ECX: Names = &[(0, "lahf_lm"), (5, "abm"), (6, "sse4a"), (8, "3dnowprefetch"), (11, "xop"), (16, "fma4")];
const LEAF_7_EBX: Names = &[
    (0, "fsgsbase"), (3, "bmi1"), (5, "avx2"), (7, "smep"), (8, "bmi2"), (9, "erms"), (16, "avx512f"), (17, "avx512dq"),
    (18, "rdseed"), (19, "adx"), (20, "smap"), (21, "avx512ifma"), (23, "clflushopt"), (24, "clwb"), (28, "avx512cd"),
    (29, "sha_ni"), (30, "avx512bw"), (31, "avx512vl"),
];
const LEAF_7_ECX: Names = &[
    (1, "avx512vbmi"), (2, "umip"), (3, "pku"), (6, "avx512_vbmi2"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"),
    (11, "avx512_vnni"), (12, "avx512_bitalg"), (14, "avx512_vpopcntdq"), (22, "rdpid"),
];
const LEAF_D1_EAX: Names = &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")];

fn text(words: impl IntoIterator<Item = u32>) -> String {
    let bytes: alloc::vec::Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).take_while(|byte| *byte != 0).collect();
    String::from(String::from_utf8_lossy(&bytes).trim())
}

fn vendor() -> String {
    let leaf = __cpuid(0);
    text([leaf.ebx, leaf.edx, leaf.ecx])
}

fn extended_max() -> u32 {
    __cpuid(0x8000_0000).eax
}

fn model_name() -> String {
    if extended_max() < 0x8000_0004 {
        return String::from("x86-64 processor");
    }
    text((0x8000_0002..=0x8000_0004).flat_map(|leaf| {
        let leaf = __cpuid(leaf);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    }))
}

fn flags() -> String {
    let mut out = String::new();
    let mut add = |bits: u32, names: Names| {
        for (bit, name) in names {
            if bits & 1 << bit != 0 {
                out.push_str(name);
                out.push(' ');
            }
        }
    };
    let leaf = __cpuid(1);
    add(leaf.edx, LEAF_1_EDX);
    let extended = if extended_max() > 0x8000_0000 { Some(__cpuid(0x8000_0001)) } else { None };
    if let Some(extended) = extended {
        add(extended.edx, EXTENDED_EDX);
    }
    add(1, &[(0, "constant_tsc")]);
    add(leaf.ecx, LEAF_1_ECX);
    if let Some(extended) = extended {
        add(extended.ecx, EXTENDED_ECX);
    }
    if __cpuid(0).eax >= 7 {
        let leaf = __cpuid_count(7, 0);
        add(leaf.ebx, LEAF_7_EBX);
        add(leaf.ecx, LEAF_7_ECX);
    }
    if __cpuid(0).eax >= 0xd {
        add(__cpuid_count(0xd, 1).eax, LEAF_D1_EAX);
    }
    out.truncate(out.trim_end().len());
    out
}

/// Family, model and stepping.
fn signature() -> (u32, u32, u32) {
    let eax = __cpuid(1).eax;
    let family = eax >> 8 & 0xf;
    let wide = if family == 0xf { family + (eax >> 20 & 0xff) } else { family };
    let model = eax >> 4 & 0xf | if family == 6 || family == 0xf { eax >> 12 & 0xf0 } else { 0 };
    (wide, model, eax & 0xf)
}

fn address_sizes() -> (u32, u32) {
    if extended_max() < 0x8000_0008 {
        return (36, 48);
    }
    let eax = __cpuid(0x8000_0008).eax;
    (eax & 0xff, eax >> 8 & 0xff)
}

/// The content of `/proc/cpuinfo`.
#[must_use]
pub fn text_file() -> String {
    let (vendor, model_name, flags) = (vendor(), model_name(), flags());
    let (family, model, stepping) = signature();
    let (physical, linear) = address_sizes();
    let khz = kernel::clock::tsc_hz() / 1000;
    let (mhz, fraction) = (khz / 1000, khz % 1000);
    let count = cpu_count();
    let level = __cpuid(0).eax;
    let mut out = String::new();
    for cpu in 0..count {
        let apic = apic_id_of(cpu);
        // Writing into a String cannot fail.
        let _ = write!(
            out,
            "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {model_name}\n\
             stepping\t: {stepping}\ncpu MHz\t\t: {mhz}.{fraction:03}\ncache size\t: 0 KB\nphysical id\t: 0\nsiblings\t: {count}\n\
             core id\t\t: {cpu}\ncpu cores\t: {count}\napicid\t\t: {apic}\ninitial apicid\t: {apic}\nfpu\t\t: yes\n\
             fpu_exception\t: yes\ncpuid level\t: {level}\nwp\t\t: yes\nflags\t\t: {flags}\nbugs\t\t:\n\
             bogomips\t: {}.{:02}\nclflush size\t: 64\ncache_alignment\t: 64\n\
             address sizes\t: {physical} bits physical, {linear} bits virtual\npower management:\n\n",
            khz / 500,
            khz / 5 % 100,
        );
    }
    out
}
