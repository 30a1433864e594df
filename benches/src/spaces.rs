//! Spaces: windows beside other maps from ranges, and whole operations, on one CPU and on two.
//!
//! | module | what it is |
//! |---|---|
//! | `kernel` | the platform that everything runs on |
//! | `windows`, `subjects` | the rows about windows, and who takes part in them |
//! | `scenes` | operations with what puts things back, for each CPU in a part of the space for itself |
//! | `clone` | clones of ten windows, beside copying entries |
//! | `memory` | what things take |
//! | `step` | counts of instructions, locked operations and words written |
//!
//! Rounds are made and counted as for the page tables ([`measure`](crate::measure)). Two CPUs begin a round at one moment, and it ends when both have done as much as
//! one alone does; the ratio is how many times as much was done in the same time.

pub mod clone;
pub mod kernel;
pub mod memory;
pub mod scenes;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod step;
pub mod subjects;
pub mod windows;

use std::{
    hint,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use kernel::{Booted, CPUS};
use scenes::{Part, Scene};

use crate::{clock::timed, measure::Effort};

/// A row, or what several rows are asked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Beside other maps.
    Windows(windows::Row),
    /// One CPU alone.
    Alone(Scene),
    /// Clones.
    Clone,
    /// Two CPUs against one.
    Parallel(Scene),
    /// Bytes.
    Memory,
}

/// Windows with memory of their own in the rows about faults.
const WINDOWS: u64 = 1000;

impl Row {
    /// All of them, in the tables' order.
    pub fn all() -> impl Iterator<Item = Self> {
        windows::Row::ALL.into_iter().map(Self::Windows).chain([
            Self::Alone(Scene::Fault),
            Self::Alone(Scene::ScatteredFault),
            Self::Clone,
            Self::Parallel(Scene::Fault),
            Self::Parallel(Scene::OneAreaFault),
            Self::Parallel(Scene::MapUnmap),
            Self::Parallel(Scene::MapPopulate),
            Self::Parallel(Scene::Protect),
            Self::Memory,
        ])
    }

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Windows(row) => row.name(),
            Self::Alone(Scene::ScatteredFault) => "space-fault-scattered",
            Self::Alone(_) => "space-fault",
            Self::Clone => "space-clone",
            Self::Parallel(Scene::Fault | Scene::ScatteredFault) => "space-two-fault",
            Self::Parallel(Scene::OneAreaFault) => "space-two-fault-one-area",
            Self::Parallel(Scene::MapUnmap) => "space-two-map",
            Self::Parallel(Scene::MapPopulate) => "space-two-populate",
            Self::Parallel(Scene::Protect) => "space-two-protect",
            Self::Memory => "space-bytes",
        }
    }

    /// What it is called in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Windows(row) => row.title(),
            Self::Alone(Scene::ScatteredFault) => "fault, each in another of 1,000 windows",
            Self::Alone(_) => "fault, page after page of 1,000 windows",
            Self::Clone => "clone ten windows",
            Self::Parallel(Scene::Fault | Scene::ScatteredFault) => "fault",
            Self::Parallel(Scene::OneAreaFault) => "fault, both in one area, other 256 KiB",
            Self::Parallel(Scene::MapUnmap) => "map + unmap",
            Self::Parallel(Scene::MapPopulate) => "map + populate 32 pages + unmap",
            Self::Parallel(Scene::Protect) => "protect a middle page, and back",
            Self::Memory => "bytes of windows, areas and pages",
        }
    }
}

const FEWEST_ROUNDS: u32 = 12;

/// The fastest of so many rounds, in nanoseconds for each operation.
fn fastest(effort: Effort, operations: usize, mut round: impl FnMut() -> Duration) -> f64 {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    for made in 0..effort.rounds {
        if made >= FEWEST_ROUNDS && begin.elapsed() > effort.limit {
            break;
        }
        best = best.min(round());
    }
    best.as_secs_f64() * 1e9 / operations as f64
}

