//! What the kernel makes of instructions, beside what `iced-x86` makes of them.

use super::*;
use iced_x86::{
    Decoder as Oracle, DecoderOptions, EncodingKind, Instruction, InstructionInfoFactory, OpAccess, Register,
};
use proptest::prelude::RngCore;
use proptest::test_runner::{RngAlgorithm, TestRng};

const RIP: u64 = 0x40_1000;
/// A register's value that is no address, whatever is added to it by a displacement.
const NOWHERE: u64 = 0x1234_5678_9abc_def0;

fn registers() -> Registers {
    Registers { general: core::array::from_fn(|number| ((number as u64 + 1) << 20) | (number as u64 * 5)), rip: RIP }
}

fn nothing(_: u64) -> Option<u64> {
    None
}

fn meaning(bytes: &[u8], registers: &Registers) -> Meaning {
    protection_fault(0, bytes, registers, &nothing)
}

#[test]
fn instructions_of_the_kernel_are_named() {
    for (bytes, name) in [
        (&[0xfa][..], "cli"),
        (&[0xfb], "sti"),
        (&[0xf4], "hlt"),
        (&[0xec], "in"),
        (&[0xe6, 0x80], "out"),
        (&[0xf3, 0x6c], "ins"),
        (&[0x0f, 0x32], "rdmsr"),
        (&[0x0f, 0x30], "wrmsr"),
        (&[0x0f, 0x20, 0xd8], "mov of a control register"),
        (&[0x44, 0x0f, 0x20, 0xc0], "mov of a control register"),
        (&[0x0f, 0x23, 0xf8], "mov of a debug register"),
        (&[0x0f, 0x01, 0x10], "lgdt"),
        (&[0x0f, 0x01, 0x18], "lidt"),
        (&[0x0f, 0x00, 0xd8], "ltr"),
        (&[0x0f, 0x01, 0x38], "invlpg"),
        (&[0x0f, 0x01, 0xf8], "swapgs"),
        (&[0x0f, 0x09], "wbinvd"),
        (&[0x48, 0x0f, 0x07], "sysret"),
        (&[0x0f, 0x06], "clts"),
    ] {
        let mut padded = bytes.to_vec();
        assert_eq!(meaning(&padded, &registers()), Meaning::Privileged(name), "{bytes:x?} at the end of what is there");
        padded.resize(LENGTH_MAX, 0x90);
        assert_eq!(meaning(&padded, &registers()), Meaning::Privileged(name), "{bytes:x?}");
    }
    assert_eq!(meaning(&[0x0f, 0x34], &registers()), Meaning::OtherEntry);
    assert_eq!(meaning(&[0x90], &registers()), Meaning::Unknown);
    assert_eq!(meaning(&[0x66; LENGTH_MAX], &registers()), Meaning::TooLong);
    assert_eq!(meaning(&[0x66; 3], &registers()), Meaning::Unknown, "the page ends there");
    assert_eq!(meaning(&[], &registers()), Meaning::Unknown);
}

#[test]
fn error_codes_say_what_was_named() {
    let of = |error, bytes: &[u8]| protection_fault(error, bytes, &registers(), &nothing);
    assert_eq!(of(0x80 << 3 | 2, &[0xcd, 0x80]), Meaning::Interrupt(0x80));
    assert_eq!(of(0x80 << 4 | 2, &[0xcd, 0x80]), Meaning::Interrupt(0x80), "as QEMU says it");
    assert_eq!(of(3 << 3 | 2, &[0xcc]), Meaning::Interrupt(3));
    assert_eq!(of(0x08, &[0x8e, 0xd9]), Meaning::Selector(8));
    assert_eq!(of(0x1c, &[0x8e, 0xd9]), Meaning::Selector(0x1c), "of the local table");
    let lost = Registers { rip: NOWHERE, ..registers() };
    assert_eq!(protection_fault(0, &[], &lost, &nothing), Meaning::Target(NOWHERE));
}

#[test]
fn targets_are_looked_for_in_registers_and_memory() {
    let mut lost = registers();
    lost.general[0] = NOWHERE;
    let read = |address| (address == lost.general[RSP] || address == lost.general[1]).then_some(NOWHERE + 1);
    let of = |bytes: &[u8]| protection_fault(0, bytes, &lost, &read);
    assert_eq!(of(&[0xff, 0xe0]), Meaning::Target(NOWHERE), "jmp rax");
    assert_eq!(of(&[0xff, 0xd0]), Meaning::Target(NOWHERE), "call rax");
    assert_eq!(of(&[0xff, 0x21]), Meaning::Target(NOWHERE + 1), "jmp [rcx]");
    assert_eq!(of(&[0xff, 0x20]), Meaning::Access(NOWHERE), "jmp [rax]");
    assert_eq!(of(&[0xc3]), Meaning::Target(NOWHERE + 1), "ret");
    assert_eq!(of(&[0xff, 0xe1]), Meaning::Unknown, "jmp rcx");
    lost.general[RSP] = NOWHERE;
    let of = |bytes: &[u8]| protection_fault(0, bytes, &lost, &nothing);
    assert_eq!(of(&[0xc3]), Meaning::Access(NOWHERE), "ret");
    assert_eq!(of(&[0x50]), Meaning::Access(NOWHERE - 8), "push rax");
    assert_eq!(of(&[0x58]), Meaning::Access(NOWHERE), "pop rax");
    assert_eq!(of(&[0xe8, 0, 0, 0, 0]), Meaning::Access(NOWHERE - 8), "call");
    assert_eq!(of(&[0xff, 0xd1]), Meaning::Access(NOWHERE - 8), "call rcx");
}

