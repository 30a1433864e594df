//! The program's half of the table of faults: each kind is made, after what the kernel must say of it was recorded. What comes back has lived, and where it must not that is the failure.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::faults::{self, Fault, Outcome, WINDOWS_MAX};
use refkernel_runtime::{
    Access, Caching, ErrorCode, Handle, KILLED, PAGE_SIZE, StartInformation, SystemCall, call, decode_result,
    program_status, say,
};

use crate::READ_WRITE;
use crate::life::stack;
use crate::windows::{protect, read, unmap, write};

const RETURN: u8 = 0xc3;
/// Code in static data, and in constants.
static mut DATA: [u8; 16] = [RETURN; 16];
static CONSTANTS: [u8; 16] = [RETURN; 16];
/// An address that is not canonical.
const NOWHERE: u64 = 0x1234_5678_9abc_def0;
/// The timer's registers, where the machine has it.
const TIMER: u64 = 0xfed0_0000;

/// Where it is recorded what the kernel must say.
#[derive(Clone, Copy)]
struct Recorder(u64);

impl Recorder {
    /// Maps the area that is for it.
    fn new(start: &StartInformation) -> Result<Self, ErrorCode> {
        let recorder = Self(call::area_map(start.area, 0, 0, faults::AREA_SIZE, READ_WRITE)?);
        recorder.window(recorder.0, faults::AREA_SIZE, Some(READ_WRITE))?;
        Ok(recorder)
    }

    /// The address that will be accessed; it is given back.
    fn address(self, address: u64) -> u64 {
        write(self.0, address);
        address
    }

    /// A window of the program's own.
    fn window(self, first: u64, length: u64, access: Option<Access>) -> Result<(), ErrorCode> {
        let count = read(self.0 + 16);
        if count >= WINDOWS_MAX as u64 {
            return Err(TooMany);
        }
        let place = self.0 + 24 * (count + 1);
        for (offset, word) in [(0, first), (8, length), (16, access.map_or(0, Access::bits))] {
            write(place + offset, word);
        }
        write(self.0 + 16, count + 1);
        Ok(())
    }

    /// Memory of so many pages that is shown with this access, and recorded.
    fn area(self, pages: u64, access: Access) -> Result<u64, ErrorCode> {
        let address = call::area_create_and_map(pages * PAGE_SIZE, 0, access)?;
        self.window(address, pages * PAGE_SIZE, Some(access))?;
        Ok(address)
    }

    /// A page that was written to, and then protected.
    fn protected(self, access: Option<Access>) -> Result<u64, ErrorCode> {
        let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
        write(address, 1);
        protect(address, PAGE_SIZE, access)?;
        self.window(address, PAGE_SIZE, access)?;
        Ok(address)
    }

    /// The second page of two, which was written to and then cut off its area.
    fn cut(self) -> Result<u64, ErrorCode> {
        let area = call::area_create(2 * PAGE_SIZE)?;
        let address = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
        self.window(address, 2 * PAGE_SIZE, Some(READ_WRITE))?;
        write(address + PAGE_SIZE, 1);
        // SAFETY: nothing relies on the page.
        unsafe { call::area_resize(area, PAGE_SIZE)? };
        Ok(address + PAGE_SIZE)
    }
}

/// Executes `code` after what is in brackets, and records the address of its first instruction.
macro_rules! at {
    ($recorder:expr, [$($before:literal),*], [$($code:literal),+] $(, $($operands:tt)*)?) => {
        // SAFETY: the program ends by it, or it changes nothing that the program relies on; else the failure is found.
        unsafe {
            asm!(
                "lea r9, [rip + 55f]",
                "mov [r8 + 8], r9",
                $($before,)*
                "55:",
                $($code,)+
                in("r8") $recorder.0,
                $($($operands)*,)?
                clobber_abi("C"),
            )
        }
    };
}

/// Counts for as long as it lives.
pub(crate) fn stand_by(start: &StartInformation) -> u32 {
    let Ok(recorder) = Recorder::new(start) else { return program_status::FAILURE };
    for count in 1.. {
        write(recorder.0 + PAGE_SIZE, count);
        if call::thread_sleep(200).is_err() {
            break;
        }
    }
    program_status::FAILURE
}

