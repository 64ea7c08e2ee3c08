//! A virtio device for tests: a transport that records what the driver does, and the device's side of its queues.
#![expect(unsafe_code, reason = "provides DMA memory")]

use super::{Error, InterruptCause, Transport};
use crate::DmaMemory;
use addr::PhysAddr;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use virtqueue::fake::{Device, Seen, at, region};

#[derive(Default)]
pub(crate) struct FakeTransport {
    pub(crate) id: u32,
    pub(crate) features: u64,
    pub(crate) config: Mutex<Vec<u8>>,
    pub(crate) queue_sizes: Vec<u16>,
    pub(crate) rejects_features: bool,
    pub(crate) driver_features: Mutex<u64>,
    pub(crate) status: AtomicU8,
    pub(crate) generation: AtomicU32,
    /// The generation moves at every read.
    pub(crate) restless: bool,
    pub(crate) interrupt: AtomicU8,
    pub(crate) queues: Mutex<HashMap<u16, Device>>,
    pub(crate) notified: Mutex<Vec<u16>>,
    /// 0: it has a line.
    pub(crate) messages: u16,
}

/// The transport, shared between driver and test.
#[derive(Clone)]
pub(crate) struct Fake(pub(crate) Arc<FakeTransport>);

impl Fake {
    /// Takes the next chain the driver offered in a queue.
    pub(crate) fn take(&self, queue: u16) -> Option<Seen> {
        self.0.queues.lock().expect("the test holds").get_mut(&queue)?.take()
    }

    /// Returns a chain.
    pub(crate) fn give(&self, queue: u16, head: u32, written: u32) {
        self.0.queues.lock().expect("the test holds").get_mut(&queue).expect("the test holds").give(head, written);
        self.0.interrupt.fetch_or(1, SeqCst);
    }

    /// Puts `data` into the next receive buffer of `queue`; `false` when there is none.
    pub(crate) fn send(&self, queue: u16, data: &[u8]) -> bool {
        let Some(seen) = self.take(queue) else { return false };
        let (address, len) = seen.writable[0];
        assert!(data.len() <= len as usize);
        at(address, len as usize).write(0, data);
        self.give(queue, seen.head.into(), data.len() as u32);
        true
    }

    /// Takes the data of the next chain of a transmit queue and returns the chain.
    pub(crate) fn receive(&self, queue: u16) -> Option<Vec<u8>> {
        let (head, data) = self.peek(queue)?;
        self.give(queue, head, 0);
        Some(data)
    }

    /// Takes the data of the next chain of a transmit queue and keeps the chain.
    pub(crate) fn peek(&self, queue: u16) -> Option<(u32, Vec<u8>)> {
        let seen = self.take(queue)?;
        let mut data = Vec::new();
        for (address, len) in &seen.readable {
            let mut part = vec![0; *len as usize];
            at(*address, part.len()).read(0, &mut part);
            data.extend(part);
        }
        Some((seen.head.into(), data))
    }
}

impl Transport for Fake {
    fn device_id(&self) -> u32 {
        self.0.id
    }
    fn device_features(&self) -> u64 {
        self.0.features
    }
    fn set_driver_features(&self, features: u64) {
        *self.0.driver_features.lock().expect("the test holds") = features;
    }
    fn status(&self) -> u8 {
        let status = self.0.status.load(SeqCst);
        if self.0.rejects_features { status & !8 } else { status }
    }
    fn set_status(&self, status: u8) {
        self.0.status.store(status, SeqCst);
    }
    fn max_queue_size(&self, queue: u16) -> u16 {
        self.0.queue_sizes.get(usize::from(queue)).copied().unwrap_or(0)
    }
    fn set_queue(&self, queue: u16, size: u16, addresses: [PhysAddr; 3]) -> Result<(), Error> {
        self.0.queues.lock().expect("the test holds").insert(queue, Device::new(size, addresses));
        Ok(())
    }
    fn messages(&self) -> u16 {
        self.0.messages
    }
    fn queue_message(&self, queue: u16) -> Option<u16> {
        (self.0.messages > 0).then(|| (queue + 1).min(self.0.messages - 1))
    }
    fn notify(&self, queue: u16) {
        self.0.notified.lock().expect("the test holds").push(queue);
    }
    fn take_interrupt(&self) -> InterruptCause {
        let bits = self.0.interrupt.swap(0, SeqCst);
        InterruptCause { queue: bits & 1 != 0, config: bits & 2 != 0 }
    }
    fn read_config_bytes(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.config.lock().expect("the test holds")[offset..offset + bytes.len()]);
    }
    fn write_config_bytes(&self, offset: usize, bytes: &[u8]) {
        self.0.config.lock().expect("the test holds")[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    fn config_generation(&self) -> u32 {
        self.0.generation.fetch_add(self.0.restless.into(), SeqCst)
    }
}

/// DMA memory from the host's heap, at most so many pages.
pub(crate) struct FakeMemory(pub(crate) std::sync::atomic::AtomicUsize);

impl FakeMemory {
    pub(crate) fn plenty() -> Self {
        Self(100_000.into())
    }
}

// SAFETY: the regions are leaked, page-aligned, contiguous in their pretended physical space, and given out once.
unsafe impl DmaMemory for FakeMemory {
    fn alloc(&self, pages: usize) -> Option<(PhysAddr, *mut u8)> {
        self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(pages)).ok()?;
        let region = region(pages * 4096);
        Some((region.phys(), region.as_ptr()))
    }
}

mod tests {
    use super::super::{feature, negotiate, read_config};
    use super::*;

    fn fake(change: impl FnOnce(&mut FakeTransport)) -> Fake {
        let mut t = FakeTransport { features: feature::VERSION_1 | 6, config: vec![1, 2, 3, 4].into(), ..Default::default() };
        change(&mut t);
        Fake(Arc::new(t))
    }

    #[test]
    fn only_wanted_and_offered_features_are_taken() {
        let f = fake(|_| {});
        assert_eq!(negotiate(&f, 2, 2 | 8), Ok(feature::VERSION_1 | 2));
        assert_eq!(*f.0.driver_features.lock().expect("the test holds"), feature::VERSION_1 | 2);
        assert_eq!(f.status(), 1 | 2 | 8);
    }

    #[test]
    fn unusable_devices_are_marked_failed() {
        let legacy = fake(|t| t.features = 6);
        assert_eq!(negotiate(&legacy, 0, 0), Err(Error::Legacy));
        assert_eq!(legacy.status(), 128);
        assert_eq!(negotiate(&fake(|_| {}), 1, 0), Err(Error::MissingFeature));
        assert_eq!(negotiate(&fake(|t| t.rejects_features = true), 0, 0), Err(Error::FeaturesRejected));
    }

    #[test]
    fn a_configuration_that_never_rests_is_an_error() {
        assert_eq!(read_config::<2>(&fake(|_| {}), 1), Ok([2, 3]));
        assert_eq!(read_config::<2>(&fake(|t| t.restless = true), 1), Err(Error::Broken));
    }
}
