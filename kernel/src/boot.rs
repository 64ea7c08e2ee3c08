//! From the first Rust instruction to the first thread: one line per step.
//!
//! Came from `pvh_start` in arch/x86_64/src/boot.S. Next stop on the reading path: `linux_start` in linux/src/start.rs,
//! which mounts the root and starts the program.
#![expect(unsafe_code, reason = "boot steps that may run only once, and link-time symbols")]

use crate::machine::Machine;
use crate::{clock, console, interrupt, log as kernel_log, mm, nmi, percpu, power, rcu, smp, thread, torture, trap, watchdog};
use addr::{PhysAddr, layout};
use arch_x86_64::{apic, cpu, fpu, syscall};
use core::ops::Range;
use platform::cmdline::CommandLine;
use sync::OnceCell;

/// The boot page tables reach physical memory up to here.
const BOOT_DIRECT_MAP: u64 = 4 << 30;

/// What the loader told, for the rest of the system.
#[derive(Debug)]
pub struct BootInfo {
    /// The kernel command line.
    pub command_line: CommandLine<'static>,
    /// Where the program's image lies in physical memory.
    pub initrd: Option<Range<PhysAddr>>,
}

static BOOT_INFO: OnceCell<BootInfo> = OnceCell::new();

/// What the loader told.
///
/// # Panics
/// Before `kernel_main` has read it.
pub fn boot_info() -> &'static BootInfo {
    BOOT_INFO.get().expect("set at boot")
}

unsafe extern "Rust" {
    /// Defined by the `linux` crate: the first thread's work.
    safe fn linux_start();
}

/// The kernel's entry: `start_info` is the physical address of PVH's `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    console::init();
    cpu::init(); // CR4: SSE, global pages, FSGSBASE
    smp::init_this_cpu(0); // GDT, TSS, per-CPU block behind GS
    trap::init(); // IDT: every vector on an IST stack
    syscall::init(); // `syscall` works in ring 0
    fpu::init(); // XCR0: AVX and friends for the program

    let machine = Machine::discover(PhysAddr(start_info), BOOT_DIRECT_MAP); // PVH, command line, ACPI
    mm::init(&machine.memory_regions(), &machine.reserved()); // frames, heap, final page tables
    kernel_log::init(machine.command_line.get("log"));
    torture::init(&machine.command_line); // only if asked for
    let _first = BOOT_INFO.set(BootInfo { command_line: machine.command_line, initrd: machine.initrd.clone() });
    power::init(machine.power_off); // for where the emulator's exit device is missing

    apic::init(smp::map_local_apic());
    clock::init(&machine); // TSC frequency, time of day
    clock::init_apic_timer();
    machine.io_apics.iter().for_each(|io_apic| interrupt::add_io_apic(io_apic.base, io_apic.gsi_base));
    thread::init_cpu(0, smp::boot_stack()); // this context becomes CPU 0's idle thread
    smp::start_others(&machine.apic_ids); // INIT, SIPI; each becomes its CPU's idle thread
    nmi::init(machine.command_line.is_set("panic_on_nmi")); // reports of where every CPU is
    watchdog::init(&machine.command_line, machine.pit_gsi); // only if asked for

    thread::start_reaper().and_then(|()| rcu::start()).and_then(|()| thread::start_balancers()).expect("memory for the first threads");
    kernel_log::start_thread();
    let first = thread::spawn("init", thread::Class::Normal, move || {
        mm::drop_identity_map(); // in a thread: it may wait for other CPUs
        crate::devices::init(&machine);
        assert!(machine.command_line.get("panic") != Some("test"), "asked for by panic=test on the command line");
        torture::start_failing(&machine.command_line);
        linux_start();
        crate::devices::init_late();
    });
    first.map(drop).expect("memory for the first threads");
    log::info!("{} CPUs, {} KiB of memory free", percpu::cpu_count(), mm::memory_info().free_bytes() / 1024);
    thread::run_idle()
}

/// Physical memory as it can be read before `mm::init`.
pub(crate) fn boot_memory(limit: u64) -> platform::OffsetMap {
    // SAFETY: boot.S maps physical memory below 4 GiB at the direct map's address, and nothing writes to firmware tables.
    unsafe { platform::OffsetMap::new(layout::DIRECT_MAP, limit) }
}
