//! The reference kernel: a small x86-64 kernel that runs `vmcore` on real page tables.

#![no_std]
#![no_main]

extern crate alloc;

mod account;
mod address_wait;
mod attacks;
mod boot;
mod boot_picture;
mod boot_tests;
mod channel;
mod cpu;
mod demo;
mod devices;
mod ending_tests;
mod fault_tests;
mod hoard;
mod inspector;
mod leftovers;
mod memory;
mod memory_functions;
mod pager;
mod panic;
mod process;
mod programs;
mod random;
mod screen;
mod stress;
mod thread;
mod weakness;

use boot::layout;
use devices::exit::exit;
use process::Start;
use programs::Programs;
use refkernel::archive::Archive;
use refkernel::boot_info::{BootError, BootInfo, RegionKind};
use refkernel::command_line::{Options, Tests, Word};
use refkernel_abi::roles::{self, BenchRole};
use refkernel_abi::{ExitCode, program_status};

/// The kernel proper: entered once, on the boot stack, with interrupts off.
fn kernel_main(info: &'static BootInfo) -> ! {
    screen::prepare(info);
    log!("refkernel: booted through {}", info.loader);
    attacks::warn();
    let options = Options::parse(info.command_line());
    report(info, &options);
    memory::show_physical_memory(info);
    find_symbols(info);
    cpu::initialise();
    memory::initialise(info, with_memory)
}

/// Goes on with the kernel's own tables, stack and heap.
fn with_memory(info: &'static BootInfo) -> ! {
    let options = Options::parse(info.command_line());
    let programs = Programs::of(programs::open(boot::module(info)));
    if cfg!(feature = "planted-weakness") && options.tests != Tests::Attacks {
        log!("refkernel: a weakened kernel does nothing but `test=attacks`");
        exit(ExitCode::Failure);
    }
    random::initialise(info, options.seed);
    process::placement::report();
    pager::initialise();
    // Nothing runs beside what is measured.
    let kept_up = !options.screen_off && options.bench.is_none();
    screen::start(info, kept_up, options.inspect);
    match options.tests {
        Tests::Faults => exit(if boot_tests::run_faults(&programs) { ExitCode::Success } else { ExitCode::Failure }),
        Tests::Attacks => exit(if boot_tests::run_attacks(&programs) { ExitCode::Success } else { ExitCode::Failure }),
        Tests::Ending(test) => ending_tests::run(test),
        Tests::All | Tests::Named(_) => {
            let name = if let Tests::Named(name) = options.tests { name } else { Word(b"") };
            let passed = (0..options.repeat.unwrap_or(1)).all(|_| boot_tests::run(&programs, name));
            exit(if passed { ExitCode::Success } else { ExitCode::Failure })
        }
        Tests::None => {}
    }
    if let Some(role) = options.bench {
        exit(bench(&programs, role));
    }
    if let Some(seconds) = options.stress {
        exit(if stress::run(&programs, seconds, options.seed) { ExitCode::Success } else { ExitCode::Failure });
    }
    if options.inspect {
        devices::input::begin(info);
        inspector::run(info);
        exit(ExitCode::Success);
    }
    let watched = !options.demo && !options.hold;
    if let Err(error) = demo::run(info, &programs, watched) {
        log!("refkernel: the demo failed: {error}");
        exit(ExitCode::Failure);
    }
    if options.hold {
        log!("refkernel: picture ready");
        devices::serial::receive();
    }
    exit(ExitCode::Success)
}

/// Runs the program that measures, which writes its own lines.
fn bench(programs: &Programs<'_>, role: BenchRole) -> ExitCode {
    match programs.run("bench", Start { argument: role.number(), ..Start::default() }) {
        Ok(ending) if ending.is(roles::Ending::Exits(program_status::SUCCESS)) => ExitCode::Success,
        Ok(ending) => {
            log!("refkernel: the measurement failed: {ending}");
            ExitCode::Failure
        }
        Err(error) => {
            log!("refkernel: the measurement failed: {error}");
            ExitCode::Failure
        }
    }
}

/// Takes the kernel's symbols from the boot module, and says what is wrong with it.
fn find_symbols(info: &BootInfo) {
    let Some(module) = boot::module(info) else { return };
    match Archive::new(module) {
        Ok(archive) => match archive.symbols() {
            Some(text) => cpu::backtrace::register_symbols(text),
            None => log!("module: no symbols"),
        },
        Err(error) => log!("module: {error}"),
    }
}

/// Says what the loader told.
fn report(info: &BootInfo, options: &Options<'_>) {
    for word in options.unknown() {
        log!("command line: unknown word ignored: {word}");
    }
    if info.command_line_truncated() || options.was_cut() {
        log!("command line: cut off after {} bytes", info.command_line().len());
    }
    for region in info.memory.iter() {
        log!(
            "memory: {:#014x}..{:#014x} {:>10} KiB {}",
            region.start(),
            region.end(),
            region.length() / 1024,
            region.kind()
        );
    }
    if info.memory.malformed() != 0 {
        log!("memory: {} malformed regions ignored", info.memory.malformed());
    }
    log!(
        "memory: {} MiB usable, {} KiB of the loader's to take back",
        info.memory.bytes_of(RegionKind::Usable) >> 20,
        info.memory.bytes_of(RegionKind::LoaderReclaimable) >> 10
    );
    log!(
        "kernel: physical {:#x}, text {:x?}, rodata {:x?}, data {:x?}, boot {:x?}",
        info.kernel.physical_base,
        layout::text(),
        layout::rodata(),
        layout::data(),
        layout::boot()
    );
    match info.module {
        Some(module) => log!("module: {:#x}..{:#x}", module.start(), module.end()),
        None => log!("module: none"),
    }
    match info.framebuffer() {
        Some(f) => log!("framebuffer: {}x{} at {:#x}, pitch {}", f.width, f.height, f.physical, f.pitch),
        None => log!("framebuffer: none"),
    }
}

/// Ends the machine because of boot information that cannot be used.
fn bad_boot(error: &BootError) -> ! {
    log!("refkernel: bad boot: {error}");
    exit(ExitCode::BadBoot)
}
