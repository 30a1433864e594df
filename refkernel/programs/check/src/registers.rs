//! What page faults and system calls leave in a program's registers.
//!
//! A fault must be invisible: every register afterwards is what it was before. A system call changes what the contract names and
//! nothing else, and clears the SSE registers, so that nothing of the kernel leaks through them.

use core::arch::{asm, naked_asm};

use refkernel_runtime::{PAGE_SIZE, SystemCall, USER_END, call, console, say};

use crate::READ_WRITE;
use crate::report::Report;

/// Registers that are loaded before, and stored after.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Registers {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    general: [u64; 15],
    /// MXCSR in the low half, the x87 control word in the high half.
    control: u64,
    sse: [[u64; 2]; 16],
    /// The x87 stack's top.
    x87: u64,
    padding: u64,
}

/// The place of each general register in [`Registers::general`].
const RAX: usize = 0;
const RCX: usize = 2;
const R11: usize = 10;

/// Rounding towards zero (bits 13 and 14) with every exception masked: not what a kernel would set.
const MXCSR: u64 = 0x7f80;
/// Rounding down (bit 10), double precision (bit 9), every exception masked: not the default 0x37f.
const X87_CONTROL: u64 = 0x067f;

impl Registers {
    fn pattern(seed: u64) -> Self {
        let mut word = seed;
        let mut next = || {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word
        };
        Self {
            general: [(); 15].map(|()| next()),
            control: MXCSR | X87_CONTROL << 32,
            sse: [(); 16].map(|()| [next(), next()]),
            // An integer that a double holds exactly.
            x87: 0x0012_3456_789a_bcde,
            padding: 0,
        }
    }
}

/// Loads every register from `[rdi]`, but not `rax`, which is taken from there by the code in between if it wants it.
macro_rules! load {
    () => {
        concat!(
            "ldmxcsr [rdi + 120]\n",
            "fninit\n",
            "fldcw [rdi + 124]\n",
            "fild qword ptr [rdi + 384]\n",
            "movdqa xmm0, [rdi + 128]\n",
            "movdqa xmm1, [rdi + 144]\n",
            "movdqa xmm2, [rdi + 160]\n",
            "movdqa xmm3, [rdi + 176]\n",
            "movdqa xmm4, [rdi + 192]\n",
            "movdqa xmm5, [rdi + 208]\n",
            "movdqa xmm6, [rdi + 224]\n",
            "movdqa xmm7, [rdi + 240]\n",
            "movdqa xmm8, [rdi + 256]\n",
            "movdqa xmm9, [rdi + 272]\n",
            "movdqa xmm10, [rdi + 288]\n",
            "movdqa xmm11, [rdi + 304]\n",
            "movdqa xmm12, [rdi + 320]\n",
            "movdqa xmm13, [rdi + 336]\n",
            "movdqa xmm14, [rdi + 352]\n",
            "movdqa xmm15, [rdi + 368]\n",
            "mov rax, [rdi + 0]\n",
            "mov rbx, [rdi + 8]\n",
            "mov rcx, [rdi + 16]\n",
            "mov rdx, [rdi + 24]\n",
            "mov rsi, [rdi + 32]\n",
            "mov rbp, [rdi + 48]\n",
            "mov r8, [rdi + 56]\n",
            "mov r9, [rdi + 64]\n",
            "mov r10, [rdi + 72]\n",
            "mov r11, [rdi + 80]\n",
            "mov r12, [rdi + 88]\n",
            "mov r13, [rdi + 96]\n",
            "mov r14, [rdi + 104]\n",
            "mov r15, [rdi + 112]\n",
            "mov rdi, [rdi + 40]\n",
        )
    };
}

