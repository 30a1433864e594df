//! `cargo xtask`: one command for each thing a person does with this repository.
//!
//! | module | what it does |
//! |---|---|
//! | `cli` | the commands and their options |
//! | `workspace`, `process` | the members of the workspace; running other programs |
//! | `setup` | what the commands need, and how it is installed |
//! | `build`, `symbols`, `module` | the kernel, its programs, and the boot module that carries them |
//! | `limine`, `firmware` | a bootable image with the Limine bootloader; firmware for UEFI |
//! | `qemu`, `qmp`, `session`, `terminal` | the machine's command line, its control channel, one run of it, and the person's terminal meanwhile |
//! | `boot`, `test`, `gdb`, `bench_guest`, `screenshot` | the commands that run the kernel |
//! | `bench` | page tables, page trees and spaces beside other crates' |
//! | `check_mmu` | page tables against an emulator's MMU |
//! | `fuzz` | mutated inputs for the models of the library's tests |
//! | `models` | the library's own code under model checkers |
//! | `mutants` | whether a test notices when one thing of the library is changed |
//! | `verify` | all of these at a stated size, and one table |
//! | `replay` | what Linux did, done again by the library |
//! | `oracle` | what Linux does at the same time |
//! | `lint`, `no_panic`, `ci` | the commands that check the sources |

mod bench;
mod bench_guest;
mod boot;
mod build;
mod check_mmu;
mod ci;
mod cli;
mod end;
mod firmware;
mod fuzz;
mod gdb;
mod limine;
mod lint;
mod models;
mod module;
mod mutants;
mod no_panic;
mod oracle;
mod places;
mod process;
mod qemu;
mod qmp;
mod replay;
mod screenshot;
mod session;
mod setup;
mod stress;
mod symbols;
mod terminal;
mod test;
mod verify;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
