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
    /// The answer to the request for a picture: nothing, or why it failed.
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

/// What marks the request for a picture, and the answer to it.
const PICTURE: &str = "picture";

/// How long a key is held, and how long nothing is pressed behind it, in milliseconds.
const HELD: u32 = 5;

/// The keys that are pressed together for a character; `None` for one that no key has. Control characters are letters with Control, except those with a key
/// of their own.
fn keys_of(character: char) -> Option<(Option<&'static str>, String)> {
    const SHIFT: Option<&str> = Some("shift");
    let plain = |name: &str| Some((None, name.to_owned()));
    let shifted = |name: &str| Some((SHIFT, name.to_owned()));
    match character {
        'a'..='z' | '0'..='9' => plain(&character.to_string()),
        'A'..='Z' => shifted(&character.to_ascii_lowercase().to_string()),
        ' ' => plain("spc"),
        '\n' | '\r' => plain("ret"),
        '\t' => plain("tab"),
        '\u{8}' | '\u{7f}' => plain("backspace"),
        '\u{1}'..='\u{1a}' => Some((Some("ctrl"), char::from(character as u8 + b'a' - 1).to_string())),
        '-' => plain("minus"),
        '_' => shifted("minus"),
        '=' => plain("equal"),
        '+' => shifted("equal"),
        '.' => plain("dot"),
        ',' => plain("comma"),
        '/' => plain("slash"),
        ':' => shifted("semicolon"),
        _ => None,
    }
}

/// Types a text at the machine's keyboard, which has the American layout. A character that no key has is left out.
pub(crate) fn type_text(stream: &mut UnixStream, text: &str) -> std::io::Result<()> {
    for (with, key) in text.chars().filter_map(keys_of) {
        let keys: Vec<Value> =
            with.into_iter().chain([key.as_str()]).map(|name| json!({"type": "qcode", "data": name})).collect();
        request(stream, &json!({"execute": "send-key", "arguments": {"keys": keys, "hold-time": HELD}}))?;
    }
    Ok(())
}

/// Asks for a picture of the screen.
pub(crate) fn screendump(stream: &mut UnixStream, file: &Path) -> std::io::Result<()> {
    request(
        stream,
        &json!({"execute": "screendump", "id": PICTURE, "arguments": {"filename": file.to_string_lossy(), "format": "png"}}),
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
        } else if let Some(error) = value.get("error") {
            let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
            if value["id"] == PICTURE {
                Message::Answer(Err(reason))
            } else {
                if events.send(Event::Message(format!("QEMU refuses: {reason}"))).is_err() {
                    break;
                }
                continue;
            }
        } else if value.get("return").is_some() && value["id"] == PICTURE {
            Message::Answer(Ok(()))
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
        theirs
            .write_all(
                b"{\"return\": {}}\n{\"id\": \"picture\", \"error\": {\"class\": \"X\", \"desc\": \"no\"}}\nnonsense\n",
            )
            .unwrap();
        assert!(matches!(next(&events), Message::Answer(Err(reason)) if reason == "no"));
        theirs.write_all(b"{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n").unwrap();
        assert!(matches!(next(&events), Message::Shutdown(reason) if reason == "guest-reset"));
        type_text(&mut stream, "a:\r\u{3}é").unwrap();
        let typed: Vec<String> = sent.by_ref().take(4).map(Result::unwrap).collect();
        let qcodes = |line: &String| {
            let value: Value = serde_json::from_str(line).unwrap();
            let keys = value["arguments"]["keys"].as_array().unwrap().clone();
            keys.iter().map(|key| key["data"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("-")
        };
        assert_eq!(typed.iter().map(qcodes).collect::<Vec<_>>(), ["a", "shift-semicolon", "ret", "ctrl-c"]);
        theirs.write_all(b"{\"error\": {\"class\": \"X\", \"desc\": \"no such key\"}}\n").unwrap();
        assert!(matches!(events.recv(), Ok(Event::Message(text)) if text.ends_with("no such key")));
        drop((theirs, sent, stream));
        thread.join().unwrap().unwrap();
    }
}
