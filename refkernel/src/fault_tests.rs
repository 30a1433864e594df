//! The kernel's half of the table of faults ([`refkernel_abi::faults`]): every kind is made by a program of its own, and the kernel's message compared, character by character, with what stands there.
//!
//! Meanwhile another program counts: whatever a program does, it goes on, and so does the kernel; and every frame comes back.

use crate::boot_tests::{Failure, same_frames};
use crate::hoard::{Hoard, SCARCE};
use crate::log;
use crate::memory::{self, Kernel};
use crate::process::{self, Ending, ProcessRef, Start};
use crate::programs::{ProgramError, Programs};
use crate::thread::sleep;
use core::fmt::{self, Display as _, Write};
use core::ops::Range;
use raw_cpuid::CpuId;
use refkernel_abi::faults::{AREA_SIZE, BYSTANDER, Fault, Outcome, Record};
use refkernel_abi::{Access, PAGE_SIZE, program_status, roles};
use vmcore::vm_area::{Area, AreaKind};

/// Windows that a program is loaded with, at the most.
const LOADED_MAX: usize = 8;

/// Those of a loaded program, by the names that they have.
struct Loaded([Option<(&'static str, Range<u64>)>; LOADED_MAX]);

impl Loaded {
    /// Taken down before the program runs.
    fn of(process: &ProcessRef) -> Self {
        let mut loaded = Self([const { None }; LOADED_MAX]);
        for (slot, window) in loaded.0.iter_mut().zip(process.space().windows()) {
            let first = window.range.start().as_u64();
            *slot = process.label(first).map(|label| (label, first..window.range.last().as_u64() + 1));
        }
        loaded
    }
}

/// What is known of a window: its name and its range, and what it allows.
#[derive(Clone)]
struct Known {
    name: &'static str,
    range: Range<u64>,
    access: &'static str,
}

impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {:#x}-{:#x}, {}", self.name, self.range.start, self.range.end - 1, self.access)
    }
}

/// A message as it must be.
struct Expected<'a> {
    said: (&'a str, &'a str),
    window: &'a str,
    record: &'a Record,
    loaded: &'a Loaded,
}

impl Expected<'_> {
    /// All windows that there are.
    fn windows(&self) -> impl Iterator<Item = Known> + '_ {
        let loaded = self.loaded.0.iter().flatten().map(|(name, range)| {
            let access = match *name {
                "text" => "r-x, sealed",
                "rodata" => "r--, sealed",
                _ => "rw-",
            };
            Known { name, range: range.clone(), access }
        });
        let own = self.record.windows.iter().take(self.record.count as usize).map(|[first, length, access]| Known {
            name: "the program's own",
            range: *first..first.wrapping_add(*length),
            access: match Access::from_bits(*access) {
                Some(Access::READ) => "r--",
                Some(Access::READ_WRITE) => "rw-",
                Some(_) => "r-x",
                None => "---",
            },
        });
        loaded.chain(own)
    }

    /// A placeholder's text.
    fn fill(&self, name: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { address, rip, .. } = *self.record;
        match name {
            "address" => return write!(out, "{address:#x}"),
            "rip" => return write!(out, "{rip:#x}"),
            "gap" => {
                out.write_str("none; below it ")?;
                let below = self.windows().filter(|window| window.range.end <= address);
                match below.max_by_key(|window| window.range.start) {
                    Some(window) => window.fmt(out)?,
                    None => out.write_str("nothing")?,
                }
                out.write_str("; above it ")?;
                let above = self.windows().filter(|window| window.range.start > address);
                return match above.min_by_key(|window| window.range.start) {
                    Some(window) => window.fmt(out),
                    None => out.write_str("nothing"),
                };
            }
            _ => {}
        }
        let place = if self.window.starts_with("the instruction's") { rip } else { address };
        let wanted = if name == "own" { "the program's own" } else { name };
        match self.windows().find(|window| window.name == wanted && window.range.contains(&place)) {
            Some(window) => window.fmt(out),
            None => write!(out, "(no window {wanted} has {place:#x})"),
        }
    }

    /// A text with what is to be filled in.
    fn text(&self, text: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            out.write_str(before)?;
            let (name, behind) = behind.split_once('}').unwrap_or((behind, ""));
            self.fill(name, out)?;
            rest = behind;
        }
        out.write_str(rest)
    }
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text(self.said.0, formatter)?;
        formatter.write_str("\n  reason: ")?;
        self.text(self.said.1, formatter)?;
        formatter.write_str("\n  window: ")?;
        self.text(self.window, formatter)
    }
}

/// A text that is kept, to be compared.
struct Text {
    bytes: [u8; 640],
    length: usize,
}

