//! What must be true of pages that come and go, asked in the machine.

use super::{images, is_out_of_memory, reclaim, swap};
use crate::boot_tests::{Failure, Test, ended, require};
use crate::hoard::Hoard;
use crate::log;
use crate::memory::{self, frames};
use crate::process::{self, Ending, ProcessRef, Start};
use crate::programs::{ProgramError, Programs};
use crate::thread::sleep;
use refkernel_abi::roles::{CheckRole, TAKEN_AWAY_FIRST_ROUNDS};
use refkernel_abi::{PAGE_SIZE, program_status};
use vmcore::addr::VirtAddr;
use vmcore::vm_area::{Area, AreaKind};

/// Every test of what is here.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("instances_share_their_text", instances_share_their_text),
    ("text_goes_and_comes_back", text_goes_and_comes_back),
    (CheckRole::Pressure.test_name(), pressure),
    (CheckRole::TakenAway.test_name(), taken_away),
];

fn load(programs: &Programs<'_>, role: CheckRole) -> Result<ProcessRef, ProgramError> {
    let kernel = memory::tests::kernel_addresses();
    programs.load("check", Start { argument: role.number(), kernel, ..Start::default() })
}

fn run(process: &ProcessRef) -> Result<Ending, ProgramError> {
    process::run(process).map_err(|error| ProgramError::NoThread("check", error))
}

/// The area that a process's text comes from, and where it is shown.
fn text_of(process: &ProcessRef) -> Option<(u64, Area<memory::Kernel>)> {
    let starts = process.space().windows().map(|window| window.range.start());
    let start = starts.into_iter().find(|start| process.label(start.as_u64()) == Some("text"))?;
    Some((start.as_u64(), process.space().area_shown_at(start)?))
}

/// The offsets of the pages that an area has.
fn resident(area: &Area<memory::Kernel>) -> impl Iterator<Item = u64> + '_ {
    core::iter::successors(area.next_resident(0), |offset| area.next_resident(offset + PAGE_SIZE))
}

/// Bit 1 of an entry of x86-64: the page may be written to (Intel SDM Vol. 3A, table 5-20).
const WRITABLE: u64 = 2;

/// Text is brought when it is touched, once for all instances, and can be written by none.
fn instances_share_their_text(programs: &Programs<'_>) -> Result<(), Failure> {
    let role = CheckRole::LeaveEverything;
    let none = memory::frames_in_use();
    let first = load(programs, role)?;
    let one = memory::frames_in_use();
    let (_, text) = text_of(&first).ok_or(Failure::NotSo("a program has text"))?;
    require(text.resident_pages() == 0, "nothing of a program is in memory before it runs")?;
    let brought = images::brought();
    ended(run(&first)?, role.must())?;
    let touched = images::brought() - brought;
    let pages = text.resident_pages();
    require(pages > 0 && pages < text.size() / PAGE_SIZE, "only text that was touched is in memory")?;

    let before = memory::frames_in_use();
    let second = load(programs, role)?;
    let more = memory::frames_in_use() - before;
    ended(run(&second)?, role.must())?;
    require(images::brought() == brought + touched, "a second instance brings nothing")?;
    let (start, again) = text_of(&second).ok_or(Failure::NotSo("a program has text"))?;
    require(again.id() == text.id() && again.resident_pages() == pages, "both show the same text")?;
    let mut shown = 0;
    for process in [&first, &second] {
        for offset in resident(&text) {
            let walk = process.space().walk(VirtAddr::new(start + offset));
            let Some(physical) = walk.physical() else { continue };
            shown += 1;
            let frame = text.frame_at(offset).map(|frame| frame.number() * PAGE_SIZE);
            require(frame == Some(physical.as_u64()), "both show the same frames")?;
            let writable = walk.steps().all(|step| step.word & WRITABLE != 0);
            require(!writable, "no page of text can be written")?;
        }
    }
    require(shown > pages, "both show some of it")?;
    log!(
        "  of {} pages of text {pages} were touched; the first instance took {} frames to load, the second {more}",
        text.size() / PAGE_SIZE,
        one - none
    );
    drop((first, text));
    require(again.resident_pages() == pages, "an image lasts as long as an instance")
}

/// Clean pages are given up when memory is short, and whoever needs them again brings them again.
fn text_goes_and_comes_back(programs: &Programs<'_>) -> Result<(), Failure> {
    let roles = [CheckRole::Survivor, CheckRole::Channels, CheckRole::Windows, CheckRole::Threads];
    let process = load(programs, CheckRole::LeaveEverything)?;
    for role in roles {
        plays(programs, role)?;
    }
    let (_, text) = text_of(&process).ok_or(Failure::NotSo("a program has text"))?;
    let (before, brought) = (text.resident_pages(), images::brought());
    while reclaim::some() {}
    // Now the marks that were taken back are old.
    while reclaim::some() {}
    let left = text.resident_pages();
    require(left < before, "text is given up")?;
    for role in roles {
        plays(programs, role)?;
    }
    let brought = images::brought() - brought;
    require(brought >= before - left, "and brought again")?;
    log!("  of {before} pages of text {left} were left, and {brought} of the program were brought again");
    drop(process);
    Ok(())
}

