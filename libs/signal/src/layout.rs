//! Where the frame of a signal handler goes: [`FrameLayout`].

use core::mem::size_of;

use linux_abi::signal::{RtSigFrame, SS_DISABLE, SigStack};

/// Bytes below RSP that belong to the interrupted function (psABI §3.2.2).
pub const RED_ZONE: u64 = 128;
/// Alignment of an XSAVE area.
const XSAVE_ALIGN: u64 = 64;

/// Addresses of what is pushed before a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// The [`RtSigFrame`]: the handler's stack pointer, 8 below a multiple of 16 as after a `call`.
    pub frame: u64,
    /// The XSAVE area followed by its trailing magic.
    pub fpstate: u64,
}

/// Whether `address` lies on the alternate stack `alt`.
#[must_use]
pub const fn alternate_stack_holds(alt: &SigStack, address: u64) -> bool {
    alt.flags & SS_DISABLE == 0 && address > alt.sp && address - alt.sp <= alt.size
}

impl FrameLayout {
    /// For a thread interrupted with stack pointer `rsp`, on `alt` if the handler wants it (`Some`) and is not there already.
    /// `xstate` is the size of the extended state with its trailing magic. `None` when the alternate stack is too small.
    #[must_use]
    pub fn new(rsp: u64, alt: Option<&SigStack>, xstate: u64) -> Option<Self> {
        let usable = alt.filter(|a| a.flags & SS_DISABLE == 0 && a.size != 0);
        let switch = usable.filter(|a| !alternate_stack_holds(a, rsp));
        let top = switch.map_or(rsp.wrapping_sub(RED_ZONE), |a| a.sp.wrapping_add(a.size));
        let fpstate = top.checked_sub(xstate)? & !(XSAVE_ALIGN - 1);
        let frame = (fpstate.checked_sub(size_of::<RtSigFrame>() as u64)? & !15).checked_sub(8)?;
        // Overflow of the alternate stack, on entry or nested.
        if usable.is_some_and(|a| (switch.is_some() || alternate_stack_holds(a, rsp)) && frame < a.sp) {
            return None;
        }
        Some(Self { frame, fpstate })
    }

    /// Bytes from the frame to the end of the extended state.
    #[must_use]
    pub const fn len(&self, xstate: u64) -> u64 {
        self.fpstate + xstate - self.frame
    }

    /// Never true: a frame has contents.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XSTATE: u64 = 836;

    fn alt(sp: u64, size: u64) -> SigStack {
        SigStack { sp, flags: 0, pad0: 0, size }
    }

    #[test]
    fn the_red_zone_survives() {
        let l = FrameLayout::new(0x7000_0000, None, XSTATE).unwrap();
        assert!(l.fpstate + XSTATE <= 0x7000_0000 - RED_ZONE);
        assert_eq!(l.frame % 16, 8);
        assert_eq!(l.fpstate % 64, 0);
        assert!(l.frame + size_of::<RtSigFrame>() as u64 <= l.fpstate);
    }

    #[test]
    fn the_alternate_stack_is_used_from_its_top_once() {
        let a = alt(0x10_0000, 0x4000);
        let first = FrameLayout::new(0x7000_0000, Some(&a), XSTATE).unwrap();
        assert!((0x10_0000..0x10_4000).contains(&first.frame));
        let nested = FrameLayout::new(first.frame, Some(&a), XSTATE).unwrap();
        assert!(nested.frame < first.frame);
    }

    #[test]
    fn an_alternate_stack_that_overflows_is_refused() {
        assert_eq!(FrameLayout::new(0x7000_0000, Some(&alt(0x10_0000, 1024)), XSTATE), None);
        let small = alt(0x10_0000, 2048);
        let first = FrameLayout::new(0x7000_0000, Some(&small), XSTATE).unwrap();
        assert_eq!(FrameLayout::new(first.frame, Some(&small), XSTATE), None);
    }

    #[test]
    fn a_disabled_alternate_stack_is_not_used() {
        let a = SigStack { flags: SS_DISABLE, ..alt(0x10_0000, 0x4000) };
        let l = FrameLayout::new(0x7000_0000, Some(&a), XSTATE).unwrap();
        assert!(l.frame > 0x6fff_0000);
    }

    proptest::proptest! {
        #[test]
        fn frames_are_aligned_and_below(rsp in 0x1_0000_u64..0x7fff_ffff_f000, xstate in 516_u64..4000) {
            if let Some(l) = FrameLayout::new(rsp, None, xstate) {
                proptest::prop_assert_eq!(l.frame % 16, 8);
                proptest::prop_assert!(l.frame + l.len(xstate) <= rsp - RED_ZONE);
            }
        }
    }
}