impl Text {
    /// What something says of itself; `None` if it is too long.
    fn of(what: &dyn fmt::Display) -> Option<Self> {
        let mut text = Self { bytes: [0; 640], length: 0 };
        write!(text, "{what}").ok().map(|()| text)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Why the machine cannot make this fault, if it cannot.
fn lacks(fault: Fault) -> Option<&'static str> {
    let extended = CpuId::new().get_extended_feature_info();
    let umip = extended.as_ref().is_some_and(|features| features.has_umip());
    let emulated =
        CpuId::new().get_hypervisor_info().is_some_and(|info| matches!(info.identify(), raw_cpuid::Hypervisor::QEMU));
    match fault {
        Fault::StoreDescriptorTable
        | Fault::StoreInterruptTable
        | Fault::StoreLocalTable
        | Fault::StoreTask
        | Fault::StoreMachineStatus
            if !umip =>
        {
            Some("the processor has no UMIP")
        }
        Fault::ReturnToKernelSegment if emulated => Some("QEMU's TCG does not come so far: it is as return-to-self"),
        Fault::SimdDivision if emulated => Some("QEMU's TCG raises no SIMD floating-point exceptions"),
        _ => None,
    }
}

/// Makes every fault whose name is `wanted`. `note` is told the name of each, and why it was not as it must be if it was not; at last whether every frame came back.
#[inline(never)]
pub(crate) fn run_all(
    programs: &Programs<'_>,
    wanted: impl Fn(&str) -> bool,
    mut note: impl FnMut(&str, Result<(), Failure>),
) {
    let wanted = |fault: &Fault| wanted(fault.name());
    if !Fault::ALL.iter().any(wanted) {
        return;
    }
    // What the kernel keeps once it was needed: the tables for its stacks, and the stacks of threads to come.
    // So three threads are there at a time, once, before frames are counted.
    let _ = Bystander::start(programs).and_then(|bystander| {
        let made = make(programs, Fault::InCopy);
        bystander.end().and(made)
    });
    // The pages of the program's file stay for as long as somebody runs it: so the frames are counted when nobody does.
    let outcome = same_frames(|| {
        let bystander = Bystander::start(programs)?;
        for fault in Fault::ALL.iter().filter(|fault| **fault != Fault::OutOfMemory && wanted(fault)) {
            match lacks(*fault) {
                Some(why) => log!("test fault {} ... skipped ({why})", fault.name()),
                None => note(fault.name(), make(programs, *fault).and_then(|()| bystander.goes_on())),
            }
        }
        bystander.end()
    });
    note("(all frames are back, and another program went on meanwhile)", outcome);
    // It would take the other's memory as well.
    let fault = Fault::OutOfMemory;
    if wanted(&fault) {
        let scarce = || {
            let _hoard = Hoard::leaving(SCARCE);
            make(programs, fault)
        };
        note(fault.name(), same_frames(scarce));
    }
}

/// A program that goes on beside the others.
struct Bystander {
    process: ProcessRef,
    area: Area<Kernel>,
}

impl Bystander {
    fn start(programs: &Programs<'_>) -> Result<Self, Failure> {
        let area = Area::new(&Kernel, AreaKind::Open { size: AREA_SIZE }, ())?;
        let start = Start { argument: BYSTANDER, area: Some(&area), ..Start::default() };
        let process = programs.load("check", start)?;
        process::start(&process).map_err(|error| ProgramError::NoThread("check", error))?;
        let started = Self { process, area };
        // It has all the memory that it needs as soon as it has slept.
        started.goes_on()?;
        started.goes_on()?;
        Ok(started)
    }

    fn count(&self) -> Result<u64, Failure> {
        let mut bytes = [0; 8];
        self.area.read(PAGE_SIZE, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Waits until it has counted on.
    fn goes_on(&self) -> Result<(), Failure> {
        let before = self.count()?;
        for _ in 0..20_000 {
            if self.count()? != before {
                return Ok(());
            }
            sleep::sleep_microseconds(500);
        }
        Err(Failure::NotSo("another program goes on"))
    }

    fn end(self) -> Result<(), Failure> {
        self.goes_on()?;
        process::end(&self.process, Ending::Killed);
        process::wait(&self.process);
        Ok(())
    }
}

#[inline(never)]
fn make(programs: &Programs<'_>, fault: Fault) -> Result<(), Failure> {
    let area = Area::new(&Kernel, AreaKind::Open { size: AREA_SIZE }, ())?;
    let start = Start {
        argument: fault.argument(),
        area: Some(&area),
        kernel: memory::tests::kernel_addresses(),
        physical: true,
        ..Start::default()
    };
    let process = programs.load("check", start)?;
    let loaded = Loaded::of(&process);
    let ending = process::run(&process).map_err(|error| ProgramError::NoThread("check", error))?;
    let report = process.report();
    drop(process);
    let must = roles::Ending::Exits(program_status::SUCCESS);
    let (said, window) = match fault.outcome() {
        Outcome::GoesOnOrKilled { .. } if ending.is(must) => return Ok(()),
        Outcome::GoesOn if ending.is(must) => return Ok(()),
        Outcome::GoesOn => return Err(Failure::Ending { must, ending }),
        Outcome::Killed { said, window } | Outcome::GoesOnOrKilled { said, window } => (said, window),
    };
    let mut bytes = [0; size_of::<Record>()];
    area.read(0, &mut bytes)?;
    let record = Record::from_bytes(&bytes);
    let Some(report) = report else {
        log!("  {ending}");
        return Err(Failure::NotSo("the kernel ended the program with a message"));
    };
    let found = Text::of(&report).ok_or(Failure::NotSo("the message is of sane length"))?;
    let expected = || said.iter().map(|said| Expected { said: *said, window, record: &record, loaded: &loaded });
    if expected().any(|expected| Text::of(&expected).is_some_and(|text| text.as_bytes() == found.as_bytes())) {
        return Ok(());
    }
    for expected in expected() {
        log!("  had to be: {expected}");
    }
    Err(Failure::NotSo("the message is the one that it has to be"))
}