/// Measures the rows and gives the lines of the tables, as they come. The addresses of what was counted go to `addresses`.
///
/// # Errors
/// Who does not do the same work, or why nothing can be counted.
pub fn run(rows: &[Row], effort: Effort, addresses: Option<&Path>, mut line: impl FnMut(String)) -> Result<()> {
    let mut machine = kernel::boot();
    windows::check_all()?;
    let beside: Vec<_> =
        rows.iter().filter_map(|row| if let Row::Windows(row) = row { Some(*row) } else { None }).collect();
    if !beside.is_empty() {
        windows::run(&beside, effort, &mut line);
    }
    let wanted = |row: Row| rows.contains(&row);
    if wanted(Row::Clone) {
        clones(effort, &mut line);
    }
    let alone = [Scene::Fault, Scene::ScatteredFault].into_iter().filter(|scene| wanted(Row::Alone(*scene)));
    let mut alone = alone.peekable();
    if alone.peek().is_some() {
        line(format!("| {:<40} |     ns | goal |", "one CPU alone"));
        line(format!("|{:-<42}|-------:|-----:|", ""));
        for scene in alone {
            let part = &scenes::parts(&mut machine, scene, WINDOWS)[0];
            let figure = fastest(effort, part.operations(scene), || {
                part.prepare(scene);
                timed(|| part.round(scene))
            });
            let goal = if scene == Scene::Fault { "45" } else { "–" };
            line(format!("| {:<40} | {figure:>6.1} | {goal:>4} |", Row::Alone(scene).title()));
        }
        line(String::new());
    }
    let parallel = [Scene::Fault, Scene::OneAreaFault, Scene::MapUnmap, Scene::MapPopulate, Scene::Protect];
    let parallel: Vec<_> = parallel.into_iter().filter(|scene| wanted(Row::Parallel(*scene))).collect();
    if !parallel.is_empty() {
        line(format!("| {:<40} | one, ns | two, ns | two to one | Linux | goal |", "two CPUs in one space, two areas"));
        line(format!("|{:-<42}|--------:|--------:|-----------:|------:|-----:|", ""));
        for scene in parallel {
            let (one, two) = in_parallel(&mut machine, scene, effort);
            let (linux, goal) = match scene {
                Scene::Fault | Scene::ScatteredFault => ("1.35", 1.7),
                Scene::OneAreaFault => ("–", 1.7),
                Scene::MapUnmap => ("0.90", 1.0),
                Scene::MapPopulate => ("–", 1.5),
                Scene::Protect => ("0.20", 1.0),
            };
            let (title, ratio) = (Row::Parallel(scene).title(), 2.0 * one / two);
            line(format!("| {title:<40} | {one:>7.1} | {two:>7.1} | {ratio:>10.2} | {linux:>5} | {goal:>4.1} |"));
        }
        line(String::new());
    }
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    counted(&mut machine, rows, addresses, &mut line)?;
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    let _ = addresses;
    if wanted(Row::Memory) {
        line(format!("| {:<54} | bytes | goal |", "memory for each"));
        line(format!("|{:-<56}|------:|-----:|", ""));
        for (title, bytes, goal) in memory::figures() {
            let goal = goal.map_or("–".into(), |goal| goal.to_string());
            line(format!("| {title:<54} | {bytes:>5.1} | {goal:>4} |"));
        }
    }
    Ok(())
}

fn clones(effort: Effort, line: &mut impl FnMut(String)) {
    let head: Vec<_> = clone::RESIDENT.iter().map(|pages| format!("{pages:>9} pages")).collect();
    line(format!("| {:<40} | {} | goal          |", "µs, ten windows, resident", head.join(" | ")));
    line(format!("|{:-<42}|{}---------------|", "", "----------------:|".repeat(head.len())));
    let mut put = |title: &str, goal: &str, figure: &mut dyn FnMut(u64) -> f64| {
        let figures: Vec<_> = clone::RESIDENT.iter().map(|pages| format!("{:>15.2}", figure(*pages) / 1e3)).collect();
        line(format!("| {title:<40} | {} | {goal:<13} |", figures.join(" | ")));
    };
    for (title, goal, aligned, mixed) in [
        ("clone, aligned to 2 MiB", "≤ 3, the same", true, false),
        ("clone, unaligned", "≤ 10", false, false),
        ("clone, aligned, one of them shared", "≤ 3, the same", true, true),
        ("clone, unaligned, one of them shared", "≤ 10", false, true),
    ] {
        put(title, goal, &mut |resident| {
            fastest(effort, 1, || clone::round(clone::Shape { resident, aligned, mixed }, false))
        });
    }
    put("clone, and the child reads everything", "half of below", &mut |resident| {
        fastest(effort, 1, || clone::round(clone::Shape { resident, aligned: true, mixed: false }, true))
    });
    put("entries copied, and the child reads all", "–", &mut |pages| {
        let copying = clone::Copying::new(pages);
        fastest(effort, 1, || copying.round())
    });
    line(String::new());
}

