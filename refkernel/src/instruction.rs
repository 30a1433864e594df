//! What an instruction was about, for the exceptions that do not say: the processor reports a general protection fault with neither an address nor a reason, and both
//! stand in the instruction and the registers.
//!
//! ```text
//!   [legacy prefixes] [REX] opcode [ModRM] [SIB] [displacement] [immediate]        at most 15 bytes
//!                           |      |
//!                           |      mod 7..6  reg 5..3  rm 2..0
//!                           one byte, or two behind 0x0f, or three behind 0x0f 0x38 and 0x0f 0x3a
//! ```
//!
//! Intel SDM Vol. 2A, chapter 2; Vol. 2D, appendix A. Only as much is decoded as tells a program's author what went wrong: which address was accessed, and whether the
//! instruction is one that programs may not use. What is not known for certain is [`Meaning::Unknown`]: a wrong explanation is worse than none.
//!
//! Segments have no part in it: every base that a program can have is zero here, since nothing lets a program set one.

use core::fmt;

/// The most bytes that an instruction has.
pub const LENGTH_MAX: usize = 15;

/// The registers of the interrupted program, in the order of their numbers in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub general: [u64; 16],
    /// The instruction's address.
    pub rip: u64,
}

/// What an instruction was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It accesses this address, which is not canonical.
    Access(u64),
    /// It goes on at this address, which is not canonical.
    Target(u64),
    /// Its operand at this address is not aligned to 16 bytes, as it must be.
    Misaligned(u64),
    /// It is for the kernel alone.
    Privileged(&'static str),
    /// It raises this interrupt, which programs may not.
    Interrupt(u8),
    /// It names this selector, whose segment a program may not have.
    Selector(u16),
    /// It is `sysenter`, a way into the kernel that leads nowhere.
    OtherEntry,
    /// It is longer than 15 bytes.
    TooLong,
    /// It is `ud2`, which compilers put where nothing ever comes.
    Unreachable,
    /// It says nothing that would explain the exception.
    Unknown,
}

impl Meaning {
    /// The address that was accessed, if it was about one.
    #[must_use]
    pub const fn address(self) -> Option<u64> {
        match self {
            Self::Access(address) | Self::Target(address) | Self::Misaligned(address) => Some(address),
            _ => None,
        }
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(_) | Self::Target(_) => {
                formatter.write_str("there is no such address: it is not canonical (bits 63 to 47 differ)")
            }
            Self::Misaligned(_) => {
                formatter.write_str("the operand is not aligned to 16 bytes, as this instruction needs it")
            }
            Self::Privileged(name) => write!(formatter, "`{name}` is for the kernel alone"),
            Self::Interrupt(vector) => {
                write!(formatter, "no program raises interrupt {vector}: system calls are made by `syscall`")
            }
            Self::Selector(selector) => write!(formatter, "no program has the segment of selector {selector:#x}"),
            Self::OtherEntry => formatter.write_str("`sysenter` leads nowhere: system calls are made by `syscall`"),
            Self::TooLong => formatter.write_str("the instruction is longer than 15 bytes"),
            Self::Unreachable => formatter.write_str("`ud2`: the program came to where it says it never comes"),
            Self::Unknown => formatter.write_str("the instruction, with these operands and flags, is not for programs"),
        }
    }
}

/// Whether bits 63 to 47 agree.
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    (address << 16).cast_signed() >> 16 == address.cast_signed()
}

