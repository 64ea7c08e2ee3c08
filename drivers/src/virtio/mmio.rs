//! The memory-mapped transport (virtio 1.2 §4.2), version 2. Version 1, the legacy interface, is recognised and refused.
#![expect(unsafe_code, reason = "accesses device registers through raw pointers")]

use super::{Error, InterruptCause, Transport};
use addr::PhysAddr;
use core::ptr::NonNull;

mod register {
    pub(super) const MAGIC: usize = 0x00;
    pub(super) const VERSION: usize = 0x04;
    pub(super) const DEVICE_ID: usize = 0x08;
    pub(super) const DEVICE_FEATURES: usize = 0x10;
    pub(super) const DEVICE_FEATURES_SELECT: usize = 0x14;
    pub(super) const DRIVER_FEATURES: usize = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x24;
    pub(super) const QUEUE_SELECT: usize = 0x30;
    pub(super) const QUEUE_SIZE_MAX: usize = 0x34;
    pub(super) const QUEUE_SIZE: usize = 0x38;
    pub(super) const QUEUE_READY: usize = 0x44;
    pub(super) const QUEUE_NOTIFY: usize = 0x50;
    pub(super) const INTERRUPT_STATUS: usize = 0x60;
    pub(super) const INTERRUPT_ACK: usize = 0x64;
    pub(super) const STATUS: usize = 0x70;
    /// Low halves of the addresses of descriptors, available ring and used ring; the high halves follow each.
    pub(super) const QUEUE_ADDRESSES: [usize; 3] = [0x80, 0x90, 0xa0];
    pub(super) const CONFIG_GENERATION: usize = 0xfc;
    pub(super) const CONFIG: usize = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// Bytes of register space a slot has at least.
pub const MIN_LEN: usize = 0x200;

/// What stands in a virtio-mmio slot.
#[derive(Debug)]
pub enum Slot {
    /// No virtio-mmio registers at all (bad magic number or version).
    NotVirtio,
    /// An empty slot.
    Empty,
    /// A device with the legacy interface, which is not supported: see [`Error::Legacy`] for what to tell the user.
    Legacy,
    /// A device.
    Device(MmioTransport),
}

/// A device behind memory-mapped registers.
#[derive(Debug)]
pub struct MmioTransport {
    registers: NonNull<u8>,
}

// SAFETY: the registers belong to the device, not to a thread; the register protocol's multi-step accesses (queue
// set-up) happen before the transport is shared, the single-step ones are safe from anywhere.
unsafe impl Send for MmioTransport {}
// SAFETY: as above.
unsafe impl Sync for MmioTransport {}

impl MmioTransport {
    /// Looks what is in a slot.
    ///
    /// # Safety
    /// `registers` points to the slot's [`MIN_LEN`] bytes of registers, mapped uncached for as long as the transport is
    /// used, 4-byte aligned, and nobody else drives the device.
    #[must_use]
    pub unsafe fn probe(registers: NonNull<u8>) -> Slot {
        let transport = Self { registers };
        if transport.read(register::MAGIC) != MAGIC {
            return Slot::NotVirtio;
        }
        match (transport.read(register::VERSION), transport.read(register::DEVICE_ID)) {
            (1 | 2, 0) => Slot::Empty,
            (1, _) => Slot::Legacy,
            (2, _) => Slot::Device(transport),
            _ => Slot::NotVirtio,
        }
    }

    fn read(&self, register: usize) -> u32 {
        debug_assert!(register + 4 <= MIN_LEN, "registers lie in the window");
        // SAFETY: inside the window that the creator vouched for.
        u32::from_le(unsafe { self.registers.as_ptr().add(register).cast::<u32>().read_volatile() })
    }

    fn write(&self, register: usize, value: u32) {
        debug_assert!(register + 4 <= MIN_LEN, "registers lie in the window");
        // SAFETY: as in `read`.
        unsafe { self.registers.as_ptr().add(register).cast::<u32>().write_volatile(value.to_le()) };
    }
}

impl Transport for MmioTransport {
    fn device_id(&self) -> u32 {
        self.read(register::DEVICE_ID)
    }

    fn device_features(&self) -> u64 {
        let half = |select| {
            self.write(register::DEVICE_FEATURES_SELECT, select);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(register::DRIVER_FEATURES_SELECT, select);
            self.write(register::DRIVER_FEATURES, half);
        }
    }

