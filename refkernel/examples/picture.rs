//! Draws the picture of a made-up machine into a PNG file, so that its design can be looked at without a boot:
//!
//! ```text
//! cargo run -p refkernel --example picture -- picture.png [WIDTH HEIGHT [MEBIBYTES]]
//! ```
//!
//! The same as text goes to standard output.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use refkernel::picture::{
    AreaKind, Counter, CounterValue, MemoryRange, Picture, Residency, Space, Use, Window, program_strip,
};
use refkernel::surface::Surface;
use refkernel_abi::Access;

const READ_EXECUTE: fn() -> Access = || Access::READ | Access::EXECUTE;

/// Memory as QEMU's start information describes it, and the framebuffer of its standard display.
fn memory(mebibytes: u64) -> Vec<MemoryRange> {
    let frames = mebibytes << 8;
    let below = frames.min(0xc_0000);
    let range = |first_frame, frames| MemoryRange { first_frame, frames };
    let mut ranges = vec![range(0, 0x9f), range(0x100, below - 0x120), range(0xf_d000, 0x1000)];
    if frames > below {
        ranges.push(range(0x10_0000, frames - below));
    }
    ranges
}

fn use_of(frame: u64) -> Use {
    match frame {
        0 | 0x98..0xa0 => Use::Reserved,
        0x100..0x2a0 => Use::KernelImage,
        0x2a0..0x320 => Use::Pool,
        0x320..0x348 => Use::Table,
        0x348..0x400 => Use::KernelMemory,
        0x400..0x4d0 if frame % 5 < 3 => Use::UserPage,
        0x1000 | 0x3333 => Use::Table,
        0x3000..0x3040 => Use::UserPage,
        0x3c00..0x3e40 => Use::BootModule,
        0xfd000..0xfd300 => Use::Framebuffer,
        0xfd300..0xfe000 => Use::Reserved,
        _ => Use::Free,
    }
}

fn window(
    start: u64,
    label: &'static str,
    kind: AreaKind,
    access: Option<Access>,
    residency: (u64, fn(u64) -> bool),
) -> Window<'static> {
    let (pages, is_resident) = residency;
    Window { start, pages, label, kind, access, residency: Residency::from_fn(pages, is_resident) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "picture.png".into());
    let width: u32 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let height: u32 = arguments.next().map_or(Ok(768), |text| text.parse())?;
    let mebibytes: u64 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let memory = memory(mebibytes.max(2));

    let (read, write, execute) = (Some(Access::READ), Some(Access::READ_WRITE), Some(READ_EXECUTE()));
    use AreaKind::{Fixed, Guarded, Open, Untracked};
    let all: fn(u64) -> bool = |_| true;
    let none: fn(u64) -> bool = |_| false;
    let kernel = [
        window(0xffff_8000_0000_0000, "linear map", Fixed, write, (65536, all)),
        window(0xffff_a000_0000_0000, "heap", Open, write, (4096, |page| page < 150)),
        window(0xffff_b000_0000_0000, "guard", Guarded, None, (1, none)),
        window(0xffff_b000_0000_1000, "stack", Open, write, (8, all)),
        window(0xffff_c000_0000_0000, "framebuffer", Fixed, write, (768, all)),
        window(0xffff_ffff_8010_0000, "text", Untracked, execute, (200, all)),
        window(0xffff_ffff_801c_8000, "rodata", Untracked, read, (60, all)),
        window(0xffff_ffff_8020_4000, "data", Untracked, write, (120, all)),
    ];
    let demo = [
        window(0x40_0000, "rodata", Open, read, (2, all)),
        window(0x40_2000, "text", Open, execute, (5, |page| page != 3)),
        window(0x40_7000, "data", Open, write, (1, none)),
        window(0x7000_0000_0000, "area", Open, write, (64, |page| page % 4 == 0)),
        window(0x7000_0004_0000, "area", Open, write, (64, all)),
        window(0x7000_0010_0000, "framebuffer", Fixed, write, (96, all)),
        window(0x7fff_fffd_e000, "guard", Guarded, None, (1, none)),
        window(0x7fff_fffd_f000, "stack", Open, write, (32, |page| page >= 29)),
    ];
    let check = [
        window(0x40_0000, "rodata", Open, read, (3, |page| page < 2)),
        window(0x40_3000, "text", Open, execute, (10, |page| page % 3 != 1)),
        window(0x40_d000, "data", Open, write, (1, all)),
        window(0x7000_0000_0000, "area", Open, write, (262_144, |page| page % 9000 == 0)),
        window(0x7fff_fffd_e000, "guard", Guarded, None, (1, none)),
        window(0x7fff_fffd_f000, "stack", Open, write, (32, |page| page >= 30)),
    ];
    let spaces = [
        Space { name: "kernel", windows: &kernel },
        Space { name: "demo #1", windows: &demo },
        Space { name: "check #2", windows: &check },
    ];
    let count = CounterValue::Count;
    let counters = [
        ("page faults", count(1234)),
        ("  resolved with a fresh page", count(1011)),
        ("  spurious", count(3)),
        ("  that killed a program", count(1)),
        ("flushes", count(412)),
        ("flushes not acknowledged", count(0)),
        ("metadata per resident page", CounterValue::Bytes(26)),
        ("kernel heap in use", CounterValue::Bytes(600 << 10)),
    ]
    .map(|(name, value)| Counter { name, value });

    let picture = Picture {
        title: "refkernel",
        subtitle: &format!("{mebibytes} MiB, 2 CPUs, booted through pvh"),
        memory: &memory,
        use_of: &use_of,
        spaces: &spaces,
        counters: &counters,
    };

    let mut pixels = vec![0_u32; (width * height) as usize];
    let mut surface = Surface::over(&mut pixels, width, height, width * 4)?;
    let strip = program_strip(height, width * 4);
    picture.draw(&mut surface, strip.map_or(height, |strip| strip.first_row))?;

    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&path)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_be_bytes().into_iter().skip(1)).collect();
    encoder.write_header()?.write_image_data(&bytes)?;

    let mut text = String::new();
    picture.write(&mut text)?;
    print!("{text}");
    Ok(())
}
