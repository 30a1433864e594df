//! What must be true of the kernel's memory, asked in the machine.
//!
//! Each test leaves memory as it found it. Where a bug was shipped elsewhere, the test has the name that it has in
//! the project's list of them.

use super::heap::{self, BadFree};
use super::kernel_space::{FRAMEBUFFER, HEAP};
use super::stacks::KernelStack;
use super::{Kernel, audit, boot_info, framebuffer_area, frames, in_space, kernel_space, new_user_space};
use crate::boot::layout;
use crate::cpu::stacks::Purpose;
use crate::cpu::{probe, user_copy};
use crate::hoard::{Hoard, SCARCE};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};
use refkernel::boot_info::PhysicalRange;
use refkernel::memory_type::MemoryType as CpuMemoryType;
use refkernel_abi::KERNEL_ADDRESSES;
use vmcore::Platform;
use vmcore::addr::{Frame, FrameRange, PageRange, VirtAddr};
use vmcore::frame::{FrameRequest, FrameUse, Frames};
use vmcore::paging::{Access, Flush, MemoryType};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{MapRequest, SpaceError};

/// A test: what is wrong, if anything is.
pub(crate) type Test = fn() -> Result<(), &'static str>;

/// Every test of memory, by name.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("section_permissions", section_permissions),
    ("no_page_writable_and_executable", no_page_writable_and_executable),
    ("text_is_not_writable", text_is_not_writable),
    ("exec_is_enforced", exec_is_enforced),
    ("kernel_writes_respect_read_only", kernel_writes_respect_read_only),
    ("text_has_no_writable_alias", text_has_no_writable_alias),
    ("guard_never_backed", guard_never_backed),
    ("stack_free_leaves_neighbour", stack_free_leaves_neighbour),
    ("fresh_page_is_zero", fresh_page_is_zero),
    ("unmap_anonymous_really_unmaps", unmap_anonymous_really_unmaps),
    ("unmap_middle_leaves_neighbours", unmap_middle_leaves_neighbours),
    ("framebuffer_is_write_combining", framebuffer_is_write_combining),
    ("framebuffer_was_filled_with_both_types", framebuffer_was_filled_with_both_types),
    ("framebuffer_not_aliased_write_through", framebuffer_not_aliased_write_through),
    ("linear_map_is_write_back_and_large", linear_map_is_write_back_and_large),
    ("heap_is_faulted_in_on_demand", heap_is_faulted_in_on_demand),
    ("heap_refuses_bad_frees", heap_refuses_bad_frees),
    ("heap_failure_is_an_error", heap_failure_is_an_error),
    ("populate_failure_changes_nothing", populate_failure_changes_nothing),
    ("fault_out_of_memory_reports", fault_out_of_memory_reports),
    ("frames_return_after_destroy", frames_return_after_destroy),
    ("area_in_two_spaces_is_one_memory", area_in_two_spaces_is_one_memory),
    ("protections_of_the_processor_are_on", protections_of_the_processor_are_on),
    ("kernel_does_not_read_programs_memory", kernel_does_not_read_programs_memory),
    ("kernel_does_not_execute_programs_memory", kernel_does_not_execute_programs_memory),
];

/// Addresses of the kernel's that are mapped and in use: of its text, its data, its heap, its stack, and of the linear map.
pub(crate) fn kernel_addresses() -> [u64; KERNEL_ADDRESSES] {
    let heap = Box::new(0_u64);
    let heap_address = (&raw const *heap) as u64;
    let local = core::hint::black_box(0_u64);
    let linear = audit::walk(heap_address).physical().map_or(0, |physical| super::linear::address(physical.as_u64()));
    [layout::text().start, layout::data().start, heap_address, (&raw const local) as u64, linear]
}

/// Where the tests map what they need, in the kernel's space and in a program's.
const SCRATCH: u64 = 0xffff_ff84_0000_0000;
const USER_SCRATCH: u64 = 0x40_0000;
const PAGE: u64 = frames::FRAME_SIZE;
/// The instruction `ret`, for what must not be executed.
const RET: u8 = 0xc3;

