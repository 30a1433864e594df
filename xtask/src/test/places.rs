//! Places are fixed by a seed, and by nothing else: the same in two boots with the same one, on any number of processors, others with another one and with none.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::Image,
    places::{Window, windows},
};

/// The program that is asked about: it has small windows and one onto the screen, and text, data and a stack as all have.
const PROGRAM: &str = "demo";
/// No window is drawn below.
const DRAWN: u64 = 1 << 32;

/// Boots and compares. Gives how many windows were compared, and the log of the last boot.
pub(crate) fn run(image: &Image) -> Result<(usize, Vec<String>)> {
    let boot = |words: &str, cpus: u8, key: &str| -> Result<(Vec<Window>, Vec<String>)> {
        let (windows, outcome) = windows(image, cpus, words, PROGRAM).with_context(|| format!("with `{words}`"))?;
        let line = outcome.lines.iter().find(|line| line.starts_with("random: ")).context("no line says `random: `")?;
        ensure!(line.contains(key), "with `{words}`: `{line}` does not say `{key}`");
        let bits = outcome.lines.iter().any(|line| line.starts_with("places: ") && line.contains(" bits of a window"));
        ensure!(bits, "with `{words}` no line says how many bits are not known");
        Ok((windows, outcome.lines))
    };
    let (first, _) = boot("seed=7", 1, "seed=7")?;
    let (again, _) = boot("seed=7", 1, "seed=7")?;
    let (with_others, _) = boot("seed=7", 4, "seed=7")?;
    let starts = |windows: &[Window]| windows.iter().map(|window| window.start).collect::<Vec<_>>();
    ensure!(first == again, "two boots with one seed differ:\n  {first:x?}\n  {again:x?}");
    ensure!(starts(&first) == starts(&with_others), "four processors change places:\n  {first:x?}\n  {with_others:x?}");
    let (other, _) = boot("seed=8", 1, "seed=8")?;
    // Without a seed the processor is asked, twice.
    let (free, _) = boot("", 1, "256 bits of RD")?;
    let (free_again, lines) = boot("", 1, "256 bits of RD")?;
    let all = [&first, &other, &free, &free_again];
    let mut drawn = HashSet::new();
    for windows in all {
        let fixed: Vec<_> = windows.iter().filter(|window| window.start < DRAWN).collect();
        let same = first.iter().filter(|window| window.start < DRAWN);
        ensure!(fixed.iter().map(|window| window.start).eq(same.map(|window| window.start)), "text and data moved");
        ensure!(windows.len() >= fixed.len() + 3, "the program has too few windows: {windows:x?}");
        for window in windows.iter().filter(|window| window.start >= DRAWN) {
            ensure!(drawn.insert(window.start), "{:#x} comes with another seed as well", window.start);
        }
    }
    Ok((drawn.len(), lines))
}
