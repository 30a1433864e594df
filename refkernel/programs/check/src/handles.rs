//! Handles: what they allow, that they only ever lose rights, and that they move as a whole or not at all.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    Access, ErrorCode, HANDLES_MAX, Handle, HandleKind, KILLED, PAGE_SIZE, Rights, START_HANDLES_MAX, SystemCall, call,
    console, decode_result, roles,
};

use crate::READ_WRITE;
use crate::between::Introduction;
use crate::report::Report;

/// How many handles there is room for.
pub(crate) fn room() -> usize {
    let mut made = [Handle::NONE; HANDLES_MAX];
    let mut count = 0;
    for place in &mut made {
        let Ok(handle) = call::area_create(PAGE_SIZE) else { break };
        *place = handle;
        count += 1;
    }
    for handle in made.iter().take(count) {
        let _ = call::handle_close(*handle);
    }
    count
}

fn number(result: Result<Handle, ErrorCode>) -> Result<u64, ErrorCode> {
    result.map(|handle| handle.0)
}

pub(crate) fn check(report: &mut Report) {
    let before = room();
    let outcome = every_subset(report)
        .and_then(|()| what_cannot_be_made(report))
        .and_then(|()| windows_keep_what_they_were_made_with(report))
        .and_then(|()| of_every_kind(report))
        .and_then(|()| started_with(report))
        .and_then(|()| refused_starts(report));
    report.done("everything that was asked of handles", outcome);
    report.check("no handle is left behind", room() == before);
}

/// Each subset of an area's rights, and each thing that can be done with an area.
fn every_subset(report: &mut Report) -> Result<(), ErrorCode> {
    const RIGHTS: [Rights; 5] = [Rights::READ, Rights::WRITE, Rights::MAP, Rights::RESIZE, Rights::SHARE];
    let area = call::area_create(PAGE_SIZE)?;
    report
        .check("an area comes with its rights", call::handle_inspect(area) == Ok((HandleKind::Area, Rights::OWN_AREA)));
    for subset in 0..1_u32 << RIGHTS.len() {
        let chosen = RIGHTS.iter().enumerate().filter(|(index, _)| subset >> index & 1 != 0);
        let rights = chosen.fold(Rights::NONE, |sum, (_, right)| sum | *right);
        let handle = call::handle_duplicate(area, rights)?;
        report.check(
            "it has the rights that were asked for",
            call::handle_inspect(handle) == Ok((HandleKind::Area, rights)),
        );
        for access in [Access::READ, READ_WRITE] {
            let mut wanted = Rights::MAP | Rights::READ;
            if access.contains(Access::WRITE) {
                wanted = wanted | Rights::WRITE;
            }
            match call::area_map(handle, 0, 0, PAGE_SIZE, access) {
                Ok(address) => {
                    report.check("only who may map does", rights.contains(wanted));
                    // SAFETY: nothing uses the window.
                    unsafe { call::area_unmap(address, PAGE_SIZE)? };
                }
                Err(error) => report.check("who may map does", error == Denied && !rights.contains(wanted)),
            }
        }
        // SAFETY: the size stays as it is.
        let resized = unsafe { call::area_resize(handle, PAGE_SIZE) };
        let expected = if rights.contains(Rights::RESIZE) { Ok(()) } else { Err(Denied) };
        report.check("who may resize does, and nobody else", resized == expected);
        let again = call::handle_duplicate(handle, Rights::NONE);
        report.check("who may share does, and nobody else", again.is_ok() == rights.contains(Rights::SHARE));
        match again {
            Ok(again) => call::handle_close(again)?,
            Err(error) => report.check("it is denied", error == Denied),
        }
        call::handle_close(handle)?;
    }
    call::handle_close(area)
}

