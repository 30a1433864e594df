//! What a program may ask of the kernel.
//!
//! Every argument is hostile. It is checked here against what the call takes, so that what reaches the memory manager can be
//! refused for one reason only, and a call that is refused has changed nothing. No lock is held, and nothing that must be
//! dropped is alive, where a call leaves the program ([`exit`]).

use super::{Entry, Object, Process, current, handle_calls, life_calls};
use crate::cpu::system_call::Function;
use crate::cpu::{trap, user, user_copy};
use crate::devices::serial;
use crate::memory;
use crate::pager::{reclaim, swap};
use crate::weakness::{self, Defence};
use refkernel::handles::HandleError;
use refkernel_abi::{
    AREA_SIZE_MAX, Access, Advice, Count, ErrorCode, PAGE_SIZE, Rights, SystemCall, SystemResult, USER_END, USER_START,
    WRITE_LENGTH_MAX, encode_result,
};
use vmcore::paging::Flush;
use vmcore::vm_area::{self, Area, AreaError, AreaKind};
use vmcore::vm_space::{self, Destination, Inherit, MapRequest, Place, SpaceError};

/// The function behind each system call, by its number.
pub(crate) static SYSTEM_CALLS: [Function; SystemCall::ALL.len()] = {
    let mut functions: [Function; SystemCall::ALL.len()] = [unknown_call; SystemCall::ALL.len()];
    let mut index = 0;
    while index < SystemCall::ALL.len() {
        let call = SystemCall::ALL[index];
        functions[call.number() as usize] = function(call);
        index += 1;
    }
    functions
};

const fn function(call: SystemCall) -> Function {
    match call {
        SystemCall::Null => null,
        SystemCall::Write => write,
        SystemCall::Exit => exit,
        SystemCall::AreaCreate => area_create,
        SystemCall::AreaMap => area_map,
        SystemCall::AreaUnmap => area_unmap,
        SystemCall::AreaResize => area_resize,
        SystemCall::HandleClose => handle_calls::handle_close,
        SystemCall::ProcessStart => life_calls::process_start,
        SystemCall::ProcessClone => life_calls::process_clone,
        SystemCall::ProcessWait => life_calls::process_wait,
        SystemCall::ProcessKill => life_calls::process_kill,
        SystemCall::ThreadStart => life_calls::thread_start,
        SystemCall::ThreadExit => life_calls::thread_exit,
        SystemCall::ThreadYield => life_calls::thread_yield,
        SystemCall::ThreadSleep => life_calls::thread_sleep,
        SystemCall::AreaCreateAndMap => area_create_and_map,
        SystemCall::AreaProtect => area_protect,
        SystemCall::AreaAdvise => area_advise,
        SystemCall::HandleDuplicate => handle_calls::handle_duplicate,
        SystemCall::HandleInspect => handle_calls::handle_inspect,
        SystemCall::PhysicalArea => handle_calls::physical_area,
        SystemCall::ChannelCreate => handle_calls::channel_create,
        SystemCall::ChannelSend => handle_calls::channel_send,
        SystemCall::ChannelReceive => handle_calls::channel_receive,
        SystemCall::AddressWait => handle_calls::address_wait,
        SystemCall::AddressWake => handle_calls::address_wake,
        SystemCall::AreaMove => area_move,
        SystemCall::KernelCount => kernel_count,
        SystemCall::AreaCreateRing => area_create_ring,
        SystemCall::AreaCreateSwappable => area_create_swappable,
        SystemCall::AreaSeal => area_seal,
    }
}

/// Answers a number that is no system call.
pub(crate) extern "C" fn unknown_call(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(Err(ErrorCode::UnknownCall))
}

extern "C" fn null(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    0
}

extern "C" fn exit(status: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    user::exit(status as u32)
}

extern "C" fn write(console: u64, address: u64, length: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(write_text(console, address, length))
}

extern "C" fn area_create(size: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| create(size)))
}

extern "C" fn area_create_swappable(size: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| create_swappable(size)))
}

extern "C" fn area_create_ring(size: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| create_ring(size)))
}

extern "C" fn area_map(handle: u64, address: u64, offset: u64, length: u64, access: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| map(handle, address, offset, length, access)))
}

extern "C" fn area_unmap(address: u64, length: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| unmap(address, length)))
}

