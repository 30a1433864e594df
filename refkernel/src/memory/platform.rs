//! The embedding of `vmcore`: what it asks of a kernel, answered. The first file to read for who writes another one.
//!
//! | asked | answered by |
//! |---|---|
//! | frames, their records, how to reach them | [`frames`](super::frames), [`linear`] |
//! | the MMU | [`X86_64`] with this machine's physical width and the page attribute table that `cpu` programs |
//! | locks | [`InterruptLock`] |
//! | what exists once | a `static`, made when it is first asked for |
//! | which CPU this is | the GS base |
//! | flushes here | [`translations`]: `invlpg`, `invpcid`, CR3, CR4.PGE |
//! | flushes elsewhere | [`shootdown`] |
//!
//! [`Kernel`] has no size and no state: it is a name by which the library finds all of that.

use super::frames::FRAME_SIZE;
use super::lock::InterruptLock;
use super::{frames, linear, shootdown};
use crate::cpu::{features, local, memory_types};
use raw_cpuid::CpuId;
use refkernel::translations::{self, Processor};
use spin::Once;
use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameMetaTable, FrameRequest, Frames};
use vmcore::paging::{FlushRequest, FlushScope, PatLayout, Tag, X86_64};
use vmcore::{CpuMask, Machine, Platform};
use x86_64::instructions::tlb::{self, InvPcidCommand, Pcid};
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

/// This kernel, as the library sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

// SAFETY:
// - `frames::take` hands a frame out once until `frames::give` takes it back, knows RAM alone, and clears it if it is to be
//   zero. It takes no lock but its own, which keeps interrupts off, and calls nobody.
// - The linear map shows every such frame at an address that never changes, in the loader's tables and in the
//   kernel's, which is never demand-paged.
// - Records lie in an array of each region, one for each frame, and stay.
unsafe impl Frames for Kernel {
    #[inline]
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        frames::take(request)
    }

    #[inline]
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: the library's promise is the same.
        unsafe { frames::give(first, count) };
    }

    #[inline]
    unsafe fn free_neighbours(&self, first: Frame, count: u64) {
        // SAFETY: as above.
        unsafe { frames::give_neighbours(first, count) };
    }

    fn available_frames(&self) -> u64 {
        frames::available()
    }

    #[inline]
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        linear::address(frame.start(Self::PAGE_SHIFT).as_u64()) as *mut u8
    }

    #[inline]
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        frames::record(frame)
    }

    #[inline]
    fn frame_metas_with(&self, frame: Frame) -> Option<FrameMetaTable<'_>> {
        frames::records_with(frame)
    }

    unsafe fn zero_frame(&self, frame: Frame) {
        // SAFETY: the library's promise is the same, and the frame is RAM.
        unsafe { linear::clear(frame.number(), 1) };
    }

    unsafe fn copy_frame(&self, from: Frame, to: Frame) {
        // SAFETY: as above; both are RAM.
        unsafe { linear::copy(from.number(), to.number()) };
    }

    // Windows may show what the linear map does not: a screen, devices.
    unsafe fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) -> usize {
        let Some(start) = shown(frame) else { return 0 };
        let count = into.len().min((FRAME_SIZE as usize).saturating_sub(offset));
        // SAFETY: the frame is RAM, which the linear map shows; the part lies in it, and `into` is exclusive.
        unsafe { core::ptr::copy(start.wrapping_add(offset), into.as_mut_ptr(), count) };
        count
    }

    unsafe fn write_frame(&self, frame: Frame, offset: usize, from: &[u8]) -> usize {
        let Some(start) = shown(frame) else { return 0 };
        let count = from.len().min((FRAME_SIZE as usize).saturating_sub(offset));
        // SAFETY: as above; by the contract it holds nothing that anybody relies on.
        unsafe { core::ptr::copy(from.as_ptr(), start.wrapping_add(offset), count) };
        count
    }
}

/// Where the bytes of a frame of RAM are.
fn shown(frame: Frame) -> Option<*mut u8> {
    frames::record(frame).map(|_| Kernel.frame_pointer(frame))
}

static MACHINE: Once<Machine<Kernel>> = Once::new();