fn what_cannot_be_made(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let less = call::handle_duplicate(area, Rights::READ | Rights::MAP | Rights::SHARE)?;
    for more in [Rights::WRITE, Rights::RESIZE, Rights::EXECUTE, Rights::PHYSICAL, Rights::ALL] {
        let what = "a handle with more rights than the one that it is made of";
        report.refused(what, &[Denied], number(call::handle_duplicate(less, more | Rights::READ)));
    }
    for bits in [Rights::ALL.bits() + 1, 1 << 32, 1 << 63, u64::MAX] {
        // SAFETY: the call is refused, or the check has failed.
        let result = unsafe { call::raw(SystemCall::HandleDuplicate.number(), [area.0, bits, 0, 0, 0, 0]) };
        report.refused("rights that there are not", &[BadAccess], decode_result(result));
    }
    call::handle_close(less)?;
    call::handle_close(area)?;
    report.refused("a closed handle made again", &[BadHandle], number(call::handle_duplicate(area, Rights::NONE)));
    let inspected = call::handle_inspect(area).map(|_| 0);
    report.refused("a closed handle looked at", &[BadHandle], inspected);
    Ok(())
}

fn windows_keep_what_they_were_made_with(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let reading = call::handle_duplicate(area, Rights::READ | Rights::MAP)?;
    let address = call::area_map(reading, 0, 0, PAGE_SIZE, Access::READ)?;
    // SAFETY: it is refused, or the check has failed; nothing uses the window.
    let raised = unsafe { call::area_protect(address, PAGE_SIZE, Some(READ_WRITE)) };
    report.check("a window gets no more than its handle had", raised == Err(Denied));
    // SAFETY: nothing uses the window.
    unsafe { call::area_unmap(address, PAGE_SIZE)? };
    call::handle_close(reading)?;
    call::handle_close(area)
}

/// A call with a handle of another kind, and one without the right.
fn of_every_kind(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let text = b"\n";
    let write = |handle: Handle| {
        let arguments = [handle.0, text.as_ptr() as u64, 1, 0, 0, 0];
        // SAFETY: the call reads the text.
        decode_result(unsafe { call::raw(SystemCall::Write.number(), arguments) })
    };
    report.check("the console has its rights", {
        call::handle_inspect(console()) == Ok((HandleKind::Console, Rights::WRITE | Rights::SHARE))
    });
    report.refused("write to an area", &[BadHandle], write(area));
    report.refused("write to nothing", &[BadHandle], write(Handle::NONE));
    let mute = call::handle_duplicate(console(), Rights::SHARE)?;
    report.refused("write without the right to", &[Denied], write(mute));
    call::handle_close(mute)?;

    let process = call::process_start("check", roles::SPIN)?;
    let kind = call::handle_inspect(process);
    report.check("a process has its rights", kind == Ok((HandleKind::Process, Rights::PROCESS)));
    let nothing = call::handle_duplicate(process, Rights::NONE)?;
    let waiting = call::handle_duplicate(process, Rights::WAIT)?;
    report.check("who may not end a process does not", call::process_kill(waiting) == Err(Denied));
    report.check("who may not wait does not", call::process_wait(nothing) == Err(Denied));
    call::process_kill(process)?;
    report.check("who may wait does", call::process_wait(waiting) == Ok(KILLED));
    report.refused("map a process", &[BadHandle], call::area_map(process, 0, 0, PAGE_SIZE, READ_WRITE));
    for handle in [process, nothing, waiting] {
        call::handle_close(handle)?;
    }
    report.refused("wait for an area", &[BadHandle], call::process_wait(area));
    let sent = call::channel_send(area, b"", &[]).map(|()| 0);
    report.refused("send to an area", &[BadHandle], sent);
    let received = call::channel_receive(console(), &mut [], &mut [], 0).map(|_| 0);
    report.refused("receive from the console", &[BadHandle], received);
    let physical = number(call::physical_area(console(), 0xfed0_0000, PAGE_SIZE, refkernel_runtime::Caching::Uncached));
    report.refused("device memory by the console", &[BadHandle], physical);
    call::handle_close(area)
}

