//! Waiting for words in memory: no wake is lost, and who is woken waits for the same memory, wherever it is shown.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{ErrorCode, FOREVER, Handle, KILLED, PAGE_SIZE, call};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;
use crate::windows::unmap;

/// Longer than anything takes here, in microseconds.
const LONG: u64 = 30_000_000;

pub(crate) fn check(report: &mut Report) {
    let outcome = alone(report)
        .and_then(|()| some_of_many(report))
        .and_then(|()| lock(report))
        .and_then(|()| back_and_forth(report))
        .and_then(|()| between_processes(report))
        .and_then(|()| private_after_a_clone(report))
        .and_then(|()| ended_while_it_waits(report))
        .and_then(|()| another_memory_at_the_address(report));
    report.done("everything that was asked about words", outcome);
}

fn start(entry: call::Entry, argument: u64) -> Result<(), ErrorCode> {
    let top = stack()?;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(entry, top, argument) }
}

/// Waits until a counter is as far as that; false if it does not get there.
fn reaches(counter: &AtomicU64, count: u64) -> Result<bool, ErrorCode> {
    for _ in 0..LONG / 1000 {
        if counter.load(Ordering::Acquire) == count {
            return Ok(true);
        }
        call::thread_sleep(1000)?;
    }
    Ok(false)
}

/// Wakes until so many were woken: they may not wait yet. Gives how many it were in the end.
fn wake_all(word: &AtomicU32, count: u64) -> Result<u64, ErrorCode> {
    let mut woken = 0;
    for _ in 0..LONG / 1000 {
        woken += call::address_wake(word, count - woken)?;
        if woken == count {
            break;
        }
        call::thread_sleep(1000)?;
    }
    Ok(woken)
}

fn alone(report: &mut Report) -> Result<(), ErrorCode> {
    let word = AtomicU32::new(7);
    report.check("another word is not waited for", call::address_wait(&word, 8, FOREVER) == Err(Changed));
    report.check("the word is not waited for without time", call::address_wait(&word, 7, 0) == Err(TimedOut));
    report.check("nor longer than that", call::address_wait(&word, 7, 20_000) == Err(TimedOut));
    report.check("nobody is woken where nobody waits", call::address_wake(&word, u64::MAX) == Ok(0));
    Ok(())
}

static WORD: AtomicU32 = AtomicU32::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

