//! What the processor is asked to enforce, as far as it can.
//!
//! | bit | what it does |
//! |---|---|
//! | CR0.WP | the kernel respects read-only pages |
//! | EFER.NXE | pages without execute permission |
//! | CR4.PGE | global pages |
//! | CR4.PCIDE | tags for translations, where `invpcid` is there too ([`refkernel::translations`]) |
//! | CR4.SMEP, CR4.SMAP | the kernel neither executes nor (outside of the copy routines) touches user pages |
//! | CR4.MCE | a machine check is reported instead of a silent stop |
//! | CR4.UMIP | programs do not read the descriptor tables' addresses |
//! | CR4.OSXSAVE off | programs have SSE and nothing that `fxsave64` does not save |
//!
//! Intel SDM Vol. 3A, 2.5 and 5.6 to 5.9.
//!
//! A further processor must be what the first one is ([`join`]): the kernel asks about a processor's features once, and tables that one processor
//! fills are walked by all.

use crate::log;
use core::sync::atomic::{AtomicBool, Ordering};
use raw_cpuid::{CpuId, cpuid};
use spin::Once;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};

/// What CPUID says of a processor's features, without what differs from one processor to the next or follows the control registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Features([u32; 7]);

impl Features {
    /// This processor's.
    fn read() -> Self {
        // Leaf 1, ecx bit 27 is CR4.OSXSAVE, edx bit 9 the controller's enabling; leaf 7, ecx bit 4 is CR4.PKE.
        let (basic, extended) = (cpuid!(1), cpuid!(7, 0));
        let (amd, sizes) = (cpuid!(0x8000_0001), cpuid!(0x8000_0008));
        Self([
            basic.ecx & !(1 << 27),
            basic.edx & !(1 << 9),
            extended.ebx,
            extended.ecx & !(1 << 4),
            amd.ecx,
            amd.edx & !(1 << 9),
            sizes.eax,
        ])
    }
}

/// The control registers of a processor that is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Control {
    cr0: u64,
    cr4: u64,
    efer: u64,
}

impl Control {
    /// This processor's.
    fn read() -> Self {
        Self { cr0: Cr0::read_raw(), cr4: Cr4::read_raw(), efer: Efer::read_raw() }
    }
}

/// The first processor's, before and after its control registers were set up.
static FEATURES: Once<Features> = Once::new();
static CONTROL: Once<Control> = Once::new();

/// Whether translations are told apart by tags: on every processor, since all have the same features.
static TAGS: AtomicBool = AtomicBool::new(false);

/// Whether translations are told apart by tags.
#[inline]
pub(crate) fn has_tags() -> bool {
    TAGS.load(Ordering::Relaxed)
}

/// Turns on what there is and logs it.
pub(super) fn initialise() {
    FEATURES.call_once(Features::read);
    let cpuid = CpuId::new();
    let mut control = Cr4::read();
    control.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
    control.remove(
        Cr4Flags::OSXSAVE | Cr4Flags::FSGSBASE | Cr4Flags::PROTECTION_KEY_USER | Cr4Flags::PERFORMANCE_MONITOR_COUNTER,
    );
    let no_execute =
        cpuid.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_execute_disable());
    if let Some(features) = cpuid.get_feature_info() {
        control.set(Cr4Flags::PAGE_GLOBAL, features.has_pge());
        control.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, features.has_mce());
    }
    let mut smap = false;
    if let Some(features) = cpuid.get_extended_feature_info() {
        control.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.has_smep());
        smap = features.has_smap();
        control.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, smap);
        control.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.has_umip());
    }
    let tags = control.contains(Cr4Flags::PAGE_GLOBAL)
        && cpuid.get_feature_info().is_some_and(|features| features.has_pcid())
        && cpuid.get_extended_feature_info().is_some_and(|features| features.has_invpcid());
    control.set(Cr4Flags::PCID, tags);
    set(control, no_execute);
    TAGS.store(tags, Ordering::Relaxed);
    super::user_copy::set_access_prevention(smap);
    let on = |bit| if control.contains(bit) { "on" } else { "absent" };
    log!(
        "cpu: no-execute {}, smep {}, smap {}, umip {}, global pages {}, tags {}",
        if no_execute { "on" } else { "absent" },
        on(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        on(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        on(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        on(Cr4Flags::PAGE_GLOBAL),
        on(Cr4Flags::PCID),
    );
}

/// Writes the control registers.
fn set(control: Cr4Flags, no_execute: bool) {
    // SAFETY: each bit was reported by CPUID (or comes with x86-64). The kernel runs in its own half, whose pages are
    // not user pages, so SMEP and SMAP take nothing away; it writes to no read-only page, so WP does not either.
    // Nothing uses the features that are turned off. CR4.PCIDE is set under tag 0 (Intel SDM Vol. 3A, 5.10.1), in 64-bit mode.
    unsafe {
        if control.contains(Cr4Flags::PCID) && !Cr4::read().contains(Cr4Flags::PCID) {
            // A loader may have left cache bits where tags will be.
            Cr3::write(Cr3::read().0, Cr3Flags::empty());
        }
        if no_execute {
            Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE));
        }
        Cr4::write(control);
        Cr0::update(|flags| {
            flags.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR);
            flags.remove(
                Cr0Flags::EMULATE_COPROCESSOR
                    | Cr0Flags::TASK_SWITCHED
                    | Cr0Flags::ALIGNMENT_MASK
                    | Cr0Flags::NOT_WRITE_THROUGH
                    | Cr0Flags::CACHE_DISABLE,
            );
        });
    }
}

/// Notes what the first processor's control registers are in the end.
pub(super) fn keep() {
    CONTROL.call_once(Control::read);
}

/// Sets this processor up as the first one was. False, and nothing done, if it has other features.
pub(super) fn join() -> bool {
    let (Some(features), Some(control)) = (FEATURES.get(), CONTROL.get()) else { return false };
    if Features::read() != *features {
        return false;
    }
    let no_execute = control.efer & EferFlags::NO_EXECUTE_ENABLE.bits() != 0;
    set(Cr4Flags::from_bits_retain(control.cr4), no_execute);
    true
}

/// Whether this processor's control registers are what the first one's are.
pub(super) fn agree() -> bool {
    CONTROL.get() == Some(&Control::read())
}
