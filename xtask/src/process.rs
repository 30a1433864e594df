//! Running other programs: every failure names the program and what it was run for.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs `command` with its output going to the terminal; an end other than success is an error.
pub(crate) fn run(command: &mut Command, purpose: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{purpose}: {} cannot be started", name(command)))?;
    if !status.success() {
        bail!("{purpose}: {} failed ({status})", name(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote; its messages are shown only in the error.
pub(crate) fn output(command: &mut Command, purpose: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{purpose}: {} cannot be started", name(command)))?;
    if !output.status.success() {
        bail!(
            "{purpose}: {} failed ({}):\n{}",
            name(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first directory of `PATH` that holds `program`, joined with it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// The command as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        text.push(' ');
        if argument.contains(|c: char| c.is_whitespace() || "'\"$&;|<>()".contains(c)) || argument.is_empty() {
            text.push('\'');
            text.push_str(&argument.replace('\'', r"'\''"));
            text.push('\'');
        } else {
            text.push_str(&argument);
        }
    }
    text
}

fn name(command: &Command) -> String {
    format!("`{}`", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_commands_can_be_pasted_into_a_shell() {
        let mut command = Command::new("qemu");
        command.args(["-append", "demo hold", "", "it's"]);
        assert_eq!(shown(&command), r"qemu -append 'demo hold' '' 'it'\''s'");
    }

    #[test]
    fn a_failure_names_program_and_purpose() {
        let error = run(&mut Command::new("false"), "checking").unwrap_err();
        assert!(format!("{error:#}").starts_with("checking: `false` failed"), "{error:#}");
        let error = run(&mut Command::new("no-such-program-here"), "checking").unwrap_err();
        assert!(format!("{error:#}").contains("`no-such-program-here` cannot be started"), "{error:#}");
    }
}
