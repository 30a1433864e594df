//! Every argument of every system call, given what it must not be, one after another while the others are as they should be: each call is refused, and nothing has changed.
//!
//! What each argument is stands in one `match` over the calls, which the compiler does not let a new call be missing from.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    AREA_SIZE_MAX, ErrorCode, Handle, PAGE_SIZE, StartInformation, SystemCall, USER_END, USER_START, call, console,
    decode_result, roles,
};

use crate::READ_WRITE;
use crate::handles::room;
use crate::report::Report;
use crate::windows::{read, write};

/// What an argument is, with a value that would do.
#[derive(Clone, Copy)]
enum Argument {
    /// Not looked at, or any number does.
    Any(u64),
    /// A handle.
    Named(Handle),
    /// Memory of the program's, read or written by the kernel.
    Pointer(u64),
    /// The address of a word of 32 bits.
    Word(u64),
    /// The first address of a window, which must be there.
    Address(u64),
    /// The address for a new window, or 0 for any.
    Place(u64),
    /// A length of the program's addresses.
    Length(u64),
    /// The size of an area, or an offset in it.
    Size(u64),
    /// How many bytes or handles, at most so many.
    Count(u64),
    /// Bits or a number that have a meaning, others not.
    Meaning(u64),
    /// Where a thread begins.
    Start(u64),
    /// Its stack pointer, which may be where the program's addresses end.
    Stack(u64),
}
use Argument::*;

/// Addresses that are nobody's: null, unaligned, the program's end, not canonical, the kernel's, and such that the range wraps.
const FOREIGN: [u64; 10] = [
    0x10,
    USER_START - PAGE_SIZE,
    USER_END,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0xffff_7fff_ffff_f000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    u64::MAX - (PAGE_SIZE - 1),
    u64::MAX,
];

impl Argument {
    const fn good(self) -> u64 {
        match self {
            Any(value) | Pointer(value) | Word(value) | Address(value) | Place(value) | Length(value) | Size(value)
            | Count(value) | Meaning(value) | Start(value) | Stack(value) | Named(Handle(value)) => value,
        }
    }

    /// Values that must be refused, some of them for this reason or that.
    fn bad(self) -> (&'static [u64], &'static [ErrorCode]) {
        match self {
            Any(_) => (&[], &[]),
            Named(_) => (&[0, 1 << 20, 1 << 32, 1 << 63, u64::MAX], &[BadHandle]),
            Pointer(_) => (&FOREIGN, &[BadPointer]),
            Word(_) => (&FOREIGN, &[BadPointer, Unaligned]),
            Address(_) | Place(_) => (&FOREIGN, &[Unaligned, BadRange]),
            Length(_) => (
                &[0, 1, PAGE_SIZE - 1, 1 << 47, 1 << 63, u64::MAX - (PAGE_SIZE - 1), u64::MAX],
                &[Empty, Unaligned, BadRange, OutOfBounds, NotMapped],
            ),
            Size(_) => (
                &[1, PAGE_SIZE - 1, AREA_SIZE_MAX + PAGE_SIZE, 1 << 63, u64::MAX - (PAGE_SIZE - 1), u64::MAX],
                &[Unaligned, TooLarge, OutOfBounds, BadRange],
            ),
            Count(_) => (&[1 << 20, 1 << 32, 1 << 63, u64::MAX], &[TooLarge, BadPointer]),
            Meaning(_) => (&[1 << 12, 1 << 32, 1 << 63, u64::MAX], &[BadAccess]),
            Start(_) => (&FOREIGN, &[BadRange]),
            Stack(_) => (&[0, 0x10, USER_END + 8, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX - 7], &[BadRange]),
        }
    }
}

/// What the calls are about.
struct Things {
    area: Handle,
    end: Handle,
    physical: Handle,
    window: u64,
}

