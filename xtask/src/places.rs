//! Where windows lie: the kernel places them at random, so whoever asks about an address first has to know it. A machine that is started with a
//! seed has the same places in each boot: one boot is asked, and the next one has them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::Image,
    qemu::Machine,
    session::{self, Outcome, PROMPT, Script, Wishes},
};

/// The word of the command line with which the tests' questions are asked.
pub(crate) const SEED: &str = "seed=1";

/// How long it may take in all.
const TOTAL: Duration = Duration::from_secs(180);
/// How long nothing may come on the serial line.
const SILENCE: Duration = Duration::from_secs(60);

/// A window, as the kernel's prompt tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// What it allows, what it shows, and what a person calls it.
    pub(crate) rest: String,
}

impl Window {
    /// `0xSTART-0xLAST REST`
    fn read(line: &str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, last) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let (start, last) = (number(start)?, number(last)?);
        Some(Self { start, size: last.checked_sub(start)?.checked_add(1)?, rest: rest.trim_end().to_owned() })
    }
}

/// Runs a program in a machine with these words on its command line, and asks for its windows. Gives the log as well.
pub(crate) fn windows(image: &Image, cpus: u8, words: &str, program: &str) -> Result<(Vec<Window>, Outcome)> {
    let questions = [format!("run {program}"), "maps 1".to_owned()];
    let machine = Machine::direct(image, cpus, format!("{words} inspect"));
    let wishes = Wishes { script: Some(Script::new(&questions)), ..Wishes::within(Some(TOTAL), SILENCE) };
    let outcome = session::run(&machine, wishes)?;
    ensure!(outcome.end.is_success(), "{}{}", outcome.end, outcome.last_lines());
    let prompt = format!("{PROMPT}maps 1");
    let answer = outcome.lines.iter().skip_while(|line| line.trim_end() != prompt).skip(1);
    let windows: Vec<_> = answer.map_while(|line| Window::read(line)).collect();
    ensure!(!windows.is_empty(), "`maps 1` names no window{}", outcome.last_lines());
    Ok((windows, outcome))
}

/// The address of a program's largest window, of those that are drawn.
pub(crate) fn largest(image: &Image, cpus: u8, program: &str) -> Result<Window> {
    let (windows, _) = windows(image, cpus, SEED, program)?;
    let drawn = windows.iter().filter(|window| window.start >= 1 << 32);
    drawn.max_by_key(|window| window.size).cloned().context("the program has no window")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read() {
        let line = "0x0000764a84a77000-0x0000764a84ab6fff rw-u open        256 KiB  64 resident, from offset 0x40000 ";
        let window = Window::read(line).unwrap();
        assert_eq!((window.start, window.size), (0x764a_84a7_7000, 0x4_0000));
        assert!(window.rest.starts_with("rw-u open") && window.rest.ends_with("0x40000"));
        for other in ["7 windows, 1204 KiB shown, 188 pages resident", "", "0x1-0x0 x", "0x1-2 x", "vm> quit"] {
            assert_eq!(Window::read(other), None, "{other}");
        }
    }
}