extern "C" fn wait_once(_: u64) -> ! {
    if call::address_wait(&WORD, 0, FOREVER).is_err() {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
    WOKEN.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// As many are woken as is said, and no more.
fn some_of_many(report: &mut Report) -> Result<(), ErrorCode> {
    for _ in 0..4 {
        start(wait_once, 0)?;
    }
    report.check("two are woken", wake_all(&WORD, 2)? == 2 && reaches(&WOKEN, 2)?);
    call::thread_sleep(30_000)?;
    report.check("and the others wait", WOKEN.load(Ordering::Relaxed) == 2);
    report.check("the rest is woken", wake_all(&WORD, 2)? == 2 && reaches(&WOKEN, 4)?);
    report.check("nobody is left", call::address_wake(&WORD, 9) == Ok(0));
    report.check("everybody was woken", WRONG.load(Ordering::Relaxed) == 0);
    Ok(())
}

/// A lock made of a word: 0 is free, 1 taken, 2 taken and waited for.
static LOCK: AtomicU32 = AtomicU32::new(0);
static GUARDED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
const TURNS: u64 = 500;
const THREADS: u64 = 4;

fn take() {
    let mut seen = LOCK.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).err();
    while seen.is_some() {
        if LOCK.swap(2, Ordering::Acquire) == 0 {
            return;
        }
        seen = Some(2);
        let _ = call::address_wait(&LOCK, 2, FOREVER);
    }
}

fn give() {
    if LOCK.swap(0, Ordering::Release) == 2 {
        let _ = call::address_wake(&LOCK, 1);
    }
}

extern "C" fn count_guarded(_: u64) -> ! {
    for turn in 0..TURNS {
        take();
        // Not in one step: without the lock, counts would be lost.
        let count = GUARDED.load(Ordering::Relaxed);
        if turn % 64 == 0 {
            let _ = call::thread_yield();
        }
        GUARDED.store(count + 1, Ordering::Relaxed);
        give();
    }
    DONE.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// Threads wait for a lock that others hold; one wake that is lost leaves one waiting for ever.
fn lock(report: &mut Report) -> Result<(), ErrorCode> {
    for _ in 0..THREADS {
        start(count_guarded, 0)?;
    }
    report.check("everybody gets the lock in the end", reaches(&DONE, THREADS)?);
    report.check("one at a time", GUARDED.load(Ordering::Relaxed) == THREADS * TURNS);
    DONE.store(0, Ordering::Relaxed);
    Ok(())
}

const ROUNDS: u32 = 300;

/// Waits until a word is what is wanted.
fn until(word: &AtomicU32, wanted: u32) {
    loop {
        let seen = word.load(Ordering::Acquire);
        if seen == wanted {
            return;
        }
        let _ = call::address_wait(word, seen, FOREVER);
    }
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    let _ = call::address_wake(word, 1);
}

/// Answers each odd number of the word by the next even one.
fn return_each(word: &AtomicU32) {
    for round in 0..ROUNDS {
        until(word, 2 * round + 1);
        set(word, 2 * round + 2);
    }
}

fn send_each(word: &AtomicU32) {
    for round in 0..ROUNDS {
        set(word, 2 * round + 1);
        until(word, 2 * round + 2);
    }
}

static BALL: AtomicU32 = AtomicU32::new(0);

extern "C" fn play(_: u64) -> ! {
    return_each(&BALL);
    DONE.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// Each wakes the other one, hundreds of times.
fn back_and_forth(report: &mut Report) -> Result<(), ErrorCode> {
    start(play, 0)?;
    send_each(&BALL);
    report.check("the other one comes to its end", reaches(&DONE, 1)?);
    report.check("nothing is left over", BALL.load(Ordering::Relaxed) == 2 * ROUNDS);
    Ok(())
}

/// The word at an address that stays mapped.
fn word_at(address: u64) -> &'static AtomicU32 {
    // SAFETY: the callers map the address, to be written, and leave it so while they use the word.
    unsafe { &*(address as *const AtomicU32) }
}

extern "C" fn play_elsewhere(area: u64) -> ! {
    // At another address than the parent's.
    match call::area_map(Handle(area), 0x6200_0000_0000, PAGE_SIZE, PAGE_SIZE, READ_WRITE) {
        Ok(address) => return_each(word_at(address + 64)),
        Err(_) => call::exit(1),
    }
    call::exit(0)
}

fn between_processes(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(2 * PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
    let top = stack()?;
    // SAFETY: the stack is the copy's.
    let process = unsafe { call::process_clone(play_elsewhere, top, area.0)? };
    send_each(word_at(address + PAGE_SIZE + 64));
    report.check("a process is woken by the area, whatever the address", call::process_wait(process) == Ok(0));
    call::handle_close(process)?;
    call::handle_close(area)?;
    unmap(address, 2 * PAGE_SIZE)
}

static PRIVATE: AtomicU32 = AtomicU32::new(0);

extern "C" fn wait_privately(shared: u64) -> ! {
    word_at(shared).store(1, Ordering::Release);
    let waited = call::address_wait(&PRIVATE, 0, 300_000);
    call::exit(if waited == Err(TimedOut) { 0 } else { 1 })
}

extern "C" fn wait_and_note(_: u64) -> ! {
    if call::address_wait(&PRIVATE, 0, LONG).is_ok() {
        DONE.fetch_add(1, Ordering::Release);
    }
    call::thread_exit()
}

/// A clone's private memory is other memory, from the clone on; who waited before it in the parent is still found, also when the page is copied.
fn private_after_a_clone(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let shared = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    DONE.store(0, Ordering::Relaxed);
    start(wait_and_note, 0)?;
    call::thread_sleep(30_000)?;
    let top = stack()?;
    // SAFETY: the stack is the copy's.
    let process = unsafe { call::process_clone(wait_privately, top, shared)? };
    while word_at(shared).load(Ordering::Acquire) == 0 {
        call::thread_yield()?;
    }
    call::thread_sleep(50_000)?;
    PRIVATE.store(1, Ordering::Release);
    report.check("who waited before the clone is woken, and nobody else", call::address_wake(&PRIVATE, 9) == Ok(1));
    report.check("it goes on", reaches(&DONE, 1)?);
    report.check("the copy's own was not woken", call::process_wait(process) == Ok(0));
    call::handle_close(process)?;
    call::handle_close(area)?;
    unmap(shared, PAGE_SIZE)
}

extern "C" fn wait_for_ever(address: u64) -> ! {
    word_at(address).store(1, Ordering::Release);
    let _ = call::address_wait(word_at(address + 8), 0, FOREVER);
    call::exit(1)
}

/// A process that is ended while it waits does not wait any more: the next wake is another one's.
fn ended_while_it_waits(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    for _ in 0..3 {
        word_at(address).store(0, Ordering::Relaxed);
        let top = stack()?;
        // SAFETY: the stack is the copy's.
        let process = unsafe { call::process_clone(wait_for_ever, top, address)? };
        while word_at(address).load(Ordering::Acquire) == 0 {
            call::thread_yield()?;
        }
        call::thread_sleep(20_000)?;
        call::process_kill(process)?;
        report.check("it is ended", call::process_wait(process) == Ok(KILLED));
        report.check("and waits no more", call::address_wake(word_at(address + 8), 9) == Ok(0));
        call::handle_close(process)?;
    }
    call::handle_close(area)?;
    unmap(address, PAGE_SIZE)
}

const PLACE: u64 = 0x6300_0000_0000;

extern "C" fn wait_there(_: u64) -> ! {
    let waited = call::address_wait(word_at(PLACE), 0, 200_000);
    DONE.store(if waited == Err(TimedOut) { 1 } else { 2 }, Ordering::Release);
    call::thread_exit()
}

/// The key is the memory, not the address.
fn another_memory_at_the_address(report: &mut Report) -> Result<(), ErrorCode> {
    DONE.store(0, Ordering::Relaxed);
    call::area_create_and_map(PAGE_SIZE, PLACE, READ_WRITE)?;
    start(wait_there, 0)?;
    call::thread_sleep(50_000)?;
    unmap(PLACE, PAGE_SIZE)?;
    call::area_create_and_map(PAGE_SIZE, PLACE, READ_WRITE)?;
    report.check("other memory at the address wakes nobody", call::address_wake(word_at(PLACE), 9) == Ok(0));
    report.check("who waited for what was there waits on", reaches(&DONE, 1)?);
    unmap(PLACE, PAGE_SIZE)
}
