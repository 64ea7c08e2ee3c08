//! The PCI transport (virtio 1.2 §4.1), modern interface.
//!
//! Interrupts are messages where the device has MSI-X: message 0 for the configuration, one more for each queue in the order in which the driver sets
//! them up, and the last for all further queues. Else there is the slot's line, and the ISR register says why it was raised.
#![expect(unsafe_code, reason = "accesses device registers through raw pointers")]

use super::{Error, InterruptCause, PATIENCE, Transport, status};
use addr::PhysAddr;
use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Offsets of the common registers (§4.1.4.3).
mod register {
    pub(super) const DEVICE_FEATURES_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURES: usize = 0x04;
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURES: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const QUEUES: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    /// Descriptors, available ring and used ring: low halves, each followed by its high half.
    pub(super) const QUEUE_ADDRESSES: [usize; 3] = [0x20, 0x28, 0x30];
    pub(super) const LEN: usize = 0x38;
}

/// The message for changes of the configuration.
const CONFIG_MESSAGE: u16 = 0;
/// Messages that are used at most: as many as an interrupt's thread can tell apart.
const MAX_MESSAGES: u16 = 64;
/// Queues beyond this are not there.
const MAX_QUEUES: u16 = 256;
/// Not set up.
const NOWHERE: u32 = u32::MAX;
/// No message; also what the device answers when it cannot do one.
const NO_VECTOR: u16 = 0xffff;

/// Some of a device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Where they are mapped.
    pub base: NonNull<u8>,
    /// How many bytes.
    pub len: usize,
}

/// A register of this many bits.
trait Word: Copy {
    fn little_endian(self) -> Self;
}

macro_rules! words {
    ($($t:ty),*) => { $(impl Word for $t {
        fn little_endian(self) -> Self {
            Self::from_le(self)
        }
    })* };
}
words!(u8, u16, u32);

impl Window {
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(size_of::<T>()), "registers lie in the window");
        // SAFETY: inside the window that the creator vouched for.
        unsafe { self.base.as_ptr().add(offset).cast() }
    }

    fn read<T: Word>(&self, offset: usize) -> T {
        // SAFETY: a register of the window, aligned.
        unsafe { self.at::<T>(offset).read_volatile() }.little_endian()
    }

    fn write<T: Word>(&self, offset: usize, value: T) {
        // SAFETY: as in `read`.
        unsafe { self.at::<T>(offset).write_volatile(value.little_endian()) };
    }
}

/// The parts of a device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Status, features, queues: at least 56 bytes, aligned to 4.
    pub common: Window,
    /// Where queues are notified, aligned to 2.
    pub notify: Window,
    /// Bytes between the places of two queues there.
    pub notify_multiplier: u32,
    /// The reasons of an interrupt by line.
    pub isr: Window,
    /// The configuration of this kind of device, aligned to 4.
    pub device: Option<Window>,
}

/// What is remembered of a queue that was set up.
#[derive(Debug)]
struct Queue {
    /// Offset in the window for notifications.
    notify_at: AtomicU32,
    message: AtomicU16,
}

/// A device on a PCI bus.
#[derive(Debug)]
pub struct PciTransport {
    id: u32,
    parts: Parts,
    /// Messages that may be used; 0: it interrupts by its line.
    messages: u16,
    /// Messages that are used.
    used: AtomicU16,
    queues: Box<[Queue]>,
}

// SAFETY: the registers belong to the device, not to a thread; the register protocol's multi-step accesses (queue
// set-up) happen before the transport is shared, the single-step ones are safe from anywhere.
unsafe impl Send for PciTransport {}
// SAFETY: as above.
unsafe impl Sync for PciTransport {}