#[test]
fn canonical_is_what_has_one_sign() {
    for address in [0, 1 << 46, (1 << 47) - 1, u64::MAX, 0xffff_8000_0000_0000] {
        assert!(is_canonical(address), "{address:#x}");
    }
    for address in [1 << 47, 1 << 63, NOWHERE, 0xffff_7fff_ffff_ffff] {
        assert!(!is_canonical(address), "{address:#x}");
    }
}

/// Where the other decoder says that memory is accessed.
fn accesses(instruction: &Instruction, registers: &Registers) -> Vec<u64> {
    let value = |register: Register| {
        let full = register.full_register();
        if register.is_segment_register() {
            return 0;
        }
        let whole = registers.general[full.number()];
        if register.size() == 4 { whole & u64::from(u32::MAX) } else { whole }
    };
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_memory().to_vec();
    used.into_iter()
        .filter(|memory| memory.access() != OpAccess::NoMemAccess)
        .filter_map(|memory| memory.virtual_address(0, |register, _, _| Some(value(register))))
        .collect()
}

/// Whether the other decoder's instruction is the one that was named.
fn is_named(instruction: &Instruction, name: &str) -> bool {
    let mnemonic = format!("{:?}", instruction.mnemonic()).to_lowercase();
    let of =
        |register: fn(Register) -> bool| mnemonic == "mov" && (0..2).any(|op| register(instruction.op_register(op)));
    match name {
        "mov of a control register" => of(Register::is_cr),
        "mov of a debug register" => of(Register::is_dr),
        // It differs in a prefix alone.
        "wbinvd" => mnemonic == "wbinvd" || mnemonic == "wbnoinvd",
        _ => mnemonic.starts_with(name),
    }
}

/// Random bytes, with opcodes and prefixes that are met: whatever is said of them is so, and most of what can be said is.
#[test]
fn what_is_said_of_random_instructions_is_so() {
    const CASES: u32 = 400_000;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let (mut could, mut did, mut named, mut misaligned) = (0_u32, 0_u32, 0_u32, 0_u32);
    for _ in 0..CASES {
        let mut registers = registers();
        let lost = random.next_u32();
        for (number, register) in registers.general.iter_mut().enumerate() {
            if lost >> number & 1 != 0 {
                *register = NOWHERE.rotate_left(number as u32);
            }
        }
        let mut bytes = [0; LENGTH_MAX];
        random.fill_bytes(&mut bytes);
        // Few of the bytes are prefixes, and none of the later ones is likely to be met.
        let prefixes = [0x66, 0xf2, 0xf3, 0x48, 0x41, 0x4c, 0x67, 0x0f, 0x0f, 0x0f];
        for byte in bytes.iter_mut().take(2) {
            if random.next_u32().is_multiple_of(2) {
                *byte = prefixes[random.next_u32() as usize % prefixes.len()];
            }
        }
        let instruction = Oracle::with_ip(64, &bytes, RIP, DecoderOptions::NONE).decode();
        if instruction.is_invalid() || instruction.encoding() != EncodingKind::Legacy {
            continue;
        }
        let accesses = accesses(&instruction, &registers);
        let said = meaning(&bytes, &registers);
        match said {
            Meaning::Access(address) => {
                assert!(
                    accesses.contains(&address) && !is_canonical(address),
                    "{bytes:x?} {instruction:?} {said:x?} {accesses:x?}"
                );
                did += 1;
            }
            Meaning::Misaligned(address) => {
                assert!(accesses.contains(&address), "{bytes:x?} {instruction:?} {said:x?} {accesses:x?}");
                let size = instruction.memory_size().size();
                assert!(size == 16 || size == 512 || size == 0, "{bytes:x?} {instruction:?} {size}");
                misaligned += 1;
            }
            Meaning::Privileged(name) => {
                assert!(is_named(&instruction, name), "{bytes:x?} {instruction:?} {name}");
                named += 1;
            }
            Meaning::Target(address) => assert!(!is_canonical(address)),
            Meaning::OtherEntry => assert!(is_named(&instruction, "sysenter")),
            Meaning::Unknown => {}
            Meaning::Interrupt(_) | Meaning::Selector(_) | Meaning::TooLong | Meaning::Unreachable => {
                panic!("{bytes:x?} {instruction:?} {said:?}")
            }
        }
        could += u32::from(accesses.iter().any(|address| !is_canonical(*address)));
    }
    assert!(did * 100 > could * 85, "of {could} accesses that could be explained {did} were");
    assert!(named > 1000 && misaligned > 500, "{named} named, {misaligned} misaligned");
}
