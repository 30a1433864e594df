//! What must kill a program, and nothing but the program.

use core::arch::asm;
use core::hint::black_box;

use refkernel_runtime::roles::CheckRole;
use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE, StartInformation, SystemCall, call, say};

use crate::READ_WRITE;
use crate::report::Report;

/// A return instruction: code that would do no harm, where it must not be executed.
const RETURN: u8 = 0xc3;

/// Code in writable static data.
static mut DATA: [u8; 16] = [RETURN; 16];

/// Does what `role` says. Coming back is the failure.
pub(crate) fn commit(role: CheckRole, start: &StartInformation, report: &mut Report) {
    let [kernel, ..] = start.kernel;
    let prepared = match role {
        CheckRole::WriteText => {
            say!("check: writes to its text");
            write_byte(write_byte as *const () as u64);
            Ok(())
        }
        CheckRole::ExecuteData => {
            say!("check: executes its data");
            execute((&raw mut DATA) as u64);
            Ok(())
        }
        CheckRole::ExecuteStack => {
            say!("check: executes its stack");
            let mut code = [RETURN; 16];
            execute(black_box(&raw mut code) as u64);
            Ok(())
        }
        CheckRole::ExecuteArea => execute_area(),
        CheckRole::ReadUnmapped => read_unmapped(),
        CheckRole::WriteReadOnly => write_read_only(),
        CheckRole::ReadPastCut => read_past_cut(),
        CheckRole::ReadKernel => {
            say!("check: reads the kernel's memory");
            read_byte(kernel);
            Ok(())
        }
        CheckRole::WriteKernel => {
            say!("check: writes the kernel's memory");
            write_byte(kernel);
            Ok(())
        }
        CheckRole::ExecuteKernel => {
            say!("check: executes the kernel's memory");
            execute(kernel);
            Ok(())
        }
        CheckRole::ReadNonCanonical => {
            say!("check: reads a non-canonical address");
            read_byte(0x1234_5678_9abc_def0);
            Ok(())
        }
        CheckRole::OverflowStack => {
            say!("check: recurses without end");
            black_box(recurse(1));
            Ok(())
        }
        CheckRole::ExhaustMemory => exhaust_memory(),
        other => {
            instruction(other, kernel);
            Ok(())
        }
    };
    report.done("the preparations", prepared);
}

/// Reads a byte that must not be read.
fn read_byte(address: u64) {
    // SAFETY: the access must end the program; one that does not is the failure that is looked for.
    let value = unsafe { (address as *const u8).read_volatile() };
    say!("check: read {value:#x} at {address:#x} and lives");
}

/// Writes a byte that must not be written.
fn write_byte(address: u64) {
    // SAFETY: as for `read_byte`.
    unsafe { (address as *mut u8).write_volatile(RETURN) };
    say!("check: wrote to {address:#x} and lives");
}

/// Calls code that must not be executed: a return instruction lies at `address`.
fn execute(address: u64) {
    // SAFETY: as for `read_byte`; if it is executed, it returns at once and changes nothing.
    unsafe {
        asm!("call {address}", address = in(reg) address, clobber_abi("C"));
    }
    say!("check: executed {address:#x} and lives");
}

fn execute_area() -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    // SAFETY: the page was mapped to be written, and nothing else uses it.
    unsafe { (address as *mut u8).write_volatile(RETURN) };
    say!("check: executes an area that is mapped to be read and written");
    execute(address);
    Ok(())
}

fn read_unmapped() -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    // SAFETY: the page was mapped to be written, and nothing else uses it, now or later.
    unsafe {
        (address as *mut u8).write_volatile(1);
        call::area_unmap(address, PAGE_SIZE)?;
    }
    say!("check: reads a page after it was unmapped");
    read_byte(address);
    Ok(())
}

fn write_read_only() -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let writable = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    let read_only = call::area_map(area, 0, 0, PAGE_SIZE, Access::READ)?;
    // SAFETY: both windows are mapped to be read, the first to be written; nothing else uses them.
    let same = unsafe {
        (writable as *mut u8).write_volatile(42);
        (read_only as *const u8).read_volatile() == 42
    };
    if !same {
        say!("check: two windows of one area show different pages");
        return Ok(());
    }
    say!("check: writes to a window that is read only");
    write_byte(read_only);
    Ok(())
}

fn read_past_cut() -> Result<(), ErrorCode> {
    let area = call::area_create(2 * PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
    // SAFETY: both pages were mapped to be written, and nothing else uses them, now or later.
    unsafe {
        (address as *mut u8).write_volatile(1);
        ((address + PAGE_SIZE) as *mut u8).write_volatile(2);
        call::area_resize(area, PAGE_SIZE)?;
    }
    say!("check: reads a page that was cut off its area");
    read_byte(address + PAGE_SIZE);
    Ok(())
}

/// Uses up the stack: every level keeps half a kilobyte of it.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let mut room = [depth; 64];
    black_box(&mut room);
    if depth == u64::MAX {
        return 0;
    }
    // The sum afterwards keeps this from being turned into a loop.
    recurse(depth + 1) + room[(depth % 64) as usize]
}

fn exhaust_memory() -> Result<(), ErrorCode> {
    let size = 64 << 30;
    let area = call::area_create(size)?;
    let address = call::area_map(area, 0, 0, size, READ_WRITE)?;
    say!("check: touches pages until there are no more");
    for page in 0..size / PAGE_SIZE {
        // SAFETY: the page is mapped to be written, and nothing else uses it.
        unsafe { ((address + page * PAGE_SIZE) as *mut u64).write_volatile(page) };
    }
    say!("check: touched {size:#x} bytes and lives");
    Ok(())
}

/// The offences that are a single instruction.
fn instruction(role: CheckRole, kernel: u64) {
    // SAFETY (of each block): the instruction must end the program; one that does not is the failure that is looked for, and what is
    // executed after it is only a report.
    match role {
        CheckRole::Privileged => {
            say!("check: disables interrupts");
            // SAFETY: see above.
            unsafe { asm!("cli") };
        }
        CheckRole::DivideByZero => {
            say!("check: divides by zero");
            // SAFETY: see above.
            unsafe {
                asm!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
            }
        }
        CheckRole::UndefinedInstruction => {
            say!("check: executes an undefined instruction");
            // SAFETY: see above.
            unsafe { asm!("ud2") };
        }
        CheckRole::KernelStackPointer => {
            say!("check: pushes onto the kernel's memory");
            // SAFETY: see above; the stack pointer is restored if the program lives.
            unsafe {
                asm!(
                    "xchg rsp, {pointer}",
                    "push rax",
                    "pop rax",
                    "xchg rsp, {pointer}",
                    pointer = inout(reg) kernel + 8 => _,
                );
            }
        }
        CheckRole::StoreDescriptorTable => {
            say!("check: stores the descriptor table's address");
            let mut table = [0_u8; 10];
            // SAFETY: see above; the ten bytes are written if the program lives.
            unsafe { asm!("sgdt [{table}]", table = in(reg) &raw mut table) };
            say!("check: read {table:x?}");
        }
        CheckRole::TrapFlag => {
            say!("check: calls the kernel with the trap flag set");
            // SAFETY: see above; the null call changes nothing, and the flag is cleared if the program lives.
            unsafe {
                asm!(
                    "pushfq",
                    "pushfq",
                    "or dword ptr [rsp], 0x100",
                    "popfq",
                    "syscall",
                    "nop",
                    "popfq",
                    inlateout("rax") SystemCall::Null.number() => _,
                    clobber_abi("C"),
                );
            }
        }
        other => say!("check: part {} is no offence", other.number()),
    }
    say!("check: lives");
}
