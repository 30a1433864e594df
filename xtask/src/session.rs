//! One run of a machine: QEMU is started, its serial line is read and shown as it comes, and the run is watched until it ends.
//!
//! ```text
//! standard output ──(serial)──► lines ──► the log, the terminal, the moment for the screenshot
//! standard error  ────────────► messages of QEMU itself
//! control channel ────────────► why it went down; answers          ──► one queue ──► the loop below
//! terminal ───────(typed)─────► standard input
//! ```
//!
//! The log is kept by `log`; `forward` has the threads that wait for something to come.
//!
//! QEMU never outlives the run: it is ended when the run is over, also by an error.

mod forward;
mod log;

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::log::{Log, PICTURE_READY};
use crate::{
    end::End,
    qemu::{self, Machine},
    qmp::{self, Message},
    terminal::RawTerminal,
};

/// What the kernel writes when it may be asked something.
pub(crate) const PROMPT: &str = "vm> ";
/// What ends a kernel that may be asked something.
const QUIT: &str = "quit";
/// Ctrl-C, on the serial line.
const CONTROL_C: &[u8] = b"\x03";

/// How long a run may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: Option<Duration>,
    /// Without a byte on the serial line, until the kernel's first line.
    pub(crate) silence_at_start: Duration,
    /// Without a byte on the serial line, afterwards; `None` where the kernel may wait for a person.
    pub(crate) silence: Option<Duration>,
}

/// What is wanted of a run beside its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes<'a> {
    pub(crate) limits: Limits,
    /// The serial line is shown as it comes.
    pub(crate) show: bool,
    /// What is typed goes to the serial line.
    pub(crate) typing: Typing,
    /// What is asked at the kernel's prompt.
    pub(crate) script: Option<Script<'a>>,
    /// Where a picture of the screen goes; an absolute path. The kernel must be told to `hold`.
    pub(crate) picture: Option<&'a Path>,
}

impl Wishes<'_> {
    /// That it ends within `total`, never longer silent than `silence`, and nothing else.
    pub(crate) const fn within(total: Option<Duration>, silence: Duration) -> Self {
        Self {
            limits: Limits { total, silence_at_start: silence, silence: Some(silence) },
            show: false,
            typing: Typing::No,
            script: None,
            picture: None,
        }
    }
}

/// What is typed goes to the serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typing {
    /// Nothing does.
    No,
    /// Lines, as the terminal gives them.
    Lines,
    /// Every key, to a kernel that edits lines itself; its controls go to the terminal. Ctrl-A x leaves.
    Keys,
}

/// Questions to the kernel, each asked when its prompt is there; the kernel ends behind them.
#[derive(Clone, Copy)]
pub(crate) struct Script<'a> {
    pub(crate) questions: &'a [String],
    /// What is done in between, while the machine waits at its prompt: before the question of this number, or behind the last one.
    pub(crate) between: &'a [(usize, &'a dyn Fn())],
    /// Asked at the machine's keyboard, instead of on the serial line.
    pub(crate) by_keyboard: bool,
    /// Pictures of the screen, in order.
    pub(crate) shots: &'a [Shot<'a>],
}

impl<'a> Script<'a> {
    /// Questions on the serial line, and nothing else.
    pub(crate) fn new(questions: &'a [String]) -> Self {
        Self { questions, between: &[], by_keyboard: false, shots: &[] }
    }
}

/// A picture of the screen in the course of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot<'a> {
    /// The number of the question.
    pub(crate) question: usize,
    /// So long after the question was asked, while it is answered, which is then ended by Ctrl-C; `None`: before it is asked, at the prompt.
    pub(crate) after: Option<Duration>,
    /// Where it goes; an absolute path.
    pub(crate) file: &'a Path,
}

/// How long the kernel is given to draw what it has written.
const DRAWN: Duration = Duration::from_millis(1500);

impl std::fmt::Debug for Script<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Script").field("questions", &self.questions).finish_non_exhaustive()
    }
}

/// What happened in a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// The serial line, without line ends and terminal controls.
    pub(crate) lines: Vec<String>,
    /// What QEMU itself said.
    pub(crate) messages: Vec<String>,
    /// From QEMU's start to its end.
    pub(crate) elapsed: Duration,
    /// Whether the pictures that were wished for were taken.
    pub(crate) picture: std::result::Result<(), String>,
    /// The serial line as it came, from the kernel's first line on, until each picture of the script was asked for.
    pub(crate) before_shots: Vec<Vec<u8>>,
}

