//! [`Virtqueue`]: see the crate's theory statement.

use crate::Region;
use crate::layout::{DESCRIPTOR_LEN, Layout};
use addr::PhysAddr;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// Optional abilities, as negotiated with the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// VIRTIO_F_EVENT_IDX: notifications by index instead of by flag.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC with the memory for the tables: a chain of several segments takes one descriptor. Each
    /// descriptor gets an equal part of the region.
    pub indirect: Option<Region>,
}

/// A physically contiguous buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the device finds it.
    pub address: PhysAddr,
    /// Length in bytes, not zero.
    pub len: u32,
}

/// A chain the device has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<T> {
    /// What was given to [`Virtqueue::push`].
    pub token: T,
    /// Bytes the device says it wrote, from the chain's first writable byte on; never more than there are.
    pub written: u32,
}

/// Why a queue cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The size is not a power of two up to 32768.
    BadSize,
    /// A region is too short or not aligned to 16 bytes.
    BadRegion,
    /// No heap memory for the driver's own records.
    OutOfMemory,
}

/// No room for the chain: the token back. Also for chains of no segments, with an empty segment, or longer than the
/// queue, which never fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// What a device did that no working device does. The queue is broken from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It claims to have used more chains than are in flight.
    UsedIndex {
        /// The used index it wrote.
        claimed: u16,
        /// The index up to which chains were completed.
        seen: u16,
    },
    /// It returned a descriptor number that heads no chain in flight.
    UnknownId(u32),
    /// It claims to have written more than the chain's writable segments hold.
    TooLong {
        /// Bytes claimed.
        written: u32,
        /// Bytes there are.
        capacity: u32,
    },
    /// An earlier violation broke the queue.
    Broken,
}

/// The driver's record of a descriptor.
#[derive(Debug)]
struct Slot<T> {
    /// Next descriptor of the chain or of the free list.
    next: u16,
    /// For the head of a chain in flight.
    chain: Option<Chain<T>>,
}

#[derive(Debug)]
struct Chain<T> {
    token: T,
    /// Descriptors taken from the table: 1 for an indirect chain.
    descriptors: u16,
    /// Bytes the device may write.
    capacity: u32,
}

/// A split virtqueue whose chains carry tokens of type `T`.
#[derive(Debug)]
pub struct Virtqueue<T> {
    memory: Region,
    layout: Layout,
    event_idx: bool,
    indirect: Option<Region>,
    slots: Vec<Slot<T>>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// Next available index to publish.
    avail: u16,
    /// The available index when `needs_notify` last looked.
    notified: u16,
    /// Next used index to take.
    used: u16,
    broken: bool,
}