/// Makes a fault, and gives the status to exit with.
pub(crate) fn make(fault: Fault, start: &StartInformation) -> u32 {
    let made = Recorder::new(start).and_then(|recorder| match fault.outcome() {
        Outcome::GoesOn | Outcome::GoesOnOrKilled { .. } => goes_on(fault, start, recorder),
        Outcome::Killed { .. } => {
            if !accesses(fault, start, recorder)? && !raises(fault, recorder) && !privileged(fault, recorder) {
                selectors(fault, recorder);
            }
            Ok(false)
        }
    });
    match made {
        Ok(true) => program_status::SUCCESS,
        Ok(false) => {
            say!("check: {}: it was not as it had to be", fault.name());
            program_status::FAILURE
        }
        Err(error) => {
            say!("check: {} could not be tried: {error}", fault.name());
            program_status::FAILURE
        }
    }
}

fn read_at(recorder: Recorder, address: u64) {
    recorder.address(address);
    at!(recorder, [], ["mov al, [rcx]"], in("rcx") address);
}

fn write_at(recorder: Recorder, address: u64) {
    recorder.address(address);
    at!(recorder, [], ["mov byte ptr [rcx], 0xc3"], in("rcx") address);
}

fn execute_at(recorder: Recorder, address: u64) {
    recorder.address(address);
    at!(recorder, [], ["call rcx"], in("rcx") address);
}