impl Outcome {
    /// The end of the log, for messages.
    pub(crate) fn last_lines(&self) -> String {
        const SHOWN: usize = 15;
        let mut text = String::new();
        for message in &self.messages {
            text.push_str(&format!("\n  {message}"));
        }
        let start = self.lines.len().saturating_sub(SHOWN);
        let last = self.lines.get(start..).unwrap_or_default();
        if last.is_empty() {
            text.push_str("\nNothing came on the serial line.");
        } else {
            text.push_str("\nThe last lines of the serial log:");
            for line in last {
                text.push_str(&format!("\n  | {line}"));
            }
        }
        text
    }
}

/// What a run waits for.
#[derive(Debug)]
pub(crate) enum Event {
    Serial(Vec<u8>),
    SerialClosed,
    Message(String),
    Control(Message),
    /// The person at the terminal leaves.
    Left,
}

/// Runs `machine` until it ends or a limit is reached.
pub(crate) fn run(machine: &Machine, wishes: Wishes<'_>) -> Result<Outcome> {
    run_command(|socket| machine.command(socket), wishes)
}

/// Runs what `command` makes; it is given the path of the socket that it is to connect to.
fn run_command(command: impl FnOnce(&Path) -> Command, wishes: Wishes<'_>) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("making a directory for QEMU's socket")?;
    let socket = directory.path().join("qmp");
    let (sender, events) = mpsc::channel();
    qmp::listen(&socket, sender.clone())?;
    let mut command = command(&socket);
    end_with_this_process(&mut command);

    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Running)
        .with_context(|| format!("{} cannot be started", qemu::PROGRAM))?;
    let (stdin, stdout, stderr) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let input = Arc::new(Mutex::new(stdin));
    let keys_sender = sender.clone();
    if let Some(stdout) = stdout {
        let sender = sender.clone();
        thread::spawn(move || forward::serial(stdout, &sender));
    }
    if let Some(stderr) = stderr {
        thread::spawn(move || forward::messages(stderr, &sender));
    }
    let _terminal = match wishes.typing {
        Typing::No => None,
        Typing::Lines => {
            let input = Arc::clone(&input);
            thread::spawn(move || forward::typed(&input));
            None
        }
        Typing::Keys => {
            let input = Arc::clone(&input);
            let sender = keys_sender;
            thread::spawn(move || forward::keys(&input, &sender));
            RawTerminal::of_stdin()
        }
    };

    let mut watch = Watch {
        wishes,
        log: Log::default(),
        messages: Vec::new(),
        down: None,
        control: None,
        input,
        asked: 0,
        at_prompt: false,
        prompt_line: None,
        shots: Vec::new(),
        waits_for_shot: false,
        picture: match wishes.picture {
            None => Picture::Done(Ok(())),
            Some(_) => Picture::Awaited,
        },
        failed_shot: None,
    };
    let mut heard = start;
    let cut = loop {
        let now = Instant::now();
        let silence = if watch.log.kernel { wishes.limits.silence } else { Some(wishes.limits.silence_at_start) };
        let limits = [
            wishes.limits.total.map(|limit| (start + limit, End::TimedOut(limit))),
            silence.map(|limit| (heard + limit, End::Silent(limit))),
        ];
        let next = limits.into_iter().flatten().min_by_key(|(at, _)| *at);
        let wait = match &next {
            Some((at, _)) => at.saturating_duration_since(now),
            None => Duration::from_secs(3600),
        };
        match events.recv_timeout(wait) {
            Ok(Event::SerialClosed) | Err(RecvTimeoutError::Disconnected) => break None,
            Ok(Event::Left) => break Some(End::Left),
            Ok(event) => {
                let is_serial = matches!(event, Event::Serial(_));
                watch.take(event);
                if is_serial {
                    // Behind what is done at the prompt, which may take its time.
                    heard = Instant::now();
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((_, end)) = next {
                    break Some(end);
                }
            }
        }
    };
    let status = match cut {
        Some(_) => child.stop(),
        None => child.0.wait(),
    }
    .context("waiting for QEMU")?;
    let elapsed = start.elapsed();
    // What was said last may still be in the queue.
    while let Ok(event) = events.recv_timeout(Duration::from_millis(100)) {
        watch.take(event);
    }
    watch.log.finish();
    Ok(Outcome {
        end: cut.unwrap_or_else(|| End::of(status, watch.down)),
        lines: watch.log.lines,
        messages: watch.messages,
        before_shots: watch.shots,
        elapsed,
        picture: match watch.picture {
            Picture::Done(result) => watch.failed_shot.map_or(result, Err),
            _ => Err(format!("no picture was taken: the line `{PICTURE_READY}` did not come")),
        },
    })
}

/// Where the screenshot stands.
enum Picture {
    Awaited,
    /// The kernel holds, the control channel is not there yet.
    Ready,
    Asked,
    Done(std::result::Result<(), String>),
}

