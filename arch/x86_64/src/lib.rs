//! The x86-64 CPU: boot, descriptor tables, traps, context switch, APIC, SMP start-up.

#![cfg_attr(not(test), no_std)]