/// Stores every register to the address that lies at the stack's top.
macro_rules! store {
    () => {
        concat!(
            "xchg rdi, [rsp]\n",
            "mov [rdi + 0], rax\n",
            "mov [rdi + 8], rbx\n",
            "mov [rdi + 16], rcx\n",
            "mov [rdi + 24], rdx\n",
            "mov [rdi + 32], rsi\n",
            "mov [rdi + 48], rbp\n",
            "mov [rdi + 56], r8\n",
            "mov [rdi + 64], r9\n",
            "mov [rdi + 72], r10\n",
            "mov [rdi + 80], r11\n",
            "mov [rdi + 88], r12\n",
            "mov [rdi + 96], r13\n",
            "mov [rdi + 104], r14\n",
            "mov [rdi + 112], r15\n",
            "mov rax, [rsp]\n",
            "mov [rdi + 40], rax\n",
            "stmxcsr [rdi + 120]\n",
            "fnstcw [rdi + 124]\n",
            "mov word ptr [rdi + 126], 0\n",
            "fistp qword ptr [rdi + 384]\n",
            "movdqa [rdi + 128], xmm0\n",
            "movdqa [rdi + 144], xmm1\n",
            "movdqa [rdi + 160], xmm2\n",
            "movdqa [rdi + 176], xmm3\n",
            "movdqa [rdi + 192], xmm4\n",
            "movdqa [rdi + 208], xmm5\n",
            "movdqa [rdi + 224], xmm6\n",
            "movdqa [rdi + 240], xmm7\n",
            "movdqa [rdi + 256], xmm8\n",
            "movdqa [rdi + 272], xmm9\n",
            "movdqa [rdi + 288], xmm10\n",
            "movdqa [rdi + 304], xmm11\n",
            "movdqa [rdi + 320], xmm12\n",
            "movdqa [rdi + 336], xmm13\n",
            "movdqa [rdi + 352], xmm14\n",
            "movdqa [rdi + 368], xmm15\n",
            // What the C ABI wants on return.
            "fninit\n",
            "push 0x1f80\n",
            "ldmxcsr [rsp]\n",
            "add rsp, 8\n",
        )
    };
}

/// Keeps what the C ABI wants kept, and makes the stack's top the address of `after`.
macro_rules! enter {
    () => {
        "push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15\n push rsi\n"
    };
}

macro_rules! leave {
    () => {
        "add rsp, 8\n pop r15\n pop r14\n pop r13\n pop r12\n pop rbp\n pop rbx\n ret\n"
    };
}

/// Loads `before`, adds `before.rax` to the first word of each of `before.rcx` pages from `before.rdi` on, and stores to `after`. The loop
/// moves rcx and rdi; everything else should stay.
#[unsafe(naked)]
unsafe extern "C" fn across_faults(before: *const Registers, after: *mut Registers) {
    naked_asm!(enter!(), load!(), "2:", "add [rdi], rax", "add rdi, 4096", "dec rcx", "jnz 2b", store!(), leave!(),)
}

/// Loads `before`, makes the system call that `before.rax` names, and stores to `after`.
#[unsafe(naked)]
unsafe extern "C" fn across_call(before: *const Registers, after: *mut Registers) {
    naked_asm!(enter!(), load!(), "syscall", store!(), leave!())
}

pub(crate) fn check(report: &mut Report) {
    faults(report);
    calls(report);
    flags(report);
    stack_pointer(report);
}

fn faults(report: &mut Report) {
    const PAGES: u64 = 32;
    const RDI: usize = 5;
    let Some(area) = report.done("create an area", call::area_create(PAGES * PAGE_SIZE)) else {
        return;
    };
    let mapped = call::area_map(area, 0, 0, PAGES * PAGE_SIZE, READ_WRITE);
    let Some(address) = report.done("map it", mapped) else {
        return;
    };
    let mut before = Registers::pattern(1);
    before.general[RCX] = PAGES;
    before.general[RDI] = address;
    let mut after = Registers::pattern(2);
    // SAFETY: both structures outlive the call, which writes `after` and the pages that were just mapped, and keeps to the C ABI.
    unsafe { across_faults(&raw const before, &raw mut after) };

    let mut expected = before;
    expected.general[RCX] = 0;
    expected.general[RDI] = address + PAGES * PAGE_SIZE;
    report.check("page faults keep the general registers", after.general == expected.general);
    report.check("page faults keep xmm0 to xmm15", after.sse == expected.sse);
    report.check("page faults keep MXCSR and the x87 control word", after.control == expected.control);
    report.check("page faults keep the x87 stack", after.x87 == expected.x87);
    for page in 0..PAGES {
        // SAFETY: the page is mapped, and nothing else uses it.
        let word = unsafe { ((address + page * PAGE_SIZE) as *const u64).read_volatile() };
        report.check("the faulting addition was done once", word == before.general[RAX]);
    }
    // SAFETY: the window is not used any more.
    report.done("unmap it", unsafe { call::area_unmap(address, PAGES * PAGE_SIZE) });
    report.done("close it", call::handle_close(area));
}