fn check(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}

/// Says on the log what was found, since a test's answer is a fixed text.
fn found(finding: impl core::fmt::Display) -> &'static str {
    crate::log!("  {finding}");
    "see the line above"
}

fn open_area(pages: u64) -> Result<Area<Kernel>, &'static str> {
    Area::new(&Kernel, AreaKind::Open { size: pages * PAGE }, ()).map_err(found)
}

/// Maps an area in the kernel's space where the tests do.
fn map_scratch(area: &Area<Kernel>) -> Result<PageRange, &'static str> {
    kernel_space().map(&MapRequest::new(area).at(SCRATCH)).map_err(found)
}

fn unmap(range: PageRange) -> Result<(), &'static str> {
    kernel_space().unmap(range).map_err(found)?.complete();
    Ok(())
}

fn section_permissions() -> Result<(), &'static str> {
    audit::section_permissions().map_err(found)?;
    // What is wanted is said here once more, so that a wrong wish is found too.
    let wanted = [
        (layout::text(), Access::READ | Access::EXECUTE, "text is not r-x"),
        (layout::rodata(), Access::READ, "rodata is not r--"),
        (layout::data(), Access::READ | Access::WRITE, "data is not rw-"),
    ];
    for (addresses, access, otherwise) in wanted {
        for page in addresses.step_by(PAGE as usize) {
            check(audit::walk(page).access() == access, otherwise)?;
        }
    }
    Ok(())
}

fn no_page_writable_and_executable() -> Result<(), &'static str> {
    audit::kernel_half().map_err(found)
}

fn text_is_not_writable() -> Result<(), &'static str> {
    let both_ends = |addresses: core::ops::Range<u64>| [addresses.start, addresses.end - 1];
    for address in both_ends(layout::text()).into_iter().chain(both_ends(layout::rodata())) {
        check(probe::read(address).is_some(), "text or rodata cannot be read")?;
        check(!probe::touch(address), "text or rodata can be written")?;
    }
    let written = both_ends(layout::data()).into_iter().all(probe::touch);
    check(written, "data cannot be written")
}

static RETURNS: [u8; 16] = [RET; 16];

fn exec_is_enforced() -> Result<(), &'static str> {
    // A word in the data section, which the compiler may not put anywhere else since it is changed.
    static DATA: AtomicU64 = AtomicU64::new(0);
    DATA.store(u64::from_le_bytes([RET; 8]), Ordering::Relaxed);
    let heap = Box::new([RET; 16]);
    let stack = core::hint::black_box([RET; 16]);
    let ret = layout::text().find(|address| probe::read(*address) == Some(RET));
    // SAFETY: each address holds a `ret`, as it was filled or found.
    unsafe {
        check(ret.is_some_and(|address| probe::execute(address)), "text cannot be executed")?;
        check(!probe::execute(DATA.as_ptr() as u64), "data can be executed")?;
        check(!probe::execute((&raw const RETURNS) as u64), "constants can be executed")?;
        check(!probe::execute((&raw const *heap) as u64), "the heap can be executed")?;
        check(!probe::execute((&raw const stack) as u64), "the stack can be executed")
    }
}

fn kernel_writes_respect_read_only() -> Result<(), &'static str> {
    let area = open_area(1)?;
    let request = MapRequest::new(&area).at(SCRATCH).access(Access::READ);
    let range = kernel_space().map(&request).map_err(found)?;
    let result = check(probe::read(SCRATCH) == Some(0), "a read-only window cannot be read")
        .and_then(|()| check(!probe::touch(SCRATCH), "the kernel wrote through a read-only window"));
    unmap(range)?;
    result
}

fn text_has_no_writable_alias() -> Result<(), &'static str> {
    for addresses in [layout::text(), layout::rodata()] {
        let physical = audit::walk(addresses.start).physical().ok_or("a section is not mapped")?;
        let alias = super::linear::address(physical.as_u64());
        check(!probe::touch(alias), "the linear map shows text or rodata, writable")?;
    }
    Ok(())
}

