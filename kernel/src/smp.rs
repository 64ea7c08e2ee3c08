//! Bringing CPUs up: descriptor tables and per-CPU block of each, and the start of the others.
#![expect(unsafe_code, reason = "boot steps that may run only once, and link-time symbols")]

use crate::mm::{self, KernelStack};
use crate::percpu::{self, MAX_CPUS};
use crate::{clock, thread, trap};
use addr::{PhysAddr, VirtAddr, layout};
use alloc::boxed::Box;
use arch_x86_64::gdt::CpuTables;
use arch_x86_64::percpu::KERNEL_STACK_SIZE;
use arch_x86_64::smp::{ApStart, TRAMPOLINE, prepare_trampoline};
use arch_x86_64::{apic, cpu, fpu, syscall};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use sync::OnceCell;

/// Between INIT and the start-up interrupt. The MultiProcessor Specification (B.4) asks for 10 ms; CPUs with a 64-bit mode need none.
const INIT_DELAY_NS: u64 = 10_000;
/// Between the two start-up interrupts; the second is sent only if the first had no effect.
const STARTUP_RETRY_NS: u64 = 200_000_000;
/// How long a CPU may take to come up; a busy host stalls virtual CPUs for long.
const STARTUP_LIMIT_NS: u64 = 10_000_000_000;

unsafe extern "C" {
    static __kernel_start: u8;
    static __kernel_end: u8;
    static boot_stack_top: u8;
}

struct BootTables(UnsafeCell<CpuTables>);
// SAFETY: used once, by the first CPU.
unsafe impl Sync for BootTables {}
static BOOT_TABLES: BootTables = BootTables(UnsafeCell::new(CpuTables::new()));

static LOCAL_APIC: OnceCell<VirtAddr> = OnceCell::new();
/// The number of the CPU that came up last.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Where the kernel image lies in physical memory.
pub(crate) fn kernel_image() -> Range<PhysAddr> {
    let physical = |symbol: *const u8| PhysAddr(symbol as u64 - layout::KERNEL_OFFSET);
    physical(&raw const __kernel_start)..physical(&raw const __kernel_end)
}

/// The lowest address of the stack that the first CPU booted on.
pub(crate) fn boot_stack() -> u64 {
    &raw const boot_stack_top as u64 - KERNEL_STACK_SIZE as u64
}

/// Gives the first CPU its descriptor tables and per-CPU block.
pub(crate) fn init_this_cpu(number: usize) {
    // SAFETY: the first CPU calls this once, first thing; `start_others` gives every other CPU tables of its own.
    unsafe {
        let tables = &mut *BOOT_TABLES.0.get();
        let emergency_stack = tables.emergency_stack();
        tables.load();
        percpu::install(number, 0, emergency_stack);
    }
}

/// Maps the local APIC's registers if the CPU has no x2APIC.
pub(crate) fn map_local_apic() -> VirtAddr {
    *LOCAL_APIC.get_or_init(|| if apic::has_x2apic() { VirtAddr(0) } else { mm::map_mmio(apic::mmio_base(), addr::PAGE_SIZE) })
}

/// What a starting CPU finds at `ApStart::argument`.
struct NewCpu {
    number: usize,
    tables: &'static mut CpuTables,
    stack: KernelStack,
}

/// Starts the CPUs of `apic_ids` but the first, which is this one. A CPU that does not come up is reported and left out.
pub(crate) fn start_others(apic_ids: &[u32]) {
    percpu::set_apic_id(0, apic::id());
    for &apic_id in apic_ids.iter().filter(|&&id| id != apic::id()).take(MAX_CPUS - 1) {
        let number = percpu::cpu_count();
        if start(number, apic_id).is_none() {
            log::error!("CPU with APIC id {apic_id} did not start within {} s; going on without it", STARTUP_LIMIT_NS / 1_000_000_000);
            return;
        }
    }
}

fn start(number: usize, apic_id: u32) -> Option<()> {
    let stack = KernelStack::alloc(KERNEL_STACK_SIZE / addr::PAGE_SIZE).ok()?;
    let stack_top = stack.top();
    let new = Box::new(NewCpu { number, tables: Box::leak(Box::default()), stack });
    let start = ApStart { cr3: mm::kernel_cr3(), stack_top, entry: ap_main, argument: Box::into_raw(new) as usize };
    // SAFETY: one CPU is started at a time, and nobody else uses the page.
    unsafe { prepare_trampoline(&start) };
    apic::send_init(apic_id);
    wait_for(number, INIT_DELAY_NS);
    for limit in [STARTUP_RETRY_NS, STARTUP_LIMIT_NS] {
        apic::send_startup(apic_id, (TRAMPOLINE.0 >> 12) as u8);
        if wait_for(number, limit) {
            return Some(());
        }
    }
    None
}

/// Waits until CPU `number` is up, or `limit_ns` has passed. One of the waits that doc/locking.md lists: before threads
/// exist, for a CPU that cannot be slept on.
fn wait_for(number: usize, limit_ns: u64) -> bool {
    let deadline = clock::monotonic_ns() + limit_ns;
    while clock::monotonic_ns() < deadline {
        if STARTED.load(Ordering::Acquire) == number {
            return true;
        }
    }
    false
}

/// A new CPU's first Rust code, on its idle thread's stack, interrupts off.
extern "C" fn ap_main(argument: usize) -> ! {
    // SAFETY: `start` passed a leaked box, and no CPU starts twice.
    let new = unsafe { Box::from_raw(argument as *mut NewCpu) };
    cpu::init();
    // SAFETY: the tables and the number are this CPU's own.
    unsafe {
        let emergency_stack = new.tables.emergency_stack();
        new.tables.load();
        percpu::install(new.number, 0, emergency_stack);
    }
    trap::load();
    syscall::init();
    fpu::init();
    apic::init(map_local_apic());
    percpu::set_apic_id(new.number, apic::id());
    thread::init_ap(new.number, new.stack);
    percpu::set_online(new.number);
    STARTED.store(new.number, Ordering::Release);
    thread::run_idle()
}
