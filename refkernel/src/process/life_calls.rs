//! What a program may ask about processes and threads: to start, copy, end and wait for them.
//!
//! These calls take long, or wait: they run with interrupts on, on the thread's own kernel stack, so that another thread may run meanwhile. A thread that
//! was told to end does not go back to its program.

use super::calls::{handle_error, space_error};
use super::{Ending, Entry, LoadError, Object, Process, ProcessRef, Withdrawn, current, read_numbers, run};
use crate::cpu::{user, user_copy};
use crate::pager::reclaim;
use crate::programs;
use crate::thread::{ThreadError, scheduler, sleep};
use refkernel::archive::ProgramName;
use refkernel_abi::{
    ErrorCode, HandleKind, KILLED, NAME_LENGTH_MAX, Rights, START_HANDLES_MAX, SystemResult, USER_END, USER_START,
    encode_result,
};
use vmcore::vm_area::AreaError;
use x86_64::instructions::interrupts;

/// Answers a call with interrupts on, and ends the thread if it was told to meanwhile: nothing of the call's is alive by then.
pub(super) fn answered(call: impl FnMut() -> SystemResult) -> u64 {
    interrupts::enable();
    let result = encode_result(reclaim::with_room(call));
    interrupts::disable();
    if scheduler::current().is_some_and(|thread| thread.is_killed()) {
        user::kill(user::Killed::ByOrder);
    }
    result
}

pub(super) extern "C" fn process_start(name: u64, length: u64, argument: u64, handles: u64, count: u64, _: u64) -> u64 {
    answered(|| start((name, length), argument, (handles, count)))
}

pub(super) extern "C" fn process_clone(entry: u64, stack: u64, argument: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| clone(entry, stack, argument))
}

pub(super) extern "C" fn process_wait(handle: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| wait(handle))
}

pub(super) extern "C" fn process_kill(handle: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| kill(handle))
}

pub(super) extern "C" fn thread_start(entry: u64, stack: u64, argument: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| {
        check_start(entry, stack)?;
        let process = own()?;
        run::start_thread(&process, entry, stack, argument).map_err(thread_error)?;
        Ok(0)
    })
}

pub(super) extern "C" fn thread_exit(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    user::exit_thread()
}

pub(super) extern "C" fn thread_yield(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| {
        scheduler::yield_now();
        Ok(0)
    })
}

pub(super) extern "C" fn thread_sleep(microseconds: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| {
        sleep::sleep_microseconds(microseconds);
        Ok(0)
    })
}

/// The process that asks, as a reference of its own.
fn own() -> Result<ProcessRef, ErrorCode> {
    let number = scheduler::current().map_or(0, |thread| thread.process());
    super::PROCESSES.get(number).ok_or(ErrorCode::NotSupported)
}

/// The process behind a handle that has these rights.
fn named(handle: u64, rights: Rights) -> Result<ProcessRef, ErrorCode> {
    current(|process| {
        let handles = process.handles();
        let entry = handles.get(handle).map_err(handle_error)?;
        let Object::Process(named) = &entry.object else { return Err(ErrorCode::BadHandle) };
        entry.require(rights)?;
        Ok(named.clone())
    })
}

/// Starts a new process and gives the caller a handle of it. If that cannot be, the process is not started.
fn hand_out(process: ProcessRef, start: impl FnOnce(&ProcessRef) -> Result<(), ThreadError>) -> SystemResult {
    current(|caller| {
        let entry = Entry { object: Object::Process(process.clone()), rights: Rights::PROCESS };
        // Where there is no room for it, it is dropped without the table's lock.
        let handle = caller.handles().hold().map_err(handle_error)?;
        let unused = caller.handles().fill(handle, entry);
        drop(unused);
        if let Err(error) = start(&process) {
            let unused = caller.handles().remove(handle);
            drop(unused);
            return Err(thread_error(error));
        }
        Ok(handle)
    })
}

fn start((name, length): (u64, u64), argument: u64, (handles, count): (u64, u64)) -> SystemResult {
    if length > NAME_LENGTH_MAX || count > START_HANDLES_MAX as u64 {
        return Err(ErrorCode::TooLarge);
    }
    if length == 0 {
        return Err(ErrorCode::NoProgram);
    }
    let mut buffer = [0; NAME_LENGTH_MAX as usize];
    let bytes = buffer.get_mut(..length as usize).unwrap_or_default();
    user_copy::copy_from_user(bytes, name)?;
    let name = core::str::from_utf8(bytes).ok().ok_or(ErrorCode::NoProgram)?;
    let file = programs::archive().and_then(|archive| archive.program(name)).ok_or(ErrorCode::NoProgram)?;
    let name = ProgramName::new(name).ok_or(ErrorCode::NoProgram)?;
    let (numbers, count) = read_numbers(handles, count)?;
    let caller = own()?;
    let mut given = Withdrawn::new(&caller, numbers.get(..count).unwrap_or_default())?;
    let mut kinds = [HandleKind::Console; START_HANDLES_MAX];
    for (kind, entry) in kinds.iter_mut().zip(given.entries.iter().flatten()) {
        *kind = entry.object.kind();
    }
    let given_kinds = kinds.get(..count).unwrap_or_default();
    let start = super::Start { argument, given: given_kinds, console: false, ..super::Start::default() };
    let process = Process::load(name, file, start).map_err(load_error)?;
    let handle = hand_out(process, |process| {
        let places = process.given.iter();
        for (place, entry) in places.clone().zip(&mut given.entries).take(count) {
            *entry = entry.take().and_then(|entry| process.handles().fill(*place, entry).err());
        }
        run::start(process).inspect_err(|_| {
            // It has not run: what it was given is there.
            for (place, entry) in places.zip(&mut given.entries).take(count) {
                *entry = process.handles().withdraw(*place).ok();
            }
        })
    })?;
    given.commit();
    Ok(handle)
}

fn clone(entry: u64, stack: u64, argument: u64) -> SystemResult {
    check_start(entry, stack)?;
    let process = current(|process| process.copy().map_err(load_error))?;
    hand_out(process, |process| run::start_thread(process, entry, stack, argument))
}

fn wait(handle: u64) -> SystemResult {
    let process = named(handle, Rights::WAIT)?;
    match run::wait(&process) {
        Some(Ending::Exited(status)) => Ok(status.into()),
        // Without an ending the thread is told to end, and does not see the answer.
        _ => Ok(KILLED),
    }
}

fn kill(handle: u64) -> SystemResult {
    let process = named(handle, Rights::END)?;
    run::end(&process, Ending::Killed);
    Ok(0)
}

/// Both must be a program's addresses; a stack may end where those end.
fn check_start(entry: u64, stack: u64) -> Result<(), ErrorCode> {
    let addresses = USER_START..USER_END;
    if addresses.contains(&entry) && (addresses.contains(&stack) || stack == USER_END) {
        Ok(())
    } else {
        Err(ErrorCode::BadRange)
    }
}

fn thread_error(error: ThreadError) -> ErrorCode {
    match error {
        ThreadError::TooMany => ErrorCode::TooMany,
        ThreadError::NoStack => ErrorCode::OutOfMemory,
    }
}

fn load_error(error: LoadError) -> ErrorCode {
    match error {
        LoadError::Space(error) => space_error(error),
        LoadError::Area(AreaError::OutOfFrames(_)) => ErrorCode::OutOfMemory,
        LoadError::Entry(error) => error,
        LoadError::TooManyProcesses => ErrorCode::TooMany,
        LoadError::File(_) => ErrorCode::NoProgram,
        _ => ErrorCode::NotSupported,
    }
}
