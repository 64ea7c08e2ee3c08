//! [`Balance`]: what a CPU's balancer decides, look after look.
//!
//! Two threads more than elsewhere: moving one evens it out, so one moves at once. One more: no move evens that out, but if it lasts, some
//! threads share a CPU while others have one alone. Then one moves as well, so that the longer queue changes place, and with it
//! who shares. R travels with a thread, so whoever had less runs first where it comes to. A thread that is alone on its CPU never moves.

/// Difference of runnable threads from which moving one helps.
pub const IMBALANCE: usize = 2;
/// After so many looks at the same difference of one, a thread moves.
const PATIENCE: u32 = 3;

/// A balancer's memory.
#[derive(Debug, Default)]
pub struct Balance {
    /// Looks in a row that found one thread more here than elsewhere.
    uneven: u32,
}

impl Balance {
    /// A balancer that has not looked yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { uneven: 0 }
    }

    /// Whether to move one thread from this CPU, with `load` runnable threads, to the one that has the fewest, `least`.
    pub fn look(&mut self, load: usize, least: usize) -> bool {
        let uneven = load >= IMBALANCE && load == least + 1;
        self.uneven = if uneven { self.uneven + 1 } else { 0 };
        if self.uneven == PATIENCE {
            self.uneven = 0;
            return true;
        }
        load >= least + IMBALANCE
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lone_thread_stays() {
        let mut balance = Balance::new();
        assert!((0..100).all(|_| !balance.look(1, 0)));
    }

    #[test]
    fn two_more_are_too_many() {
        assert!(Balance::new().look(2, 0));
        assert!(Balance::new().look(5, 3));
    }

    #[test]
    fn an_equal_load_stays() {
        let mut balance = Balance::new();
        assert!((0..100).all(|_| !balance.look(2, 2)));
    }

    #[test]
    fn the_odd_thread_moves_only_after_a_while() {
        let mut balance = Balance::new();
        let moves: Vec<bool> = (0..6).map(|_| balance.look(2, 1)).collect();
        assert_eq!(moves, [false, false, true, false, false, true]);
    }

    #[test]
    fn a_difference_that_comes_and_goes_moves_nothing() {
        let mut balance = Balance::new();
        assert!((0..100).all(|look| !balance.look(2, 1 + look % 2)));
    }
}