fn calls(report: &mut Report) {
    // A call that does nothing, and a number that is none: both ways through the kernel.
    for (number, name) in [(SystemCall::Null.number(), "null"), (1 << 40, "unknown")] {
        let mut before = Registers::pattern(3);
        before.general[RAX] = number;
        let mut after = Registers::pattern(4);
        // SAFETY: both structures outlive the call; neither number changes any memory, and it keeps to the C ABI.
        unsafe { across_call(&raw const before, &raw mut after) };

        let mut expected = before;
        for register in [RAX, RCX, R11] {
            expected.general[register] = after.general[register];
        }
        if after.general != expected.general {
            say!("check: the {name} call changed registers:");
            for (index, (found, wanted)) in after.general.iter().zip(expected.general).enumerate() {
                if *found != wanted {
                    say!("check:   register {index}: {found:#x}, not {wanted:#x}");
                }
            }
        }
        report.check("a call keeps the general registers", after.general == expected.general);
        report.check("a call clears xmm0 to xmm15", after.sse == [[0; 2]; 16]);
        // The status bits of MXCSR may change; its controls may not.
        let controls = |registers: &Registers| registers.control & !0x3f;
        report.check("a call keeps MXCSR's controls and the x87 control word", controls(&after) == controls(&before));
        report.check("a call keeps the x87 stack", after.x87 == before.x87);
        report.check(
            "rcx and r11 hold nothing of the kernel",
            after.general[RCX] < USER_END && after.general[R11] < USER_END,
        );
    }
}

/// Flags that would upset a kernel that does not clear them: direction and alignment check.
fn flags(report: &mut Report) {
    let text = b"check: this line was written with the direction flag set\n";
    let result: u64;
    // SAFETY: the call reads `text`; the direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "syscall",
            "cld",
            inlateout("rax") SystemCall::Write.number() => result,
            in("rdi") console().0,
            in("rsi") text.as_ptr(),
            in("rdx") text.len(),
            out("rcx") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    report.check("a line is written with the direction flag set", result == text.len() as u64);

    let direction: u64;
    // SAFETY: the null call changes nothing; the flags are restored before anything else runs.
    unsafe {
        asm!(
            "pushfq",
            "pushfq",
            "or dword ptr [rsp], {direction_and_alignment}",
            "popfq",
            "syscall",
            "pushfq",
            "pop {flags}",
            "popfq",
            direction_and_alignment = const (1 << 10) | (1 << 18),
            flags = out(reg) direction,
            inlateout("rax") SystemCall::Null.number() => _,
            out("rcx") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    let set = (1 << 10) | (1 << 18);
    report.check("a call gives the flags back as they were", direction & set == set);
}

/// A stack pointer that leads nowhere must not matter to a call: the kernel has its own stack.
fn stack_pointer(report: &mut Report) {
    for (pointer, what) in [
        (0, "a call is made with a stack pointer of 0"),
        (0x8000_0000_0000_u64, "a call is made with a non-canonical stack pointer"),
        (0xffff_ffff_8000_1000, "a call is made with the stack pointer in the kernel's half"),
    ] {
        let result: u64;
        // SAFETY: the stack pointer is restored before anything uses it (no interrupt or fault of this program uses it either: the
        // kernel switches stacks); the null call changes nothing.
        unsafe {
            asm!(
                "xchg rsp, {pointer}",
                "syscall",
                "xchg rsp, {pointer}",
                pointer = inout(reg) pointer => _,
                inlateout("rax") SystemCall::Null.number() => result,
                out("rcx") _, out("r11") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        report.check(what, result == 0);
    }
}

/// Leaves a selector in every data segment register: the next program must find none of it, and the kernel must not mind.
pub(crate) fn leave_selectors(report: &mut Report) {
    let left: u64;
    // SAFETY: the stack's selector is of a segment with base zero, where addresses mean what they mean with a null selector.
    unsafe {
        asm!(
            "mov {selector:e}, ss",
            "mov ds, {selector:e}",
            "mov es, {selector:e}",
            "mov fs, {selector:e}",
            "mov gs, {selector:e}",
            selector = out(reg) left,
        );
    }
    report.check("the stack has a selector", left != 0);
    report.check("the kernel answers whatever the selectors", call::write(b"") == Ok(0));
}