/// The MMU as it was found and set up.
fn mmu() -> X86_64 {
    // CPUID 80000008h; a processor without that leaf has 36 bits (Intel SDM Vol. 3A, 5.1.4).
    let capacity = CpuId::new().get_processor_capacity_feature_info();
    let physical_bits = capacity.map_or(36, |info| u32::from(info.physical_address_bits()));
    let layout = PatLayout::from_msr(memory_types::page_attribute_table()).unwrap_or(PatLayout::RESET);
    let mmu = X86_64::with_pat(physical_bits, layout);
    let features = CpuId::new().get_extended_processor_and_feature_identifiers();
    let gigabyte_leaves = features.is_some_and(|features| features.has_1gib_pages());
    let mmu = if gigabyte_leaves { mmu } else { mmu.without_gigabyte_leaves() };
    if features::has_tags() { mmu.pcid() } else { mmu }
}

// SAFETY: there is one machine, in a static. The GS base leads to the data of the processor that runs. `CpuMask` has a bit for every
// processor that can run. `forget` drops at least what a scope names, whatever is loaded; `shootdown::flush` returns when every
// processor of the request has run it.
unsafe impl Platform for Kernel {
    type Mmu = X86_64;
    type RawMutex = InterruptLock;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();

    #[inline]
    fn machine(&self) -> &Machine<Self> {
        MACHINE.call_once(|| Machine::new(mmu()))
    }

    #[inline]
    fn cpu(&self) -> usize {
        local::processor()
    }

    fn flush(&self, request: &FlushRequest<CpuMask>) {
        shootdown::flush(request);
    }

    fn flush_local(&self, request: &FlushRequest<CpuMask>) {
        forget(&request.scope);
    }
}

/// Makes this processor forget what a flush names.
#[inline]
pub(super) fn forget(scope: &FlushScope) {
    translations::forget(scope, &mut ThisProcessor);
}

/// Makes this processor forget every translation, under every tag, global ones too.
#[cfg(feature = "planted-weakness")]
pub(super) fn forget_everything() {
    ThisProcessor.forget_everything();
}

/// The processor that this runs on, and its instructions. [`translations`] says what each of them drops.
pub(super) struct ThisProcessor;

impl Processor for ThisProcessor {
    #[inline]
    fn loaded(&self) -> Option<Tag> {
        features::has_tags().then(|| Tag(Cr3::read_raw().1 & TAG_BITS))
    }

    #[inline]
    fn forget_page(&mut self, address: vmcore::addr::VirtAddr) {
        tlb::flush(VirtAddr::new_truncate(address.as_u64()));
    }

    fn forget_loaded(&mut self) {
        tlb::flush_all();
    }

    fn forget_page_of(&mut self, tag: Tag, address: vmcore::addr::VirtAddr) {
        self.forget_by(pcid(tag).map(|pcid| InvPcidCommand::Address(VirtAddr::new_truncate(address.as_u64()), pcid)));
    }

    fn forget_tag(&mut self, tag: Tag) {
        self.forget_by(pcid(tag).map(InvPcidCommand::Single));
    }

    fn forget_everything(&mut self) {
        if features::has_tags() {
            self.forget_by(Some(InvPcidCommand::All));
        } else {
            memory_types::flush_all_translations();
        }
    }

    fn load(&mut self, root: vmcore::addr::PhysAddr, tag: Tag, keep: bool) {
        let root = PhysFrame::containing_address(PhysAddr::new_truncate(root.as_u64()));
        let pcid = pcid(tag).filter(|_| keep);
        // SAFETY: who calls `kernel_space::load` has promised that such tables show all that the kernel uses where it is; programs' addresses are nothing
        // that it relies on. Only where CR4.PCIDE is set does the machine have tags, and is anything kept: without it the tag is zero.
        unsafe {
            match pcid {
                Some(pcid) => Cr3::write_pcid_no_flush(root, pcid),
                None => Cr3::write_raw(root, tag.0),
            }
        }
    }
}

impl ThisProcessor {
    /// Carries out an `invpcid`. Forgetting more is never wrong.
    fn forget_by(&mut self, command: Option<InvPcidCommand>) {
        // SAFETY: asked for only where there are tags, so the processor has `invpcid`.
        unsafe { tlb::flush_pcid(command.unwrap_or(InvPcidCommand::All)) };
    }
}

/// The bits of CR3 that are the tag.
const TAG_BITS: u16 = 0xfff;

/// A tag as `invpcid` takes it; the machine has none that does not fit.
fn pcid(tag: Tag) -> Option<Pcid> {
    Pcid::new(tag.0).ok()
}