    fn status(&self) -> u8 {
        self.read(register::STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.write(register::STATUS, status.into());
    }

    fn max_queue_size(&self, queue: u16) -> u16 {
        self.write(register::QUEUE_SELECT, queue.into());
        // A queue that is ready already is somebody else's.
        if self.read(register::QUEUE_READY) != 0 {
            return 0;
        }
        u16::try_from(self.read(register::QUEUE_SIZE_MAX)).unwrap_or(virtqueue::MAX_SIZE)
    }

    fn set_queue(&self, queue: u16, size: u16, addresses: [PhysAddr; 3]) -> Result<(), Error> {
        self.write(register::QUEUE_SELECT, queue.into());
        self.write(register::QUEUE_SIZE, size.into());
        for (low, address) in register::QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.write(low, address.0 as u32);
            self.write(low + 4, (address.0 >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
        Ok(())
    }

    fn notify(&self, queue: u16) {
        self.write(register::QUEUE_NOTIFY, queue.into());
    }

    fn take_interrupt(&self) -> InterruptCause {
        let bits = self.read(register::INTERRUPT_STATUS) & 3;
        if bits != 0 {
            self.write(register::INTERRUPT_ACK, bits);
        }
        InterruptCause { queue: bits & 1 != 0, config: bits & 2 != 0 }
    }

    fn read_config_bytes(&self, offset: usize, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = register::CONFIG + offset + i;
            assert!(at < MIN_LEN, "configuration fields lie in the window");
            // SAFETY: inside the window; configuration space allows access by bytes.
            *byte = unsafe { self.registers.as_ptr().add(at).read_volatile() };
        }
    }

    fn write_config_bytes(&self, offset: usize, bytes: &[u8]) {
        let start = register::CONFIG + offset;
        assert!(start + bytes.len() <= MIN_LEN, "configuration fields lie in the window");
        // Fields are written as a whole: the device acts on each write.
        if let Ok(word) = <[u8; 4]>::try_from(bytes)
            && start.is_multiple_of(4)
        {
            return self.write(start, u32::from_le_bytes(word));
        }
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the window; configuration space allows access by bytes.
            unsafe { self.registers.as_ptr().add(start + i).write_volatile(*byte) };
        }
    }

    fn config_generation(&self) -> u32 {
        self.read(register::CONFIG_GENERATION)
    }
}

impl Slot {
    /// The device in the slot, if there is one that can be driven.
    ///
    /// # Errors
    /// [`Error::Legacy`].
    pub fn device(self) -> Result<Option<MmioTransport>, Error> {
        match self {
            Self::Device(transport) => Ok(Some(transport)),
            Self::Legacy => Err(Error::Legacy),
            Self::Empty | Self::NotVirtio => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register window that remembers the last value written to each register.
    fn window(magic: u32, version: u32, id: u32) -> &'static mut [u32; MIN_LEN / 4] {
        let w = Box::leak(Box::new([0u32; MIN_LEN / 4]));
        (w[0], w[1], w[2]) = (magic, version, id);
        w
    }

    fn probe(w: &mut [u32; MIN_LEN / 4]) -> Slot {
        // SAFETY: the window is leaked memory of the right size.
        unsafe { MmioTransport::probe(NonNull::from(w).cast()) }
    }

    #[test]
    fn slots_are_told_apart() {
        assert!(matches!(probe(window(0, 2, 3)), Slot::NotVirtio));
        assert!(matches!(probe(window(u32::MAX, u32::MAX, u32::MAX)), Slot::NotVirtio));
        assert!(matches!(probe(window(MAGIC, 9, 3)), Slot::NotVirtio));
        assert!(matches!(probe(window(MAGIC, 2, 0)), Slot::Empty));
        assert!(matches!(probe(window(MAGIC, 1, 3)), Slot::Legacy));
        let error = probe(window(MAGIC, 1, 3)).device().expect_err("legacy");
        assert!(error.to_string().contains("force-legacy=false"));
        let device = probe(window(MAGIC, 2, 3)).device().expect("modern").expect("present");
        assert_eq!(device.device_id(), 3);
    }

    #[test]
    fn queue_addresses_go_to_their_registers() {
        let w = window(MAGIC, 2, 3);
        let at = std::ptr::from_mut(w);
        let Slot::Device(device) = probe(w) else { panic!("a device") };
        device.set_queue(5, 64, [PhysAddr(0x1_0000_1000), PhysAddr(0x2000), PhysAddr(0x3000)]).expect("there are registers for it");
        device.set_status(0x0f);
        // SAFETY: leaked memory.
        let w = unsafe { &*at };
        assert_eq!((w[0x30 / 4], w[0x38 / 4], w[0x44 / 4], w[0x70 / 4]), (5, 64, 1, 0x0f));
        assert_eq!([w[0x80 / 4], w[0x84 / 4], w[0x90 / 4], w[0xa0 / 4]], [0x1000, 1, 0x2000, 0x3000]);
    }
}