impl PciTransport {
    /// A device of kind `id` whose MSI-X table has `messages` entries, 0 without.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// If the common registers are too few.
    ///
    /// # Safety
    /// The parts are the device's registers, mapped uncached for as long as the transport is used, and nobody else drives it.
    pub unsafe fn new(id: u32, parts: Parts, messages: u16) -> Result<Self, Error> {
        assert!(parts.common.len >= register::LEN, "the caller has looked");
        let count = parts.common.read::<u16>(register::QUEUES).min(MAX_QUEUES);
        let mut queues = alloc::vec::Vec::new();
        queues.try_reserve_exact(count.into()).map_err(|_| Error::OutOfMemory)?;
        queues.extend((0..count).map(|_| Queue { notify_at: AtomicU32::new(NOWHERE), message: AtomicU16::new(NO_VECTOR) }));
        let messages = messages.min(MAX_MESSAGES);
        Ok(Self { id, parts, messages, used: AtomicU16::new(messages.min(1)), queues: queues.into_boxed_slice() })
    }

    fn common(&self) -> &Window {
        &self.parts.common
    }

    fn select(&self, queue: u16) {
        self.common().write(register::QUEUE_SELECT, queue);
    }

    /// Where the selected queue is notified, if that is a place.
    fn notify_place(&self) -> Option<u32> {
        let offset = u32::from(self.common().read::<u16>(register::QUEUE_NOTIFY_OFFSET)).checked_mul(self.parts.notify_multiplier)?;
        let is_inside = offset.is_multiple_of(2) && offset as usize + 2 <= self.parts.notify.len;
        is_inside.then_some(offset)
    }

    /// Gives the selected queue a message.
    fn give_message(&self) -> Result<u16, Error> {
        if self.messages == 0 {
            return Ok(NO_VECTOR);
        }
        let used = self.used.load(Ordering::Relaxed);
        let message = used.min(self.messages - 1);
        self.common().write(register::QUEUE_VECTOR, message);
        // §4.1.5.1.2: it may have no room for one more.
        if self.common().read::<u16>(register::QUEUE_VECTOR) != message {
            return Err(Error::BadQueue);
        }
        self.used.store((used + 1).min(self.messages), Ordering::Relaxed);
        Ok(message)
    }

    /// Part of the configuration, if there is so much of it.
    fn config(&self, offset: usize, len: usize) -> Option<Window> {
        self.parts.device.filter(|window| offset.checked_add(len).is_some_and(|end| end <= window.len))
    }

    /// §4.1.4.3.2: a reset has happened when the status reads as 0.
    fn reset(&self) {
        self.common().write(register::STATUS, 0u8);
        for _ in 0..PATIENCE {
            if self.status() == 0 {
                break;
            }
        }
        self.used.store(self.messages.min(1), Ordering::Relaxed);
    }
}

impl Transport for PciTransport {
    fn device_id(&self) -> u32 {
        self.id
    }

    fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.common().write(register::DEVICE_FEATURES_SELECT, select);
            u64::from(self.common().read::<u32>(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.common().write(register::DRIVER_FEATURES_SELECT, select);
            self.common().write(register::DRIVER_FEATURES, half);
        }
    }

    fn status(&self) -> u8 {
        self.common().read(register::STATUS)
    }

    fn set_status(&self, new: u8) {
        if new == 0 {
            return self.reset();
        }
        if new & status::DRIVER_OK != 0 && self.messages > 0 {
            // A device that cannot do it has no changes to tell of.
            self.common().write(register::CONFIG_VECTOR, CONFIG_MESSAGE);
        }
        self.common().write(register::STATUS, new);
    }

    fn max_queue_size(&self, queue: u16) -> u16 {
        if usize::from(queue) >= self.queues.len() {
            return 0;
        }
        self.select(queue);
        // A queue that is enabled already is somebody else's.
        if self.common().read::<u16>(register::QUEUE_ENABLE) != 0 || self.notify_place().is_none() {
            return 0;
        }
        self.common().read(register::QUEUE_SIZE)
    }