/// What is known of a run so far.
struct Watch<'a> {
    wishes: Wishes<'a>,
    log: Log,
    messages: Vec<String>,
    down: Option<String>,
    control: Option<UnixStream>,
    input: Arc<Mutex<Option<ChildStdin>>>,
    /// How many questions were asked.
    asked: usize,
    /// The kernel waits for a question that was not asked yet.
    at_prompt: bool,
    /// The number of the line that the last prompt was on.
    prompt_line: Option<usize>,
    /// What had come on the serial line before each picture of the script.
    shots: Vec<Vec<u8>>,
    waits_for_shot: bool,
    picture: Picture,
    /// Why a picture of the script was not taken.
    failed_shot: Option<String>,
}

impl Watch<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Serial(bytes) => {
                let (text, ready) = self.log.take(&bytes);
                if self.wishes.show {
                    // A reader that went away must not end the run.
                    let mut out = std::io::stdout().lock();
                    let shown = if self.wishes.typing == Typing::Keys { &bytes } else { text.as_bytes() };
                    let _ = out.write_all(shown).and_then(|()| out.flush());
                }
                // What follows on the line of a prompt may be a control of the terminal's: it is the same prompt.
                let line = self.log.lines.len();
                if self.log.partial == PROMPT.as_bytes() && self.prompt_line != Some(line) {
                    self.prompt_line = Some(line);
                    self.at_prompt = true;
                    self.go_on();
                }
                if ready && matches!(self.picture, Picture::Awaited) {
                    self.picture = Picture::Ready;
                }
            }
            Event::SerialClosed | Event::Left => {}
            Event::Message(line) => {
                if self.wishes.show {
                    eprintln!("{line}");
                }
                self.messages.push(line);
            }
            Event::Control(Message::Ready(stream)) => {
                self.control = Some(stream);
                self.go_on();
            }
            Event::Control(Message::Shutdown(reason)) => self.down = Some(reason),
            Event::Control(Message::Answer(answer)) if self.waits_for_shot => {
                self.waits_for_shot = false;
                if let Err(reason) = answer {
                    self.failed_shot = Some(format!("QEMU took no picture: {reason}"));
                }
                if self.at_prompt {
                    self.go_on();
                } else {
                    self.send(CONTROL_C);
                }
            }
            Event::Control(Message::Answer(answer)) => {
                if matches!(self.picture, Picture::Asked) {
                    self.picture = Picture::Done(answer.map_err(|reason| format!("QEMU took no picture: {reason}")));
                    self.release();
                }
            }
        }
        if let (Picture::Ready, Some(stream), Some(file)) = (&self.picture, &mut self.control, self.wishes.picture) {
            self.picture = match qmp::screendump(stream, file) {
                Ok(()) => Picture::Asked,
                Err(error) => Picture::Done(Err(format!("QEMU took no picture: {error}"))),
            };
        }
    }

    /// Does what comes next at the prompt: a picture, or the next question.
    fn go_on(&mut self) {
        let Some(script) = self.wishes.script.filter(|_| self.at_prompt && !self.waits_for_shot) else { return };
        let needs_control = script.by_keyboard || !script.shots.is_empty();
        if needs_control && self.control.is_none() {
            return;
        }
        let next = script.shots.get(self.shots.len()).filter(|shot| shot.question == self.asked);
        if let Some(shot) = next.filter(|shot| shot.after.is_none()) {
            self.shoot(shot, DRAWN);
            return;
        }
        self.ask(script);
        if let Some(shot) = next {
            self.shoot(shot, shot.after.unwrap_or_default());
        }
    }

    /// Asks for a picture of the script after a time; what comes meanwhile is dealt with afterwards.
    fn shoot(&mut self, shot: &Shot<'_>, after: Duration) {
        thread::sleep(after);
        self.shots.push(self.log.raw.clone());
        let asked = self.control.as_mut().map(|control| qmp::screendump(control, shot.file));
        match asked {
            Some(Ok(())) => self.waits_for_shot = true,
            Some(Err(error)) => self.failed_shot = Some(format!("QEMU took no picture: {error}")),
            None => self.failed_shot = Some("QEMU took no picture: its control channel is closed".into()),
        }
    }

    /// Asks what comes next.
    fn ask(&mut self, script: Script<'_>) {
        let question = script.questions.get(self.asked).map(String::as_str);
        for (_, what) in script.between.iter().filter(|(before, _)| *before == self.asked) {
            what();
        }
        self.asked += 1;
        self.at_prompt = false;
        let line = format!("{}\r", question.unwrap_or(QUIT));
        if let Some(control) = self.control.as_mut().filter(|_| script.by_keyboard) {
            if let Err(error) = qmp::type_text(control, &line) {
                self.messages.push(format!("nothing can be typed: {error}"));
            }
        } else {
            self.send(line.as_bytes());
        }
    }

    /// Lets a kernel that holds go on.
    fn release(&self) {
        self.send(b"\n");
    }

    fn send(&self, bytes: &[u8]) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = input.as_mut() {
            // A kernel that is gone already needs no byte.
            let _ = input.write_all(bytes).and_then(|()| input.flush());
        }
    }
}

