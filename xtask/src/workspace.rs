//! The members of the workspace, as cargo reports them, and how each of them is to be built.
//!
//! Host members (the default members, and the libraries of the others) are built as usual. The kernel and its
//! programs are *guest* packages: one at a time, for the guest's target, with flags of their own (see `build`).

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// The kernel's package.
pub(crate) const KERNEL: &str = "refkernel";

/// The benchmarks' package: it brings many packages that nothing else needs, so it is built where it is asked for only.
pub(crate) const BENCHES: &str = "benches";

/// One member of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Built and tested by a plain `cargo test`.
    pub(crate) default: bool,
    pub(crate) has_library: bool,
    pub(crate) has_binary: bool,
}

impl Member {
    /// Whether this is one of the kernel's user programs, or the runtime that they share.
    fn below_programs(&self, root: &Path) -> bool {
        self.directory.starts_with(root.join("refkernel/programs"))
    }
}

/// The workspace that this program belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) members: Vec<Member>,
}

impl Workspace {
    /// Asks cargo for the members.
    pub(crate) fn load() -> Result<Self> {
        let root = root();
        let text = process::output(
            cargo(&root).args(["metadata", "--no-deps", "--format-version", "1"]),
            "reading the workspace",
        )?;
        Self::parse(root, &text)
    }

    fn parse(root: PathBuf, metadata: &str) -> Result<Self> {
        let metadata: Value =
            serde_json::from_str(metadata).context("reading the workspace: `cargo metadata` gave no JSON")?;
        let default = metadata["workspace_default_members"].as_array().context(
            "reading the workspace: this cargo does not report default members; version 1.85 or later is needed",
        )?;
        let mut members = Vec::new();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str()) else {
                bail!("reading the workspace: a package without a name or a manifest");
            };
            let has = |kind: &str| {
                package["targets"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(|target| target["kind"].as_array().into_iter().flatten())
                    .any(|found| found == kind)
            };
            members.push(Member {
                name: name.to_owned(),
                directory: Path::new(manifest).parent().unwrap_or(Path::new("")).to_owned(),
                default: default.contains(&package["id"]),
                has_library: has("lib"),
                has_binary: has("bin"),
            });
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root, members })
    }

    /// Whether the kernel is there; it is not in a copy of the library alone.
    pub(crate) fn has_kernel(&self) -> bool {
        self.members.iter().any(|member| member.name == KERNEL)
    }

    /// The user programs: members below `refkernel/programs` that make a binary.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.below_programs(&self.root) && member.has_binary)
    }

    /// Members below `refkernel/programs` that make no binary: the runtime that the programs share.
    pub(crate) fn program_libraries(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.below_programs(&self.root) && !member.has_binary)
    }

    /// Whether `member` is built for the guest only.
    pub(crate) fn is_below_programs(&self, member: &Member) -> bool {
        member.below_programs(&self.root)
    }

    /// Members outside the default ones whose library is for the host too: the kernel's library and its interface. Not the benchmarks.
    pub(crate) fn host_libraries(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| {
            !member.default && member.has_library && member.name != BENCHES && !member.below_programs(&self.root)
        })
    }
}

/// A `cargo` that works in the workspace's root, with the toolchain that runs this program.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// The workspace's root: the directory above this package's.
pub(crate) fn root() -> PathBuf {
    // The variable that cargo sets at run time is right even after the directory was moved.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
        "workspace_default_members": ["path+file:///w/vmcore#0.1.0"],
        "packages": [
            {"name": "vmcore", "id": "path+file:///w/vmcore#0.1.0", "manifest_path": "/w/vmcore/Cargo.toml",
             "targets": [{"kind": ["lib"]}]},
            {"name": "refkernel", "id": "r", "manifest_path": "/w/refkernel/Cargo.toml",
             "targets": [{"kind": ["lib"]}, {"kind": ["bin"]}]},
            {"name": "refkernel-runtime", "id": "t", "manifest_path": "/w/refkernel/programs/runtime/Cargo.toml",
             "targets": [{"kind": ["lib"]}]},
            {"name": "benches", "id": "b", "manifest_path": "/w/benches/Cargo.toml",
             "targets": [{"kind": ["lib"]}, {"kind": ["bin"]}, {"kind": ["bench"]}]},
            {"name": "demo", "id": "d", "manifest_path": "/w/refkernel/programs/demo/Cargo.toml",
             "targets": [{"kind": ["bin"]}, {"kind": ["custom-build"]}]}
        ]}"#;

    fn names<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<&'a str> {
        members.map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn members_are_sorted_into_their_roles() {
        let workspace = Workspace::parse("/w".into(), METADATA).unwrap();
        assert!(workspace.has_kernel());
        assert_eq!(names(workspace.programs()), ["demo"]);
        assert_eq!(names(workspace.program_libraries()), ["refkernel-runtime"]);
        assert_eq!(names(workspace.host_libraries()), ["refkernel"]);
    }

    #[test]
    fn this_workspace_has_the_library_as_a_default_member() {
        let workspace = Workspace::load().unwrap();
        let library = workspace.members.iter().find(|m| m.name == "vmcore");
        assert!(library.is_some_and(|m| m.default && m.has_library && !m.has_binary));
    }
}
