//! Device memory, for who has the right to it.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    Access, Caching, ErrorCode, FOREVER, Handle, HandleKind, PAGE_SIZE, Rights, StartInformation, SystemCall, call,
    decode_result,
};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;

/// The registers of the high-precision event timer, where the machine that is emulated has it.
const TIMER: u64 = 0xfed0_0000;
/// The video memory of old, which the machine's adapter has.
const VIDEO: u64 = 0xa_0000;

pub(crate) fn check(start: &StartInformation, report: &mut Report) {
    let physical = start.physical;
    let known = call::handle_inspect(physical);
    report.check("it was given the right", known == Ok((HandleKind::Physical, Rights::PHYSICAL | Rights::SHARE)));
    let outcome = registers(physical, report).and_then(|()| refused(physical, report));
    report.done("everything that was asked of device memory", outcome);
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);

extern "C" fn receive(end: u64) -> ! {
    let mut bytes = [0; 8];
    let received = call::channel_receive(Handle(end), &mut bytes, &mut [], FOREVER);
    let vendor = u64::from(bytes[3]) << 8 | u64::from(bytes[2]);
    RECEIVED.store(if received == Ok((8, 0)) { vendor } else { 1 }, Ordering::Release);
    call::thread_exit()
}

fn registers(physical: Handle, report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::physical_area(physical, TIMER, PAGE_SIZE, Caching::Uncached)?;
    report.check("it may be mapped", call::handle_inspect(area) == Ok((HandleKind::Area, Rights::GIVEN_AREA)));
    // SAFETY: the size stays as it is, or the check has failed.
    let resized = unsafe { call::area_resize(area, PAGE_SIZE) };
    report.check("and not resized", resized == Err(Denied));
    let address = call::area_map(area, 0, 0, PAGE_SIZE, Access::READ)?;
    // SAFETY: the window shows registers, which reading does not change. IA-PC HPET specification, 2.3.4: the first one holds the vendor's number in bits 31..16.
    let vendor = unsafe { (address as *const u32).read_volatile() } >> 16;
    report.check("the registers are there", vendor == 0x8086);
    // The kernel's copies reach them through the window, its other ways do not: either is an answer.
    let [one, two] = call::channel_create()?;
    let arguments = [one.0, address, 8, 0, 0, 0];
    // SAFETY: the call reads the registers.
    let sent = decode_result(unsafe { call::raw(SystemCall::ChannelSend.number(), arguments) });
    report.check("they can be sent", sent == Ok(0));
    let mut bytes = [0; 8];
    let received = call::channel_receive(two, &mut bytes, &mut [], 0);
    report.check("and received", received == Ok((8, 0)) && bytes[2..4] == [0x86, 0x80]);
    // SAFETY: the call looks at the address.
    let waited = decode_result(unsafe { call::raw(SystemCall::AddressWait.number(), [address, 0, 0, 0, 0, 0]) });
    report.refused("wait for a register", &[NotSupported], waited);
    // To one who waits they go by way of the kernel's memory: no other way reaches them.
    let top = stack()?;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(receive, top, two.0)? };
    call::thread_sleep(20_000)?;
    // SAFETY: the call reads the registers.
    let sent = decode_result(unsafe { call::raw(SystemCall::ChannelSend.number(), arguments) });
    report.check("they can be sent to one who waits", sent == Ok(0));
    while RECEIVED.load(Ordering::Acquire) == 0 {
        call::thread_sleep(1000)?;
    }
    report.check("who receives them", RECEIVED.load(Ordering::Acquire) == 0x8086);
    for handle in [one, two, area] {
        call::handle_close(handle)?;
    }
    // SAFETY: the window is not used any more.
    unsafe { call::area_unmap(address, PAGE_SIZE)? };

    let video = call::physical_area(physical, VIDEO, 16 * PAGE_SIZE, Caching::WriteCombining)?;
    let address = call::area_map(video, 0, 0, 16 * PAGE_SIZE, READ_WRITE)?;
    // SAFETY: the window shows video memory, which the kernel does not use.
    unsafe { (address as *mut u8).write_volatile(0) };
    call::handle_close(video)?;
    // SAFETY: the window is not used any more.
    unsafe { call::area_unmap(address, 16 * PAGE_SIZE) }
}

fn refused(physical: Handle, report: &mut Report) -> Result<(), ErrorCode> {
    let ask = |handle: Handle, address, size, caching| {
        // SAFETY: the call is refused, or the check has failed.
        decode_result(unsafe { call::raw(SystemCall::PhysicalArea.number(), [handle.0, address, size, caching, 0, 0]) })
    };
    let uncached = Caching::Uncached.number();
    report.refused("no bytes", &[Empty], ask(physical, TIMER, 0, uncached));
    report.refused("part of a page", &[Unaligned], ask(physical, TIMER, 100, uncached));
    report.refused("at part of a page", &[Unaligned], ask(physical, TIMER + 8, PAGE_SIZE, uncached));
    report.refused("caching that there is not", &[BadAccess], ask(physical, TIMER, PAGE_SIZE, 2));
    for address in [0, PAGE_SIZE, 0x10_0000, 0x20_0000, 0x100_0000, 0x300_0000] {
        report.refused("memory", &[Denied], ask(physical, address, PAGE_SIZE, uncached));
    }
    report.refused("from device memory into memory", &[Denied], ask(physical, 0xb_f000, 1 << 20, uncached));
    report.refused("the interrupt controller", &[Denied], ask(physical, 0xfee0_0000, PAGE_SIZE, uncached));
    let last_page = u64::MAX - (PAGE_SIZE - 1);
    report.refused("what no processor reaches", &[BadRange], ask(physical, 1 << 52, PAGE_SIZE, uncached));
    report.refused("the last page of all", &[BadRange, Denied], ask(physical, last_page, PAGE_SIZE, uncached));
    let less = call::handle_duplicate(physical, Rights::SHARE)?;
    report.refused("without the right to it", &[Denied], ask(less, TIMER, PAGE_SIZE, uncached));
    call::handle_close(less)
}
