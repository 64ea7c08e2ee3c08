//! The measure R in fixed point.
//!
//! # Theory
//! R is an exponentially decaying share of CPU time, time constant τ. Nothing is decayed: a CPU has a [`Factor`] c that
//! grows, `c' = c·e^(t/τ)` over a time t, and a thread that ran during t gets `p·(c' − c)`, p being its price (small p:
//! more CPU). Only ratios R/c matter. In base two, with h = τ·ln 2: `c' = c·2^(t/h)`, so whole half-lives are shifts,
//! and renormalising, when c passes its bound, is a shift of c and of every R of that CPU by the same number of bits;
//! `shift` counts those bits, so that a sleeper's R is brought up to date by one shift when it wakes.
//!
//! Units: c is Q32 (1.0 = 2³²) and stays in [2³², 2⁵²). R has the unit of c. A price is Q16. R ≤ p·c·(1+ε) < 2⁵⁹.
//! Charges and shifts are monotone: more time never means less R, and shifting keeps the (weak) order.

/// Time constant of the decay.
pub const TAU_NS: u64 = 200_000_000;
/// A running thread is kept until its R is this much run time above the next one's.
pub const HYSTERESIS_NS: u64 = 2_000_000;
/// What a thread pays, in run time, for displacing a running one.
pub const SWITCH_PENALTY_NS: u64 = 10_000;

const ONE: u64 = 1 << 32;
const LIMIT_BITS: u32 = 52;
/// Nanoseconds to half-lives in Q32: 2⁸² / (τ·ln 2).
const HALF_LIVES_PER_NS: u128 = 34_882_225_695_213_020;
const HALF_LIVES_SHIFT: u32 = 50;
/// τ·ln 2.
const HALF_LIFE_NS: u128 = 138_629_436;

/// Less than a half-life: c does not double.
const SHORT_NS: u64 = 1 << 26;

/// Below this the first terms of the series are exact enough: runs of up to 2 ms are the ordinary case.
const SMALL: u64 = ONE / 64;

/// What one nanosecond-unit of R costs a thread, Q16.
pub type Price = u32;
/// The price of nice 0.
pub const PRICE_ONE: Price = 1 << 16;

/// 1.25^nice: one step of nice is worth a quarter more or less CPU.
#[must_use]
pub const fn price_of_nice(nice: i8) -> Price {
    let steps = if nice < 0 {
        -(nice as i32)
    } else {
        nice as i32
    };
    let mut power: u64 = 1 << 32;
    let mut step = 0;
    while step < steps {
        power = if nice < 0 {
            power * 4 / 5
        } else {
            power * 5 / 4
        };
        step += 1;
    }
    (power >> 16) as Price
}

/// Half-lives in `t_ns`: whole, and the rest in Q32.
fn half_lives(t_ns: u64) -> (u32, u64) {
    let x = (u128::from(t_ns) * HALF_LIVES_PER_NS) >> HALF_LIVES_SHIFT;
    let whole = u32::try_from(x >> 32).unwrap_or(u32::MAX).min(1 << 20);
    (whole, (x & u128::from(u32::MAX)) as u64)
}

/// 2^f − 1 for f in [0, 1), Q32; the Taylor series of e^(f·ln 2) − 1 by Horner's rule. Relative error below 10⁻⁶.
#[inline]
fn exp2_minus_one(f: u64) -> u64 {
    const LAST_TERMS: [u64; 3] = [238_388_332, 1_031_764_991, 2_977_044_472];
    const FIRST_TERMS: [u64; 5] = [5676, 65_510, 661_577, 5_726_720, 41_309_550];
    let horner = |sum, term| ((sum + term) * f) >> 32;
    let first = if f < SMALL { 0 } else { FIRST_TERMS.into_iter().fold(0, horner) };
    LAST_TERMS.into_iter().fold(first, horner).min(ONE - 1)
}

