//! What a program may ask of handles, of channels, and about words that it waits for.

use super::calls::{area_size, handle_error, insert};
use super::life_calls::answered;
use super::{Entry, Object, Process, current, physical};
use crate::address_wait;
use crate::channel::{self, ChannelEnd, Room};
use crate::cpu::user_copy;
use crate::pager::swap;
use refkernel::channels::End;
use refkernel_abi::{Caching, ErrorCode, PAGE_SIZE, Rights, SystemResult, encode_result};

pub(super) extern "C" fn handle_close(handle: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(current(|process| {
        let entry = process.handles().remove(handle).map_err(handle_error)?;
        // Without the table's lock: the last handle of an area that is mapped nowhere frees its pages.
        drop(entry);
        swap::sweep();
        Ok(0)
    }))
}

pub(super) extern "C" fn handle_duplicate(handle: u64, rights: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(current(|process| {
        let entry = {
            let handles = process.handles();
            let entry = handles.get(handle).map_err(handle_error)?;
            let rights = Rights::from_bits(rights).ok_or(ErrorCode::BadAccess)?;
            entry.require(rights | Rights::SHARE)?;
            entry.again(rights)?
        };
        insert(process, entry)
    }))
}

pub(super) extern "C" fn handle_inspect(handle: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    encode_result(current(|process| {
        let handles = process.handles();
        let entry = handles.get(handle).map_err(handle_error)?;
        Ok(entry.object.kind().with_rights(entry.rights))
    }))
}

pub(super) extern "C" fn physical_area(handle: u64, address: u64, size: u64, caching: u64, _: u64, _: u64) -> u64 {
    encode_result(current(|process| {
        {
            let handles = process.handles();
            let entry = handles.get(handle).map_err(handle_error)?;
            if !matches!(entry.object, Object::Physical) {
                return Err(ErrorCode::BadHandle);
            }
            entry.require(Rights::PHYSICAL)?;
        }
        let size = area_size(size)?;
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(ErrorCode::Unaligned);
        }
        let area = physical::area(address, size, Caching::from_number(caching).ok_or(ErrorCode::BadAccess)?)?;
        insert(process, Entry::area(&area, Rights::GIVEN_AREA)?)
    }))
}

pub(super) extern "C" fn channel_create(pointer: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| current(|process| create(process, pointer)))
}

fn create(process: &Process, pointer: u64) -> SystemResult {
    let places = super::Places::new(process, 2)?;
    let ends = channel::open().ok_or(ErrorCode::TooMany)?;
    let (bytes, size) = places.bytes();
    let bytes = bytes.get(..size).unwrap_or_default();
    // The numbers name nothing yet.
    user_copy::copy_to_user(pointer, bytes)?;
    let mut entries = super::Entries::default();
    for (place, end) in entries.iter_mut().zip(ends) {
        *place = Some(Entry { object: Object::Channel(end), rights: Rights::CHANNEL });
    }
    places.fill(&mut entries);
    Ok(0)
}

/// What is asked of an end of a channel, found by a handle that has these rights.
fn with_end<R>(
    process: &Process,
    handle: u64,
    rights: Rights,
    ask: impl FnOnce(&ChannelEnd) -> R,
) -> Result<R, ErrorCode> {
    let handles = process.handles();
    let entry = handles.get(handle).map_err(handle_error)?;
    let Object::Channel(end) = &entry.object else { return Err(ErrorCode::BadHandle) };
    entry.require(rights)?;
    Ok(ask(end))
}

pub(super) extern "C" fn channel_send(end: u64, bytes: u64, length: u64, handles: u64, count: u64, _: u64) -> u64 {
    answered(|| {
        current(|process| {
            // Kept open for as long as the call takes, also if it is sent itself.
            let end = with_end(process, end, Rights::WRITE, ChannelEnd::clone)?;
            channel::send(process, end.end(), (bytes, length), (handles, count))?;
            Ok(0)
        })
    })
}

pub(super) extern "C" fn channel_receive(
    end: u64,
    bytes: u64,
    capacity: u64,
    handles: u64,
    count: u64,
    microseconds: u64,
) -> u64 {
    answered(|| {
        current(|process| {
            let end: End = with_end(process, end, Rights::READ, ChannelEnd::end)?;
            channel::receive(process, end, Room { bytes, capacity, handles, count }, microseconds)
        })
    })
}

pub(super) extern "C" fn address_wait(address: u64, expected: u64, microseconds: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| current(|process| address_wait::wait(process, address, expected as u32, microseconds).map(|()| 0)))
}

pub(super) extern "C" fn address_wake(address: u64, count: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    answered(|| current(|process| address_wait::wake(process, address, count)))
}