extern "C" fn area_resize(handle: u64, size: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| resize(handle, size)))
}

extern "C" fn area_create_and_map(size: u64, address: u64, access: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| create_and_map(size, address, access)))
}

extern "C" fn area_protect(address: u64, length: u64, access: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| protect(address, length, access)))
}

extern "C" fn area_advise(address: u64, length: u64, advice: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| advise(address, length, advice)))
}

extern "C" fn area_move(address: u64, length: u64, new_length: u64, destination: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| move_window((address, length), new_length, destination)))
}

extern "C" fn kernel_count(number: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(Count::from_number(number).ok_or(ErrorCode::BadAccess).map(|count| match count {
        Count::Faults => trap::faults_answered(),
        Count::TimerInterrupts => trap::timer_interrupts(),
        Count::FlushInterrupts => memory::interrupts_sent(),
    }))
}

extern "C" fn area_seal(address: u64, length: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(reclaim::with_room(|| seal(address, length)))
}

/// Sends a program's text to the log.
fn write_text(console: u64, address: u64, length: u64) -> SystemResult {
    current(|process| {
        let handles = process.handles();
        let entry = handles.get(console).map_err(handle_error)?;
        if !matches!(entry.object, Object::Console) {
            return Err(ErrorCode::BadHandle);
        }
        entry.require(Rights::WRITE)
    })?;
    if length > WRITE_LENGTH_MAX {
        return Err(ErrorCode::TooLarge);
    }
    if length == 0 {
        return Ok(0);
    }
    let mut buffer = [0; WRITE_LENGTH_MAX as usize];
    let text = buffer.get_mut(..length as usize).unwrap_or_default();
    // All of it is read before any of it is sent: a call that fails has done nothing.
    user_copy::copy_from_user(text, address)?;
    for byte in text.iter_mut() {
        if !matches!(byte, b' '..=b'~' | b'\n' | b'\t') {
            *byte = b'?';
        }
    }
    serial::bytes(text);
    Ok(length)
}

/// A process's area for the length of a call: the table's lock is not held while other processors may have to answer.
fn borrowed(process: &Process, handle: u64) -> Result<Area<memory::Kernel>, ErrorCode> {
    let handles = process.handles();
    match &handles.get(handle).map_err(handle_error)?.object {
        Object::Area(area) => area.handle(vm_area::Rights::all()).map_err(area_error),
        _ => Err(ErrorCode::BadHandle),
    }
}

/// Puts an entry into a process's table. One that finds no room is dropped without the table's lock.
pub(super) fn insert(process: &Process, entry: Entry) -> SystemResult {
    let handle = process.handles().hold().map_err(handle_error)?;
    let unused = process.handles().fill(handle, entry);
    drop(unused);
    Ok(handle)
}

fn create(size: u64) -> SystemResult {
    let size = area_size(size)?;
    create_kind(AreaKind::Open { size }, Rights::OWN_AREA)
}

/// Both places of a ring's memory are within the size that an area may have.
fn create_ring(size: u64) -> SystemResult {
    let size = area_size(size)?;
    if size > AREA_SIZE_MAX / 2 {
        return Err(ErrorCode::TooLarge);
    }
    create_kind(AreaKind::Ring { size }, Rights::GIVEN_AREA)
}

fn create_kind(kind: AreaKind, rights: Rights) -> SystemResult {
    current(|process| {
        // Looked for first: making an area costs more than finding out that it cannot be kept.
        if !process.handles().has_room() {
            return Err(ErrorCode::TooManyHandles);
        }
        let area = Area::new(&memory::Kernel, kind, ()).map_err(area_error)?;
        insert(process, Entry::area(&area, rights)?)
    })
}

fn create_swappable(size: u64) -> SystemResult {
    let size = area_size(size)?;
    current(|process| {
        if !process.handles().has_room() {
            return Err(ErrorCode::TooManyHandles);
        }
        let area = swap::create(size)?;
        insert(process, Entry::area(&area, Rights::OWN_AREA)?)
    })
}

