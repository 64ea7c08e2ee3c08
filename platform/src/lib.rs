//! What the machine is: PVH start info, ACPI, memory map, clocks.

#![cfg_attr(not(test), no_std)]