fn guard_never_backed() -> Result<(), &'static str> {
    let stack = KernelStack::new(Purpose::Test).map_err(found)?;
    let guard = stack.guard();
    for address in [guard.start, guard.end - 1, guard.end - PAGE] {
        check(probe::read(address).is_none() && !probe::touch(address), "a guard page can be accessed")?;
    }
    for address in [stack.start(), stack.top() - 1] {
        check(probe::touch(address), "a stack cannot be written")?;
    }
    Ok(())
}

fn stack_free_leaves_neighbour() -> Result<(), &'static str> {
    let below = KernelStack::new(Purpose::Test).map_err(found)?;
    let middle = KernelStack::new(Purpose::Test).map_err(found)?;
    let above = KernelStack::new(Purpose::Test).map_err(found)?;
    let gone = middle.start()..middle.top();
    drop(middle);
    for address in [gone.start, gone.end - 1] {
        check(probe::read(address).is_none(), "a stack that was given back can be accessed")?;
    }
    for stack in [&below, &above] {
        for address in [stack.start(), stack.top() - 1] {
            check(probe::touch(address), "a neighbour lost its memory")?;
        }
    }
    let again = KernelStack::new(Purpose::Test).map_err(found)?;
    check(again.start() == gone.start, "the stack that was given back is not handed out again")
}

fn fresh_page_is_zero() -> Result<(), &'static str> {
    const PAGES: u64 = 64;
    for round in 0..2 {
        let area = open_area(PAGES)?;
        let range = map_scratch(&area)?;
        for offset in (0..PAGES * PAGE).step_by(8) {
            let word = (SCRATCH + offset) as *mut u64;
            // SAFETY: the area is mapped there, writable, and the test's alone.
            let before = unsafe { word.read_volatile() };
            if before != 0 {
                unmap(range)?;
                return Err(if round == 0 { "a fresh page is not zero" } else { "a used page came back unchanged" });
            }
            // SAFETY: as above.
            unsafe { word.write_volatile(u64::MAX) };
        }
        unmap(range)?;
    }
    Ok(())
}

fn unmap_anonymous_really_unmaps() -> Result<(), &'static str> {
    let area = open_area(1)?;
    let range = map_scratch(&area)?;
    check(probe::touch(SCRATCH), "a fresh page cannot be written")?;
    unmap(range)?;
    check(probe::read(SCRATCH).is_none(), "an unmapped page can be read")?;
    check(audit::walk(SCRATCH).physical().is_none(), "an unmapped page is in the tables")
}

fn unmap_middle_leaves_neighbours() -> Result<(), &'static str> {
    let area = open_area(4)?;
    let range = map_scratch(&area)?;
    for page in 0..4 {
        // SAFETY: the area is mapped there, writable, and the test's alone.
        unsafe { ((SCRATCH + page * PAGE) as *mut u64).write_volatile(page + 1) };
    }
    unmap(kernel_space().range(SCRATCH + 2 * PAGE, PAGE).map_err(found)?)?;
    let mut result = Ok(());
    for page in 0..4 {
        let expected = if page == 2 { None } else { Some(page as u8 + 1) };
        if probe::read(SCRATCH + page * PAGE) != expected {
            result = Err("a neighbour changed, or the page is still there");
        }
    }
    unmap(range)?;
    result
}

fn framebuffer_is_write_combining() -> Result<(), &'static str> {
    let Some(frames) = framebuffer_frames()? else { return Ok(()) };
    let range = PhysicalRange::new(frames.first().number() * PAGE, frames.count() * PAGE).map_err(found)?;
    audit::framebuffer(range).map_err(found)?;
    let (by_page, _) = audit::framebuffer_type(range);
    check(by_page == Some(CpuMemoryType::WriteCombining), "the entries do not say write-combining")?;
    check(probe::touch(FRAMEBUFFER), "the framebuffer cannot be written")
}

