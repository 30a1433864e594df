use super::*;
use crate::picture::{Residency, Window};
use refkernel_surface::Surface;
use refkernel_surface::text::{Glyphs, Palette};

const SIZE: Size = Size::new(352, 656);
const ORIGIN: Point = Point::new(8, 5);
const WIDTH: u32 = 380;
const HEIGHT: u32 = 680;

/// A screen of a colour that nobody draws with.
fn blank() -> Vec<u32> {
    vec![0x0012_3456; (WIDTH * HEIGHT) as usize]
}

fn draw(view: &mut LiveView, memory: &mut [u32]) {
    let glyphs = Glyphs::of(FONT);
    let mut surface = Surface::over(memory, WIDTH, HEIGHT, WIDTH * 4).unwrap();
    view.draw(&Place { origin: ORIGIN, glyphs: &glyphs, palette: &Palette::DARK }, &mut surface).unwrap();
}

fn ranges() -> [MemoryRange; 3] {
    [(0, 0x9f), (0x100, 0xff00), (0xf_d000, 0x300)].map(|(first_frame, frames)| MemoryRange { first_frame, frames })
}

fn use_of(frame: u64) -> Use {
    match frame {
        0x100..0x1c0 => Use::KernelImage,
        0x400..0x480 if frame.is_multiple_of(2) => Use::UserPage,
        0x2000..0x2100 => Use::Pool,
        0xf_d000.. => Use::Framebuffer,
        _ => Use::Free,
    }
}

/// The same with more of it in use.
fn use_of_later(frame: u64) -> Use {
    match frame {
        0x3000..0x3800 | 0x8008 => Use::UserPage,
        _ => use_of(frame),
    }
}

fn begun() -> LiveView {
    let mut view = LiveView::new();
    view.begin(&ranges(), SIZE);
    view
}

fn round(view: &mut LiveView, use_of: &dyn Fn(u64) -> Use) -> u32 {
    let mut steps = 1;
    while !view.sweep(5000, use_of) {
        steps += 1;
        assert!(steps < 1000, "a round does not end");
    }
    steps
}

/// The colour of a pixel of the view.
fn at(memory: &[u32], x: i32, y: u32) -> Rgb888 {
    let pixel = memory[((y as i32 + ORIGIN.y) * WIDTH as i32 + x + ORIGIN.x) as usize];
    Rgb888::new((pixel >> 16) as u8, (pixel >> 8) as u8, pixel as u8)
}

#[test]
fn each_cell_has_the_colour_of_its_use() {
    let mut view = begun();
    assert!(round(&mut view, &use_of) > 5, "piece by piece");
    let mut memory = blank();
    draw(&mut view, &mut memory);
    let mut seen = 0;
    for (number, range) in ranges().iter().enumerate() {
        for cell in 0..range.frames.div_ceil(view.frames_per_cell) {
            let first = range.first_frame + cell * view.frames_per_cell;
            let frames = first..(first + view.frames_per_cell).min(range.first_frame + range.frames);
            let kinds: std::collections::HashSet<_> = frames.clone().map(use_of).collect();
            let (_, y) = view.place(number, cell).unwrap();
            let color = at(&memory, MAP_LEFT + (cell % 64) as i32 * CELL_WIDTH as i32, y);
            if kinds.len() == 1 {
                assert_eq!(color, use_of(first).color(), "cell {cell} of range {number}");
            } else {
                assert_ne!(color, Use::Free.color(), "cell {cell} of range {number} has more than free frames");
            }
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen} cells");
}

#[test]
fn what_is_brought_up_to_date_looks_as_if_it_were_new() {
    let windows = [Window { pages: 64, residency: Residency::even(64, 10), ..Window::NONE }; 3];
    let space = Space { name: "demo", windows: &windows };
    let counter = Counter { name: "frames in use", value: CounterValue::Count(12) };
    let (mut old, mut new) = (begun(), begun());
    let (mut stepped, mut at_once) = (blank(), blank());
    round(&mut old, &use_of);
    old.set_counters(&[Counter { name: "another", value: CounterValue::Bytes(1 << 20) }; 4]);
    old.set_space(1, Some(&Space { name: "another", windows: &windows[..1] }));
    draw(&mut old, &mut stepped);
    for view in [&mut old, &mut new] {
        round(view, &use_of_later);
        view.set_counters(&[counter; 6]);
        view.set_space(0, Some(&space));
        view.set_space(1, None);
    }
    draw(&mut old, &mut stepped);
    draw(&mut new, &mut at_once);
    assert!(stepped == at_once);
    // What has not changed is not drawn.
    let mut untouched = blank();
    round(&mut old, &use_of_later);
    draw(&mut old, &mut untouched);
    assert!(untouched == blank());
    // What somebody else has painted over is.
    old.redraw();
    draw(&mut old, &mut untouched);
    assert!(untouched == at_once);
}

#[test]
fn nothing_is_drawn_outside_of_the_place() {
    let windows = [Window { pages: 1 << 18, ..Window::NONE }; 200];
    for size in [SIZE, Size::new(200, 300), Size::new(352, 100), Size::new(5, 5), Size::zero()] {
        let mut view = LiveView::new();
        view.begin(&ranges(), size);
        round(&mut view, &use_of);
        (0..SPACES + 1).for_each(|place| view.set_space(place, Some(&Space { name: "a", windows: &windows })));
        let mut memory = blank();
        draw(&mut view, &mut memory);
        let inside = Rectangle::new(ORIGIN, size);
        for (index, pixel) in (0..).zip(&memory) {
            let point = Point::new(index % WIDTH as i32, index / WIDTH as i32);
            assert!(inside.contains(point) || *pixel == 0x0012_3456, "{point}");
        }
    }
}

#[test]
fn machines_of_any_size_fit() {
    for gibibytes in [0, 1, 4, 64, 1024, 1 << 20] {
        let memory = [MemoryRange { first_frame: 0, frames: (gibibytes << 18) + 5 }];
        let mut view = LiveView::new();
        view.begin(&memory, SIZE);
        let cells = memory[0].frames.div_ceil(view.frames_per_cell);
        assert!(view.place(0, cells - 1).is_some(), "{gibibytes} GiB");
        // A step is not longer than it was asked to be, but for the last cell.
        let looked = std::cell::Cell::new(0_u64);
        let used = |_| {
            looked.set(looked.get() + 1);
            Use::Free
        };
        if gibibytes <= 64 {
            view.sweep(1000, &used);
            assert!(looked.get() <= 1000 + view.frames_per_cell, "{} frames", looked.get());
        }
    }
    let mut none = LiveView::new();
    none.begin(&[], SIZE);
    assert!(none.sweep(1, &|_| Use::Free));
    draw(&mut none, &mut blank());
}

#[test]
fn addresses_are_short() {
    for (address, text) in [(0, "0"), (16 << 20, "16M"), (5 << 30, "5G"), (640 << 10, "640K")] {
        assert_eq!(short(address).as_str(), text);
    }
}
