//! The queue against a sorted list.

use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Sleeper(TimerNode);

// SAFETY: always the same field.
unsafe impl Timed for Sleeper {
    fn timer_node(&self) -> &TimerNode {
        &self.0
    }
}

proptest! {
    #[test]
    fn timers_fire_in_order_and_never_early(
        steps in prop::collection::vec((0_usize..40, 0_u64..1000, 0_u64..50), 0..200),
    ) {
        let sleepers: Vec<Box<Sleeper>> = (0..40).map(|_| Box::default()).collect();
        let mut queue = TimerQueue::new();
        let mut model: Vec<(u64, usize)> = Vec::new();
        let mut now = 0;
        for (who, delay, step) in steps {
            let sleeper = &sleepers[who];
            let at = model.iter().position(|entry| entry.1 == who);
            // SAFETY: one queue; the sleepers outlive it.
            unsafe {
                prop_assert_eq!(queue.remove(&**sleeper), at.is_some());
                queue.insert(now + delay, NonNull::from(&**sleeper));
            }
            at.map(|at| model.remove(at));
            model.push((now + delay, who));
            model.sort_unstable();
            now += step;
            while let Some(fired) = queue.pop_expired(now) {
                // SAFETY: a sleeper of ours.
                let deadline = unsafe { fired.as_ref() }.0.deadline_ns();
                prop_assert_eq!(deadline, model.remove(0).0);
                prop_assert!(deadline <= now);
            }
            prop_assert_eq!(queue.next_deadline(), model.first().map(|entry| entry.0));
            prop_assert!(queue.next_deadline().is_none_or(|deadline| deadline > now));
        }
    }
}

#[test]
fn a_popped_timer_can_be_set_again() {
    let (mut queue, sleeper) = (TimerQueue::new(), Sleeper::default());
    // SAFETY: one queue; the sleeper outlives it.
    unsafe { queue.insert(5, NonNull::from(&sleeper)) };
    assert!(sleeper.0.is_set());
    assert!(queue.pop_expired(4).is_none());
    assert!(queue.pop_expired(5).is_some());
    // SAFETY: as above.
    unsafe {
        assert!(!queue.remove(&sleeper));
        queue.insert(7, NonNull::from(&sleeper));
    }
    assert_eq!(queue.next_deadline(), Some(7));
}
