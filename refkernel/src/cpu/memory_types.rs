//! The page attribute table is programmed, the memory type range registers are read.

use super::others::Refusal;
use crate::log;
use core::sync::atomic::{AtomicU64, Ordering};
use raw_cpuid::CpuId;
use refkernel::memory_type::{PAT, RangeRegisters, VARIABLE_RANGES, pat_slots, pat_value};
use spin::Once;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

const IA32_PAT: u32 = 0x277;
const IA32_MTRRCAP: u32 = 0xfe;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// In the order of addresses: one of 64 KiB ranges, two of 16 KiB, eight of 4 KiB.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

static RANGES: Once<RangeRegisters> = Once::new();

/// The first processor's table, once it is programmed.
static PAGE_ATTRIBUTES: AtomicU64 = AtomicU64::new(0);

/// The range registers as the firmware left them, the same on every processor.
pub(crate) fn ranges() -> &'static RangeRegisters {
    RANGES.call_once(read_ranges)
}

/// The page attribute table as it is programmed: the value of IA32_PAT, or of a processor without one, which treats pages as
/// the value after reset says.
pub(crate) fn page_attribute_table() -> u64 {
    const RESET: u64 = 0x0007_0406_0007_0406;
    let has = CpuId::new().get_feature_info().is_some_and(|features| features.has_pat());
    if has { read(IA32_PAT) } else { RESET }
}

/// Reads a register that CPUID says is there.
fn read(register: u32) -> u64 {
    // SAFETY: only called with the architectural registers above, after CPUID reported MTRR or PAT.
    unsafe { Msr::new(register).read() }
}

fn read_ranges() -> RangeRegisters {
    let mut ranges = RangeRegisters::OFF;
    if !CpuId::new().get_feature_info().is_some_and(|features| features.has_mtrr()) {
        return ranges;
    }
    let capabilities = read(IA32_MTRRCAP);
    ranges.default = read(IA32_MTRR_DEF_TYPE);
    let count = (capabilities & 0xff) as usize;
    for (register, slot) in (IA32_MTRR_PHYSBASE0..).step_by(2).zip(ranges.variable.iter_mut().take(count)) {
        *slot = [read(register), read(register + 1)];
    }
    if capabilities & 1 << 8 != 0 {
        for (register, slot) in FIXED.into_iter().zip(&mut ranges.fixed) {
            *slot = read(register);
        }
    }
    if count > VARIABLE_RANGES {
        log!("cpu: only {VARIABLE_RANGES} of {count} variable memory type ranges are looked at");
    }
    ranges
}

/// Programs the table and logs both.
pub(super) fn initialise() {
    if CpuId::new().get_feature_info().is_some_and(|features| features.has_pat()) {
        program();
        let [a, b, c, d, e, f, g, h] = pat_slots(read(IA32_PAT)).map(|slot| slot.map_or("?", name));
        log!("pat: {a} {b} {c} {d} {e} {f} {g} {h}");
    } else {
        log!("cpu: no page attribute table: write-combining is not available");
    }
    PAGE_ATTRIBUTES.store(page_attribute_table(), Ordering::Relaxed);
    let ranges = ranges();
    if ranges.enabled() {
        match ranges.default_type() {
            Some(default) => log!("mtrr: default {default}"),
            None => log!("mtrr: default of reserved encoding {:#x}", ranges.default & 0xff),
        }
        for range in ranges.variable_ranges() {
            match range.memory_type {
                Some(memory_type) => log!("mtrr: base {:#014x} mask {:#014x} {memory_type}", range.base, range.mask),
                None => log!("mtrr: base {:#014x} mask {:#014x} of a reserved type", range.base, range.mask),
            }
        }
    } else {
        log!("mtrr: off");
    }
}

