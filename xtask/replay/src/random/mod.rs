//! Recordings of random operations, with the full state after each.
//!
//! All is compared: results, errnos, regions, which pages are resident, bytes that are read. Two things are told apart as the recordings' own description says:
//! *private* pages that were ever written are resident exactly where Linux has them, others are not compared; *shared* pages count as resident where the space touched them, and
//! what a child has of those after a fork is taken over.
//!
//! Linux is not all or nothing: a call that is refused may have done a part of its work. Then it is checked first that nothing was changed here, and the part is done
//! by calls of its own, so that the states can be compared again.
//!
//! | module | what lives there |
//! |---|---|
//! | `recording` | steps and states, out of the text |
//! | `shape` | regions and pages as sets |
//! | `actor` | a process: makes calls, sees what came of them, compares |
//! | `notes` | what the comparison knows of pages: written, touched, kept from a child |
//! | `part` | what Linux has done of a call before it refused it |

mod actor;
mod notes;
mod part;
mod recording;
mod shape;

use vmcore::posix::{Backing, MapFlags, Memory, Protection};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::Space;

use self::actor::Actor;
use self::recording::Expected;
pub(crate) use self::recording::Recording;
use crate::Memory as Short;
use crate::call::Call;
use crate::report::Report;
use crate::world::{Outcome, PAGE, Process, World, word_of};

/// Where the window lies in which all happens, and how many pages it has: as many as a set of pages has bits.
const BASE: u64 = 0x1000_0000_0000;
const PAGES: u64 = 64;
/// How many processes there are at a time.
const PROCESSES: usize = 8;
/// How many threads one has at the most.
const THREADS: usize = 4;
const FRAMES: usize = 4096;

/// The files, with all of their pages: as Linux has those in memory.
fn make_files(world: &World, sizes: &[u64]) -> Vec<Area<Sim>> {
    if sizes.is_empty() {
        return Vec::new();
    }
    let space = Space::user(&world.kernel, ()).expect("there are frames for a root");
    let mut reader = Process::new(world, space, Memory::new(&world.sim, 0), 0);
    let mut files = Vec::new();
    for (key, pages) in (0..).zip(sizes) {
        let size = (*pages).max(1) * PAGE;
        let area = Area::new(&world.sim, AreaKind::Paged { size, key }, 0).expect("there are frames for files");
        reader.files.push(area.handle(area.rights()).expect("no more rights than it has"));
        let Process { space, memory, .. } = &mut reader;
        let backing = Backing::Area { area: &area, offset: 0 };
        let start =
            memory.mmap(space, 0, size, Protection::READ, MapFlags::SHARED, backing).expect("the space is empty");
        for page in (start..start + size).step_by(PAGE as usize) {
            assert_eq!(reader.load(world, page), Outcome::Done(word_of(key, page - start)));
        }
        files.push(area);
    }
    reader.exit(world);
    files
}

/// Handles of the same files.
fn handles(files: &[Area<Sim>]) -> Vec<Area<Sim>> {
    files.iter().map(|file| file.handle(file.rights()).expect("no more rights than it has")).collect()
}

/// What a process begins with: places are found in the window, and where nothing else is free there is something behind it.
fn memory_of(world: &World, space: &Space<Sim>, placed: bool) -> Memory<Sim> {
    let mut memory = Memory::new(&world.sim, 0);
    memory.place_within(space.range(BASE, PAGES * PAGE).expect("the window lies in the space"));
    if placed {
        let flags = MapFlags::SHARED | MapFlags::ANONYMOUS | MapFlags::FIXED;
        let (behind, nothing) = (BASE + PAGES * PAGE, Protection::empty());
        memory.mmap(space, behind, PAGES * PAGE, nothing, flags, Backing::Anonymous).expect("the space is empty");
    }
    memory
}

fn world_for(recording: &Recording, short: Short) -> World {
    let cpus = PROCESSES * recording.threads;
    match short {
        Short::Enough => World::new(FRAMES, cpus),
        Short::RunsOut => World::short_of_memory(FRAMES, cpus),
    }
}

/// Sets up the machine for a recording.
pub(crate) fn prepare(recording: &Recording, short: Short) {
    world_for(recording, short);
}

/// Replays a recording.
pub(crate) fn replay(recording: &Recording, short: Short) -> Report {
    let world = world_for(recording, short);
    let cpus = |slot: usize| (0..recording.threads).map(|thread| slot + thread * PROCESSES).collect::<Vec<_>>();
    let files = make_files(&world, &recording.files);
    let mut report = Report::default();
    // What is mapped as locked later on is brought as far as memory goes.
    let locks_all = recording.steps.iter().any(|step| matches!(step.call, Call::LockAll { .. }));
    let starved = short == Short::RunsOut && !locks_all;
    let mut actors: [Option<Actor>; PROCESSES] = [const { None }; PROCESSES];
    for step in &recording.steps {
        let line = || recording.line(step);
        let actor = actors[step.process].get_or_insert_with(|| {
            let space = Space::user(&world.kernel, ()).expect("there are frames for a root");
            let memory = memory_of(&world, &space, recording.placed);
            let process = Process::with_threads(&world, space, memory, cpus(step.process));
            Actor::first(process, &files, starved)
        });
        match step.call {
            Call::Exit => {
                report.operations += 1;
                if let Some(actor) = actors[step.process].take() {
                    actor.exit(&world, &line, &mut report);
                }
                continue;
            }
            Call::Fork { child } => {
                report.operations += 1;
                actor.process.run_thread(step.thread);
                let forked = actor.fork(&world, cpus(usize::from(child)), &step.child);
                if let Some(old) = actors[usize::from(child)].take() {
                    old.exit(&world, &line, &mut report);
                    report.differ(|| format!("{}\n  there is such a process", line()));
                }
                match forked {
                    Ok(made) => {
                        made.compare(&step.child, &line, &mut report);
                        actors[usize::from(child)] = Some(made);
                    }
                    Err(error) => report.differ(|| format!("{}\n  the fork was refused: {error}", line())),
                }
            }
            _ => actor.step(&world, step, &line, &mut report),
        }
        if let Call::Truncate { .. } = step.call {
            for actor in actors.iter_mut().flatten() {
                actor.forget_truncated();
            }
        }
        // Of a range that cannot be locked, Linux has locked a part: no call does just that, and there is nothing to be compared any more.
        if let (Call::Lock { .. }, Expected::Errno(_)) = (step.call, step.expected) {
            break;
        }
        if let Some(actor) = &actors[step.process] {
            actor.compare(&step.state, &line, &mut report);
        }
    }
    for actor in actors.into_iter().flatten() {
        actor.exit(&world, &|| String::from("at the end"), &mut report);
    }
    // They hold pages as well.
    drop(files);
    if !world.is_as_new() {
        report.differ(|| String::from("not all memory was given back at the end"));
    }
    report
}