/// How long an operation takes on a CPU alone, and on each of two.
fn in_parallel(machine: &mut Booted, scene: Scene, effort: Effort) -> (f64, f64) {
    let windows = if matches!(scene, Scene::Fault | Scene::OneAreaFault) { 16 } else { 0 };
    let parts = scenes::parts(machine, scene, windows);
    let best = Mutex::new([Duration::MAX; 2]);
    let operations = parts[0].operations(scene);
    let rounds = effort.rounds.max(FEWEST_ROUNDS);
    // On a busy machine it takes a while until both have a processor for the whole of a round.
    let limit = 4 * effort.limit;
    let begin = Instant::now();
    let turnstile = Turnstile::default();
    let spans = [const { Mutex::new((Duration::ZERO, Duration::ZERO)) }; CPUS];
    machine.on_each_cpu(|cpu| {
        let part: &Part = &parts[cpu];
        for round in 0..rounds {
            part.prepare(scene);
            turnstile.pass();
            // The first CPU alone, while the other waits on its own processor without touching anything of the library's.
            if cpu == 0 {
                let time = timed(|| part.round(scene));
                part.prepare(scene);
                let mut best = best.lock().unwrap();
                best[0] = best[0].min(time);
            }
            turnstile.pass();
            let started = begin.elapsed();
            part.round(scene);
            *spans[cpu].lock().unwrap() = (started, begin.elapsed());
            turnstile.pass();
            if cpu == 0 {
                // From when the first began: the other may have begun late, and be done after it.
                let spans = [0, 1].map(|cpu| *spans[cpu].lock().unwrap());
                let time = spans[0].1.max(spans[1].1) - spans[0].0.min(spans[1].0);
                let mut best = best.lock().unwrap();
                best[1] = best[1].min(time);
            }
            // The same answer for both: whether there is time left is told by the one.
            if turnstile.ends(cpu == 0 && round >= FEWEST_ROUNDS && begin.elapsed() > limit) {
                break;
            }
        }
    });
    let best = best.into_inner().unwrap();
    let [one, two] = best.map(|time| time.as_secs_f64() * 1e9 / operations as f64);
    (one, two)
}

/// Where all CPUs wait for one another.
#[derive(Default)]
struct Turnstile {
    came: AtomicUsize,
    ended: AtomicUsize,
}

impl Turnstile {
    fn pass(&self) {
        let all = (self.came.fetch_add(1, Ordering::AcqRel) / CPUS + 1) * CPUS;
        let mut turns = 0_u32;
        while self.came.load(Ordering::Acquire) < all {
            hint::spin_loop();
            turns += 1;
            if turns.is_multiple_of(1 << 12) {
                std::thread::yield_now();
            }
        }
    }

    /// Whether somebody says that it is the end.
    fn ends(&self, here: bool) -> bool {
        self.ended.fetch_add(usize::from(here), Ordering::AcqRel);
        self.pass();
        self.ended.load(Ordering::Acquire) != 0
    }
}