/// Frames that the program takes besides the memory that it goes over: its pages, tables, stacks and records, and its copy's.
const BESIDES: u64 = 96;
/// Half of the memory that the program goes over.
const HALF: u64 = 256;

/// One part of the program, with the addresses that it is to be told.
fn plays(programs: &Programs<'_>, role: CheckRole) -> Result<(), Failure> {
    ended(run(&load(programs, role)?)?, role.must())
}

/// A program whose memory is twice what there is goes over it in several orders, and finds everything as it was.
fn pressure(programs: &Programs<'_>) -> Result<(), Failure> {
    let mut hoard = Hoard::take();
    for _ in 0..HALF + BESIDES {
        require(hoard.give_one(), "there is memory left to give")?;
    }
    let (before, (evicted, _), brought) = (swap::counts(), reclaim::evicted(), images::brought());
    let played = plays(programs, CheckRole::Pressure);
    let (after, (evicted_then, _)) = (swap::counts(), reclaim::evicted());
    log!(
        "  of {} pages with {} frames: {} taken away, {} compressed, {} zero, {} refused, {} brought back, {} of the program again",
        2 * HALF,
        HALF + BESIDES,
        evicted_then - evicted,
        after.kept - before.kept,
        after.zero - before.zero,
        after.refused - before.refused,
        after.brought - before.brought,
        images::brought() - brought,
    );
    played?;
    require(evicted_then - evicted > HALF, "pages were taken away")?;
    require(after.brought - before.brought > HALF, "pages came back")?;
    require(after.store.entries == 0 && after.store.pages == 0, "nothing is kept for nobody")?;
    require(after.areas == 0, "no area is left")
}

/// Processes that make calls while memory goes.
const PROCESSES: usize = 4;

/// Memory is taken away in steps, and all of it, while programs make every kind of call, and is given back; again until they have ended.
fn taken_away(programs: &Programs<'_>) -> Result<(), Failure> {
    const STEP: u64 = 10_000;
    let role = CheckRole::TakenAway;
    let mut running: [Option<(ProcessRef, Area<memory::Kernel>)>; PROCESSES] = [const { None }; PROCESSES];
    for (slot, role) in running.iter_mut().zip([role, CheckRole::TakenAwayUntouched].into_iter().cycle()) {
        // Where it says how many rounds it has made.
        let area = Area::new(&memory::Kernel, AreaKind::Open { size: PAGE_SIZE }, ())?;
        let kernel = memory::tests::kernel_addresses();
        let start = Start { argument: role.number(), area: Some(&area), kernel, ..Start::default() };
        let process = programs.load("check", start)?;
        process::start(&process).map_err(|error| ProgramError::NoThread("check", error))?;
        *slot = Some((process, area));
    }
    let is_running = |(process, _): &(ProcessRef, Area<memory::Kernel>)| process::threads(process) != 0;
    // Each has made every kind of call when it begins, however long the machine takes for it.
    for one in running.iter().flatten() {
        let mut rounds = [0; 8];
        while is_running(one) && u64::from_le_bytes(rounds) < TAKEN_AWAY_FIRST_ROUNDS {
            sleep::sleep_microseconds(STEP);
            one.1.read(0, &mut rounds)?;
        }
    }
    let mut times = 0;
    while running.iter().flatten().any(is_running) {
        times += 1;
        let mut hoard = Hoard::new();
        // A half, a third of what is left, and so on; then everything, again as often as programs give some back.
        for part in [2, 3, 2, 4] {
            hoard.take_more(frames::available() / part);
            sleep::sleep_microseconds(STEP);
        }
        for _ in 0..4 {
            hoard.take_more(u64::MAX);
            sleep::sleep_microseconds(STEP);
        }
        // Back, a few at first.
        for _ in 0..64 {
            hoard.give_one();
        }
        sleep::sleep_microseconds(STEP);
        drop(hoard);
        sleep::sleep_microseconds(2 * STEP);
    }
    let (mut exited, mut killed) = (0, 0);
    for (process, _) in running.iter().flatten() {
        match process::ending(process) {
            Some(Ending::Exited(program_status::SUCCESS)) => exited += 1,
            Some(Ending::Fault { reason: Some(reason), .. }) if is_out_of_memory(&reason) => killed += 1,
            Some(ending) => return Err(Failure::Ending { must: role.must(), ending }),
            None => return Err(Failure::NotSo("a process that is over has ended")),
        }
    }
    log!(
        "  all memory was taken away {times} times: of {PROCESSES} programs {exited} went on, {killed} ended for want of a page"
    );
    drop(running);
    // With memory, everything is as it ever was.
    plays(programs, CheckRole::LeaveEverything)?;
    plays(programs, CheckRole::Clones)
}