fn create_and_map(size: u64, address: u64, access: u64) -> SystemResult {
    let size = area_size(size)?;
    let access = Access::from_bits(access).ok_or(ErrorCode::BadAccess)?;
    current(|process| {
        let place = place(address, size)?;
        // Nothing executes what did not come with a program.
        let rights = vm_area::Rights::all().difference(vm_area::Rights::EXECUTE);
        let area = Area::new(&memory::Kernel, AreaKind::Open { size }, ()).map_err(area_error)?;
        let area = area.handle(rights).map_err(area_error)?;
        let request = MapRequest::new(&area).access(super::access(access)).inherit(Inherit::Copy);
        map_window(process, &area, &request, place, size)
    })
}

/// The place that a program has chosen for a window; none if it has not.
fn place(address: u64, length: u64) -> Result<Option<Place>, ErrorCode> {
    match address {
        0 => Ok(None),
        _ => user_range(address, length).map(|(address, _)| Some(Place::At(address))),
    }
}

/// Makes a window at the place that was chosen, or at one that is drawn.
fn map_window(
    process: &Process,
    area: &Area<memory::Kernel>,
    request: &MapRequest<'_, memory::Kernel>,
    place: Option<Place>,
    length: u64,
) -> SystemResult {
    let space = process.space();
    let map = |place, alignment| {
        retried(|| space.map(&request.place(place).aligned(alignment)).map_err(space_error))
            .map(|range| range.start().as_u64())
    };
    match place {
        Some(place) => map(place, 0),
        // Device memory goes where large leaves can show it, which depends on its frames.
        None => process.placement().in_turn(space, length, || !matches!(area.kind(), AreaKind::Fixed { .. }), map),
    }
}

fn map(handle: u64, address: u64, offset: u64, length: u64, access: u64) -> SystemResult {
    current(|process| {
        let area = borrowed(process, handle)?;
        let access = Access::from_bits(access).ok_or(ErrorCode::BadAccess)?;
        if length == 0 {
            return Err(ErrorCode::Empty);
        }
        if !(address | offset | length).is_multiple_of(PAGE_SIZE) {
            return Err(ErrorCode::Unaligned);
        }
        let place = place(address, length)?;
        let request = MapRequest::new(&area).offset(offset).size(length).access(super::access(access));
        map_window(process, &area, &request, place, length)
    })
}

fn unmap(address: u64, length: u64) -> SystemResult {
    let (address, length) = user_range(address, length)?;
    current(|process| {
        let range = process.space().range(address, length).map_err(|_| ErrorCode::BadRange)?;
        retried(|| process.space().unmap_completed(range).map_err(space_error))?;
        swap::sweep();
        Ok(0)
    })
}

fn resize(handle: u64, size: u64) -> SystemResult {
    current(|process| {
        let area = borrowed(process, handle)?;
        let size = area_size(size)?;
        let resize = || retried(|| area.resize(size).map(Flush::complete).map_err(area_error));
        swap::resized(&area, size, resize)?;
        Ok(0)
    })
}

fn protect(address: u64, length: u64, access: u64) -> SystemResult {
    let (address, length) = user_range(address, length)?;
    let access = match access {
        0 => vmcore::paging::Access::empty(),
        bits => super::access(Access::from_bits(bits).ok_or(ErrorCode::BadAccess)?),
    };
    current(|process| {
        let range = process.space().range(address, length).map_err(|_| ErrorCode::BadRange)?;
        retried(|| process.space().protect_completed(range, access).map_err(space_error))?;
        Ok(0)
    })
}

fn advise(address: u64, length: u64, advice: u64) -> SystemResult {
    let (address, length) = user_range(address, length)?;
    let advice = match Advice::from_number(advice).ok_or(ErrorCode::BadAccess)? {
        Advice::Needed => vm_space::Advice::Needed,
        Advice::NotNeeded => vm_space::Advice::NotNeeded,
        Advice::FreeLazily => vm_space::Advice::FreeLazily,
        Advice::Huge => vm_space::Advice::Huge,
        Advice::NeverHuge => vm_space::Advice::NeverHuge,
    };
    current(|process| {
        let range = process.space().range(address, length).map_err(|_| ErrorCode::BadRange)?;
        retried(|| process.space().advise(range, advice).map(Flush::complete).map_err(space_error))?;
        Ok(0)
    })
}

