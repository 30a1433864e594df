//! `cargo xtask lint`: formatting, clippy and documentation of every member, with warnings as errors.
//!
//! Warnings are errors here only, never through the environment's flags: those would leak into other builds and make them differ.

use anyhow::Result;

use crate::{
    build::{Guest, guest_cargo, guest_target},
    process,
    workspace::{BENCHES, KERNEL, Workspace, cargo},
};

/// `cargo xtask lint`.
pub(crate) fn command() -> Result<()> {
    let workspace = Workspace::load()?;
    let root = &workspace.root;
    // A lock file that does not fit the manifests would be changed silently by the first build.
    process::output(
        cargo(root).args(["metadata", "--locked", "--format-version", "1"]),
        "checking that Cargo.lock fits the manifests",
    )?;
    process::run(cargo(root).args(["fmt", "--all", "--check"]), "checking the format (`cargo fmt --all` mends it)")?;

    // A workspace of its own, which needs no more than this to be formatted.
    process::run(
        cargo(root).args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]),
        "checking the format of the fuzz targets (`cargo fmt --manifest-path fuzz/Cargo.toml` mends it)",
    )?;

    const STRICT: [&str; 3] = ["--", "-D", "warnings"];
    process::run(cargo(root).args(["clippy", "--all-targets"]).args(STRICT), "clippy on the default members")?;
    process::run(
        cargo(root).args(["build", "--package", "vmcore", "--no-default-features"]),
        "building vmcore without default features",
    )?;
    process::run(
        cargo(root).args(["clippy", "--package", "vmcore", "--no-default-features"]).args(STRICT),
        "clippy on vmcore without default features",
    )?;
    process::run(
        cargo(root).args(["clippy", "--package", "vmcore", "--all-features", "--all-targets"]).args(STRICT),
        "clippy on vmcore with all features",
    )?;
    for member in workspace
        .members
        .iter()
        .filter(|member| !member.default && member.name != KERNEL && !workspace.is_below_programs(member))
    {
        process::run(
            cargo(root).args(["clippy", "--package", &member.name, "--all-targets"]).args(STRICT),
            &format!("clippy on {}", member.name),
        )?;
    }

    if workspace.has_kernel() {
        // The kernel's library is for the host too; its binary is not.
        process::run(
            cargo(root).args(["clippy", "--package", KERNEL, "--lib", "--tests"]).args(STRICT),
            "clippy on the kernel's library and its tests",
        )?;
        let target = guest_target()?;
        let guest = |guest: Guest, name: &str| {
            process::run(
                guest_cargo(root, guest, "clippy", target).args(["--release", "--package", name]).args(STRICT),
                &format!("clippy on {name} for the guest"),
            )
        };
        guest(Guest::Kernel, KERNEL)?;
        process::run(
            guest_cargo(root, Guest::Kernel, "clippy", target)
                .args(["--release", "--package", KERNEL, "--features", "planted-weakness"])
                .args(STRICT),
            "clippy on the kernel for the controls of attacks",
        )?;
        for member in workspace.program_libraries().chain(workspace.programs()) {
            guest(Guest::Program, &member.name)?;
        }
        process::run(
            guest_cargo(root, Guest::LinuxProgram, "clippy", target)
                .args(["--release", "--package", "bench", "--package", "refkernel-runtime", "--features", "linux"])
                .args(STRICT),
            "clippy on the bench program for Linux",
        )?;
    }

    let documented = |arguments: &[&str], what: &str| {
        process::run(
            cargo(root).args(["doc", "--no-deps"]).args(arguments).env("RUSTDOCFLAGS", "-D warnings"),
            &format!("documentation of {what}"),
        )
    };
    documented(&[], "the default members")?;
    documented(&["--package", "vmcore", "--all-features"], "vmcore with all features")?;
    for member in workspace.host_libraries() {
        documented(&["--package", &member.name, "--lib"], &member.name)?;
    }
    if workspace.members.iter().any(|member| member.name == BENCHES) {
        documented(&["--package", BENCHES, "--lib"], BENCHES)?;
    }
    for member in workspace.program_libraries() {
        process::run(
            guest_cargo(root, Guest::Program, "doc", guest_target()?)
                .args(["--no-deps", "--package", &member.name])
                .env("RUSTDOCFLAGS", "-D warnings"),
            &format!("documentation of {}", member.name),
        )?;
    }
    Ok(())
}