/// What a general protection fault or a stack fault with this error code was about. `bytes` are those at the instruction's address, as many as could be read; `read` reads a
/// word of the program's.
#[must_use]
pub fn protection_fault(error: u64, bytes: &[u8], registers: &Registers, read: &dyn Fn(u64) -> Option<u64>) -> Meaning {
    if !is_canonical(registers.rip) {
        return Meaning::Target(registers.rip);
    }
    // Intel SDM Vol. 3A, 7.13: a selector, or an interrupt's number where bit 1 is set.
    match (error, bytes) {
        (0, _) => {}
        // QEMU 7.2 counts entries of 16 bytes where processors count eights: the instruction says which it is.
        (_, [0xcd, vector, ..]) if error & 2 != 0 => return Meaning::Interrupt(*vector),
        _ if error & 2 != 0 => return Meaning::Interrupt((error >> 3) as u8),
        _ => return Meaning::Selector(error as u16 & !3),
    }
    let bytes = bytes.get(..LENGTH_MAX).unwrap_or(bytes);
    let whole = bytes.len() == LENGTH_MAX;
    Decoder { bytes, at: 0, registers, read, wide: false, repeat: false, short: false, rex: 0 }
        .meaning()
        // What was read to its end and does not end.
        .unwrap_or(if whole { Meaning::TooLong } else { Meaning::Unknown })
}

/// What an invalid opcode was about.
#[must_use]
pub fn invalid_opcode(bytes: &[u8]) -> Meaning {
    if bytes.starts_with(&[0x0f, 0x0b]) { Meaning::Unreachable } else { Meaning::Unknown }
}

const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

/// What reads an instruction. `None` is what comes behind its last byte.
struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    registers: &'a Registers,
    read: &'a dyn Fn(u64) -> Option<u64>,
    /// Prefix 0x66.
    wide: bool,
    /// Prefix 0xf2 or 0xf3.
    repeat: bool,
    /// Prefix 0x67: addresses have 32 bits.
    short: bool,
    rex: u8,
}