/// Accesses that are refused. False for what is none.
fn accesses(fault: Fault, start: &StartInformation, recorder: Recorder) -> Result<bool, ErrorCode> {
    let [kernel, ..] = start.kernel;
    let text = make as *const () as u64;
    let constants = (&raw const CONSTANTS) as u64;
    let mut local = [RETURN; 16];
    let on_stack = black_box(&raw mut local) as u64;
    match fault {
        Fault::ReadNull => read_at(recorder, 0x10),
        Fault::WriteNull => write_at(recorder, 0),
        Fault::ExecuteNull => execute_at(recorder, 0),
        Fault::ReadNothing => read_at(recorder, nothing(recorder)?),
        Fault::WriteNothing => write_at(recorder, nothing(recorder)?),
        Fault::ExecuteNothing => execute_at(recorder, nothing(recorder)?),
        Fault::StraddleEnd => {
            let end = nothing(recorder)?;
            recorder.address(end);
            at!(recorder, [], ["mov [rcx], rcx"], in("rcx") end - 4);
        }
        Fault::ReadUnmapped | Fault::WriteUnmapped => {
            let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
            write(address, 1);
            unmap(address, PAGE_SIZE)?;
            if fault == Fault::ReadUnmapped { read_at(recorder, address) } else { write_at(recorder, address) }
        }
        Fault::ReadLastPage => read_at(recorder, refkernel_runtime::USER_END + 8),
        Fault::OverflowStack => {
            at!(recorder, ["77:", "lea r9, [rsp - 8]", "mov [r8], r9"], ["push rax", "jmp 77b"]);
        }
        Fault::ReadGuard => {
            for page in 0.. {
                read_at(recorder, (on_stack & !(PAGE_SIZE - 1)) - page * PAGE_SIZE);
            }
        }
        // What the program was started with lies at the stack's top.
        Fault::OverflowUpwards => write_at(recorder, ((&raw const *start) as u64 | (PAGE_SIZE - 1)) + 1),
        Fault::WriteText => write_at(recorder, text),
        Fault::WriteConstants => write_at(recorder, constants),
        Fault::WriteReadOnly => write_at(recorder, recorder.area(1, Access::READ)?),
        Fault::WriteProtected => write_at(recorder, recorder.protected(Some(Access::READ))?),
        Fault::WriteSealed => {
            let address = recorder.protected(Some(Access::READ))?;
            call::area_seal(address, PAGE_SIZE)?;
            write_at(recorder, address);
        }
        Fault::WriteDevice => {
            let area = call::physical_area(start.physical, TIMER, PAGE_SIZE, Caching::Uncached)?;
            let address = call::area_map(area, 0, 0, PAGE_SIZE, Access::READ)?;
            recorder.window(address, PAGE_SIZE, Some(Access::READ))?;
            write_at(recorder, address);
        }
        Fault::ReadForbidden => read_at(recorder, recorder.protected(None)?),
        Fault::WriteForbidden => write_at(recorder, recorder.protected(None)?),
        Fault::ExecuteConstants => execute_at(recorder, constants),
        Fault::ExecuteData => execute_at(recorder, (&raw mut DATA) as u64),
        Fault::ExecuteStack => execute_at(recorder, on_stack),
        Fault::ExecuteArea => {
            let address = recorder.area(1, READ_WRITE)?;
            write(address, u64::from_ne_bytes([RETURN; 8]));
            execute_at(recorder, address);
        }
        Fault::ReadPastCut => read_at(recorder, recorder.cut()?),
        Fault::WritePastCut => write_at(recorder, recorder.cut()?),
        Fault::ReadKernel => read_at(recorder, kernel),
        Fault::WriteKernel => write_at(recorder, kernel),
        Fault::ExecuteKernel => execute_at(recorder, kernel),
        Fault::ReadKernelHole => read_at(recorder, 0xffff_8000_0000_0000),
        Fault::PushKernel => {
            recorder.address(kernel);
            at!(recorder, ["mov rsp, rcx"], ["push rax"], in("rcx") kernel + 8);
        }
        Fault::ReadNonCanonical => read_at(recorder, NOWHERE),
        Fault::WriteNonCanonical => write_at(recorder, NOWHERE),
        Fault::CopyNonCanonical => {
            recorder.address(NOWHERE);
            at!(recorder, [], ["rep movsb"], in("rcx") 1_u64, in("rsi") NOWHERE, in("rdi") on_stack);
        }
        Fault::PushNonCanonical => {
            recorder.address(NOWHERE);
            at!(recorder, ["mov rsp, rcx"], ["push rax"], in("rcx") NOWHERE + 8);
        }
        Fault::FrameNonCanonical => {
            recorder.address(NOWHERE);
            at!(recorder, ["mov rbp, rcx"], ["mov rax, [rbp]"], in("rcx") NOWHERE);
        }
        Fault::JumpNonCanonical => {
            recorder.address(NOWHERE);
            at!(recorder, [], ["jmp rcx"], in("rcx") NOWHERE);
        }
        Fault::ReturnNonCanonical => {
            recorder.address(NOWHERE);
            at!(recorder, ["push rcx"], ["ret"], in("rcx") NOWHERE);
        }
        Fault::Misaligned => {
            let address = recorder.address(recorder.area(1, READ_WRITE)? + 8);
            at!(recorder, [], ["movaps xmm0, [rcx]"], in("rcx") address);
        }
        Fault::InThread => {
            let area = call::area_create(4 * PAGE_SIZE)?;
            let bottom = call::area_map(area, 0, 0, 4 * PAGE_SIZE, READ_WRITE)?;
            recorder.window(bottom, 4 * PAGE_SIZE, Some(READ_WRITE))?;
            // SAFETY: the stack is the thread's alone.
            unsafe { call::thread_start(read_null, bottom + 4 * PAGE_SIZE, recorder.0)? };
            call::thread_sleep(60_000_000)?;
        }
        Fault::OutOfMemory => {
            const PAGES: u64 = (64 << 30) / PAGE_SIZE;
            let address = recorder.area(PAGES, READ_WRITE)?;
            for page in 0..PAGES {
                write_at(recorder, address + page * PAGE_SIZE);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

extern "C" fn read_null(recorder: u64) -> ! {
    read_at(Recorder(recorder), 0x10);
    call::thread_exit()
}

/// The end of a window behind which there is nothing.
fn nothing(recorder: Recorder) -> Result<u64, ErrorCode> {
    let address = call::area_create_and_map(2 * PAGE_SIZE, 0, READ_WRITE)?;
    unmap(address + PAGE_SIZE, PAGE_SIZE)?;
    recorder.window(address, PAGE_SIZE, Some(READ_WRITE))?;
    Ok(address + PAGE_SIZE)
}

/// Exceptions other than those of memory and protection. False for what is none.
fn raises(fault: Fault, recorder: Recorder) -> bool {
    const NULL: u64 = SystemCall::Null.number();
    match fault {
        Fault::DivideByZero => at!(recorder, [], ["div ecx"], in("rcx") 0_u64, in("rax") 1_u64, in("rdx") 0_u64),
        Fault::DivideOverflow => {
            at!(recorder, [], ["idiv ecx"], in("rcx") u64::MAX, in("rax") 0x8000_0000_u64, in("rdx") 0xffff_ffff_u64);
        }
        Fault::SingleStep => at!(recorder, ["pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop"], ["nop"]),
        Fault::StepIntoCall => {
            // The other place is one instruction further.
            at!(
                recorder,
                ["lea r9, [rip + 56f]", "mov [r8], r9", "pushfq", "or dword ptr [rsp], 0x100", "popfq", "syscall"],
                ["nop", "56:", "nop", "nop"],
                in("rax") NULL
            );
        }
        Fault::StepStackSwitch => {
            at!(
                recorder,
                [
                    "lea r9, [rip + 56f]", "mov [r8], r9", "mov ecx, ss", "pushfq", "or dword ptr [rsp], 0x100", "mov ss, ecx", "popfq",
                    "mov ss, ecx", "syscall"
                ],
                ["nop", "56:", "nop", "nop"],
                in("rax") NULL
            );
        }
        Fault::Breakpoint => at!(recorder, ["int3"], ["nop"]),
        Fault::Unreachable => at!(recorder, [], ["ud2"]),
        Fault::Into => at!(recorder, [], [".byte 0xce"]),
        Fault::Bound => at!(recorder, [], [".byte 0x62, 0x00, 0x00, 0x00, 0x00, 0x00"]),
        Fault::Avx => at!(recorder, [], ["vaddps ymm0, ymm0, ymm0"]),
        Fault::ReadSegmentBase => at!(recorder, [], ["rdfsbase rax"]),
        Fault::ReadExtendedControl => at!(recorder, [], ["xgetbv"], in("rcx") 0_u64),
        Fault::ClearAccessCheck => at!(recorder, [], ["clac"]),
        Fault::X87Division => {
            // The control word that the program starts with, but for the mask of divisions by zero.
            at!(recorder, ["push 0x37b", "fldcw [rsp]", "pop rax", "fld1", "fldz", "fdivp st(1), st"], ["fwait"]);
        }
        Fault::X87Invalid => {
            at!(recorder, ["push 0x37e", "fldcw [rsp]", "pop rax", "fld1", "fchs", "fsqrt"], ["fwait"]);
        }
        Fault::SimdDivision => {
            at!(
                recorder,
                [
                    "push 0x1d80",
                    "ldmxcsr [rsp]",
                    "pop rax",
                    "mov eax, 0x3f800000",
                    "movd xmm0, eax",
                    "xorps xmm1, xmm1"
                ],
                ["divss xmm0, xmm1"]
            );
        }
        Fault::SystemEnter => at!(recorder, [], ["sysenter"]),
        Fault::TooLong => at!(
            recorder,
            [],
            [".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90"]
        ),
        _ => return false,
    }
    true
}

/// Instructions of the kernel's. False for what is none.
fn privileged(fault: Fault, recorder: Recorder) -> bool {
    let room = [0_u64; 4];
    let memory = black_box(&raw const room) as u64;
    match fault {
        Fault::DisableInterrupts => at!(recorder, [], ["cli"]),
        Fault::EnableInterrupts => at!(recorder, [], ["sti"]),
        Fault::Halt => at!(recorder, [], ["hlt"]),
        Fault::InputByte => at!(recorder, [], ["in al, dx"], in("rdx") 0x80_u64),
        Fault::OutputByte => at!(recorder, [], ["out 0x80, al"], in("rax") 0_u64),
        Fault::OutputString => at!(recorder, [], ["rep outsb"], in("rdx") 0x80_u64, in("rcx") 1_u64, in("rsi") memory),
        Fault::ReadModelRegister => at!(recorder, [], ["rdmsr"], in("rcx") 0xc000_0080_u64),
        Fault::WriteModelRegister => {
            at!(recorder, [], ["wrmsr"], in("rcx") 0xc000_0082_u64, in("rax") 0_u64, in("rdx") 0_u64);
        }
        Fault::ReadControl => at!(recorder, [], ["mov rax, cr0"]),
        Fault::WriteControl => at!(recorder, [], ["mov cr3, rax"], in("rax") 0_u64),
        Fault::WriteDebug => at!(recorder, [], ["mov dr7, rax"], in("rax") 0_u64),
        Fault::LoadDescriptorTable => at!(recorder, [], ["lgdt [rcx]"], in("rcx") memory),
        Fault::LoadInterruptTable => at!(recorder, [], ["lidt [rcx]"], in("rcx") memory),
        Fault::LoadLocalTable => at!(recorder, [], ["lldt cx"], in("rcx") 0_u64),
        Fault::LoadTask => at!(recorder, [], ["ltr cx"], in("rcx") 0_u64),
        Fault::InvalidatePage => at!(recorder, [], ["invlpg [rcx]"], in("rcx") memory),
        Fault::WriteBackCaches => at!(recorder, [], ["wbinvd"]),
        Fault::ClearTaskSwitched => at!(recorder, [], ["clts"]),
        Fault::SwapBase => at!(recorder, [], ["swapgs"]),
        Fault::ReturnFromCall => at!(recorder, [], ["sysretq"], in("rcx") 0_u64),
        Fault::ReadCounter => at!(recorder, [], ["rdpmc"], in("rcx") 0_u64),
        Fault::StoreDescriptorTable => at!(recorder, [], ["sgdt [rcx]"], in("rcx") memory),
        Fault::StoreInterruptTable => at!(recorder, [], ["sidt [rcx]"], in("rcx") memory),
        Fault::StoreLocalTable => at!(recorder, [], ["sldt ax"]),
        Fault::StoreTask => at!(recorder, [], ["str ax"]),
        Fault::StoreMachineStatus => at!(recorder, [], ["smsw ax"]),
        _ => return false,
    }
    true
}

/// Interrupts and segments that programs do not have.
fn selectors(fault: Fault, recorder: Recorder) {
    match fault {
        Fault::InterruptLinux => at!(recorder, [], ["int 0x80"]),
        Fault::InterruptPageFault => at!(recorder, [], ["int 14"]),
        Fault::InterruptNonMaskable => at!(recorder, [], ["int 2"]),
        Fault::InterruptDoubleFault => at!(recorder, [], ["int 8"]),
        Fault::InterruptOverflow => at!(recorder, [], ["int 4"]),
        Fault::InterruptAbsent => at!(recorder, [], ["int 9"]),
        Fault::InterruptTimer => at!(recorder, [], ["int 32"]),
        Fault::InterruptLast => at!(recorder, [], ["int 255"]),
        Fault::LoadKernelSelector => at!(recorder, [], ["mov ds, ecx"], in("rcx") 0x10_u64),
        Fault::LoadLocalSelector => at!(recorder, [], ["mov ds, ecx"], in("rcx") 7_u64),
        Fault::LoadAbsentSelector => at!(recorder, [], ["mov ds, ecx"], in("rcx") 0xfffb_u64),
        Fault::LoadNullStack => at!(recorder, [], ["mov ss, ecx"], in("rcx") 0_u64),
        Fault::JumpToKernelSegment => {
            // The offset and the selector.
            let target = [0_u64, 8];
            at!(recorder, [], ["rex64 jmp fword ptr [rcx]"], in("rcx") black_box(&raw const target));
        }
        Fault::ReturnToKernelSegment => {
            at!(
                recorder,
                ["mov rax, rsp", "push 0x10", "push rax", "push 2", "push 8", "lea rax, [rip + 55f]", "push rax"],
                ["iretq"]
            );
        }
        Fault::ReturnNested => {
            at!(
                recorder,
                [
                    "mov rax, rsp",
                    "mov ecx, ss",
                    "push rcx",
                    "push rax",
                    "push 2",
                    "mov ecx, cs",
                    "push rcx",
                    "lea rax, [rip + 55f]",
                    "push rax",
                    "pushfq",
                    "or dword ptr [rsp], 0x4000",
                    "popfq"
                ],
                ["iretq"]
            );
        }
        other => say!("check: nothing is known of {}", other.name()),
    }
}

/// What is answered, or an error: whether all was as it must be.
fn goes_on(fault: Fault, start: &StartInformation, recorder: Recorder) -> Result<bool, ErrorCode> {
    let own_data = (&raw mut DATA) as u64;
    let here = black_box(&raw const fault) as u64 & !(PAGE_SIZE - 1);
    Ok(match fault {
        Fault::WriteFresh => {
            let address = call::area_create_and_map(2 * PAGE_SIZE, 0, READ_WRITE)?;
            let across = address + PAGE_SIZE - 4;
            unaligned(across, NOWHERE) == NOWHERE && read(address) == 0
        }
        Fault::ReadFresh => {
            let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
            let zero = read(address) == 0;
            write(address, NOWHERE);
            zero && read(address) == NOWHERE && read(address + 8) == 0
        }
        Fault::WriteData => {
            let before = read(own_data);
            write(own_data, !before);
            read(own_data) == !before && before == u64::from_ne_bytes([RETURN; 8])
        }
        Fault::GrowStack => (2..32).all(|page| {
            let place = here - page * PAGE_SIZE;
            let zero = read(place) == 0;
            write(place, page);
            zero && read(place) == page
        }),
        Fault::CopyOnWrite => {
            write(own_data, 1);
            let top = stack()?;
            // SAFETY: the stack is the copy's alone.
            let copy = unsafe { call::process_clone(write_data, top, own_data)? };
            write(own_data + 8, 2);
            call::process_wait(copy)? == 0 && read(own_data) == 1 && read(own_data + 8) == 2
        }
        Fault::Straddle => {
            let address = call::area_create_and_map(2 * PAGE_SIZE, 0, READ_WRITE)?;
            unmap(address + PAGE_SIZE, PAGE_SIZE)?;
            let other = call::area_create(PAGE_SIZE)?;
            call::area_map(other, address + PAGE_SIZE, 0, PAGE_SIZE, READ_WRITE)?;
            unaligned(address + PAGE_SIZE - 4, NOWHERE) == NOWHERE
        }
        Fault::Swappable => {
            let area = call::area_create_swappable(4 * PAGE_SIZE)?;
            let address = call::area_map(area, 0, 0, 4 * PAGE_SIZE, READ_WRITE)?;
            (0..4).all(|page| {
                let place = address + page * PAGE_SIZE;
                let zero = read(place) == 0;
                write(place, NOWHERE);
                zero && read(place) == NOWHERE
            })
        }
        Fault::MaskedExceptions => {
            at!(recorder, ["fld1", "fldz", "fdivp st(1), st"], ["fwait"]);
            at!(recorder, ["mov eax, 0x3f800000", "movd xmm0, eax", "xorps xmm1, xmm1"], ["divss xmm0, xmm1"]);
            true
        }
        Fault::AlignmentFlag => {
            let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
            at!(
                recorder,
                ["pushfq", "pushfq", "or dword ptr [rsp], 0x40000", "popfq"],
                ["mov [rcx + 1], rdx", "popfq"],
                in("rcx") address, in("rdx") NOWHERE
            );
            unaligned_read(address + 1) == NOWHERE
        }
        Fault::PrivilegedFlags => {
            let flags: u64;
            // SAFETY: the privilege level of I/O and the interrupt flag are not changed by it, or the failure is found.
            unsafe {
                asm!(
                    "pushfq", "pushfq", "or dword ptr [rsp], 0x3000", "and dword ptr [rsp], 0xfffffdff", "popfq", "pushfq", "pop {flags}",
                    "popfq", flags = out(reg) flags
                );
            }
            flags & 0x3200 == 0x200
        }
        Fault::UnknownCall => {
            [SystemCall::ALL.len() as u64, 0xffff, 1 << 32, 1 << 63, u64::MAX].into_iter().all(|number| {
                // SAFETY: a number of no call.
                decode_result(unsafe { call::raw(number, [u64::MAX; 6]) }) == Err(UnknownCall)
            })
        }
        Fault::CallFlags => {
            let before: u64;
            // SAFETY: the null call changes nothing, and the flags are as they were afterwards.
            unsafe {
                asm!(
                    "pushfq", "pushfq", "or dword ptr [rsp], 0x44400", "popfq", "syscall", "pushfq", "pop r12", "popfq",
                    inlateout("rax") SystemCall::Null.number() => _, out("r12") before, clobber_abi("C")
                );
            }
            before & 0x44400 == 0x44400
        }
        Fault::PointerNull => refused(0x10, true, true)?,
        Fault::PointerGuard => {
            // The first page below that is neither read nor a window's.
            let top = ((&raw const *start) as u64 | (PAGE_SIZE - 1)) + 1;
            (1..80).map(|page| top - page * PAGE_SIZE).any(|page| refused(page, true, true).unwrap_or(false))
        }
        Fault::PointerForbidden => refused(recorder.protected(None)?, true, true)?,
        Fault::PointerCut => refused(recorder.cut()?, true, true)?,
        Fault::PointerUnmapped => refused(nothing(recorder)?, true, true)?,
        Fault::PointerKernel => start.kernel.iter().all(|address| refused(*address, true, true).unwrap_or(false)),
        Fault::PointerNonCanonical => refused(NOWHERE, true, true)?,
        Fault::PointerWrapping => refused(u64::MAX, true, true)?,
        Fault::PointerReadOnly => {
            let address = recorder.protected(Some(Access::READ))?;
            refused(address, false, true)? && read(address) == 1
        }
        Fault::ReturnToSelf => {
            at!(
                recorder,
                [
                    "mov rax, rsp",
                    "mov ecx, ss",
                    "push rcx",
                    "push rax",
                    "pushfq",
                    "mov ecx, cs",
                    "push rcx",
                    "lea rax, [rip + 56f]",
                    "push rax",
                    "mov [r8], rsp"
                ],
                ["iretq", "56:", "nop"]
            );
            true
        }
        Fault::InCopy => {
            write(own_data, 3);
            let top = stack()?;
            // SAFETY: the stack is the copy's alone.
            let copy = unsafe { call::process_clone(read_null, top, recorder.0)? };
            call::process_wait(copy)? == KILLED && read(own_data) == 3
        }
        _ => false,
    })
}

/// Writes a word and reads it, wherever it lies.
fn unaligned(address: u64, value: u64) -> u64 {
    // SAFETY: the callers have mapped it to be written.
    unsafe { (address as *mut u64).write_unaligned(value) };
    unaligned_read(address)
}

fn unaligned_read(address: u64) -> u64 {
    // SAFETY: as above.
    unsafe { (black_box(address) as *const u64).read_unaligned() }
}

extern "C" fn write_data(place: u64) -> ! {
    let before = read(place);
    write(place, 7);
    call::exit(u32::from(before != 1 || read(place) != 7))
}

static ROOM: AtomicU64 = AtomicU64::new(0);

/// Whether the kernel refuses to read and to write eight bytes at an address, as the program asks it to.
fn refused(address: u64, reads: bool, writes: bool) -> Result<bool, ErrorCode> {
    let [one, two] = call::channel_create()?;
    call::channel_send(one, b"a letter", &[])?;
    let room = ROOM.as_ptr() as u64;
    let ask = |call: SystemCall, arguments| {
        // SAFETY: it is refused, or goes to a place that nothing relies on, and the failure is found.
        decode_result(unsafe { call::raw(call.number(), arguments) })
    };
    let sent = ask(SystemCall::ChannelSend, [one.0, address, 8, 0, 0, 0]);
    let received = ask(SystemCall::ChannelReceive, [two.0, address, 8, room, 0, 0]);
    ROOM.fetch_add(1, Ordering::Relaxed);
    let close = |handle: Handle| call::handle_close(handle);
    close(one)?;
    close(two)?;
    Ok((!reads || sent == Err(BadPointer)) && (!writes || received == Err(BadPointer)))
}