/// The arguments of a call; `None` for one that does not come back, or takes nothing.
fn arguments(call: SystemCall, things: &Things) -> Option<[Argument; 6]> {
    let Things { area, end, physical, window } = *things;
    let any = Any(0);
    let access = Meaning(READ_WRITE.bits());
    let range = [Address(window), Length(PAGE_SIZE)];
    Some(match call {
        SystemCall::Null | SystemCall::Exit | SystemCall::ThreadExit | SystemCall::ThreadYield => return None,
        SystemCall::Write => [Named(console()), Pointer(window), Count(8), any, any, any],
        SystemCall::AreaCreate | SystemCall::AreaCreateRing | SystemCall::AreaCreateSwappable => {
            [Size(PAGE_SIZE), any, any, any, any, any]
        }
        SystemCall::AreaMove => [range[0], range[1], Size(PAGE_SIZE), Place(0x6600_0000_0000), any, any],
        SystemCall::KernelCount => [Meaning(0), any, any, any, any, any],
        SystemCall::AreaMap => [Named(area), Place(0x6600_0000_0000), Size(0), Length(PAGE_SIZE), access, any],
        SystemCall::AreaUnmap | SystemCall::AreaSeal => [range[0], range[1], any, any, any, any],
        SystemCall::AreaResize => [Named(area), Size(PAGE_SIZE), any, any, any, any],
        SystemCall::HandleClose | SystemCall::HandleInspect => [Named(area), any, any, any, any, any],
        // The number of handles is looked at before they are read.
        SystemCall::ProcessStart => [Pointer(b"check".as_ptr() as u64), Count(5), Any(roles::SPIN), any, Count(0), any],
        SystemCall::ProcessClone | SystemCall::ThreadStart => [Start(window), Stack(window), any, any, any, any],
        SystemCall::ProcessWait | SystemCall::ProcessKill => [Named(Handle::NONE), any, any, any, any, any],
        // As long as it is told.
        SystemCall::ThreadSleep => return None,
        SystemCall::AreaCreateAndMap => [Size(PAGE_SIZE), Place(0x6600_0000_0000), access, any, any, any],
        SystemCall::AreaProtect => [range[0], range[1], access, any, any, any],
        SystemCall::AreaAdvise => [range[0], range[1], Meaning(0), any, any, any],
        SystemCall::HandleDuplicate => [Named(area), Meaning(1), any, any, any, any],
        SystemCall::PhysicalArea => [Named(physical), Any(0), Size(PAGE_SIZE), Meaning(0), any, any],
        SystemCall::ChannelCreate => [Pointer(window), any, any, any, any, any],
        SystemCall::ChannelSend => [Named(end), Pointer(window), Count(8), any, Count(0), any],
        // The queue is empty: where a message would go is not looked at.
        SystemCall::ChannelReceive => [Named(end), Any(window), Any(8), any, any, Any(0)],
        SystemCall::AddressWait => [Word(window), Any(1), Any(0), any, any, any],
        SystemCall::AddressWake => [Word(window), Any(1), any, any, any, any],
    })
}

const SECRET: u64 = 0x1122_3344_5566_7788;

pub(crate) fn check(start: &StartInformation, report: &mut Report) {
    if let Err(error) = attempt(start, report) {
        report.check("what the calls are about could be made", false);
        refkernel_runtime::say!("check: {error}");
    }
}

fn attempt(start: &StartInformation, report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let window = call::area_map(area, 0x6700_0000_0000, 0, PAGE_SIZE, READ_WRITE)?;
    let [end, _] = call::channel_create()?;
    let things = Things { area, end, physical: start.physical, window };
    write(window, SECRET);
    let before = room();
    let mut made = 0_u32;
    for call in SystemCall::ALL {
        let Some(arguments) = arguments(call, &things) else { continue };
        for (place, argument) in arguments.into_iter().enumerate() {
            let (values, errors) = argument.bad();
            let kernel = match argument {
                Pointer(_) => &start.kernel[..],
                _ => &[],
            };
            for value in values.iter().chain(kernel).copied() {
                let mut numbers = arguments.map(Argument::good);
                numbers[place] = value;
                // SAFETY: it must be refused; a kernel that takes it has failed the check, whatever happens next.
                let result = decode_result(unsafe { call::raw(call.number(), numbers) });
                made += 1;
                if !result.is_err_and(|error| errors.contains(&error)) {
                    report.check("what an argument must not be is refused", false);
                    refkernel_runtime::say!("check: {}, argument {place} = {value:#x}: {result:?}", call.name());
                }
            }
        }
    }
    refkernel_runtime::say!("check: {made} calls with what an argument must not be");
    report.check("many calls were made", made > 200);
    report.check("no handle came or went", room() == before);
    report.check("memory is as it was", read(window) == SECRET);
    write(window, SECRET + 1);
    report.check("and may be written still", read(window) == SECRET + 1);
    Ok(())
}