/// What the rows execute: instructions, locked operations, and words that both of two CPUs write.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn counted(machine: &mut Booted, rows: &[Row], addresses: Option<&Path>, line: &mut impl FnMut(String)) -> Result<()> {
    use anyhow::Context as _;
    let mut lines = Vec::new();
    let nothing = step::count(|| {})?.addresses.len();
    // What was counted, and how many times it was done.
    let mut put = |name: &str, title: &str, counts: (&step::Counts, usize), goal: &str, both: &str| -> Result<()> {
        let (counts, times) = counts;
        let (instructions, locked) = ((counts.addresses.len() - nothing) / times, counts.locked / times);
        lines.push(format!("| {title:<48} | {instructions:>12} | {locked:>6} | {goal:>4} | {both:>12} |"));
        if let Some(directory) = addresses {
            let base = load_base();
            let text: Vec<_> = counts.addresses.iter().map(|address| format!("{:#x}\n", address - base)).collect();
            let file = directory.join(name);
            std::fs::write(&file, text.concat()).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    };
    for row in rows {
        match row {
            Row::Windows(row) => {
                let mut steps = windows::steps(*row, WINDOWS as usize);
                // Once before, so that what is taken for the first time is there.
                steps();
                let counts = step::count(&mut steps)?;
                put(row.name(), row.title(), (&counts, windows::PLACES), "–", "–")?;
            }
            Row::Alone(_) | Row::Memory => {}
            Row::Clone => {
                for (name, title, aligned, mixed) in [
                    ("space-clone", "clone, aligned, 16,384 pages", true, false),
                    ("space-clone-unaligned", "clone, unaligned, 16,384 pages", false, false),
                    ("space-clone-mixed", "clone, aligned, one window shared, 16,384 pages", true, true),
                ] {
                    let counts = step::count(clone::prepared(clone::Shape { resident: 16_384, aligned, mixed }))?;
                    put(name, title, (&counts, 1), "–", "–")?;
                }
                let counts =
                    step::count(clone::prepared_read(clone::Shape { resident: 16_384, aligned: true, mixed: false }))?;
                put("space-clone-read", "fault of a clone's read, 512 pages mapped", (&counts, 1), "–", "–")?;
            }
            Row::Parallel(scene) => {
                let faults = matches!(scene, Scene::Fault | Scene::OneAreaFault);
                let parts = scenes::parts(machine, *scene, if faults { 500 } else { 0 });
                let count = |machine: &mut Booted, step: usize| -> Result<Vec<_>> {
                    let counted = |cpu: usize| {
                        // What comes first is there and warm.
                        (step - 20..step).for_each(|step| parts[cpu].step(*scene, step));
                        step::count(|| parts[cpu].step(*scene, step))
                    };
                    (0..CPUS).map(|cpu| machine.as_cpu(cpu, || counted(cpu))).collect()
                };
                // Half-way in a window.
                let half = parts[0].operations(*scene) / 2 + 20;
                let mut counts = count(machine, half)?;
                let common = |counts: &[step::Counts]| counts[0].written.intersection(&counts[1].written).count();
                if *scene == Scene::OneAreaFault {
                    // As soon as they met they have the area beside one another; on a busy machine they may miss each other for a while.
                    for window in 0..100 {
                        let first = window * parts[0].operations(*scene) / 500;
                        let turnstile = Turnstile::default();
                        machine.on_each_cpu(|cpu| {
                            turnstile.pass();
                            (first..first + 40).for_each(|step| parts[cpu].step(*scene, step));
                        });
                        let more = count(machine, first + 61)?;
                        if common(&more) < common(&counts) {
                            counts = more;
                            break;
                        }
                    }
                }
                let both = common(&counts);
                let goal = if faults { "4" } else { "–" };
                put(row.name(), row.title(), (&counts[0], 1), goal, &both.to_string())?;
            }
        }
    }
    if !lines.is_empty() {
        line(format!("| {:<48} | instructions | locked | goal | both write |", "counted, 1,000 windows"));
        line(format!("|{:-<50}|-------------:|-------:|-----:|-----------:|", ""));
        lines.into_iter().for_each(&mut *line);
        line(String::new());
    }
    Ok(())
}

/// Where this program lies in memory: what addresses in its file are counted from.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn load_base() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.split('-').next().and_then(|first| u64::from_str_radix(first, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_do_the_same() {
        let _machine = kernel::boot();
        windows::check_all().unwrap();
    }

    /// Every scene can be made again and again, on each CPU, and leaves as many windows as it found.
    #[test]
    fn scenes_end_as_they_began() {
        let mut machine = kernel::boot();
        for scene in [
            Scene::Fault,
            Scene::ScatteredFault,
            Scene::OneAreaFault,
            Scene::MapUnmap,
            Scene::MapPopulate,
            Scene::Protect,
        ] {
            let parts = scenes::parts(&mut machine, scene, 4);
            let before = parts[0].shown();
            machine.on_each_cpu(|cpu| {
                for _ in 0..3 {
                    parts[cpu].prepare(scene);
                    parts[cpu].round(scene);
                }
            });
            parts.iter().enumerate().for_each(|(cpu, part)| machine.as_cpu(cpu, || part.prepare(scene)));
            assert_eq!(parts[0].shown(), before, "{scene:?}");
        }
    }
}
