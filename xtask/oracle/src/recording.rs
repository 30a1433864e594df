//! Scripts and what Linux made of them, as text that `cargo xtask replay` takes.
//!
//! The format is that of the recordings, with these words more:
//!
//! | words | meaning |
//! |---|---|
//! | in the first line: `placed` | nothing is free but the window: what is mapped without a place comes into it, to the highest gap |
//! | in the first line: `files=12,3` | there are files, of so many pages; the word at the start of each page says which it is (`replay::word_of`), the rest is zero |
//! | `sK.T` | thread T of process K does it; without, its first |
//! | `mmap ADDR LEN PROT FLAGS FILE OFFSET` | of a file, by its number, from a byte on |
//! | `truncate FILE SIZE` | the file has so many bytes from now on; the pages that it grows by are there at once |
//! | `msync ADDR LEN FLAGS` | |
//! | `mlock ADDR LEN`, `munlock ADDR LEN`, `mlockall FLAGS`, `munlockall`, `mseal ADDR LEN` | an `mlock` that is refused is the last step: Linux has locked what comes before, and no call does just that |
//! | `mincore ADDR LEN` | `h=` is a number with a bit for each page that is there, from the first on |
//!
//! An address that counts from below the window wraps: `0xfffff00000000000` is the address 0.

use std::fmt::Write as _;

use crate::script::{BASE, Call, Outcome, PAGES, Record, Script, State};

/// The text of a script and of what came of it.
pub fn text(script: &Script, records: &[Record], heading: &str) -> String {
    let mut text = String::with_capacity(script.steps.len() * 200 + 200);
    write_all(&mut text, script, records, heading).expect("a string takes all");
    text
}

fn write_all(out: &mut String, script: &Script, records: &[Record], heading: &str) -> std::fmt::Result {
    write!(out, "# lxoracle v2 {heading} window_pages={PAGES} base={BASE:#x}")?;
    if script.setting.placed {
        out.push_str(" placed");
    }
    if script.setting.files != [0; crate::script::FILES] {
        let sizes: Vec<String> = script.setting.files.iter().map(u8::to_string).collect();
        write!(out, " files={}", sizes.join(","))?;
    }
    out.push('\n');
    for (number, (step, record)) in script.steps.iter().zip(records).enumerate() {
        write!(out, "{number} s{}", step.slot)?;
        if step.thread != 0 {
            write!(out, ".{}", step.thread)?;
        }
        write!(out, " {}", step.call)?;
        write_result(out, &step.call, record)?;
        if step.call != Call::Exit {
            write_state(out, ('R', 'P'), &record.state)?;
        }
        if matches!(step.call, Call::Fork { .. }) {
            write_state(out, ('r', 'p'), &record.child)?;
        }
    }
    Ok(())
}

fn write_result(out: &mut String, call: &Call, record: &Record) -> std::fmt::Result {
    match call {
        Call::Fork { .. } | Call::Exit => return out.write_str(" e0\n"),
        Call::Write { .. } | Call::Read { .. } => {
            out.write_str(match record.outcome {
                Outcome::Done => " = ok",
                Outcome::NotMapped => " = maperr",
                Outcome::Denied => " = accerr",
                Outcome::Bus => " = bus",
            })?;
            if let (Call::Read { .. }, Outcome::Done) = (call, record.outcome) {
                write!(out, " {}", record.value)?;
            }
            return out.write_str(" e0\n");
        }
        _ if record.result < 0 => write!(out, " = -1 e{}", -record.result)?,
        _ => write!(out, " = {} e0", record.result)?,
    }
    if let Call::CopyIn { .. } | Call::Core { .. } = call {
        write!(out, " h={:x}", record.value)?;
    }
    out.write_char('\n')
}

fn write_state(out: &mut String, (regions, pages): (char, char), state: &State) -> std::fmt::Result {
    write!(out, " {regions}")?;
    for region in state.regions() {
        write!(out, " {}-{}:", region.first, region.end)?;
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'x')] {
            out.push(if region.kind & bit != 0 { letter } else { '-' });
        }
        out.push(if region.kind & 8 != 0 { 's' } else { 'p' });
    }
    write!(out, "\n {pages} ")?;
    for page in 0..PAGES {
        out.push(match (state.private >> page & 1, state.shared >> page & 1) {
            (1, _) => 'p',
            (_, 1) => 's',
            _ => '.',
        });
    }
    out.write_char('\n')
}