/// log2(y) for y ≥ 1, both Q32: the series of artanh on the mantissa. Relative error below 10⁻⁵.
fn log2(y: u64) -> u64 {
    const TERMS: [u64; 6] = [
        1_126_605_094,
        1_376_961_782,
        1_770_379_434,
        2_478_531_207,
        4_130_885_346,
        12_392_656_037,
    ];
    let whole = 31 - y.leading_zeros();
    let mantissa = y >> whole;
    let s = ((mantissa - ONE) << 32) / (mantissa + ONE);
    let s2 = (s * s) >> 32;
    let terms = if s < SMALL { &TERMS[4..] } else { &TERMS[..] };
    let sum = terms.iter().fold(0, |sum, term| ((sum * s2) >> 32) + term);
    (u64::from(whole) << 32) + ((u128::from(sum) * u128::from(s)) >> 32) as u64
}

fn mul_q32(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 32) as u64
}

/// a / b in Q32, saturating, by one 64-bit division: 31 bits of `b` and as many of `a` as fit are enough.
fn ratio_q32(a: u64, b: u64) -> u64 {
    let drop = 32_u32.saturating_sub(b.leading_zeros());
    let (a, b) = (a >> drop, (b >> drop).max(1));
    let raise = a.leading_zeros().min(32);
    let quotient = (a << raise) / b;
    if quotient.leading_zeros() >= 32 - raise {
        quotient << (32 - raise)
    } else {
        u64::MAX
    }
}

/// `r >> bits`, also for many bits.
#[must_use]
pub fn renormalised(r: u64, bits: u64) -> u64 {
    u32::try_from(bits)
        .ok()
        .and_then(|bits| r.checked_shr(bits))
        .unwrap_or(0)
}

/// A CPU's factor c, and how many bits it was renormalised by since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    c: u64,
    shift: u64,
}

/// What a step in time did to a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// All R of the CPU must be shifted right by so many bits first.
    pub renormalise: u32,
    /// c' − c after that.
    pub growth: u64,
}

impl Step {
    /// The R a thread pays for this step.
    #[must_use]
    pub fn charge(self, price: Price) -> u64 {
        ((u128::from(self.growth) * u128::from(price)) >> 16) as u64
    }
}

/// The longest run that [`Rate::charge`] takes: it neglects that c grows meanwhile, by 1/1600 at most.
pub const BRIEF_NS: u64 = 1 << 17;

/// A factor's consequences for times much shorter than τ, ready for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// R per nanosecond at price 1, Q16.
    per_ns: u64,
    /// The R of [`HYSTERESIS_NS`] at price 1.
    hysteresis: u64,
}

impl Rate {
    /// Of a [`Factor::new`].
    pub(crate) const fn new() -> Self {
        Self { per_ns: (1 << 48) / TAU_NS, hysteresis: (HYSTERESIS_NS << 32) / TAU_NS }
    }

    /// The R per nanosecond at a price, Q16.
    #[inline]
    #[must_use]
    pub const fn of_price(self, price: Price) -> u64 {
        // c < 2⁵², so the R of a nanosecond at price 1 has at most 40.5 bits; a price has at most 22.2.
        (self.per_ns * price as u64) >> 16
    }

    /// The R of a run of at most [`BRIEF_NS`], at what [`Rate::of_price`] gave.
    #[inline]
    #[must_use]
    pub const fn cost(per_ns: u64, ran_ns: u64) -> u64 {
        // 46.6 and 17 bits.
        (ran_ns * per_ns) >> 16
    }

    /// The R of the hysteresis at price 1.
    #[inline]
    #[must_use]
    pub const fn hysteresis_of_one(self) -> u64 {
        self.hysteresis
    }

    /// The R of the hysteresis.
    #[inline]
    #[must_use]
    pub const fn hysteresis(self, price: Price) -> u64 {
        ((self.hysteresis as u128 * price as u128) >> 16) as u64
    }
}

impl Default for Factor {
    fn default() -> Self {
        Self::new()
    }
}