    fn set_queue(&self, queue: u16, size: u16, addresses: [PhysAddr; 3]) -> Result<(), Error> {
        let state = self.queues.get(usize::from(queue)).ok_or(Error::BadQueue)?;
        self.select(queue);
        let place = self.notify_place().ok_or(Error::BadQueue)?;
        self.common().write(register::QUEUE_SIZE, size);
        for (low, address) in register::QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.common().write(low, address.0 as u32);
            self.common().write(low + 4, (address.0 >> 32) as u32);
        }
        state.message.store(self.give_message()?, Ordering::Relaxed);
        state.notify_at.store(place, Ordering::Relaxed);
        self.common().write(register::QUEUE_ENABLE, 1u16);
        Ok(())
    }

    fn notify(&self, queue: u16) {
        let place = self.queues.get(usize::from(queue)).map_or(NOWHERE, |queue| queue.notify_at.load(Ordering::Relaxed));
        if place != NOWHERE {
            self.parts.notify.write(place as usize, queue);
        }
    }

    fn take_interrupt(&self) -> InterruptCause {
        if self.messages > 0 {
            // Each message says all there is; one that comes later comes again.
            return InterruptCause::default();
        }
        // Reading acknowledges.
        let bits = self.parts.isr.read::<u8>(0);
        InterruptCause { queue: bits & 1 != 0, config: bits & 2 != 0 }
    }

    fn read_config_bytes(&self, offset: usize, bytes: &mut [u8]) {
        // What a device does not have reads as 0.
        bytes.fill(0);
        let Some(window) = self.config(offset, bytes.len()) else { return };
        // §4.1.3.1: fields are read as a whole.
        if bytes.len() == 4 && offset.is_multiple_of(4) {
            return bytes.copy_from_slice(&window.read::<u32>(offset).to_le_bytes());
        }
        bytes.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = window.read(at));
    }

    fn write_config_bytes(&self, offset: usize, bytes: &[u8]) {
        let Some(window) = self.config(offset, bytes.len()) else { return };
        if let Ok(word) = <[u8; 4]>::try_from(bytes)
            && offset.is_multiple_of(4)
        {
            return window.write(offset, u32::from_le_bytes(word));
        }
        bytes.iter().zip(offset..).for_each(|(&byte, at)| window.write(at, byte));
    }

    fn config_generation(&self) -> u32 {
        self.common().read::<u8>(register::CONFIG_GENERATION).into()
    }

    fn messages(&self) -> u16 {
        self.used.load(Ordering::Relaxed)
    }

    fn queue_message(&self, queue: u16) -> Option<u16> {
        let message = self.queues.get(usize::from(queue))?.message.load(Ordering::Relaxed);
        (message != NO_VECTOR).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device's registers as plain memory: what is written is read again.
    struct Memory(&'static mut [u32; 64]);

    impl Memory {
        fn new() -> Self {
            let memory = Box::leak(Box::new([0u32; 64]));
            memory[register::QUEUES / 4] = 4 << 16;
            // Size 8 and nothing else of the selected queue.
            memory[register::QUEUE_SIZE / 4] = 8;
            Self(memory)
        }

        fn transport(&mut self, messages: u16) -> PciTransport {
            let mut window = |word: usize, len| Window { base: NonNull::from(&mut self.0[word]).cast(), len };
            let parts = Parts {
                common: window(0, 56),
                notify: window(16, 64),
                notify_multiplier: 4,
                isr: window(32, 4),
                device: Some(window(40, 12)),
            };
            // SAFETY: leaked memory.
            unsafe { PciTransport::new(3, parts, messages) }.expect("memory")
        }

        fn byte(&self, offset: usize) -> u8 {
            // SAFETY: inside the array; also written through the transport's pointers.
            unsafe { std::ptr::from_ref(self.0).cast::<u8>().add(offset).read_volatile() }
        }

        fn u16(&self, offset: usize) -> u16 {
            u16::from_le_bytes([self.byte(offset), self.byte(offset + 1)])
        }

        fn set_u16(&mut self, offset: usize, value: u16) {
            // SAFETY: as in `byte`.
            unsafe { std::ptr::from_mut(self.0).cast::<u8>().add(offset).cast::<u16>().write_volatile(value) };
        }
    }

    const ADDRESSES: [PhysAddr; 3] = [PhysAddr(0x1_0000_1000), PhysAddr(0x2000), PhysAddr(0x3000)];

    #[test]
    fn queues_are_set_up_in_their_registers() {
        let mut memory = Memory::new();
        let device = memory.transport(0);
        assert_eq!((device.device_id(), device.max_queue_size(3), device.max_queue_size(4)), (3, 8, 0));
        memory.set_u16(register::QUEUE_NOTIFY_OFFSET, 5);
        assert_eq!(device.set_queue(2, 8, ADDRESSES), Ok(()));
        assert_eq!((memory.u16(register::QUEUE_SELECT), memory.u16(register::QUEUE_ENABLE)), (2, 1));
        assert_eq!((memory.u16(0x20), memory.u16(0x24), memory.u16(0x28), memory.u16(0x30)), (0x1000, 1, 0x2000, 0x3000));
        assert_eq!(device.max_queue_size(2), 0, "it is enabled");
        device.notify(2);
        assert_eq!(memory.u16(64 + 20), 2);
        assert_eq!((device.messages(), device.queue_message(2)), (0, None));
    }

    #[test]
    fn a_queue_that_cannot_be_notified_is_not_there() {
        let mut memory = Memory::new();
        let device = memory.transport(0);
        memory.set_u16(register::QUEUE_NOTIFY_OFFSET, 16);
        assert_eq!((device.max_queue_size(0), device.set_queue(0, 8, ADDRESSES)), (0, Err(Error::BadQueue)));
        device.notify(0);
    }

    #[test]
    fn each_queue_has_a_message_while_they_last() {
        let mut memory = Memory::new();
        let device = memory.transport(3);
        for queue in [0, 1, 3] {
            assert_eq!(device.set_queue(queue, 8, ADDRESSES), Ok(()));
        }
        assert_eq!([0, 1, 2, 3].map(|queue| device.queue_message(queue)), [Some(1), Some(2), None, Some(2)]);
        assert_eq!(device.messages(), 3);
        assert!(device.take_interrupt().is_none());
        device.set_status(0);
        assert_eq!(device.messages(), 1);
    }

    #[test]
    fn a_single_message_is_for_everything() {
        let mut memory = Memory::new();
        let device = memory.transport(1);
        assert_eq!(device.set_queue(0, 8, ADDRESSES), Ok(()));
        assert_eq!((device.queue_message(0), device.messages()), (Some(0), 1));
        memory.set_u16(register::CONFIG_VECTOR, NO_VECTOR);
        device.set_status(status::DRIVER_OK);
        assert_eq!(memory.u16(register::CONFIG_VECTOR), 0);
    }

    #[test]
    fn without_messages_the_line_says_why() {
        let mut memory = Memory::new();
        let device = memory.transport(0);
        memory.0[32] = 3;
        assert_eq!(device.take_interrupt(), InterruptCause { queue: true, config: true });
    }

    #[test]
    fn configuration_ends_where_the_device_says() {
        let mut memory = Memory::new();
        let device = memory.transport(0);
        device.write_config_bytes(4, &[1, 2, 3, 4]);
        device.write_config_bytes(9, &[5, 6]);
        device.write_config_bytes(11, &[7, 7]);
        let read = |offset| {
            let mut bytes = [9; 4];
            device.read_config_bytes(offset, &mut bytes);
            bytes
        };
        assert_eq!([read(4), read(8), read(9), read(usize::MAX)], [[1, 2, 3, 4], [0, 5, 6, 0], [0; 4], [0; 4]]);
    }
}
