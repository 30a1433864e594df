//! Tests of the picture, on a machine that is made up.

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use refkernel_abi::PAGE_SIZE;
use refkernel_surface::Surface;

use super::*;

/// 64 MiB of memory with a hole below 1 MiB, as QEMU has it, and a framebuffer far above.
const MEMORY: [MemoryRange; 3] = [
    MemoryRange { first_frame: 0, frames: 0xa0 },
    MemoryRange { first_frame: 0x100, frames: 0x3f00 },
    MemoryRange { first_frame: 0xfd000, frames: 0x400 },
];

fn use_of(frame: u64) -> Use {
    match frame {
        0 => Use::Reserved,
        0x100..0x180 => Use::KernelImage,
        0x400 => Use::Table,
        0x800..0x900 => Use::UserPage,
        0xfd000.. => Use::Framebuffer,
        _ => Use::Free,
    }
}

fn windows() -> [Window<'static>; 3] {
    [
        Window {
            start: 0x40_0000,
            pages: 16,
            label: "text",
            kind: AreaKind::Open,
            access: Some(Access::READ | Access::EXECUTE),
            residency: Residency::from_fn(16, |page| page < 4),
        },
        Window {
            start: 0x41_0000,
            pages: 1,
            label: "guard",
            kind: AreaKind::Guarded,
            access: None,
            residency: Residency::empty(1),
        },
        Window {
            start: 0x7000_0000_0000,
            pages: 1024,
            label: "framebuffer",
            kind: AreaKind::Fixed,
            access: Some(Access::READ_WRITE),
            residency: Residency::full(1024),
        },
    ]
}

fn with_picture<T>(then: impl FnOnce(&Picture<'_>) -> T) -> T {
    let windows = windows();
    let spaces = [Space { name: "demo", windows: &windows }, Space { name: "empty", windows: &[] }];
    then(&Picture {
        title: "refkernel",
        subtitle: "a machine that is made up",
        memory: &MEMORY,
        use_of: &use_of,
        spaces: &spaces,
        counters: &[Counter { name: "page faults", value: CounterValue::Count(12_345) }],
    })
}

/// Draws onto a screen of its own and gives the pixels.
fn pixels(picture: &Picture<'_>, width: u32, height: u32, drawn: u32) -> Vec<u32> {
    let mut memory = vec![0xdead_beef; (width * height) as usize];
    let mut surface = Surface::over(&mut memory, width, height, width * 4).unwrap();
    picture.draw(&mut surface, drawn).unwrap();
    memory
}

fn count(pixels: &[u32], color: Rgb888) -> usize {
    let value = color.into_storage();
    pixels.iter().filter(|pixel| **pixel == value).count()
}

#[test]
fn every_pixel_above_the_strip_is_drawn_and_none_below() {
    with_picture(|picture| {
        for (width, height) in [(1024, 768), (1280, 800), (640, 480), (1920, 1080)] {
            let strip = program_strip(height, width * 4).unwrap();
            let pixels = pixels(picture, width, height, strip.first_row);
            let border = (strip.first_row * width) as usize;
            let untouched = |pixel: &&u32| **pixel == 0xdead_beef;
            assert_eq!(pixels[..border].iter().filter(untouched).count(), 0);
            assert_eq!(pixels[border..].iter().filter(|pixel| !untouched(pixel)).count(), 0);
        }
    });
}

#[test]
fn what_is_used_is_seen() {
    with_picture(|picture| {
        let pixels = pixels(picture, 1024, 768, 768);
        // A legend's swatch is 144 pixels; more than that is on the map, also for a single frame among free ones.
        for used in [Use::KernelImage, Use::Table, Use::UserPage, Use::Framebuffer, Use::Reserved] {
            assert!(count(&pixels, used.color()) > 144, "{used:?}");
        }
        for unused in [Use::Pool, Use::BootModule] {
            assert_eq!(count(&pixels, unused.color()), 0, "{unused:?}");
        }
    });
}

#[test]
fn more_use_is_more_of_its_colour() {
    let picture_of = |users: u64| {
        with_picture(|picture| {
            let use_of = |frame| match frame {
                0x800.. if frame < 0x800 + users => Use::UserPage,
                _ => Use::Free,
            };
            let picture = Picture { use_of: &use_of, spaces: &[], ..*picture };
            count(&pixels(&picture, 1024, 768, 768), Use::UserPage.color())
        })
    };
    let (none, few, many) = (picture_of(0), picture_of(0x100), picture_of(0x1000));
    assert_eq!(none, 0);
    assert!(few < many, "{few} of {many}");
}

#[test]
fn colours_differ_enough() {
    let far = |left: Rgb888, right: Rgb888| {
        let apart = |left: u8, right: u8| u32::from(left.abs_diff(right));
        apart(left.r(), right.r()) + apart(left.g(), right.g()) + apart(left.b(), right.b()) > 60
    };
    for (index, one) in Use::ALL.iter().enumerate() {
        for other in &Use::ALL[index + 1..] {
            let ground = [Use::Free, Use::Absent];
            if !(ground.contains(one) && ground.contains(other)) {
                assert!(far(one.color(), other.color()), "{one:?} {other:?}");
            }
        }
    }
    for (index, one) in AreaKind::ALL.iter().enumerate() {
        for other in &AreaKind::ALL[index + 1..] {
            assert!(far(one.color(), other.color()), "{one:?} {other:?}");
        }
    }
}

#[test]
fn counts_are_exact_and_nothing_is_lost_in_cells() {
    with_picture(|picture| {
        let counts = picture.count_uses();
        assert_eq!(counts.get(Use::KernelImage), 0x80);
        assert_eq!(counts.get(Use::Table), 1);
        assert_eq!(counts.total(), 0xa0 + 0x3f00 + 0x400);
        for limit in [3, 10, 100, 5000, 1 << 20] {
            let per_cell = picture.frames_per_cell(limit);
            let cells: Vec<_> = picture.cells(per_cell).collect();
            assert!(cells.len() as u64 <= limit, "{limit}");
            assert_eq!(cells.iter().filter(|cell| cell.starts_range).count(), 3);
            let seen = |used| cells.iter().any(|cell| cell.main == used || cell.other == Some(used));
            // Below that, a cell holds more uses than it can show.
            if limit >= 100 {
                assert!(seen(Use::KernelImage) && seen(Use::Framebuffer), "{limit}");
            }
        }
        let per_cell = picture.frames_per_cell(2048);
        let table = picture
            .cells(per_cell)
            .find(|cell| (cell.first_frame..cell.first_frame + per_cell).contains(&0x400))
            .unwrap();
        assert_eq!((table.main, table.other), (Use::Free, Some(Use::Table)));
    });
}

#[test]
fn the_text_says_the_same() {
    let mut text = String::new();
    with_picture(|picture| picture.write(&mut text)).unwrap();
    println!("{text}");
    for part in [
        "refkernel - a machine that is made up",
        "physical memory: 67.6 MiB in 17312 frames",
        "K kernel image             512 KiB       128 frames    0.7 %",
        "T page tables                4 KiB         1 frames    0.1 %",
        "  0x0000000000100000 K",
        "  0x00000000fd000000 F",
        "space demo: 3 windows, 4 MiB resident of 4 MiB",
        "  0x0000000000400000      64 KiB r-x open         text                 [####............]",
        "  0x0000000000410000       4 KiB --- guarded      guard                [.]",
        "[################]",
        "space empty: 0 windows, 0 B resident of 0 B",
        "page faults                         12345",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 100 && line.is_ascii()));
    assert!(!text.contains("no memory"));
}