/// What was measured at boot was what it was called: by the bits of the entries, the page attribute table and the range registers. Times are nobody's promise.
fn framebuffer_was_filled_with_both_types() -> Result<(), &'static str> {
    if framebuffer_frames()?.is_none() {
        return Ok(());
    }
    let measured = super::framebuffer_speed::measured().ok_or("nothing was measured")?;
    let (uncached, combining) = (measured.uncached, measured.combining);
    check(uncached.by_page == Some(CpuMemoryType::Uncacheable), "the entries did not say uncached")?;
    check(uncached.effective == Some(CpuMemoryType::Uncacheable), "it was not uncached")?;
    check(combining.by_page == Some(CpuMemoryType::WriteCombining), "the entries did not say write-combining")?;
    check(combining.effective == Some(CpuMemoryType::WriteCombining), "it was not write-combining")
}

/// The framebuffer's frames; `None` for a machine without one.
fn framebuffer_frames() -> Result<Option<FrameRange>, &'static str> {
    match framebuffer_area().map(Area::kind) {
        Some(AreaKind::Fixed { frames, .. }) => Ok(Some(frames)),
        Some(_) => Err("the framebuffer is no fixed area"),
        None if boot_info().is_some_and(|info| info.framebuffer().is_some()) => Err("the framebuffer is not mapped"),
        None => Ok(None),
    }
}

fn framebuffer_not_aliased_write_through() -> Result<(), &'static str> {
    let Some(frames) = framebuffer_frames()? else { return Ok(()) };
    let aliased = super::linear::address(frames.first().number() * PAGE);
    check(probe::read(aliased).is_none(), "the linear map shows the framebuffer")?;
    // SAFETY: the area is refused, or dropped unused.
    let again = unsafe { Area::fixed(&Kernel, frames, MemoryType::WriteBack, ()) };
    check(matches!(again, Err(AreaError::Registry(_))), "the framebuffer can be mapped a second time, write-back")
}

fn linear_map_is_write_back_and_large() -> Result<(), &'static str> {
    let space = kernel_space();
    let mut large = false;
    for window in space.windows() {
        let Some(AreaKind::Fixed { frames, memory: MemoryType::WriteBack }) = window.kind else { continue };
        let start = window.range.start().as_u64();
        if start != super::linear::address(frames.first().number() * PAGE) {
            continue;
        }
        let vmcore::paging::WalkEnd::Mapped { leaf, pages, .. } = audit::walk(start + window.range.size() / 2).end()
        else {
            return Err("RAM is not mapped");
        };
        check(leaf.memory == MemoryType::WriteBack, "RAM is not write-back")?;
        check(!leaf.access.contains(Access::EXECUTE), "RAM is executable")?;
        large |= pages.size() >= 2 << 20;
    }
    check(large, "the linear map has small leaves only")
}

fn heap_is_faulted_in_on_demand() -> Result<(), &'static str> {
    let (_, taken) = heap::usage();
    check(probe::read(HEAP + taken + (1 << 20)) == Some(0), "the heap's next pages do not come by faults")?;
    let block: Vec<u64> = (0..10_000).collect();
    check(block.iter().sum::<u64>() == 49_995_000, "the heap lost what was written")
}

fn heap_refuses_bad_frees() -> Result<(), &'static str> {
    let layout = Layout::new::<[u64; 4]>();
    let block = Box::into_raw(Box::new([0_u64; 4])).cast::<u8>();
    let (used, _) = heap::usage();
    // SAFETY: none but the last of these is a live block, and the block is used no more after that.
    let answers = unsafe {
        let inner = block.wrapping_add(16);
        let odd = block.wrapping_add(1);
        let outside = core::ptr::without_provenance_mut(0x1000);
        let beyond = core::ptr::without_provenance_mut((HEAP + (1 << 29)) as usize);
        [inner, odd, outside, beyond, block, block].map(|block| heap::free(block, layout))
    };
    let expected = |index: usize| match answers.get(index) {
        Some(Err(BadFree::NotLive(_))) => "not live",
        Some(Err(BadFree::Outside(_))) => "outside",
        Some(Ok(())) => "freed",
        None => "",
    };
    let said: [&str; 6] = core::array::from_fn(expected);
    check(said == ["not live", "not live", "outside", "outside", "freed", "not live"], "a bad free was not refused")?;
    check(heap::usage().0 == used - layout.size() as u64, "the heap counts wrong")
}

