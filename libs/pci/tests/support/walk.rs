//! Everything a driver asks of a function, asked of one whose registers are any bytes.

use pci::fake::{FakeFunction, FakeSpace};
use pci::virtio::{self, Registers};
use pci::{Address, ConfigSpace, Msix, Window, capabilities, id, memory_bars, place, scan};

/// The first 24 bytes are the writable bits of the base address registers, the rest the function's registers.
pub(crate) fn walk(bytes: &[u8]) {
    let (masks, registers) = bytes.split_at(bytes.len().min(24));
    let mut writable = [0; 6];
    for (mask, chunk) in writable.iter_mut().zip(masks.chunks_exact(4)) {
        *mask = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    let space = FakeSpace::default();
    for device in 0..3 {
        space.add(Address::new(0, device, 0), FakeFunction::from_bytes(registers, writable));
    }
    for function in scan(&space, 0..=255).functions {
        probe(&space, &function);
    }
}

fn probe(space: &FakeSpace, function: &pci::Function) {
    let at = function.at;
    let before: Vec<_> = (4..10).map(|word| space.read(at, word * 4)).collect();
    let bars = memory_bars(space, at).unwrap_or_default();
    let after: Vec<_> = (4..10).map(|word| space.read(at, word * 4)).collect();
    assert_eq!(before, after, "sizing changes nothing");
    for bar in &bars {
        assert!(bar.size.is_power_of_two() && bar.address.0.checked_add(bar.size - 1).is_some());
    }
    let list = capabilities(space, at).unwrap_or_default();
    assert!(list.len() <= 48);
    for capability in list.iter().filter(|capability| capability.id == id::MSIX) {
        let msix = Msix::read(space, at, capability.offset);
        if let Ok(table) = msix.table(&bars) {
            let end = table.0 + u64::from(msix.entries) * 16;
            assert!(bars.iter().any(|bar| bar.address <= table && end <= bar.address.0 + bar.size));
        }
        msix.enable_masked(space, at);
        msix.enable(space, at);
    }
    let _id = virtio::device_id(function);
    if let Ok(found) = Registers::find(space, at, &list, &bars) {
        assert!(found.common.len >= 56 && found.notify.len >= 2 && found.isr.len >= 1);
    }
    let mut window = Window::new(0xc000_0000..0xe000_0000);
    for bar in &bars {
        if let Some(address) = window.allocate(bar.size) {
            place(space, at, bar, addr::PhysAddr(address));
        }
    }
}
