//! `cargo xtask gdb`: a debugger at the stopped kernel, with the inspector's questions.
//!
//! QEMU is started with its debugger's stub on a socket, the kernel boots to the inspector's prompt, and gdb attaches to it there, with the kernel's symbols
//! and `refkernel/gdb/vm.py`. The questions are answered from memory alone: the kernel does not run meanwhile.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Image, Profile},
    process,
    qemu::{Machine, Memory},
    session::{self, Script, Wishes},
    setup::{self, Need},
    workspace::Workspace,
};

/// How long the kernel may take until its prompt.
const BOOT: Duration = Duration::from_secs(120);

/// Attach gdb to the kernel, with the inspector's questions as `vm maps`, `vm walk`, `vm entry` and `vm dump`
///
/// The kernel is booted to the inspector's prompt and stopped there; its memory is read without its help. `help vm` lists the questions.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A command of gdb's; may be given several times. gdb ends behind the last one
    #[arg(long, value_name = "COMMAND")]
    batch: Vec<String>,
    /// What is asked at the inspector's prompt before gdb attaches, such as `run demo`; may be given several times
    #[arg(long, value_name = "QUESTION")]
    ask: Vec<String>,
    /// Attach to a machine that runs already, such as one of `cargo xtask boot -- -s`
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["ask", "cpus", "memory", "cmdline"])]
    attach: Option<String>,
    /// How many processors the machine has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// How much memory the machine has, such as 64M or 4G
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Memory,
    /// The kernel's command line, beside `inspect`
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// `cargo xtask gdb`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Qemu, Need::Gdb], arguments.yes)?;
    let workspace = Workspace::load()?;
    let image = build::image(&workspace, Profile::Optimised)?;
    if let Some(address) = &arguments.attach {
        return process::run(&mut debugger(&workspace.root, &image, address, &arguments.batch), "debugging the kernel");
    }
    let stub = Stub::new()?;
    let result = RefCell::new(None);
    let attach = || {
        let mut command = debugger(&workspace.root, &image, stub.address(), &arguments.batch);
        *result.borrow_mut() = Some(process::run(&mut command, "debugging the kernel"));
    };
    let cmdline = format!("{} inspect", arguments.cmdline).trim_start().to_owned();
    let machine = Machine {
        memory: arguments.memory,
        options: stub.options(),
        ..Machine::direct(&image, arguments.cpus, cmdline)
    };
    let outcome = session::run(
        &machine,
        Wishes {
            script: Some(Script { between: &[(arguments.ask.len(), &attach)], ..Script::new(&arguments.ask) }),
            ..Wishes::within(None, BOOT)
        },
    )?;
    match result.into_inner() {
        Some(result) => result,
        None => bail!("the kernel did not come to its prompt: {}{}", outcome.end, outcome.last_lines()),
    }
}

/// The socket of QEMU's stub for a debugger.
pub(crate) struct Stub {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stub {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for the debugger's socket")?;
        Ok(Self { path: directory.path().join("gdb"), _directory: directory })
    }

    /// What QEMU is told.
    pub(crate) fn options(&self) -> Vec<String> {
        let path = self.path.to_string_lossy().replace(',', ",,");
        vec![
            "-chardev".to_owned(),
            format!("socket,id=gdb,path={path},server=on,wait=off"),
            "-gdb".to_owned(),
            "chardev:gdb".to_owned(),
        ]
    }

    /// What gdb is told.
    pub(crate) fn address(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }
}

/// gdb at a machine, with the kernel's symbols and the questions; with commands it ends behind the last one.
pub(crate) fn debugger(root: &Path, image: &Image, address: &str, commands: &[String]) -> Command {
    let mut command = Command::new("gdb");
    command.args(["-q", "-nx"]);
    if !commands.is_empty() {
        command.arg("-batch");
    }
    let script = root.join("refkernel/gdb/vm.py");
    for first in [
        "set pagination off".to_owned(),
        "set confirm off".to_owned(),
        "set architecture i386:x86-64".to_owned(),
        // What is stopped may be a function of another language.
        "set language rust".to_owned(),
        format!("target remote {address}"),
        format!("source {}", script.display()),
    ] {
        command.args(["-ex", &first]);
    }
    for given in commands {
        command.args(["-ex", given]);
    }
    command.arg(&image.kernel);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debugger_with_commands_ends_behind_them() {
        let image = Image { kernel: "/k".into(), module: "/m".into() };
        let shown = |commands: &[String]| process::shown(&debugger(Path::new("/r"), &image, "/s", commands));
        let start = "-ex 'set pagination off' -ex 'set confirm off' -ex 'set architecture i386:x86-64' \
                     -ex 'set language rust' \
                     -ex 'target remote /s' -ex 'source /r/refkernel/gdb/vm.py'";
        assert_eq!(shown(&[]), format!("gdb -q -nx {start} /k"));
        assert_eq!(shown(&["vm maps".into()]), format!("gdb -q -nx -batch {start} -ex 'vm maps' /k"));
    }
}