fn heap_failure_is_an_error() -> Result<(), &'static str> {
    let mut vector: Vec<u8> = Vec::new();
    check(vector.try_reserve(2 << 30).is_err(), "more than the whole heap was allocated")?;
    // More than there is memory, within what the heap has addresses for.
    let (_, taken) = heap::usage();
    let more = frames::available() * PAGE + PAGE;
    if more < (1 << 30) - taken {
        check(vector.try_reserve(more as usize).is_err(), "more than all memory was allocated")?;
    }
    check(vector.try_reserve(1000).is_ok(), "after a failure nothing can be allocated")
}

fn populate_failure_changes_nothing() -> Result<(), &'static str> {
    let pages = frames::available() + 1;
    let area = open_area(pages)?;
    let range = map_scratch(&area)?;
    let before = frames::in_use();
    let outcome = kernel_space().populate(range, Access::KERNEL_DATA).map(Flush::complete);
    let result = check(matches!(outcome, Err(SpaceError::OutOfFrames(_))), "populating more than all memory succeeded")
        .and_then(|()| check(frames::in_use() == before, "a failed populate kept frames"))
        .and_then(|()| check(area.resident_pages() == 0, "a failed populate left pages"));
    unmap(range)?;
    result
}

fn fault_out_of_memory_reports() -> Result<(), &'static str> {
    // It takes no longer on a large machine.
    let _hoard = Hoard::leaving(SCARCE);
    let area = open_area(1)?;
    let range = map_scratch(&area)?;
    let before = frames::in_use();
    // Every frame that is left is taken; each holds the number of the one before.
    let mut last = None;
    while let Some(frame) = frames::take(FrameRequest::one(FrameUse::Page)) {
        let link = Kernel.frame_pointer(frame).cast::<Option<Frame>>();
        // SAFETY: the frame was just taken and is the test's alone; a frame is larger than the link and aligned to it.
        unsafe { link.write(last) };
        last = Some(frame);
    }
    let all_taken = frames::available() == 0;
    let touched = probe::touch(SCRATCH);
    let absent = audit::walk(SCRATCH).physical().is_none();
    while let Some(frame) = last {
        // SAFETY: the link was written above.
        last = unsafe { Kernel.frame_pointer(frame).cast::<Option<Frame>>().read() };
        // SAFETY: the frame was taken above, and what it held was just read for the last time.
        unsafe { frames::give(frame, 1) };
    }
    let result = check(all_taken, "frames were left")
        .and_then(|()| check(!touched && absent, "a page came from nowhere"))
        .and_then(|()| check(frames::in_use() == before, "the fault that failed kept frames"))
        .and_then(|()| check(probe::touch(SCRATCH), "with frames at hand the page still does not come"));
    unmap(range)?;
    result
}

fn frames_return_after_destroy() -> Result<(), &'static str> {
    let before = frames::in_use();
    {
        let space = new_user_space().map_err(found)?;
        let area = open_area(100)?;
        let range = space.map(&MapRequest::new(&area).at(USER_SCRATCH)).map_err(found)?;
        space.populate(range, Access::USER_DATA).map_err(found)?.complete();
        in_space(&space, || user_copy::copy_to_user(USER_SCRATCH + PAGE - 2, &[1, 2, 3, 4])).map_err(found)?;
        let part = space.range(USER_SCRATCH + 10 * PAGE, 10 * PAGE).map_err(found)?;
        space.unmap(part).map_err(found)?.complete();
        let mut bytes = [0; 4];
        in_space(&space, || user_copy::copy_from_user(&mut bytes, USER_SCRATCH + PAGE - 2)).map_err(found)?;
        check(bytes == [1, 2, 3, 4], "a space lost what was written")?;
        let refused = in_space(&space, || user_copy::copy_from_user(&mut bytes, USER_SCRATCH + 10 * PAGE)).is_err();
        check(refused, "an unmapped page can be copied from")?;
        space.destroy().map_err(|(_, error)| found(error))?.complete();
    }
    check(Kernel.machine().counters().dropped_flushes == 0, "a flush was dropped")?;
    check(frames::in_use() == before, "frames did not come back")
}

