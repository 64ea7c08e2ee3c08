//! The heap against a sorted list.

use super::*;
use proptest::prelude::*;

struct Node {
    key: (u8, usize),
    link: HeapLink,
}

// SAFETY: `link` is the heap's alone.
unsafe impl HeapNode for Node {
    fn heap_link(&self) -> &HeapLink {
        &self.link
    }
    fn before(&self, other: &Self) -> bool {
        self.key < other.key
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u8),
    Pop,
    Remove(usize),
    Walk,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u8>().prop_map(Op::Insert),
        2 => Just(Op::Pop),
        2 => any::<usize>().prop_map(Op::Remove),
        1 => Just(Op::Walk),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_list(ops in prop::collection::vec(op(), 0..300)) {
        let mut heap = PairingHeap::new();
        let (mut all, mut model): (Vec<Box<Node>>, Vec<(u8, usize)>) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Insert(key) => {
                    let node = Box::new(Node { key: (key, all.len()), link: HeapLink::new() });
                    // SAFETY: fresh, boxed, and kept in `all`.
                    unsafe { heap.insert(&raw const *node) };
                    model.push(node.key);
                    model.sort_unstable();
                    all.push(node);
                }
                Op::Pop => {
                    // SAFETY: nodes live in `all`.
                    let popped = heap.pop().map(|node| unsafe { (*node).key });
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(popped, expected);
                }
                Op::Remove(index) if !all.is_empty() => {
                    let node = &all[index % all.len()];
                    let at = model.iter().position(|key| *key == node.key);
                    // SAFETY: there is only this heap.
                    prop_assert_eq!(unsafe { heap.remove(node) }, at.is_some());
                    at.map(|at| model.remove(at));
                }
                Op::Remove(_) => {}
                Op::Walk => {
                    let mut seen: Vec<_> = heap.iter().map(|node| node.key).collect();
                    seen.sort_unstable();
                    prop_assert_eq!(&seen, &model);
                }
            }
            prop_assert_eq!(heap.len(), model.len());
            prop_assert_eq!(heap.first().map(|node| node.key), model.first().copied());
        }
    }
}
