//! The inspector: a person's questions to the running kernel, asked over the serial line or at the keyboard, and answered on both the line and the screen.
//!
//! | file | what lives there |
//! |---|---|
//! | [`terminal`] | what is typed, lines of answers |
//! | [`subject`] | which space a question is about |
//! | [`tables`] | what page tables say: `walk`, `entry`, `decode`, `dump`, `explain` |
//! | [`spaces`] | what they are filled from: `maps`, `area`, `tree` |
//! | [`counts`] | `frames`, `tlb`, `stats` |
//! | [`faults`] | the last faults |
//! | [`programs`] | `ps`, `run`, `kill` |
//!
//! The language of the questions is `refkernel::shell`'s, which a host tests. Each answer is what a value of `vmcore::inspect` shows, or what the kernel
//! counts, written through one writer; an error is one sentence with what to do next. Answers take locks for a line at a time, so the
//! machine goes on beside them.

mod counts;
pub(crate) mod faults;
mod programs;
mod spaces;
mod subject;
mod tables;
mod terminal;

use crate::boot_picture;
use crate::cpu::backtrace;
use crate::devices::input::Typed;
use crate::process::{Process, ProcessRef};
use core::fmt::{self, Write};
use programs::Kept;
use refkernel::boot_info::BootInfo;
use refkernel::shell::command::{COMMANDS, Command};
use refkernel::shell::complete::Questions;
use refkernel::shell::line::{Editor, Outcome};
use subject::Trouble;
use terminal::{Input, Out};

/// What is written when a question may be asked, in a colour of its own.
const PROMPT: &str = "\x1b[36mvm> \x1b[0m";

/// Answers questions until there are no more.
pub(crate) fn run(info: &BootInfo) {
    faults::record_all();
    crate::log!("refkernel: the inspector listens; `help` lists the questions, `quit` powers off");
    let input = Input::new();
    let mut editor = Editor::new(PROMPT);
    let mut kept = Kept::new();
    loop {
        match next_line(&mut editor, &input) {
            Some(Outcome::Entered) => {}
            // The line's other end has nothing more to say, or there is no line.
            _ => return,
        }
        let mut out = Out::new(&input);
        let line = editor.line().text();
        match Command::parse(line, &backtrace::address_of) {
            Ok(Command::Quit) => return,
            Ok(command) => match answer(command, info, &mut kept, &input, &mut out) {
                Ok(()) => {}
                Err(Trouble::Stopped) => out.stopped(),
                Err(trouble) => say(&mut out, &trouble),
            },
            Err(error) => say(&mut out, &error),
        }
    }
}

fn say(out: &mut Out<'_>, what: &dyn fmt::Display) {
    // The only error is that of a person who has read enough.
    let _ = writeln!(out, "{what}");
}

/// Shows the prompt and has a line written; `None` where there is no serial line.
fn next_line(editor: &mut Editor, input: &Input) -> Option<Outcome> {
    let programs = Questions(|each: &mut dyn FnMut(&str)| programs::for_each_name(each));
    let mut out = Out::new(input).without_breaks();
    editor.begin(&mut out).ok()?;
    loop {
        out.flush();
        let outcome = match input.wait()? {
            Typed::Byte(byte) => editor.take_byte(byte, &programs, &mut out),
            Typed::Key(key) => editor.take(key, &programs, &mut out),
        };
        let outcome = outcome.ok()?;
        if outcome != Outcome::Editing {
            return Some(outcome);
        }
    }
}

fn answer(
    command: Command<'_>,
    info: &BootInfo,
    kept: &mut Kept,
    input: &Input,
    out: &mut Out<'_>,
) -> Result<(), Trouble> {
    match command {
        Command::Nothing | Command::Quit => Ok(()),
        Command::Help(question) => help(question, out),
        Command::Processes => programs::list(out),
        Command::Maps(of) => spaces::maps(of, out),
        Command::Walk(address, of) => tables::walk(address, of, out),
        Command::Entry(address, level, of) => tables::entry(address, level, of, out),
        Command::Decode(value, level) => tables::decode(value, level, out),
        Command::Dump(range, of) => tables::dump(range, of, out),
        Command::Explain(address, attempt, of) => tables::explain(address, attempt, of, out),
        Command::Area(address, of) => spaces::area(address, of, out),
        Command::Tree(address, of) => spaces::tree(address, of, out),
        Command::Frames(frame) => counts::frames(frame, out),
        Command::Tlb => counts::tlb(out),
        Command::Faults => faults::list(out),
        Command::Stats => counts::stats(out),
        Command::Map => map(info),
        Command::Run(name, argument) => programs::run(name, argument, kept, input, out),
        Command::Kill(pid) => programs::kill(pid, kept, out),
    }
}

fn help(question: Option<&'static str>, out: &mut Out<'_>) -> Result<(), Trouble> {
    let width =
        COMMANDS.iter().map(|question| question.name.len() + question.usage.len()).max().unwrap_or_default() + 1;
    for known in COMMANDS.iter().filter(|known| question.is_none_or(|name| name == known.name)) {
        let rest = width - known.name.len() - 1;
        writeln!(out, "{} {:rest$}  {}", known.name, known.usage, known.about)?;
    }
    if question.is_none() {
        writeln!(
            out,
            "An ADDRESS is a number (0x400000, 4M) or a symbol of the kernel's; a RANGE is START..END or START+SIZE."
        )?;
        writeln!(out, "Tab completes, the arrows bring lines back, Ctrl-C stops an answer.")?;
    }
    Ok(())
}

/// The picture, of the kernel's space and the first processes.
fn map(info: &BootInfo) -> Result<(), Trouble> {
    let mut held: [Option<ProcessRef>; 3] = [const { None }; 3];
    for (slot, process) in held.iter_mut().zip(crate::process::all()) {
        *slot = Some(process);
    }
    let [first, second, third] = &held;
    let result = match (first, second, third) {
        (Some(first), Some(second), Some(third)) => show(info, &[first, second, third]),
        (Some(first), Some(second), _) => show(info, &[first, second]),
        (Some(first), ..) => show(info, &[first]),
        _ => show(info, &[]),
    };
    result.map_err(Trouble::Picture)
}

fn show(info: &BootInfo, processes: &[&Process]) -> Result<(), boot_picture::PictureError> {
    boot_picture::show(info, processes)
}
