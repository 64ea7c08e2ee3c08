//! What all virtio drivers share: the [`Transport`] to a device, and the start of one (virtio 1.2 §3.1).
//!
//! [`mmio`] finds its devices by `platform::acpi` or the command line, [`pci`] by the configuration space of a bus.

pub mod mmio;
pub mod pci;

#[cfg(test)]
pub(crate) mod fake;

use addr::PhysAddr;
use alloc::boxed::Box;
use core::fmt;
use virtqueue::{CreateError, Violation};

/// Device ids (§5).
pub mod device_id {
    /// Console, also "virtio-serial".
    pub const CONSOLE: u32 = 3;
    /// Entropy source.
    pub const ENTROPY: u32 = 4;
    /// Memory balloon.
    pub const BALLOON: u32 = 5;
}

/// Feature bits of all devices (§6).
pub mod feature {
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notification by event index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bits of the device status (§2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u8 = 1;
    pub(super) const DRIVER: u8 = 2;
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
    pub(super) const FAILED: u8 = 128;
}

/// Why an interrupt was raised. Both may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptCause {
    /// The device used buffers.
    pub queue: bool,
    /// The configuration changed.
    pub config: bool,
}

impl InterruptCause {
    /// The device has nothing to say.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.queue && !self.config
    }
}

/// Access to one virtio device. Queue set-up happens from one thread before [`start`]; `notify`, `take_interrupt` and
/// `read_config` may be called from any thread at any time afterwards.
pub trait Transport: Send + Sync {
    /// What kind of device it is, see [`device_id`].
    fn device_id(&self) -> u32;
    /// Features the device offers.
    fn device_features(&self) -> u64;
    /// Tells the device which of them the driver uses.
    fn set_driver_features(&self, features: u64);
    /// The device status.
    fn status(&self) -> u8;
    /// Sets the device status; 0 resets the device.
    fn set_status(&self, status: u8);
    /// Largest size of a queue; 0 when the device does not have it.
    fn max_queue_size(&self, queue: u16) -> u16;
    /// Enables a queue of `size` descriptors with its table and rings at `addresses`.
    ///
    /// # Errors
    /// [`Error::BadQueue`].
    fn set_queue(&self, queue: u16, size: u16, addresses: [PhysAddr; 3]) -> Result<(), Error>;
    /// Tells the device that a queue has new chains.
    fn notify(&self, queue: u16);
    /// Reads and acknowledges the reasons of an interrupt.
    fn take_interrupt(&self) -> InterruptCause;
    /// Reads configuration bytes at `offset`, as they are.
    fn read_config_bytes(&self, offset: usize, bytes: &mut [u8]);
    /// Writes configuration bytes at `offset`.
    fn write_config_bytes(&self, offset: usize, bytes: &[u8]);
    /// A number that changes whenever the configuration does.
    fn config_generation(&self) -> u32;
    /// How many messages the queues set up so far and the configuration use; 0: the device interrupts by a line.
    fn messages(&self) -> u16 {
        0
    }
    /// The message by which a queue interrupts; `None`: any interrupt may be its.
    fn queue_message(&self, queue: u16) -> Option<u16> {
        let _of_no_interest = queue;
        None
    }
}

/// Why a device could not be started or does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is of virtio's legacy kind.
    Legacy,
    /// It does not offer a feature that the driver needs.
    MissingFeature,
    /// It rejected the features chosen.
    FeaturesRejected,
    /// A queue is missing or unusable.
    BadQueue,
    /// No memory for queues or buffers.
    OutOfMemory,
    /// It broke the rules and is not used any more.
    Broken,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy virtio device (start QEMU with -global virtio-mmio.force-legacy=false)",
            Self::MissingFeature => "the device lacks a feature this driver needs",
            Self::FeaturesRejected => "the device rejected the features it offered",
            Self::BadQueue => "the device lacks a queue or offers an unusable one",
            Self::OutOfMemory => "no memory for the device's queues and buffers",
            Self::Broken => "the device broke the virtio rules and is not used any more",
        })
    }
}

impl core::error::Error for Error {}

impl From<Violation> for Error {
    fn from(_: Violation) -> Self {
        Self::Broken
    }
}

impl From<CreateError> for Error {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::OutOfMemory => Self::OutOfMemory,
            CreateError::BadSize | CreateError::BadRegion => Self::BadQueue,
        }
    }
}

/// Resets the device and agrees on features: those of `wanted` that it offers, VERSION_1 and all of `needed`. Returns
/// them. The driver then sets up queues and calls [`start`].
///
/// # Errors
/// [`Error::Legacy`], [`Error::MissingFeature`], [`Error::FeaturesRejected`]; the device is marked failed.
pub fn negotiate(transport: &dyn Transport, needed: u64, wanted: u64) -> Result<u64, Error> {
    transport.set_status(0);
    transport.set_status(status::ACKNOWLEDGE);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
    agree(transport, needed, wanted).inspect_err(|_| transport.set_status(status::FAILED))
}

fn agree(transport: &dyn Transport, needed: u64, wanted: u64) -> Result<u64, Error> {
    let offered = transport.device_features();
    if offered & feature::VERSION_1 == 0 {
        return Err(Error::Legacy);
    }
    if offered & needed != needed {
        return Err(Error::MissingFeature);
    }
    let features = offered & (wanted | needed | feature::VERSION_1);
    transport.set_driver_features(features);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    if transport.status() & status::FEATURES_OK == 0 {
        return Err(Error::FeaturesRejected);
    }
    Ok(features)
}

/// Lets the device run.
pub fn start(transport: &dyn Transport) {
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
}

/// How often a changing configuration is read again, and a nagging device serviced in one go.
pub(crate) const PATIENCE: usize = 64;

/// A consistent copy of `N` configuration bytes at `offset` (§2.5.1: read until the generation stands still).
///
/// # Errors
/// [`Error::Broken`] when it never does.
pub fn read_config<const N: usize>(transport: &dyn Transport, offset: usize) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    for _ in 0..PATIENCE {
        let before = transport.config_generation();
        transport.read_config_bytes(offset, &mut bytes);
        if transport.config_generation() == before {
            return Ok(bytes);
        }
    }
    Err(Error::Broken)
}

/// Whether one of the interrupts of `sources`, bit N for message N, may be for this queue.
pub(crate) fn concerns(transport: &dyn Transport, queue: u16, sources: u64) -> bool {
    transport.queue_message(queue).is_none_or(|message| sources & 1 << message.min(63) != 0)
}

/// Services a device: acknowledges its interrupt and calls `drain`, until the device has nothing more to say. With an
/// edge-triggered line this is what keeps an event between two readings from being lost: the line only rises again
/// after it was seen low.
pub(crate) fn service(transport: &dyn Transport, mut drain: impl FnMut()) {
    let mut patience = PATIENCE;
    loop {
        let cause = transport.take_interrupt();
        drain();
        patience -= 1;
        if cause.is_none() || patience == 0 {
            return;
        }
    }
}

/// A queue size: what the driver would like, limited to what the device can.
pub(crate) fn queue_size(transport: &dyn Transport, queue: u16, wanted: u16) -> Result<u16, Error> {
    let max = transport.max_queue_size(queue);
    if max == 0 {
        return Err(Error::BadQueue);
    }
    Ok(wanted.min(1 << max.ilog2()))
}

/// A transport of any kind.
pub type DynTransport = Box<dyn Transport>;