/// A process has what it was started with, by its own numbers, and nothing else.
fn started_with(report: &mut Report) -> Result<(), ErrorCode> {
    let [here, there] = call::channel_create()?;
    let area = call::area_create(PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    // SAFETY: the window is mapped to be written, and only used here.
    unsafe { (address as *mut u64).write_volatile(0xfeed_5eed) };
    let reading = call::handle_duplicate(area, Rights::READ | Rights::MAP | Rights::SHARE)?;
    let given = [there, reading];
    let process = call::process_start_with("check", roles::ECHO, &given)?;
    for handle in given {
        report.check("what was passed on is gone here", call::handle_inspect(handle) == Err(BadHandle));
    }
    let introduction = Introduction::receive(here)?;
    report.check("it was given as many as were passed on", introduction.given == 2);
    report.check("it has neither console nor screen nor device memory", introduction.others == 0);
    report.check("the rights moved along", introduction.rights == (Rights::READ | Rights::MAP | Rights::SHARE).bits());
    report.check("it reads what this process wrote", introduction.word == 0xfeed_5eed);
    report.check("it cannot map it to be written", introduction.refused == u64::from(Denied.number()));
    call::channel_send(here, b"again", &[])?;
    let mut bytes = [0; 8];
    let echo = call::channel_receive(here, &mut bytes, &mut [], 10_000_000);
    report.check("it answers", echo == Ok((5, 0)) && bytes == *b"again\0\0\0");
    call::handle_close(here)?;
    report.check("it ends when the channel is closed", call::process_wait(process) == Ok(0));
    // SAFETY: nothing uses the window any more.
    unsafe { call::area_unmap(address, PAGE_SIZE)? };
    call::handle_close(area)?;
    call::handle_close(process)?;

    // A console that is passed on is the process's console.
    let [here, there] = call::channel_create()?;
    let log = call::handle_duplicate(console(), Rights::WRITE | Rights::SHARE)?;
    let process = call::process_start_with("check", roles::ECHO, &[there, log])?;
    let introduction = Introduction::receive(here)?;
    report.check("it has the console that it was given", introduction.others == 1 && introduction.given == 2);
    call::process_kill(process)?;
    report.check("it was ended", call::process_wait(process) == Ok(KILLED));
    report.check("its end of the channel is closed", call::channel_send(here, b"", &[]) == Err(Closed));
    call::handle_close(here)?;
    call::handle_close(process)
}

/// Who is refused keeps what was to be passed on.
fn refused_starts(report: &mut Report) -> Result<(), ErrorCode> {
    let [here, there] = call::channel_create()?;
    let bound = call::handle_duplicate(here, Rights::READ)?;
    let refused: [(&str, &str, &[Handle], ErrorCode); 5] = [
        ("a program that there is not", "nobody", &[there], NoProgram),
        ("a handle twice", "check", &[there, there], BadHandle),
        ("a handle that there is not", "check", &[there, Handle(1 << 40)], BadHandle),
        ("a handle that may not be shared", "check", &[there, bound], Denied),
        ("too many", "check", &[there; START_HANDLES_MAX + 1], TooLarge),
    ];
    for (what, name, handles, error) in refused {
        report.refused(what, &[error], number(call::process_start_with(name, roles::ECHO, handles)));
        report.check("the handle is where it was", call::handle_inspect(there).is_ok());
    }
    // No room for the handle of the process.
    let mut kept = [Handle::NONE; HANDLES_MAX];
    for place in &mut kept {
        let Ok(handle) = call::area_create(PAGE_SIZE) else { break };
        *place = handle;
    }
    let result = number(call::process_start_with("check", roles::ECHO, &[there]));
    report.refused("a process without room for its handle", &[TooManyHandles], result);
    report.check("the handle is where it was", call::handle_inspect(there).is_ok());
    for handle in kept.iter().filter(|handle| handle.is_some()) {
        call::handle_close(*handle)?;
    }
    call::channel_send(there, b"works", &[])?;
    report.check("and works", call::channel_receive(here, &mut [0; 5], &mut [], 0) == Ok((5, 0)));
    for handle in [here, there, bound] {
        call::handle_close(handle)?;
    }
    Ok(())
}
