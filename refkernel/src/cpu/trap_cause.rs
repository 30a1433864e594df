//! Why a program's trap happened, as far as that can be told: the processor gives a number and an error code, the program's author wants to know which operand was wrong.

use super::trap::TrapFrame;
use super::user_copy::copy_from_user;
use core::fmt;
use refkernel::instruction::{self, LENGTH_MAX, Meaning, Registers};
use refkernel_abi::PAGE_SIZE;

/// What can be told of a trap besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrapCause {
    /// The trap's name says all.
    Plain(&'static str),
    /// What the instruction was about.
    Instruction(Meaning),
    /// Exceptions of the x87 unit that happened and are not masked: bits 0 to 5 of the status word (Intel SDM Vol. 1, 8.1.3).
    X87(u8),
    /// The same of SSE, in MXCSR (10.2.3).
    Simd(u8),
}

impl TrapCause {
    /// Finds it out. Reads the program's memory, so no lock may be held that a page fault takes.
    #[cold]
    #[inline(never)]
    pub(crate) fn of(frame: &TrapFrame) -> Self {
        let word = |at: usize| {
            let bytes = frame.sse.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_le_bytes(bytes.unwrap_or_default())
        };
        match frame.vector {
            0 => Self::Plain("the divisor is zero, or the quotient has no room in its register"),
            1 => Self::Plain("the trap flag is set, and nobody steps through programs here"),
            3 => Self::Plain("a breakpoint, and nobody debugs programs here"),
            6 => match instruction::invalid_opcode(code(frame.rip).as_ref()) {
                Meaning::Unknown => {
                    Self::Plain("the processor has no such instruction, or the kernel has it turned off")
                }
                meaning => Self::Instruction(meaning),
            },
            10..=13 => {
                let registers = Registers {
                    general: [
                        frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rsp, frame.rbp, frame.rsi, frame.rdi,
                        frame.r8, frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
                    ],
                    rip: frame.rip,
                };
                let read = |address| {
                    let mut word = [0; 8];
                    copy_from_user(&mut word, address).ok().map(|()| u64::from_le_bytes(word))
                };
                let code = code(frame.rip);
                Self::Instruction(instruction::protection_fault(frame.error, code.as_ref(), &registers, &read))
            }
            // The control word and the status word are the first two of the area: masks and flags in the same order.
            16 => Self::X87((word(0) >> 16 & !word(0) & 0x3f) as u8),
            17 => Self::Plain("the operand is not aligned, and the program has set the flag that asks for it"),
            // Flags in bits 0 to 5, masks in bits 7 to 12.
            19 => Self::Simd((word(24) & !(word(24) >> 7) & 0x3f) as u8),
            _ => Self::Plain("the processor does not say why"),
        }
    }

    /// The address that the instruction accessed, if that is what was wrong.
    pub(crate) const fn address(self) -> Option<u64> {
        match self {
            Self::Instruction(meaning) => meaning.address(),
            _ => None,
        }
    }
}

/// The bytes of an instruction, as many as can be read.
struct Code([u8; LENGTH_MAX], usize);

impl AsRef<[u8]> for Code {
    fn as_ref(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

fn code(rip: u64) -> Code {
    let mut code = Code([0; LENGTH_MAX], 0);
    // What is on the next page may not be there.
    let first = ((PAGE_SIZE - rip % PAGE_SIZE) as usize).min(LENGTH_MAX);
    for length in [first, LENGTH_MAX] {
        let Some(part) = code.0.get_mut(code.1..length) else { break };
        if copy_from_user(part, rip.wrapping_add(code.1 as u64)).is_err() {
            break;
        }
        code.1 = length;
    }
    code
}

/// What bits 0 to 5 are called.
const EXCEPTIONS: [&str; 6] = [
    "an invalid operation",
    "a denormal operand",
    "a division by zero",
    "an overflow",
    "an underflow",
    "a rounded result",
];

impl fmt::Display for TrapCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, flags) = match self {
            Self::Plain(words) => return formatter.write_str(words),
            Self::Instruction(meaning) => return meaning.fmt(formatter),
            Self::X87(flags) => ("x87", flags),
            Self::Simd(flags) => ("SSE", flags),
        };
        write!(formatter, "the program has asked {unit} for an exception, and there was ")?;
        let there = EXCEPTIONS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 != 0);
        let mut any = false;
        for (_, name) in there {
            write!(formatter, "{}{name}", if any { " and " } else { "" })?;
            any = true;
        }
        if any { Ok(()) } else { formatter.write_str("one that is not there any more") }
    }
}