impl Decoder<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    /// A number of one or four bytes, extended by its sign.
    fn signed(&mut self, length: usize) -> Option<u64> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        match *bytes {
            [byte] => Some(i64::from(byte.cast_signed()).cast_unsigned()),
            [a, b, c, d] => Some(i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned()),
            _ => None,
        }
    }

    fn register(&self, number: usize) -> u64 {
        self.registers.general.get(number).copied().unwrap_or_default()
    }

    fn meaning(mut self) -> Option<Meaning> {
        let opcode = loop {
            let byte = self.next()?;
            match byte {
                0x66 => self.wide = true,
                0x67 => self.short = true,
                0xf2 | 0xf3 => self.repeat = true,
                0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => {}
                // The last prefix, if it is one: another prefix behind it makes it none.
                0x40..=0x4f => {
                    self.rex = byte;
                    continue;
                }
                _ => break byte,
            }
            self.rex = 0;
        };
        match opcode {
            0x0f => {
                let second = self.next()?;
                self.two_bytes(second)
            }
            0x6c | 0x6d => Some(Meaning::Privileged("ins")),
            0x6e | 0x6f => Some(Meaning::Privileged("outs")),
            0xe4 | 0xe5 | 0xec | 0xed => Some(Meaning::Privileged("in")),
            0xe6 | 0xe7 | 0xee | 0xef => Some(Meaning::Privileged("out")),
            0xf4 => Some(Meaning::Privileged("hlt")),
            0xfa => Some(Meaning::Privileged("cli")),
            0xfb => Some(Meaning::Privileged("sti")),
            // push, pop, pushf, popf, enter and leave; and calls whose target is near.
            0x50..=0x5f | 0x68 | 0x6a | 0x9c | 0x9d | 0xc8 | 0xe8 => Some(self.stack(opcode)),
            0xc9 => Some(accessed(self.register(5))),
            0xc2 | 0xc3 => Some(self.return_near()),
            0xa4..=0xa7 => Some(self.accesses(&[self.register(RSI), self.register(RDI)])),
            0xaa | 0xab | 0xae | 0xaf => Some(self.accesses(&[self.register(RDI)])),
            0xac | 0xad => Some(self.accesses(&[self.register(RSI)])),
            0xa0..=0xa3 => {
                let bytes = self.bytes.get(self.at..self.at + 8)?;
                Some(self.accesses(&[u64::from_le_bytes(bytes.try_into().ok()?)]))
            }
            0xff => self.group_five(),
            // pop to memory: the stack is read as well.
            0x8f => {
                let stack = self.register(RSP);
                let address = self.operand(0)?.unwrap_or(stack);
                Some(self.accesses(&[stack, address]))
            }
            0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0x6b => self.memory(1, false),
            0x81 | 0xc7 | 0x69 => self.memory(if self.wide { 2 } else { 4 }, false),
            0x82 | 0xc4 | 0xc5 | 0x62 | 0x8d | 0x8e => Some(Meaning::Unknown),
            0x63 | 0x84..=0x8c | 0xd0..=0xd3 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe => self.memory(0, false),
            0x00..=0x3f if opcode & 7 < 4 => self.memory(0, false),
            _ => Some(Meaning::Unknown),
        }
    }

    /// What stands behind 0x0f.
    fn two_bytes(&mut self, opcode: u8) -> Option<Meaning> {
        let peek = self.bytes.get(self.at).copied();
        let part = peek.map(|modrm| modrm >> 3 & 7);
        let in_memory = peek.is_some_and(|modrm| modrm < 0xc0);
        let privileged = |name| Some(Meaning::Privileged(name));
        match (opcode, part.unwrap_or(u8::MAX)) {
            (0x00, 0) => privileged("sldt"),
            (0x00, 1) => privileged("str"),
            (0x00, 2) => privileged("lldt"),
            (0x00, 3) => privileged("ltr"),
            (0x01, 0) if in_memory => privileged("sgdt"),
            (0x01, 1) if in_memory => privileged("sidt"),
            (0x01, 2) if in_memory => privileged("lgdt"),
            (0x01, 3) if in_memory => privileged("lidt"),
            (0x01, 4) => privileged("smsw"),
            (0x01, 6) => privileged("lmsw"),
            (0x01, 7) if in_memory => privileged("invlpg"),
            (0x01, 7) if peek == Some(0xf8) => privileged("swapgs"),
            (0x06, _) => privileged("clts"),
            (0x07, _) => privileged("sysret"),
            (0x08, _) => privileged("invd"),
            (0x09, _) => privileged("wbinvd"),
            (0x20 | 0x22, _) => privileged("mov of a control register"),
            (0x21 | 0x23, _) => privileged("mov of a debug register"),
            (0x30, _) => privileged("wrmsr"),
            (0x32, _) => privileged("rdmsr"),
            (0x33, _) => privileged("rdpmc"),
            (0x34, _) => Some(Meaning::OtherEntry),
            (0x35, _) => privileged("sysexit"),
            (0xa0 | 0xa8, _) => Some(self.stack(0x50)),
            (0xa1 | 0xa9, _) => Some(self.stack(0x58)),
            // Those of SSE that move or use 16 bytes: where no prefix makes them smaller, or says that they need no alignment.
            (0x28 | 0x29 | 0x2b | 0x54..=0x59 | 0x5c..=0x5f | 0x51, _) => self.memory(0, !self.repeat),
            (0x60..=0x6d | 0x6f | 0x74..=0x76 | 0x7f | 0xe7, _) => self.memory(0, self.wide && !self.repeat),
            (0x70 | 0xc6, _) => self.memory(1, opcode == 0xc6 || self.wide && !self.repeat),
            (0xc7, 1) if self.rex & 8 != 0 => self.memory(0, true),
            (0xae, 0 | 1) => self.memory(0, true),
            (0xae, _) | (0x38, _) => {
                self.at += usize::from(opcode == 0x38);
                self.memory(0, false)
            }
            (0x3a, _) => {
                self.at += 1;
                self.memory(1, false)
            }
            (0xa4 | 0xac | 0xba | 0xc2 | 0xc4, _) => self.memory(1, false),
            (0x10..=0x17 | 0x40..=0x4f | 0x90..=0x9f, _) => self.memory(0, false),
            (0x2a | 0x2c..=0x2f | 0x5a | 0x6e | 0x7e | 0xa3 | 0xa5 | 0xab | 0xad..=0xb1 | 0xb3 | 0xb6..=0xb8, _) => {
                self.memory(0, false)
            }
            (0xbb..=0xc1 | 0xc3 | 0xd6, _) => self.memory(0, false),
            _ => Some(Meaning::Unknown),
        }
    }

    /// What is about the word at the stack pointer, or below it.
    fn stack(&self, opcode: u8) -> Meaning {
        let pops = matches!(opcode, 0x58..=0x5f | 0x9d);
        // Calls push all of an address, whatever the prefix.
        let size = if self.wide && self.rex & 8 == 0 && opcode != 0xe8 { 2 } else { 8 };
        let pointer = self.register(RSP);
        accessed(if pops { pointer } else { pointer.wrapping_sub(size) })
    }

    fn return_near(&self) -> Meaning {
        let pointer = self.register(RSP);
        if !is_canonical(pointer) {
            return Meaning::Access(pointer);
        }
        self.target((self.read)(pointer))
    }

    fn target(&self, target: Option<u64>) -> Meaning {
        match target {
            // What could be jumped to in the kernel's half is a page fault's.
            Some(target) if !is_canonical(target) => Meaning::Target(target),
            _ => Meaning::Unknown,
        }
    }

    /// Increments, calls, jumps and pushes with an operand.
    fn group_five(&mut self) -> Option<Meaning> {
        let modrm = self.bytes.get(self.at).copied()?;
        let part = modrm >> 3 & 7;
        let value = match self.operand(0)? {
            Some(address) if !is_canonical(address) => return Some(Meaning::Access(address)),
            Some(address) => (self.read)(address),
            None => Some(self.register(usize::from(modrm & 7 | (self.rex & 1) << 3))),
        };
        Some(match part {
            2 | 4 => match self.target(value) {
                Meaning::Unknown if part == 2 => self.stack(0xe8),
                meaning => meaning,
            },
            6 => self.stack(0x50),
            _ => Meaning::Unknown,
        })
    }

    /// An operand in memory, which may have to be aligned.
    fn memory(&mut self, immediate: u64, aligned: bool) -> Option<Meaning> {
        Some(match self.operand(immediate)? {
            Some(address) if !is_canonical(address) => Meaning::Access(address),
            Some(address) if aligned && address % 16 != 0 => Meaning::Misaligned(address),
            _ => Meaning::Unknown,
        })
    }

    /// The first of these addresses that is none.
    fn accesses(&self, addresses: &[u64]) -> Meaning {
        let short = if self.short { u64::from(u32::MAX) } else { u64::MAX };
        let first = addresses.iter().map(|address| address & short).find(|address| !is_canonical(*address));
        first.map_or(Meaning::Unknown, Meaning::Access)
    }

    /// The address that ModRM and what follows it name, with so many bytes of an immediate operand behind: `Some(None)` if it is a register.
    #[allow(clippy::option_option)]
    fn operand(&mut self, immediate: u64) -> Option<Option<u64>> {
        let modrm = self.next()?;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return Some(None);
        }
        let extend = |number: u8, bit: u8| usize::from(number | (self.rex >> bit & 1) << 3);
        let mut address = 0_u64;
        let mut relative = false;
        let mut displacement = match mode {
            0 => 0,
            1 => 1,
            _ => 4,
        };
        if rm == 4 {
            let sib = self.bytes.get(self.at).copied()?;
            let index = extend(sib >> 3 & 7, 1);
            if index != RSP {
                address = self.register(index) << (sib >> 6);
            }
            if sib & 7 == 5 && mode == 0 {
                displacement = 4;
            } else {
                address = address.wrapping_add(self.register(extend(sib & 7, 0)));
            }
            self.at += 1;
        } else if rm == 5 && mode == 0 {
            relative = true;
            displacement = 4;
        } else {
            address = self.register(extend(rm, 0));
        }
        if displacement != 0 {
            address = address.wrapping_add(self.signed(displacement)?);
        }
        if relative {
            let next = self.registers.rip.wrapping_add(self.at as u64).wrapping_add(immediate);
            address = address.wrapping_add(next);
        }
        Some(Some(if self.short { address & u64::from(u32::MAX) } else { address }))
    }
}

/// An address that was accessed: what is canonical explains nothing.
const fn accessed(address: u64) -> Meaning {
    if is_canonical(address) { Meaning::Unknown } else { Meaning::Access(address) }
}

#[cfg(test)]
mod tests;
