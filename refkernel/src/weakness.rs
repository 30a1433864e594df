//! Defences that a test takes away, to see that the attack which they stop is one.
//!
//! The kernel that is used has none of this: without the feature `planted-weakness` [`lacks`] is a constant, so that neither a branch nor a byte is left of it, and nothing on the command line brings it
//! back. The kernel with the feature is another file, which `cargo xtask test` builds for itself; it says what it is in its first lines, and runs nothing but the table of attacks.
//!
//! A second build was preferred to words of the command line: a kernel that obeys `without=smap` has, in its text, everything that turns SMAP off, and asks about it in the paths of faults, flushes and
//! fresh pages, which are measured.
//!
//! | defence | how it is taken away |
//! |---|---|
//! | SMAP, SMEP, UMIP, write protection | the bit of the control register, on every processor |
//! | no-execute, read-only, supervisor | the bit of the leaf (and of the tables above) when an access meets it, by hand |
//! | zeroing, of pages and of tables | frames are handed out as they are |
//! | guards | the loader installs none below a stack; for the kernel's, a leaf is put into the guard by hand |
//! | shootdown | no other processor is asked to forget |
//! | checks of pointers | the copy routines take any address |
//! | sealing | the call does nothing |
//! | memory types | the record of who maps what how is gone round, by a leaf that is written by hand |
//! | checks of returns | `sysret` goes wherever the program wants |
//! | random places | windows go to the lowest gap, and stacks to the end of the addresses |

/// What stands between an attack and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Defence {
    /// CR4.SMAP.
    AccessPrevention,
    /// CR4.SMEP.
    ExecutionPrevention,
    /// CR4.UMIP.
    InstructionPrevention,
    /// CR0.WP.
    WriteProtection,
    /// The execute-disable bit of leaves.
    NoExecute,
    /// The writable bit of leaves.
    ReadOnly,
    /// The user bit of the kernel's half.
    Supervisor,
    /// Fresh pages are zero.
    ZeroedPages,
    /// Fresh tables are zero.
    ZeroedTables,
    /// Guards around stacks.
    Guards,
    /// Other processors forget what is revoked.
    Shootdown,
    /// Pointers are checked to be a program's.
    PointerChecks,
    /// What is sealed stays.
    Sealing,
    /// A frame is mapped with one memory type.
    MemoryTypes,
    /// Programs go back to addresses that they may have.
    ReturnChecks,
    /// Windows go where nobody expects them.
    RandomPlaces,
}

#[cfg(feature = "planted-weakness")]
impl Defence {
    /// What a report calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AccessPrevention => "smap",
            Self::ExecutionPrevention => "smep",
            Self::InstructionPrevention => "umip",
            Self::WriteProtection => "wp",
            Self::NoExecute => "nx",
            Self::ReadOnly => "read-only",
            Self::Supervisor => "supervisor",
            Self::ZeroedPages => "zeroing",
            Self::ZeroedTables => "zeroed-tables",
            Self::Guards => "guards",
            Self::Shootdown => "shootdown",
            Self::PointerChecks => "pointer-checks",
            Self::Sealing => "sealing",
            Self::MemoryTypes => "memory-types",
            Self::ReturnChecks => "return-checks",
            Self::RandomPlaces => "random-places",
        }
    }
}

#[cfg(not(feature = "planted-weakness"))]
mod planted {
    use super::Defence;

    /// Whether a defence is taken away: never, in this kernel.
    #[inline(always)]
    pub(crate) const fn lacks(_: Defence) -> bool {
        false
    }
}

#[cfg(feature = "planted-weakness")]
mod planted {
    use super::Defence;
    use crate::cpu::others;
    use crate::cpu::trap::PageFault;
    use crate::memory::{self, shootdown};
    use crate::thread::work;
    use core::sync::atomic::{AtomicU32, Ordering};
    use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

    /// What is taken away, a bit each.
    static LACKING: AtomicU32 = AtomicU32::new(0);

    /// Whether a defence is taken away.
    pub(crate) fn lacks(defence: Defence) -> bool {
        LACKING.load(Ordering::Relaxed) >> defence as u32 & 1 != 0
    }

    /// Runs `what` without a defence, which is there again afterwards.
    ///
    /// # Safety
    ///
    /// `what` bears with the attack that the defence stops.
    pub(crate) unsafe fn without<T>(defence: Defence, what: impl FnOnce() -> T) -> T {
        LACKING.fetch_or(1 << defence as u32, Ordering::SeqCst);
        everywhere(write_control_registers);
        let result = what();
        LACKING.fetch_and(!(1 << defence as u32), Ordering::SeqCst);
        everywhere(write_control_registers);
        memory::weaken::restore();
        result
    }

    /// Calls a function on every processor.
    fn everywhere(function: fn()) {
        function();
        for cpu in shootdown::bits(others::running() & !(1 << crate::cpu::local::processor())) {
            while !work::give(cpu, function) {
                crate::thread::scheduler::yield_now();
            }
            while !work::is_done(cpu) {
                memory::relax();
            }
        }
    }

    /// Brings the control registers to what is taken away at the moment.
    fn write_control_registers() {
        let cpuid = raw_cpuid::CpuId::new();
        let extended = cpuid.get_extended_feature_info();
        let offered = |feature: fn(&raw_cpuid::ExtendedFeatures) -> bool| extended.as_ref().is_some_and(feature);
        // SAFETY: bits that the processor offers are as they were set up, or cleared for who answers for it.
        unsafe {
            Cr4::update(|flags| {
                for (flag, defence, offered) in [
                    (Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, Defence::AccessPrevention, offered(|f| f.has_smap())),
                    (
                        Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
                        Defence::ExecutionPrevention,
                        offered(|f| f.has_smep()),
                    ),
                    (
                        Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION,
                        Defence::InstructionPrevention,
                        offered(|f| f.has_umip()),
                    ),
                ] {
                    flags.set(flag, offered && !lacks(defence));
                }
            });
            Cr0::update(|flags| flags.set(Cr0Flags::WRITE_PROTECT, !lacks(Defence::WriteProtection)));
        }
    }

    /// Whether an access that the tables refuse is let through, since the bit that refuses it is taken away. From the page-fault handler, for a program's access.
    pub(crate) fn lets_through(fault: PageFault) -> bool {
        let defence = match (fault.address >= 1 << 47, fault.execute(), fault.write()) {
            (true, ..) => Defence::Supervisor,
            (false, true, _) => Defence::NoExecute,
            (false, false, true) => Defence::ReadOnly,
            (false, false, false) => return false,
        };
        fault.user() && fault.present() && lacks(defence) && memory::weaken::allow(fault.address, defence)
    }
}

pub(crate) use planted::*;
