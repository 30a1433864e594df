//! The threads of a run: each reads one place, and sends on what it finds.

use std::{
    io::{Read, Write as _},
    process::ChildStdin,
    sync::{Mutex, PoisonError, mpsc::Sender},
};

use super::Event;

/// What comes on the serial line.
pub(super) fn serial(mut from: impl Read, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if events.send(Event::Serial(bytes)).is_err() {
                    return;
                }
            }
        }
    }
    let _ = events.send(Event::SerialClosed);
}

/// What QEMU says itself.
pub(super) fn messages(from: impl Read, events: &Sender<Event>) {
    use std::io::{BufRead as _, BufReader};
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        if events.send(Event::Message(line)).is_err() {
            return;
        }
    }
}

/// Lines, as the terminal gives them: Ctrl-C keeps its meaning.
pub(super) fn typed(input: &Mutex<Option<ChildStdin>>) {
    let mut typed = std::io::stdin().lock();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = typed.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = input.as_mut().is_some_and(|input| input.write_all(bytes).and_then(|()| input.flush()).is_ok());
        if !sent {
            return;
        }
    }
}

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// Every key as it is pressed. Behind Ctrl-A, `x` leaves, and Ctrl-A is itself.
pub(super) fn keys(input: &Mutex<Option<ChildStdin>>, events: &Sender<Event>) {
    let mut typed = std::io::stdin().lock();
    let mut buffer = [0; 1024];
    let mut escaped = false;
    let send = |bytes: &[u8]| {
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        input.as_mut().is_some_and(|input| input.write_all(bytes).and_then(|()| input.flush()).is_ok())
    };
    while let Ok(length @ 1..) = typed.read(&mut buffer) {
        let mut keys = Vec::with_capacity(length);
        for byte in buffer.get(..length).unwrap_or_default() {
            match (std::mem::take(&mut escaped), *byte) {
                (true, b'x' | b'X') => {
                    let _ = events.send(Event::Left);
                    return;
                }
                (false, ESCAPE) => escaped = true,
                (_, byte) => keys.push(byte),
            }
        }
        if !send(&keys) {
            return;
        }
    }
}