/// Drops every translation, the global ones too, which a write to CR3 keeps: a change of CR4.PGE drops all (Intel SDM Vol. 3A, 5.10.4.1).
pub(crate) fn flush_all_translations() {
    let control = Cr4::read();
    if control.contains(Cr4Flags::PAGE_GLOBAL) {
        // SAFETY: only which translations are kept changes, not what any of them is.
        unsafe {
            Cr4::write(control.difference(Cr4Flags::PAGE_GLOBAL));
            Cr4::write(control);
        }
    } else {
        tlb::flush_all();
    }
}

/// Writes the table, unless the loader's is the same.
fn program() {
    let wanted = pat_value(PAT);
    if read(IA32_PAT) != wanted {
        // SAFETY: SDM Vol. 3A, 13.12.4: a change of a slot in use needs caches and TLBs flushed. Only slots 4 to 7
        // can change meaning for tables made under the reset value, and the boot tables use slot 0 alone; caches and
        // the TLB are flushed all the same, so that nothing is left from a loader's own table.
        unsafe {
            core::arch::asm!("wbinvd", options(nostack, preserves_flags));
            Msr::new(IA32_PAT).write(wanted);
            core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        }
        flush_all_translations();
    }
}

/// Programs the table and the range registers of a further processor as the first one's are.
///
/// # Errors
///
/// The table, or the range registers, do not become the same: a page would be cached here and not there.
pub(super) fn join() -> Result<(), Refusal> {
    if CpuId::new().get_feature_info().is_some_and(|features| features.has_pat()) {
        program();
    }
    if page_attribute_table() != PAGE_ATTRIBUTES.load(Ordering::Relaxed) {
        return Err(Refusal::PageAttributeTable);
    }
    if read_ranges() != *ranges() {
        write_ranges(ranges());
    }
    if read_ranges() == *ranges() { Ok(()) } else { Err(Refusal::RangeRegisters) }
}

/// Whether this processor's table and range registers are what the first one's are.
pub(super) fn agree() -> bool {
    page_attribute_table() == PAGE_ATTRIBUTES.load(Ordering::Relaxed) && read_ranges() == *ranges()
}

/// Gives a further processor the first one's range registers: firmware may set those of the first one only (QEMU's does). Intel SDM Vol. 3A, 13.11.7
/// and 13.11.8: with caches and the ranges off, and caches and TLB empty.
fn write_ranges(ranges: &RangeRegisters) {
    const ENABLED: u64 = 1 << 11;
    let capabilities = read(IA32_MTRRCAP);
    let variable = (capabilities & 0xff) as usize;
    let cache_control = Cr0::read();
    // SAFETY: CPUID says that the registers are there: the first processor's were read, and this one has the same features. Interrupts are
    // off, so nothing else runs here meanwhile. A register that refuses its value would be a trap, which is reported; the
    // values were read from the same registers of a processor of the same kind.
    unsafe {
        Cr0::write((cache_control | Cr0Flags::CACHE_DISABLE) & !Cr0Flags::NOT_WRITE_THROUGH);
        core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        flush_all_translations();
        Msr::new(IA32_MTRR_DEF_TYPE).write(read(IA32_MTRR_DEF_TYPE) & !ENABLED);
        for (register, [base, mask]) in (IA32_MTRR_PHYSBASE0..).step_by(2).zip(ranges.variable).take(variable) {
            Msr::new(register).write(base);
            Msr::new(register + 1).write(mask);
        }
        if capabilities & 1 << 8 != 0 {
            for (register, value) in FIXED.into_iter().zip(ranges.fixed) {
                Msr::new(register).write(value);
            }
        }
        Msr::new(IA32_MTRR_DEF_TYPE).write(ranges.default);
        core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        flush_all_translations();
        Cr0::write(cache_control);
    }
}

/// The manual's abbreviation.
const fn name(memory_type: refkernel::memory_type::MemoryType) -> &'static str {
    use refkernel::memory_type::MemoryType;
    match memory_type {
        MemoryType::Uncacheable => "UC",
        MemoryType::WriteCombining => "WC",
        MemoryType::WriteThrough => "WT",
        MemoryType::WriteProtected => "WP",
        MemoryType::WriteBack => "WB",
        MemoryType::UncacheableMinus => "UC-",
    }
}