impl Factor {
    /// c = 1.
    #[must_use]
    pub const fn new() -> Self {
        Self { c: ONE, shift: 0 }
    }

    /// A factor as it was read from a [`Factor`]'s parts.
    #[must_use]
    pub const fn from_parts(c: u64, shift: u64) -> Self {
        Self { c, shift }
    }

    /// c in Q32.
    #[must_use]
    pub const fn c(self) -> u64 {
        self.c
    }

    /// Bits of renormalisation since boot.
    #[must_use]
    pub const fn shift(self) -> u64 {
        self.shift
    }

    /// Lets `t_ns` pass, renormalising if c would pass its bound.
    #[inline]
    pub fn advance(&mut self, t_ns: u64) -> Step {
        if t_ns >= SHORT_NS || self.c >> (LIMIT_BITS - 1) != 0 {
            return self.advance_far(t_ns);
        }
        let (_, rest) = half_lives(t_ns);
        let growth = mul_q32(self.c, exp2_minus_one(rest));
        self.c += growth;
        Step { renormalise: 0, growth }
    }

    /// [`Factor::advance`] over a long time, or close to the bound.
    #[cold]
    fn advance_far(&mut self, t_ns: u64) -> Step {
        let (doublings, rest) = half_lives(t_ns);
        let top = 63 - self.c.leading_zeros() + doublings;
        let renormalise = if top + 2 > LIMIT_BITS { top - 32 } else { 0 };
        let old = renormalised(self.c, u64::from(renormalise));
        let doubled = if doublings >= renormalise {
            self.c << (doublings - renormalise)
        } else {
            self.c >> (renormalise - doublings)
        };
        self.c = doubled + mul_q32(doubled, exp2_minus_one(rest));
        self.shift += u64::from(renormalise);
        Step {
            renormalise,
            growth: self.c - old,
        }
    }

    /// The R of `t_ns` of run time at this factor, for times much shorter than τ.
    #[must_use]
    pub fn short_run(self, t_ns: u64, price: Price) -> u64 {
        mul_q32(self.per_tau(price), (t_ns << 32) / TAU_NS)
    }

    /// What short runs cost at this factor.
    #[must_use]
    pub fn rate(self) -> Rate {
        const PER_NS_Q48: u64 = (1 << 48) / TAU_NS;
        const HYSTERESIS_Q32: u64 = (HYSTERESIS_NS << 32) / TAU_NS;
        Rate { per_ns: mul_q32(self.c, PER_NS_Q48), hysteresis: mul_q32(self.c, HYSTERESIS_Q32) }
    }

    /// The R of τ if c stood still.
    fn per_tau(self, price: Price) -> u64 {
        ((u128::from(self.c) * u128::from(price)) >> 16) as u64
    }

    /// How long a thread must run to earn `gap` of R: never too short, about 1 % and 1 µs too long.
    #[must_use]
    pub fn time_to_earn(self, gap: u64, price: Price) -> u64 {
        let y = ratio_q32(gap, self.per_tau(price)).saturating_add(ONE);
        let exact = ((u128::from(log2(y)) * HALF_LIFE_NS) >> 32) as u64;
        exact + exact / 100 + 1000
    }

    /// Brings an R to this factor that was `r` at the factor `then`, `elapsed_ns` ago, on another CPU.
    #[must_use]
    pub fn import(self, r: u64, then: Factor, elapsed_ns: u64) -> u64 {
        let (halvings, rest) = half_lives(elapsed_ns);
        let share = (u128::from(r) << 32) / u128::from(then.c.max(1));
        // 2^−f = 2^(1−f) / 2 for f > 0.
        let decayed = match rest {
            0 => share,
            _ => (share * u128::from(ONE + exp2_minus_one(ONE - rest))) >> 33,
        };
        let left = decayed.checked_shr(halvings).unwrap_or(0);
        ((left * u128::from(self.c)) >> 32) as u64
    }
}