fn area_in_two_spaces_is_one_memory() -> Result<(), &'static str> {
    let area = open_area(2)?;
    let (one, other) = (new_user_space().map_err(found)?, new_user_space().map_err(found)?);
    one.map(&MapRequest::new(&area).at(USER_SCRATCH)).map_err(found)?;
    let range = other.map(&MapRequest::new(&area).at(USER_SCRATCH + 8 * PAGE).access(Access::READ)).map_err(found)?;
    in_space(&one, || user_copy::copy_to_user(USER_SCRATCH + PAGE, b"shared")).map_err(found)?;
    let mut bytes = [0; 6];
    let address = range.start().as_u64() + PAGE;
    in_space(&other, || user_copy::copy_from_user(&mut bytes, address)).map_err(found)?;
    check(&bytes == b"shared", "two spaces see different memory")?;
    check(in_space(&other, || user_copy::copy_to_user(address, b"x")).is_err(), "a read-only window was written")?;
    check(
        other.walk(VirtAddr::new(address)).physical() == one.walk(VirtAddr::new(USER_SCRATCH + PAGE)).physical(),
        "two frames",
    )
}

/// What CPUID offers is what is turned on, and the kernel has no other idea of it.
fn protections_of_the_processor_are_on() -> Result<(), &'static str> {
    use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
    let cpuid = raw_cpuid::CpuId::new();
    let extended = cpuid.get_extended_feature_info();
    let has = |feature: fn(&raw_cpuid::ExtendedFeatures) -> bool| extended.as_ref().is_some_and(feature);
    let control = Cr4::read();
    for (bit, offered, otherwise) in [
        (Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, has(|f| f.has_smap()), "SMAP is not as CPUID says"),
        (Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, has(|f| f.has_smep()), "SMEP is not as CPUID says"),
        (Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, has(|f| f.has_umip()), "UMIP is not as CPUID says"),
        (Cr4Flags::PAGE_GLOBAL, cpuid.get_feature_info().is_some_and(|f| f.has_pge()), "PGE is not as CPUID says"),
    ] {
        check(control.contains(bit) == offered, otherwise)?;
    }
    check(Cr0::read().contains(Cr0Flags::WRITE_PROTECT), "the kernel may write to read-only pages")
}

/// Runs a question about a present page of a program's, which holds `ret` instructions.
pub(crate) fn with_programs_page(access: Access, ask: impl FnOnce(u64) -> bool) -> Result<bool, &'static str> {
    let space = new_user_space().map_err(found)?;
    let area = open_area(1)?;
    area.write(0, &[RET; 16]).map_err(found)?.complete();
    let range = space.map(&MapRequest::new(&area).at(USER_SCRATCH).access(access)).map_err(found)?;
    space.populate(range, access).map_err(found)?.complete();
    let walked = space.walk(VirtAddr::new(USER_SCRATCH));
    check(walked.physical().is_some() && walked.access() == access, "the program's page is not there")?;
    Ok(in_space(&space, || ask(USER_SCRATCH)))
}

fn kernel_does_not_read_programs_memory() -> Result<(), &'static str> {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    let prevented = Cr4::read().contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
    let mut copied = false;
    let read = with_programs_page(Access::USER_DATA, |address| {
        // The page is there: the copy routine reads it.
        let mut byte = [0];
        copied = user_copy::copy_from_user(&mut byte, address) == Ok(()) && byte == [RET];
        probe::read(address).is_some()
    })?;
    check(copied, "the copy routine cannot read a program's memory")?;
    check(read != prevented, "SMAP does not keep the kernel from a program's memory")
}

fn kernel_does_not_execute_programs_memory() -> Result<(), &'static str> {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    let prevented = Cr4::read().contains(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
    let access = Access::USER | Access::READ | Access::EXECUTE;
    // SAFETY: the page holds `ret` instructions.
    let executed = with_programs_page(access, |address| unsafe { probe::execute(address) })?;
    check(executed != prevented, "SMEP does not keep the kernel from a program's code")
}
