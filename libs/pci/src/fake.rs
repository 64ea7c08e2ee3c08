//! A configuration space in memory, for tests.

use crate::{Address, ConfigSpace, register};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const STATUS_HAS_LIST: u32 = 1 << 20;
const COMMAND_BITS: u32 = 0xffff;

/// A function's 256 bytes.
#[derive(Clone, Debug)]
pub struct FakeFunction {
    words: [u32; 64],
    /// Bits of the base address registers that can be written.
    writable: [u32; 6],
    /// Where the next capability goes, and the place of the pointer to it.
    end: u16,
    link: u16,
}

impl FakeFunction {
    /// A function with nothing but its ids.
    #[must_use]
    pub fn new(vendor: u16, device: u16) -> Self {
        let mut words = [0; 64];
        words[0] = u32::from(vendor) | u32::from(device) << 16;
        Self { words, writable: [0; 6], end: 0x40, link: register::CAPABILITIES }
    }

    /// A function whose registers read as `bytes`, as far as they go, and whose base address registers have these writable bits.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], writable: [u32; 6]) -> Self {
        let mut words = [0; 64];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(4)) {
            let mut four = [0; 4];
            four[..chunk.len()].copy_from_slice(chunk);
            *word = u32::from_le_bytes(four);
        }
        Self { words, writable, end: 0x40, link: register::CAPABILITIES }
    }

    /// A register.
    #[must_use]
    pub fn u32(&self, offset: u16) -> u32 {
        self.words[usize::from(offset / 4) % 64]
    }

    /// Sets a register, whether it can be written or not.
    pub fn set_u32(&mut self, offset: u16, value: u32) {
        self.words[usize::from(offset / 4) % 64] = value;
    }

    /// Sets a base address register and which of its bits can be written.
    pub fn set_bar(&mut self, index: u8, value: u32, writable: u32) {
        self.set_u32(register::BARS + 4 * u16::from(index), value);
        self.writable[usize::from(index)] = writable;
    }

    /// Appends a capability of `len` bytes to the list and returns where it is.
    pub fn add_capability(&mut self, id: u8, len: u16) -> u16 {
        let at = self.end;
        self.end += len.next_multiple_of(4);
        self.set_u32(register::COMMAND, self.u32(register::COMMAND) | STATUS_HAS_LIST);
        let shift = if self.link == register::CAPABILITIES { 0 } else { 8 };
        self.set_u32(self.link, self.u32(self.link) | u32::from(at) << shift);
        self.set_u32(at, id.into());
        self.link = at;
        at
    }

    fn write(&mut self, offset: u16, value: u32) {
        let bar = offset.checked_sub(register::BARS).map(|beyond| usize::from(beyond / 4));
        let writable = match (offset, bar) {
            (register::COMMAND, _) => COMMAND_BITS,
            (_, Some(bar @ 0..6)) => self.writable[bar],
            _ => u32::MAX,
        };
        self.set_u32(offset, self.u32(offset) & !writable | value & writable);
    }
}

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<Address, FakeFunction>,
    last_write: Option<(Address, u16, u32)>,
}

/// Functions, and a record of the last write.
#[derive(Debug, Default)]
pub struct FakeSpace(Mutex<State>);

impl FakeSpace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a function there.
    pub fn add(&self, at: Address, function: FakeFunction) {
        self.state().functions.insert(at, function);
    }

    /// Changes a function that is there.
    pub fn edit(&self, at: Address, change: impl FnOnce(&mut FakeFunction)) {
        if let Some(function) = self.state().functions.get_mut(&at) {
            change(function);
        }
    }

    /// What was written last, and where.
    #[must_use]
    pub fn last_write(&self) -> Option<(Address, u16, u32)> {
        self.state().last_write
    }
}

impl ConfigSpace for FakeSpace {
    fn read(&self, at: Address, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 256, "no register at {offset:#x}");
        self.state().functions.get(&at).map_or(u32::MAX, |function| function.u32(offset))
    }

    fn write(&self, at: Address, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < 256, "no register at {offset:#x}");
        let mut state = self.state();
        state.last_write = Some((at, offset, value));
        if let Some(function) = state.functions.get_mut(&at) {
            function.write(offset, value);
        }
    }
}
