//! What CPUID says about the hypervisor and the TSC. Pure: the instruction is an argument.

/// CPUID's four results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Who runs this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Nobody, or somebody who hides.
    None,
    /// Linux KVM.
    Kvm,
    /// QEMU's emulation.
    Tcg,
    /// Xen.
    Xen,
    /// VMware.
    VMware,
    /// Microsoft Hyper-V.
    HyperV,
    /// Another one.
    Other,
}

const HYPERVISOR_BASE: u32 = 0x4000_0000;
const TIMING_LEAF: u32 = 0x4000_0010;
const KVM_FEATURES: u32 = 0x4000_0001;

impl Hypervisor {
    /// From leaf 1 and leaf 0x4000_0000.
    #[must_use]
    pub fn detect(cpuid: impl Fn(u32) -> Leaf) -> Self {
        // QEMU's TCG offers the leaf but, unlike KVM, may leave the "hypervisor present" bit (leaf 1 ECX 31) clear.
        let id = cpuid(HYPERVISOR_BASE);
        let present = cpuid(1).ecx & 1 << 31 != 0;
        let mut name = [0; 12];
        for (part, word) in name.chunks_exact_mut(4).zip([id.ebx, id.ecx, id.edx]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        match &name {
            b"KVMKVMKVM\0\0\0" => Self::Kvm,
            b"TCGTCGTCGTCG" => Self::Tcg,
            b"XenVMMXenVMM" => Self::Xen,
            b"VMwareVMware" => Self::VMware,
            b"Microsoft Hv" => Self::HyperV,
            _ if present => Self::Other,
            _ => Self::None,
        }
    }
}

/// The TSC's frequency as the processor or the hypervisor states it, in Hz.
#[must_use]
pub fn tsc_hz(cpuid: impl Fn(u32) -> Leaf) -> Option<u64> {
    hypervisor_tsc_hz(&cpuid).or_else(|| crystal_tsc_hz(&cpuid))
}

/// Leaf 0x4000_0010 EAX: kHz (KVM, VMware).
fn hypervisor_tsc_hz(cpuid: impl Fn(u32) -> Leaf) -> Option<u64> {
    if !matches!(Hypervisor::detect(&cpuid), Hypervisor::Kvm | Hypervisor::VMware) {
        return None;
    }
    // KVM answers 0 in EAX of the base leaf on old versions, meaning only leaf 0x4000_0001.
    let last = cpuid(HYPERVISOR_BASE).eax;
    (last >= TIMING_LEAF).then(|| u64::from(cpuid(TIMING_LEAF).eax) * 1000).filter(|hz| plausible(*hz))
}

/// Leaf 0x15: crystal frequency times a ratio. SDM volume 2, CPUID.
fn crystal_tsc_hz(cpuid: impl Fn(u32) -> Leaf) -> Option<u64> {
    let last = cpuid(0).eax;
    if last < 0x15 {
        return None;
    }
    let ratio = cpuid(0x15);
    if ratio.eax == 0 || ratio.ebx == 0 || ratio.ecx == 0 {
        return None;
    }
    let hz = u128::from(ratio.ecx) * u128::from(ratio.ebx) / u128::from(ratio.eax);
    u64::try_from(hz).ok().filter(|hz| plausible(*hz))
}

/// 100 MHz to 20 GHz.
fn plausible(hz: u64) -> bool {
    (100_000_000..20_000_000_000).contains(&hz)
}

/// The MSRs of KVM's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmClockMsrs {
    /// Takes the physical address of the wall clock structure.
    pub wall_clock: u32,
    /// Takes the physical address of this CPU's clock page, plus 1 to enable it.
    pub system_time: u32,
    /// The hypervisor promises that the TSC is in step on all CPUs (leaf 0x4000_0001 EAX bit 24).
    pub stable_tsc: bool,
}

