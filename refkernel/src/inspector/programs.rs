//! Programs: which run, one more, one less.
//!
//! A program that was started from here is kept when it has ended, with all that it has: so its space can be looked at. `kill` gives it up.
//!
//! A process does not end with the one that started it, which has nothing of it but a handle: `kill` says what programs have started and goes on.

use super::subject::{self, Trouble};
use super::terminal::{Input, Out};
use crate::memory;
use crate::process::{self, Ending, Process, ProcessRef, Start};
use crate::programs::{self, ProgramError};
use crate::screen::strip::{self, Strip};
use core::fmt::Write;
use refkernel::archive::ProgramName;

/// The programs that are handed their part of the screen.
const DRAWING: [&str; 3] = ["demo", "draw", "init"];
/// How many are kept.
const KEPT: usize = 8;

/// Programs that were started from here.
pub(super) struct Kept([Option<ProcessRef>; KEPT]);

impl Kept {
    pub(super) const fn new() -> Self {
        Self([const { None }; KEPT])
    }

    /// The place of a process that was started from here.
    fn place_of(&mut self, process: &ProcessRef) -> Option<&mut Option<ProcessRef>> {
        self.0.iter_mut().find(|slot| slot.as_ref().is_some_and(|kept| kept.is(process)))
    }
}

/// Gives `each` the name of every program of the boot module.
pub(super) fn for_each_name(each: &mut dyn FnMut(&str)) {
    if let Some(archive) = programs::archive() {
        archive.programs().for_each(|(name, _)| each(name.as_str()));
    }
}

/// The processes.
pub(super) fn list(out: &mut Out<'_>) -> Result<(), Trouble> {
    let mut count = 0;
    for process in process::all() {
        count += 1;
        write!(out, "{:>3}  {}: ", process::pid(&process), &*process)?;
        match process::threads(&process) {
            0 => match process::ending(&process) {
                Some(ending) => writeln!(out, "{ending}")?,
                None => writeln!(out, "it has not begun")?,
            },
            1 => writeln!(out, "runs")?,
            threads => writeln!(out, "runs, {threads} threads")?,
        }
    }
    Ok(writeln!(out, "{count} processes")?)
}

/// Starts a program and waits for its end, or for Ctrl-C.
pub(super) fn run(name: &str, argument: u64, kept: &mut Kept, input: &Input, out: &mut Out<'_>) -> Result<(), Trouble> {
    let file = programs::archive().and_then(|archive| archive.program(name)).ok_or(Trouble::NoProgram)?;
    let full = ProgramName::new(name).ok_or(Trouble::NoProgram)?;
    let slot = kept.0.iter_mut().find(|slot| slot.is_none()).ok_or(Trouble::Full)?;
    // As the kernel itself would start it: the first process has all that there is, and who draws a part of the screen.
    let strip = memory::boot_info().filter(|_| DRAWING.contains(&name)).and_then(strip::of);
    let screen = strip.as_ref().map(Strip::screen);
    let start = Start { argument, screen, physical: name == "init", ..Start::default() };
    let process = Process::load(full, file, start).map_err(|error| ProgramError::Refused("asked for", error))?;
    process::start(&process).map_err(|error| ProgramError::NoThread("asked for", error))?;
    let process = slot.insert(process);
    let pid = process::pid(process);
    writeln!(out, "process {pid}: {}", &**process)?;
    while process::threads(process) != 0 {
        if input.is_interrupted() {
            return Ok(writeln!(out, "process {pid} goes on; `kill {pid}` ends it")?);
        }
        Input::pause();
    }
    let ending = process::ending(process).unwrap_or(Ending::Exited(0));
    Ok(writeln!(out, "process {pid}: {ending}; `kill {pid}` gives its memory up")?)
}

/// Ends a process, waits until it has, and gives up what it has.
pub(super) fn kill(pid: u64, kept: &mut Kept, out: &mut Out<'_>) -> Result<(), Trouble> {
    let process = subject::process(pid)?;
    process::end(&process, Ending::Killed);
    while process::threads(&process) != 0 {
        Input::pause();
    }
    let ending = process::ending(&process).unwrap_or(Ending::Killed);
    if let Some(slot) = kept.place_of(&process) {
        *slot = None;
    }
    drop(process);
    crate::screen::finish_look();
    writeln!(out, "process {pid}: {ending}")?;
    for other in process::all().filter(|other| process::threads(other) != 0 && kept.place_of(other).is_none()) {
        let pid = process::pid(&other);
        writeln!(out, "process {pid}: {}, which a program has started, goes on; `kill {pid}` ends it", &*other)?;
    }
    Ok(())
}
