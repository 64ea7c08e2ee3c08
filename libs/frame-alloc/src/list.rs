//! A stack of frames (or of blocks, by their first frames), linked through the frame table.

use crate::table::FrameTable;

/// Frames that somebody holds in stock. The frames are the list's alone until they are popped.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameList {
    head: Option<u64>,
    len: u64,
}

impl FrameList {
    /// The list without frames.
    pub const EMPTY: Self = Self { head: None, len: 0 };

    /// Number of frames.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Adds a frame of `table` that the caller owns.
    pub fn push(&mut self, table: &FrameTable<'_>, frame: u64) {
        table.set_link(frame, self.head);
        self.head = Some(frame);
        self.len += 1;
    }

    /// Takes the frame that was added last.
    pub fn pop(&mut self, table: &FrameTable<'_>) -> Option<u64> {
        let frame = self.head?;
        self.head = table.link(frame);
        self.len -= 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::FrameMeta;

    #[test]
    fn frames_come_back_last_in_first_out() {
        let store: Vec<FrameMeta> = (0..8).map(|_| FrameMeta::default()).collect();
        let table = FrameTable::new(&store, 100);
        let mut list = FrameList::EMPTY;
        for frame in [103, 100, 107] {
            list.push(&table, frame);
        }
        assert_eq!((list.len(), list.is_empty()), (3, false));
        assert_eq!([(); 4].map(|()| list.pop(&table)), [Some(107), Some(100), Some(103), None]);
        assert_eq!((list.len(), list.is_empty()), (0, true));
    }
}
