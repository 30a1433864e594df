//! `cargo xtask bench-guest`: what the kernel's paths cost, in guest instructions.
//!
//! The machine counts one nanosecond of guest time per instruction, so the guest's time-stamp counter counts instructions: the same figure on
//! every host, however busy. The kernel runs its bench program and writes lines `bench NAME: MEDIAN instructions (N operations)`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    qemu::{Machine, Medium, Memory, Pace},
    session::{self, Limits, Typing, Wishes},
    setup::{self, Need},
    workspace::Workspace,
};

/// Measure system call, fault and mapping in guest instructions, beside Linux's figures
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show the serial line as it comes
    #[arg(long)]
    show: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// What the figures are put beside.
struct Reference {
    /// How the kernel's line begins.
    name: &'static str,
    /// The same operation in Linux 6.18 on the same emulated machine.
    linux: u32,
    /// What the hardware's transitions and the unavoidable stores alone take; `None` where nobody has counted it.
    bare_minimum: Option<u32>,
}

const REFERENCES: [Reference; 3] = [
    Reference { name: "null-system-call", linux: 335, bare_minimum: Some(12) },
    Reference { name: "anonymous-fault", linux: 3193, bare_minimum: Some(573) },
    Reference { name: "map-unmap", linux: 8751, bare_minimum: None },
];

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figure {
    name: String,
    median: u64,
    operations: u64,
}

/// `cargo xtask bench-guest`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Qemu], arguments.yes)?;
    let image = build::image(&Workspace::load()?, Profile::Optimised)?;
    let machine = Machine {
        medium: Medium::Direct(image),
        cmdline: "bench".into(),
        memory: Memory(256),
        cpus: 1,
        window: false,
        pace: Pace::Counted,
        options: Vec::new(),
    };
    let limit = Duration::from_secs(300);
    let outcome = session::run(
        &machine,
        Wishes {
            limits: Limits { total: Some(limit), silence_at_start: limit, silence: Some(limit) },
            show: arguments.show,
            typing: Typing::No,
            script: None,
            picture: None,
        },
    )?;
    if !outcome.end.is_success() {
        bail!("{}{}", outcome.end, outcome.last_lines());
    }
    let figures: Vec<Figure> = outcome.lines.iter().filter_map(|line| parse(line)).collect();
    let missing: Vec<_> = REFERENCES
        .iter()
        .map(|reference| reference.name)
        .filter(|name| !figures.iter().any(|figure| figure.name == *name))
        .collect();
    print!("{}", table(&figures));
    if !missing.is_empty() {
        bail!("the kernel gave no figure for: {}{}", missing.join(", "), outcome.last_lines());
    }
    Ok(())
}

/// Reads `bench NAME: MEDIAN instructions (N operations)`.
fn parse(line: &str) -> Option<Figure> {
    let (name, rest) = line.strip_prefix("bench ")?.split_once(": ")?;
    let (median, rest) = rest.split_once(" instructions (")?;
    let (operations, _) = rest.split_once(" operations)")?;
    Some(Figure { name: name.to_owned(), median: median.parse().ok()?, operations: operations.parse().ok()? })
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<28} {:>12} {:>8} {:>13} {:>11}\n",
        "guest instructions, median", "refkernel", "Linux", "bare minimum", "operations"
    );
    for figure in figures {
        let reference = REFERENCES.iter().find(|reference| reference.name == figure.name);
        let shown = |number: Option<u32>| number.map_or("–".to_owned(), |number| grouped(number.into()));
        text.push_str(&format!(
            "{:<28} {:>12} {:>8} {:>13} {:>11}\n",
            figure.name,
            grouped(figure.median),
            shown(reference.map(|reference| reference.linux)),
            shown(reference.and_then(|reference| reference.bare_minimum)),
            grouped(figure.operations)
        ));
    }
    text
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1000), number % 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() {
        assert_eq!(
            parse("bench map-unmap: 8751 instructions (1024 operations)"),
            Some(Figure { name: "map-unmap".into(), median: 8751, operations: 1024 })
        );
        for line in [
            "bench: 12 instructions (3 operations)",
            "bench a: many instructions (3 operations)",
            "bench a: 1 instructions",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn figures_stand_beside_linuxs() {
        let figures = [
            Figure { name: "anonymous-fault".into(), median: 1_234_567, operations: 64 },
            Figure { name: "something-new".into(), median: 7, operations: 1000 },
        ];
        let table = table(&figures);
        let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [["anonymous-fault", "1,234,567", "3,193", "573", "64"], ["something-new", "7", "–", "–", "1,000"]]
        );
    }
}