/// KVM's clock, when offered in its current form (feature bit 3).
#[must_use]
pub fn kvm_clock(cpuid: impl Fn(u32) -> Leaf) -> Option<KvmClockMsrs> {
    if Hypervisor::detect(&cpuid) != Hypervisor::Kvm {
        return None;
    }
    let features = cpuid(KVM_FEATURES).eax;
    let stable_tsc = features & 1 << 24 != 0;
    (features & 1 << 3 != 0).then_some(KvmClockMsrs { wall_clock: 0x4b56_4d00, system_time: 0x4b56_4d01, stable_tsc })
}

/// The MSR that takes the physical address of this CPU's account of stolen time, plus 1 to open it, when KVM keeps one (leaf
/// 0x4000_0001 EAX bit 5).
#[must_use]
pub fn kvm_steal_time(cpuid: impl Fn(u32) -> Leaf) -> Option<u32> {
    let offered = Hypervisor::detect(&cpuid) == Hypervisor::Kvm && cpuid(KVM_FEATURES).eax & 1 << 5 != 0;
    offered.then_some(0x4b56_4d03)
}

/// The TSC runs at a constant rate in every power state (leaf 0x8000_0007 EDX bit 8).
#[must_use]
pub fn has_invariant_tsc(cpuid: impl Fn(u32) -> Leaf) -> bool {
    cpuid(0x8000_0000).eax >= 0x8000_0007 && cpuid(0x8000_0007).edx & 1 << 8 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }

    fn named(last: u32, a: &[u8; 4], b: &[u8; 4], c: &[u8; 4]) -> Leaf {
        Leaf { eax: last, ebx: word(a), ecx: word(b), edx: word(c) }
    }

    fn kvm(leaf: u32) -> Leaf {
        match leaf {
            0 => Leaf { eax: 0x16, ..Leaf::default() },
            1 => Leaf { ecx: 1 << 31, ..Leaf::default() },
            0x4000_0000 => named(0x4000_0010, b"KVMK", b"VMKV", b"M\0\0\0"),
            0x4000_0001 => Leaf { eax: 1 << 24 | 1 << 3, ..Leaf::default() },
            0x4000_0010 => Leaf { eax: 2_899_886, ..Leaf::default() },
            _ => Leaf::default(),
        }
    }

    #[test]
    fn kvm_states_the_frequency_and_offers_its_clock() {
        assert_eq!(Hypervisor::detect(kvm), Hypervisor::Kvm);
        assert_eq!(tsc_hz(kvm), Some(2_899_886_000));
        assert!(kvm_clock(kvm).expect("offered").stable_tsc);
    }

    #[test]
    fn kvm_accounts_for_stolen_time_if_it_says_so() {
        assert_eq!(kvm_steal_time(kvm), None);
        let with = |leaf| if leaf == 0x4000_0001 { Leaf { eax: 1 << 5, ..Leaf::default() } } else { kvm(leaf) };
        assert_eq!(kvm_steal_time(with), Some(0x4b56_4d03));
        let unnamed = |leaf| if leaf == 0x4000_0000 { Leaf::default() } else { with(leaf) };
        assert_eq!(kvm_steal_time(unnamed), None);
    }

    #[test]
    fn tcg_states_nothing() {
        let tcg = |leaf| if leaf == 0x4000_0000 { named(leaf, b"TCGT", b"CGTC", b"GTCG") } else { Leaf::default() };
        assert_eq!(Hypervisor::detect(tcg), Hypervisor::Tcg);
        assert_eq!(tsc_hz(tcg), None);
        assert_eq!(kvm_clock(tcg), None);
    }

    #[test]
    fn the_crystal_leaf_is_used_on_bare_metal_and_nonsense_is_refused() {
        let intel = |crystal| {
            move |leaf| match leaf {
                0 => Leaf { eax: 0x16, ..Leaf::default() },
                0x15 => Leaf { eax: 2, ebx: 216, ecx: crystal, edx: 0 },
                _ => Leaf::default(),
            }
        };
        assert_eq!(tsc_hz(intel(24_000_000)), Some(2_592_000_000));
        assert_eq!(tsc_hz(intel(0)), None);
        assert_eq!(tsc_hz(intel(5)), None);
        assert_eq!(Hypervisor::detect(intel(0)), Hypervisor::None);
    }
}