fn move_window((address, length): (u64, u64), new_length: u64, destination: u64) -> SystemResult {
    let (address, length) = user_range(address, length)?;
    let new_length = area_size(new_length)?;
    current(|process| {
        let range = process.space().range(address, length).map_err(|_| ErrorCode::BadRange)?;
        let relocate = |destination| {
            retried(|| process.space().relocate_completed(range, new_length, destination).map_err(space_error))
                .map(|range| range.start().as_u64())
        };
        // What a program may have ends before the space does.
        let in_place = destination == 0 && user_range(address, new_length).is_ok();
        match in_place.then(|| relocate(Destination::InPlace)) {
            // What lies behind is taken.
            None | Some(Err(ErrorCode::Occupied)) => match place(destination, new_length)? {
                Some(place) => relocate(Destination::To(place)),
                None => process.placement().in_turn(
                    process.space(),
                    new_length,
                    || false,
                    |place, _| relocate(Destination::To(place)),
                ),
            },
            Some(result) => result,
        }
    })
}

fn seal(address: u64, length: u64) -> SystemResult {
    let (address, length) = user_range(address, length)?;
    if weakness::lacks(Defence::Sealing) {
        return Ok(0);
    }
    current(|process| {
        let range = process.space().range(address, length).map_err(|_| ErrorCode::BadRange)?;
        retried(|| process.space().seal(range).map_err(space_error))?;
        Ok(0)
    })
}

/// Checks the size of an area.
pub(super) fn area_size(size: u64) -> Result<u64, ErrorCode> {
    match size {
        0 => Err(ErrorCode::Empty),
        _ if !size.is_multiple_of(PAGE_SIZE) => Err(ErrorCode::Unaligned),
        _ if size > AREA_SIZE_MAX => Err(ErrorCode::TooLarge),
        _ => Ok(size),
    }
}

/// Checks a range of addresses: whole pages, and a program's.
fn user_range(address: u64, length: u64) -> Result<(u64, u64), ErrorCode> {
    if length == 0 {
        return Err(ErrorCode::Empty);
    }
    if !(address | length).is_multiple_of(PAGE_SIZE) {
        return Err(ErrorCode::Unaligned);
    }
    match address.checked_add(length) {
        Some(end) if address >= USER_START && end <= USER_END => Ok((address, length)),
        _ => Err(ErrorCode::BadRange),
    }
}

/// How often something that another processor still flushes is tried again before the program is told to.
const PATIENCE: u32 = 1000;

fn retried<T>(mut attempt: impl FnMut() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    for _ in 0..PATIENCE {
        match attempt() {
            Err(ErrorCode::Retry) => memory::relax(),
            result => return result,
        }
    }
    Err(ErrorCode::Retry)
}

pub(super) fn handle_error(error: HandleError) -> ErrorCode {
    match error {
        HandleError::Full { .. } => ErrorCode::TooManyHandles,
        _ => ErrorCode::BadHandle,
    }
}

pub(crate) fn area_error(error: AreaError) -> ErrorCode {
    match error {
        AreaError::Size(_) => ErrorCode::TooLarge,
        AreaError::Outside { .. } => ErrorCode::OutOfBounds,
        AreaError::Rights(_) => ErrorCode::Denied,
        AreaError::Retry => ErrorCode::Retry,
        AreaError::TooManyHandles => ErrorCode::TooManyHandles,
        AreaError::OutOfFrames(_) => ErrorCode::OutOfMemory,
        _ => ErrorCode::NotSupported,
    }
}

pub(super) fn space_error(error: SpaceError) -> ErrorCode {
    match error {
        SpaceError::Range(_) => ErrorCode::BadRange,
        SpaceError::Conflict(_) | SpaceError::Foreign(_) => ErrorCode::Occupied,
        SpaceError::NoGap(_) => ErrorCode::NoRoom,
        SpaceError::Rights(_) | SpaceError::Denied { .. } => ErrorCode::Denied,
        SpaceError::Retry(_) => ErrorCode::Retry,
        SpaceError::Area(error) => area_error(error),
        SpaceError::OutOfFrames(_) => ErrorCode::OutOfMemory,
        SpaceError::OutsideArea(_) => ErrorCode::OutOfBounds,
        SpaceError::NoWindow(_) => ErrorCode::NotMapped,
        SpaceError::Sealed(_) => ErrorCode::Sealed,
        SpaceError::WriteExecute(_) => ErrorCode::BadAccess,
        _ => ErrorCode::NotSupported,
    }
}