#[test]
fn residency_shares_are_exact() {
    let every_fourth = Residency::from_fn(64, |page| page % 4 == 0);
    assert_eq!(every_fourth.resident(), 16);
    assert_eq!(&every_fourth.shares()[..5], [255, 0, 0, 0, 255]);
    let one_of_many = Residency::from_fn(100_000, |page| page == 99_999);
    assert_eq!(one_of_many.resident(), 1);
    assert_eq!(one_of_many.shares().len(), 64);
    assert_eq!(one_of_many.shares()[63], 1);
    assert!(one_of_many.shares()[..63].iter().all(|share| *share == 0));
    let all = Residency::from_fn(1000, |_| true);
    assert_eq!(all, Residency { resident: 1000, ..Residency::full(1000) });
    assert_eq!(Residency::from_fn(0, |_| true).shares(), b"");
    assert_eq!(Residency::empty(5).shares(), [0; 5]);
}

#[test]
fn strips_start_on_a_page() {
    for (width, height, padding) in [(1024, 768, 0), (1280, 800, 0), (1366, 768, 8), (800, 600, 0)] {
        let pitch = width * 4 + padding;
        let strip = program_strip(height, pitch).unwrap();
        assert_eq!(strip.offset % PAGE_SIZE, 0);
        assert_eq!(strip.offset, u64::from(strip.first_row) * u64::from(pitch));
        assert_eq!(strip.first_row + strip.rows, height);
        assert!(strip.length >= u64::from(strip.rows) * u64::from(pitch));
        assert!(strip.first_row >= height / 2);
    }
    assert_eq!(program_strip(0, 4096), None);
    assert_eq!(program_strip(768, 0), None);
    // Only every 1,024th row would start on a page.
    assert_eq!(program_strip(768, 4100), None);
}

#[test]
fn extremes_are_drawn_without_a_crash() {
    let window = Window {
        start: u64::MAX - 0xfff,
        pages: u64::MAX,
        label: "a label that is much too long for any block, however wide the screen may be",
        kind: AreaKind::Ring,
        access: Some(Access::READ),
        residency: Residency::full(u64::MAX),
    };
    let windows = [window; 200];
    let spaces = [Space { name: "a name that is too long for its column", windows: &windows }; 30];
    let memory = [MemoryRange { first_frame: u64::MAX, frames: 100 }];
    let counters = [Counter { name: "counter", value: CounterValue::Bytes(u64::MAX) }; 100];
    let picture = Picture {
        title: "",
        subtitle: "",
        memory: &memory,
        use_of: &|_| Use::Absent,
        spaces: &spaces,
        counters: &counters,
    };
    let nothing = Picture { memory: &[], spaces: &[], counters: &[], ..picture };
    for picture in [picture, nothing] {
        for (width, height) in [(1, 1), (100, 50), (640, 480), (1024, 768)] {
            let _ = pixels(&picture, width, height, height);
        }
        let mut text = String::new();
        picture.write(&mut text).unwrap();
    }
}