impl<T> Virtqueue<T> {
    /// A queue of `size` descriptors in `memory`, which is cleared. The device must not have been told of it yet.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn new(size: u16, memory: Region, features: Features) -> Result<Self, CreateError> {
        let layout = Layout::new(size).ok_or(CreateError::BadSize)?;
        let aligned = |region: Region| region.is_aligned(DESCRIPTOR_LEN);
        if memory.len() < layout.bytes() || !aligned(memory) || !features.indirect.is_none_or(aligned) {
            return Err(CreateError::BadRegion);
        }
        memory.clear();
        let mut slots = Vec::new();
        slots.try_reserve_exact(size.into()).map_err(|_| CreateError::OutOfMemory)?;
        slots.extend((0..size).map(|i| Slot { next: i.wrapping_add(1), chain: None }));
        Ok(Self {
            memory,
            layout,
            event_idx: features.event_idx,
            indirect: features.indirect,
            slots,
            free_head: 0,
            free: size,
            in_flight: 0,
            avail: 0,
            notified: 0,
            used: 0,
            broken: false,
        })
    }

    /// Physical addresses of descriptor table, available ring and used ring, for the device.
    #[must_use]
    pub fn addresses(&self) -> [PhysAddr; 3] {
        let base = self.memory.phys();
        [base, base + self.layout.avail() as u64, base + self.layout.used() as u64]
    }

    /// Number of descriptors in all.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.layout.size()
    }

    /// Descriptors not in use.
    #[must_use]
    pub const fn free_descriptors(&self) -> u16 {
        self.free
    }

    /// Chains given to the device and not yet returned by [`Self::pop`].
    #[must_use]
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Offers a chain to the device: the segments it may read, then those it may write. It sees the chain at once; when
    /// [`Self::needs_notify`] says so afterwards, it must be told.
    ///
    /// # Safety
    /// The segments are memory that the device may access until [`Self::pop`] returns the token, or the device is reset.
    ///
    /// # Errors
    /// [`Full`], with the token.
    pub unsafe fn push(&mut self, readable: &[Segment], writable: &[Segment], token: T) -> Result<(), Full<T>> {
        let count = readable.len() + writable.len();
        let empty = readable.iter().chain(writable).any(|s| s.len == 0);
        let capacity = writable.iter().try_fold(0u32, |sum, s| sum.checked_add(s.len));
        let (Some(capacity), false, false) = (capacity, empty || count == 0, self.broken) else {
            return Err(Full(token));
        };
        let table = self.indirect_table(count);
        let descriptors = if table.is_some() { 1 } else { count };
        if descriptors > self.free.into() {
            return Err(Full(token));
        }
        let head = self.free_head;
        match table {
            Some(table) => self.write_indirect(head, table, readable, writable),
            None => self.write_chain(readable, writable),
        }
        let descriptors = descriptors as u16;
        self.slots[usize::from(head)].chain = Some(Chain { token, descriptors, capacity });
        self.free -= descriptors;
        self.in_flight += 1;
        self.publish(head);
        Ok(())
    }

    /// The indirect table of the next free descriptor, when it holds `count` entries and they are worth it.
    fn indirect_table(&self, count: usize) -> Option<Region> {
        let all = self.indirect.filter(|_| count > 1 && self.free > 0)?;
        let each = all.len() / self.slots.len() / DESCRIPTOR_LEN * DESCRIPTOR_LEN;
        let len = count * DESCRIPTOR_LEN;
        if len > each { None } else { all.slice(each * usize::from(self.free_head), len) }
    }

    fn write_indirect(&mut self, head: u16, table: Region, readable: &[Segment], writable: &[Segment]) {
        let count = readable.len() + writable.len();
        for (i, (segment, flags)) in with_flags(readable, writable).enumerate() {
            let next = if i + 1 < count { i as u16 + 1 } else { 0 };
            write_descriptor(&table, i, segment, flags, next);
        }
        self.free_head = self.slots[usize::from(head)].next;
        let whole = Segment { address: table.phys(), len: table.len() as u32 };
        write_descriptor(&self.memory, head.into(), whole, DESC_INDIRECT, 0);
    }

    fn write_chain(&mut self, readable: &[Segment], writable: &[Segment]) {
        for (segment, flags) in with_flags(readable, writable) {
            let index = self.free_head;
            let next = self.slots[usize::from(index)].next;
            let link = if flags & DESC_NEXT != 0 { next } else { 0 };
            write_descriptor(&self.memory, index.into(), segment, flags, link);
            self.free_head = next;
        }
    }

    fn publish(&mut self, head: u16) {
        self.memory.store_u16(self.layout.avail_entry(self.avail), head);
        self.avail = self.avail.wrapping_add(1);
        // Release: the device that sees the index sees descriptors and entry.
        self.memory.store_u16(self.layout.avail_index(), self.avail);
    }

    /// Whether the device wants to be told of the chains pushed since the last call.
    pub fn needs_notify(&mut self) -> bool {
        // Pairs with the device's fence between asking for notifications and looking at the available index.
        fence(Ordering::SeqCst);
        let (old, new) = (self.notified, self.avail);
        self.notified = new;
        if old == new {
            return false;
        }
        if self.event_idx {
            let event = self.memory.load_u16(self.layout.avail_event());
            // §2.7.10.1: the event index was passed by this batch.
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.memory.load_u16(self.layout.used_flags()) & USED_NO_NOTIFY == 0
        }
    }

    /// Takes the next finished chain.
    ///
    /// # Errors
    /// [`Violation`], when the device's answer is impossible; the queue is broken then.
    pub fn pop(&mut self) -> Result<Option<Completion<T>>, Violation> {
        if self.broken {
            return Err(Violation::Broken);
        }
        let result = self.take_used();
        self.broken = result.is_err();
        result
    }

    fn take_used(&mut self) -> Result<Option<Completion<T>>, Violation> {
        // Acquire: what the device wrote before its index is visible.
        let claimed = self.memory.load_u16(self.layout.used_index());
        let ready = claimed.wrapping_sub(self.used);
        if ready > self.in_flight {
            return Err(Violation::UsedIndex { claimed, seen: self.used });
        }
        if ready == 0 {
            return Ok(None);
        }
        let [id, written] = self.memory.read_volatile::<[u32; 2]>(self.layout.used_entry(self.used)).map(u32::from_le);
        let chain = self.take_chain(id)?;
        if written > chain.capacity {
            return Err(Violation::TooLong { written, capacity: chain.capacity });
        }
        self.used = self.used.wrapping_add(1);
        self.in_flight -= 1;
        Ok(Some(Completion { token: chain.token, written }))
    }

    /// Ends the chain headed by descriptor `id` and puts its descriptors on the free list.
    fn take_chain(&mut self, id: u32) -> Result<Chain<T>, Violation> {
        let head = u16::try_from(id).map_err(|_| Violation::UnknownId(id))?;
        let slot = self.slots.get_mut(usize::from(head)).ok_or(Violation::UnknownId(id))?;
        let chain = slot.chain.take().ok_or(Violation::UnknownId(id))?;
        let mut tail = head;
        for _ in 1..chain.descriptors {
            tail = self.slots[usize::from(tail)].next;
        }
        self.slots[usize::from(tail)].next = self.free_head;
        self.free_head = head;
        self.free += chain.descriptors;
        Ok(chain)
    }

    /// Asks the device for no interrupts. A hint: some come all the same.
    pub fn disable_interrupts(&mut self) {
        if self.event_idx {
            // An index just passed: the device reaches it only after 65535 more chains.
            self.memory.store_u16(self.layout.used_event(), self.used.wrapping_sub(1));
        } else {
            self.memory.store_u16(self.layout.avail_flags(), AVAIL_NO_INTERRUPT);
        }
    }

    /// Asks for an interrupt at the next finished chain. `true` when one is there already, for which no interrupt may
    /// come: call [`Self::pop`] again before sleeping.
    #[must_use]
    pub fn enable_interrupts(&mut self) -> bool {
        if self.event_idx {
            self.memory.store_u16(self.layout.used_event(), self.used);
        } else {
            self.memory.store_u16(self.layout.avail_flags(), 0);
        }
        // Pairs with the device's fence between publishing a used chain and looking whether we want an interrupt.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Whether [`Self::pop`] would return something, be it a violation.
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.memory.load_u16(self.layout.used_index()) != self.used
    }
}

/// The segments in order with their descriptor flags.
fn with_flags<'a>(
    readable: &'a [Segment],
    writable: &'a [Segment],
) -> impl Iterator<Item = (Segment, u16)> + 'a {
    let last = readable.len() + writable.len() - 1;
    let readable = readable.iter().map(|s| (*s, 0));
    let writable = writable.iter().map(|s| (*s, DESC_WRITE));
    let linked = move |i| if i < last { DESC_NEXT } else { 0 };
    readable.chain(writable).enumerate().map(move |(i, (s, flags))| (s, flags | linked(i)))
}

fn write_descriptor(table: &Region, index: usize, segment: Segment, flags: u16, next: u16) {
    let at = index * DESCRIPTOR_LEN;
    table.write_volatile(at, segment.address.0.to_le());
    table.write_volatile(at + 8, segment.len.to_le());
    table.write_volatile(at + 12, [flags.to_le(), next.to_le()]);
}
