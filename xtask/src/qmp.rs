//! QEMU's control channel (QMP): why the machine went down, and what the screen shows.
//!
//! QEMU connects to a socket that this side listens on before it is started, so nothing is polled for. The channel is one JSON value per line;
//! events come only after the handshake.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::Sender,
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::session::Event;

/// What comes from the channel.
#[derive(Debug)]
pub(crate) enum Message {
    /// The handshake is done: requests may be made.
    Ready(UnixStream),
    /// The machine goes down, and why: `guest-reset` for a triple fault, `host-ui` for a closed window.
    Shutdown(String),
    /// The answer to a request: nothing, or why it failed.
    Answer(std::result::Result<(), String>),
}

/// Listens on `path` and reports what comes to `events`.
pub(crate) fn listen(path: &Path, events: Sender<Event>) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("listening for QEMU on {}", path.display()))?;
    // The thread ends when QEMU does, or with this process where QEMU never came.
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            // A channel that breaks is QEMU going away, which the session sees by itself.
            let _ = converse(stream, &events);
        }
    });
    Ok(())
}

/// Asks for a picture of the screen.
pub(crate) fn screendump(stream: &mut UnixStream, file: &Path) -> std::io::Result<()> {
    request(
        stream,
        &json!({"execute": "screendump", "arguments": {"filename": file.to_string_lossy(), "format": "png"}}),
    )
}

fn request(stream: &mut UnixStream, value: &Value) -> std::io::Result<()> {
    stream.write_all(format!("{value}\n").as_bytes())
}

fn converse(mut stream: UnixStream, events: &Sender<Event>) -> std::io::Result<()> {
    let mut ready = Some(stream.try_clone()?);
    let reader = BufReader::new(stream.try_clone()?);
    for line in reader.lines() {
        let Ok(value) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        let message = if value.get("QMP").is_some() {
            request(&mut stream, &json!({"execute": "qmp_capabilities"}))?;
            continue;
        } else if let (Some(_), Some(stream)) = (value.get("return"), &ready) {
            let stream = stream.try_clone()?;
            ready = None;
            Message::Ready(stream)
        } else if value.get("return").is_some() {
            Message::Answer(Ok(()))
        } else if let Some(error) = value.get("error") {
            Message::Answer(Err(error["desc"].as_str().unwrap_or("no reason given").to_owned()))
        } else if value["event"] == "SHUTDOWN" {
            Message::Shutdown(value["data"]["reason"].as_str().unwrap_or_default().to_owned())
        } else {
            continue;
        };
        if events.send(Event::Control(message)).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn next(events: &mpsc::Receiver<Event>) -> Message {
        match events.recv().unwrap() {
            Event::Control(message) => message,
            other => panic!("not from the control channel: {other:?}"),
        }
    }

    #[test]
    fn handshake_request_and_event() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (sender, events) = mpsc::channel();
        let thread = thread::spawn(move || converse(ours, &sender));
        let mut sent = BufReader::new(theirs.try_clone().unwrap()).lines();

        theirs.write_all(b"{\"QMP\": {}}\n").unwrap();
        assert!(sent.next().unwrap().unwrap().contains("qmp_capabilities"));
        theirs.write_all(b"{\"return\": {}}\n").unwrap();
        let Message::Ready(mut stream) = next(&events) else {
            panic!("the handshake is not done");
        };
        screendump(&mut stream, Path::new("/tmp/a.png")).unwrap();
        assert!(sent.next().unwrap().unwrap().contains("\"filename\":\"/tmp/a.png\""));
        theirs.write_all(b"{\"error\": {\"class\": \"X\", \"desc\": \"no\"}}\nnonsense\n").unwrap();
        assert!(matches!(next(&events), Message::Answer(Err(reason)) if reason == "no"));
        theirs.write_all(b"{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n").unwrap();
        assert!(matches!(next(&events), Message::Shutdown(reason) if reason == "guest-reset"));
        drop((theirs, sent, stream));
        thread.join().unwrap().unwrap();
    }
}