/// QEMU, for as long as it runs.
struct Running(Child);

impl Running {
    fn stop(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing to do about a failure, and none where QEMU has ended.
        let _ = self.stop();
    }
}

/// Lets the process end when this one does, however that happens: a job that is cut short must not leave a machine running.
fn end_with_this_process(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        use std::os::unix::process::CommandExt as _;
        // SAFETY: between fork and exec only functions that are safe in a signal handler may be called. The closure makes one system call
        // (`prctl`) and converts its error number; it neither allocates nor takes a lock, and refers to nothing of this process.
        unsafe {
            command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
        }
    }
    // Elsewhere a machine that is left over ends at the latest when its kernel does.
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program in the place of QEMU.
    fn ran(script: &str, total: u64, silence_at_start: u64, silence: Option<u64>) -> Outcome {
        let milliseconds = Duration::from_millis;
        run_command(
            |_| {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            },
            Wishes {
                limits: Limits {
                    total: Some(milliseconds(total)),
                    silence_at_start: milliseconds(silence_at_start),
                    silence: silence.map(milliseconds),
                },
                show: false,
                typing: Typing::No,
                script: None,
                picture: None,
            },
        )
        .unwrap()
    }

    const LONG: u64 = 60_000;

    #[test]
    fn an_end_is_read_with_what_came_before_it() {
        let outcome = ran("echo one; echo two >&2; printf three; exit 33", LONG, LONG, None);
        assert!(outcome.end.is_success());
        assert_eq!(outcome.lines, ["one", "three"]);
        assert_eq!(outcome.messages, ["two"]);
        assert!(outcome.last_lines().contains("| three"));
        assert!(!ran("exit 0", LONG, LONG, None).end.is_success());
        assert_eq!(ran("kill -9 $$", LONG, LONG, None).end, End::Signal(9));
    }

    #[test]
    fn a_machine_that_does_not_end_is_ended() {
        let limit = Duration::from_millis(300);
        assert_eq!(ran("exec sleep 100", 300, LONG, None).end, End::TimedOut(limit));
        assert_eq!(ran("while :; do echo more; done", 300, LONG, None).end, End::TimedOut(limit));
        assert_eq!(ran("echo a; exec sleep 100", LONG, 300, None).end, End::Silent(limit));
        let booted = "echo refkernel: booted through pvh; exec sleep 100";
        assert_eq!(ran(booted, LONG, LONG, Some(300)).end, End::Silent(limit));
        // At a prompt only the total counts.
        assert_eq!(ran(booted, 600, 300, None).end, End::TimedOut(2 * limit));
    }

    #[test]
    fn questions_are_asked_at_the_prompt() {
        // A kernel that says back what it is asked, without an echo.
        let kernel = r#"
            printf 'refkernel: booted through pvh\nvm> '
            while IFS= read -r -d "$(printf '\r')" line; do
                [ "$line" = quit ] && exit 33
                printf '%s\nanswer to %s\nvm> ' "$line" "$line"
            done"#;
        let questions = ["one".to_owned(), "two".to_owned()];
        let done = std::cell::Cell::new(0);
        let outcome = run_command(
            |_| {
                let mut command = Command::new("bash");
                command.args(["-c", kernel]);
                command
            },
            Wishes {
                limits: Limits {
                    total: Some(Duration::from_millis(LONG)),
                    silence_at_start: Duration::from_millis(LONG),
                    silence: None,
                },
                show: false,
                typing: Typing::No,
                script: Some(Script {
                    between: &[(1, &|| done.set(done.get() + 1)), (2, &|| done.set(done.get() * 10))],
                    ..Script::new(&questions)
                }),
                picture: None,
            },
        )
        .unwrap();
        assert!(outcome.end.is_success(), "{:?}", outcome.lines);
        assert_eq!(outcome.lines[1..], ["vm> one", "answer to one", "vm> two", "answer to two", "vm> "]);
        assert_eq!(done.get(), 10, "each once, in this order");
    }

    #[test]
    fn a_picture_that_nobody_announced_was_not_taken() {
        let outcome = run_command(
            |_| Command::new("true"),
            Wishes {
                limits: Limits { total: None, silence_at_start: Duration::from_secs(60), silence: None },
                show: false,
                typing: Typing::No,
                script: None,
                picture: Some(Path::new("/nowhere.png")),
            },
        )
        .unwrap();
        assert!(outcome.picture.unwrap_err().contains("picture ready"));
    }
}
