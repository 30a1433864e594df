//! The picture as pixels.
//!
//! Sections are laid out from the top down in whatever size there is; what does not fit is left out and counted in words, and what
//! is drawn outside is the target's to cut off.

use core::fmt;

use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_7X13, FONT_7X13_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Alignment, Baseline, Text as Label, TextStyleBuilder};
use refkernel_abi::PAGE_SIZE;

use super::palette::{ACCENT, BACKGROUND, FAINT, LINE, PANEL, TEXT, TITLE, blend};
use super::units::{Percent, Text};
use super::{AreaKind, Bytes, CounterValue, Picture, Space, Use, Window};

/// Pixels around everything.
const MARGIN: i32 = 20;
/// The height of the headline.
const HEADLINE: i32 = 50;
/// The height of a section's heading.
const HEADING: i32 = 24;
/// The height of a line of the legend.
const LINE_HEIGHT: i32 = 17;
/// The width of the legend.
const LEGEND: i32 = 312;
/// The width of the addresses beside the map.
const ADDRESSES: i32 = 70;
/// The width of the names beside the spaces.
const NAMES: i32 = 132;
/// The height of a space with the room below it.
const BAND: i32 = 58;
/// The room between ranges of the map that do not follow one another.
const RANGE_GAP: i32 = 4;
/// Cells in a row of the map: a power of two, so that rows start at round addresses.
const COLUMNS: u64 = 64;

/// Draws on a target, with shorthands.
struct Canvas<'t, D> {
    target: &'t mut D,
}

impl<D: DrawTarget<Color = Rgb888>> Canvas<'_, D> {
    /// Fills a rectangle; one without area is nothing.
    fn fill(&mut self, (left, top): (i32, i32), (width, height): (i32, i32), color: Rgb888) -> Result<(), D::Error> {
        let size = Size::new(u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
        self.target.fill_solid(&Rectangle::new(Point::new(left, top), size), color)
    }

    /// Writes text to the right of (or, aligned right, to the left of) a point at its upper edge.
    fn text(
        &mut self,
        (x, y): (i32, i32),
        font: &MonoFont<'_>,
        color: Rgb888,
        alignment: Alignment,
        text: &str,
    ) -> Result<(), D::Error> {
        let style = MonoTextStyle::new(font, color);
        let place = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Top).build();
        Label::with_text_style(text, Point::new(x, y), style, place).draw(self.target)?;
        Ok(())
    }

    fn write(
        &mut self,
        place: (i32, i32),
        font: &MonoFont<'_>,
        color: Rgb888,
        alignment: Alignment,
        arguments: fmt::Arguments<'_>,
    ) -> Result<(), D::Error> {
        let text = Text::<96>::of(arguments);
        self.text(place, font, color, alignment, text.as_str())
    }

    /// A section's heading with a line to its right, and a remark at the right end.
    fn heading(
        &mut self,
        (left, top): (i32, i32),
        width: i32,
        name: &str,
        remark: fmt::Arguments<'_>,
    ) -> Result<(), D::Error> {
        self.text((left, top), &FONT_7X13_BOLD, ACCENT, Alignment::Left, name)?;
        let remark = Text::<96>::of(remark);
        let start = left + text_width(&FONT_7X13_BOLD, name) + 10;
        let mut end = left + width;
        if !remark.as_str().is_empty() {
            self.text((end, top), &FONT_7X13, FAINT, Alignment::Right, remark.as_str())?;
            end -= text_width(&FONT_7X13, remark.as_str()) + 10;
        }
        self.fill((start, top + 7), (end - start, 1), LINE)
    }
}

/// The width of a text in a font.
fn text_width(font: &MonoFont<'_>, text: &str) -> i32 {
    let advance = font.character_size.width + font.character_spacing;
    i32::try_from(text.chars().count() as u32 * advance).unwrap_or(i32::MAX)
}

/// As much of a text as fits a width.
fn fitting<'t>(font: &MonoFont<'_>, text: &'t str, width: i32) -> &'t str {
    let advance = (font.character_size.width + font.character_spacing).max(1);
    let fits = u32::try_from(width).unwrap_or(0) / advance;
    match text.char_indices().nth(fits as usize) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

impl Picture<'_> {
    /// Draws everything into the upper `height` rows of `target` (all of them where there are fewer).
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn draw<D: DrawTarget<Color = Rgb888>>(&self, target: &mut D, height: u32) -> Result<(), D::Error> {
        let bounds = target.bounding_box();
        let screen = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let width = screen(bounds.size.width);
        let height = screen(bounds.size.height.min(height));
        let mut canvas = Canvas { target };
        canvas.fill((0, 0), (width, height), BACKGROUND)?;
        self.draw_headline(&mut canvas, width)?;

        let bands = i32::try_from(self.spaces.len()).unwrap_or(i32::MAX);
        let spaces_height = HEADING.saturating_add(bands.saturating_mul(BAND));
        let body_top = HEADLINE + 14;
        let body_height = height - body_top - 10;
        // The spaces get what they need, but the map at least half.
        let spaces_height = spaces_height.min(body_height / 2);
        let map_height = body_height - spaces_height - 12;
        let inner = width - 2 * MARGIN;

        self.draw_memory(&mut canvas, (MARGIN, body_top), (inner, map_height))?;
        let spaces_top = body_top + map_height + 12;
        self.draw_spaces(&mut canvas, (MARGIN, spaces_top), (inner, spaces_height))
    }

    fn draw_headline<D: DrawTarget<Color = Rgb888>>(
        &self,
        canvas: &mut Canvas<'_, D>,
        width: i32,
    ) -> Result<(), D::Error> {
        canvas.fill((0, 0), (width, HEADLINE), PANEL)?;
        canvas.fill((0, HEADLINE), (width, 2), ACCENT)?;
        canvas.fill((MARGIN, 16), (5, 20), ACCENT)?;
        canvas.text((MARGIN + 16, 16), &FONT_10X20, TITLE, Alignment::Left, self.title)?;
        let right = (width - MARGIN, 20);
        canvas.text(right, &FONT_7X13, TEXT, Alignment::Right, self.subtitle)
    }

    /// The map with its legend, and the counters below the legend.
    fn draw_memory<D: DrawTarget<Color = Rgb888>>(
        &self,
        canvas: &mut Canvas<'_, D>,
        (left, top): (i32, i32),
        (width, height): (i32, i32),
    ) -> Result<(), D::Error> {
        let map_width = width - LEGEND - 24;
        let cell_width = ((map_width - ADDRESSES) / COLUMNS as i32).max(2);
        // Each range but the first may leave a row unfinished.
        let lost = self.memory.len().saturating_sub(1) as u64;
        let gaps = i32::try_from(lost).unwrap_or(0).saturating_mul(RANGE_GAP);
        let room = (height - HEADING).saturating_sub(gaps).max(1);
        let rows_fitting = (room / cell_width.min(10)).max(1);
        let rows = u64::try_from(rows_fitting).unwrap_or(1).saturating_sub(lost);
        let frames_per_cell = self.frames_per_cell(COLUMNS * rows.max(1));
        let rows_used: u64 = self.memory.iter().map(|range| range.frames.div_ceil(frames_per_cell * COLUMNS)).sum();
        let rows_used = i32::try_from(rows_used.max(1)).unwrap_or(i32::MAX);
        let cell_height = (room / rows_used).clamp(3, cell_width + cell_width / 2);

        let per_cell = Bytes(frames_per_cell.saturating_mul(PAGE_SIZE));
        canvas.heading(
            (left, top),
            ADDRESSES + cell_width * COLUMNS as i32,
            "PHYSICAL MEMORY",
            format_args!("one cell = {per_cell}, a corner = something else in it"),
        )?;

        let map_left = left + ADDRESSES;
        let mut y = top + HEADING - cell_height;
        let mut column = 0;
        let mut last_label = None;
        for cell in self.cells(frames_per_cell) {
            if cell.starts_range || column == COLUMNS as i32 {
                column = 0;
                y += cell_height;
                if cell.starts_range && last_label.is_some() {
                    y += RANGE_GAP;
                }
                // A label where there is room for one, and rather at a range's start.
                let room = last_label.map_or(i32::MAX, |label| y - label);
                if room >= 40 || cell.starts_range && room >= 10 {
                    let address = cell.first_frame.saturating_mul(PAGE_SIZE);
                    canvas.write(
                        (map_left - 8, y + (cell_height - 10) / 2),
                        &FONT_6X10,
                        FAINT,
                        Alignment::Right,
                        format_args!("{address:#x}"),
                    )?;
                    last_label = Some(y);
                }
            }
            if y + cell_height > top + height {
                break;
            }
            let corner = (map_left + column * cell_width, y);
            let (inner_width, inner_height) = (cell_width - 1, cell_height - 1);
            let ground = match (cell.main, cell.other) {
                // A tint, so that a few frames in free memory are found at a glance.
                (Use::Free, Some(other)) => blend(cell.main.color(), other.color(), 70),
                (main, _) => main.color(),
            };
            canvas.fill(corner, (inner_width, inner_height), ground)?;
            if let Some(other) = cell.other {
                let (mark_width, mark_height) = ((inner_width + 1) / 2, (inner_height + 1) / 2);
                let place = (corner.0 + inner_width - mark_width, corner.1 + inner_height - mark_height);
                canvas.fill(place, (mark_width, mark_height), other.color())?;
            }
            column += 1;
        }

        let legend_left = left + width - LEGEND;
        let bottom = self.draw_legend(canvas, (legend_left, top))?;
        let counters_height = top + height - bottom;
        self.draw_counters(canvas, (legend_left, bottom), counters_height)
    }

    /// The uses with their amounts; gives where it ends.
    fn draw_legend<D: DrawTarget<Color = Rgb888>>(
        &self,
        canvas: &mut Canvas<'_, D>,
        (left, top): (i32, i32),
    ) -> Result<i32, D::Error> {
        let counts = self.count_uses();
        let total = counts.total();
        let size = Bytes(total.saturating_mul(PAGE_SIZE));
        canvas.heading((left, top), LEGEND, "BY USE", format_args!("{size}"))?;
        let mut y = top + HEADING;
        for used in Use::ALL {
            let frames = counts.get(used);
            if frames == 0 || used == Use::Absent {
                continue;
            }
            let bytes = Bytes(frames.saturating_mul(PAGE_SIZE));
            let share = Percent { part: frames, whole: total };
            canvas.fill((left, y + 1), (12, 12), used.color())?;
            canvas.text((left + 22, y), &FONT_7X13, TEXT, Alignment::Left, used.name())?;
            let right = Alignment::Right;
            canvas.write((left + 250, y), &FONT_7X13, TITLE, right, format_args!("{bytes}"))?;
            canvas.write((left + LEGEND, y), &FONT_7X13, FAINT, right, format_args!("{share}"))?;
            y += LINE_HEIGHT;
        }
        Ok(y + 10)
    }

    fn draw_counters<D: DrawTarget<Color = Rgb888>>(
        &self,
        canvas: &mut Canvas<'_, D>,
        (left, top): (i32, i32),
        height: i32,
    ) -> Result<(), D::Error> {
        if self.counters.is_empty() || height < HEADING + LINE_HEIGHT {
            return Ok(());
        }
        canvas.heading((left, top), LEGEND, "COUNTERS", format_args!(""))?;
        let mut y = top + HEADING;
        for counter in self.counters {
            if y + LINE_HEIGHT > top + height {
                break;
            }
            canvas.text((left, y), &FONT_7X13, TEXT, Alignment::Left, counter.name)?;
            let place = (left + LEGEND, y);
            let right = Alignment::Right;
            match counter.value {
                CounterValue::Count(count) => {
                    canvas.write(place, &FONT_7X13, TITLE, right, format_args!("{count}"))?;
                }
                CounterValue::Bytes(bytes) => {
                    let bytes = Bytes(bytes);
                    canvas.write(place, &FONT_7X13, TITLE, right, format_args!("{bytes}"))?;
                }
            }
            y += LINE_HEIGHT;
        }
        Ok(())
    }

    fn draw_spaces<D: DrawTarget<Color = Rgb888>>(
        &self,
        canvas: &mut Canvas<'_, D>,
        (left, top): (i32, i32),
        (width, height): (i32, i32),
    ) -> Result<(), D::Error> {
        let fitting = usize::try_from((height - HEADING) / BAND).unwrap_or(0);
        let hidden = self.spaces.len().saturating_sub(fitting);

        // The kinds that occur, right to left, so that the heading's line ends where they start.
        let mut right = left + width;
        let occurs = |kind: &AreaKind| {
            let mut windows = self.spaces.iter().flat_map(|space| space.windows);
            windows.any(|window| window.kind == *kind)
        };
        let note = "bright = resident";
        canvas.text((right, top), &FONT_7X13, FAINT, Alignment::Right, note)?;
        right -= text_width(&FONT_7X13, note) + 18;
        for kind in AreaKind::ALL.into_iter().rev().filter(occurs) {
            canvas.text((right, top), &FONT_7X13, TEXT, Alignment::Right, kind.name())?;
            right -= text_width(&FONT_7X13, kind.name()) + 18;
            canvas.fill((right, top + 1), (12, 12), kind.color())?;
            right -= 16;
        }
        let more = match hidden {
            0 => Text::<32>::new(),
            hidden => Text::of(format_args!("and {hidden} more")),
        };
        canvas.heading((left, top), right - left, "SPACES", format_args!("{}", more.as_str()))?;

        let mut y = top + HEADING;
        for space in self.spaces.iter().take(fitting) {
            draw_space(canvas, (left, y), width, space)?;
            y += BAND;
        }
        Ok(())
    }
}

/// One space: its name and amounts, and a block for each window.
fn draw_space<D: DrawTarget<Color = Rgb888>>(
    canvas: &mut Canvas<'_, D>,
    (left, top): (i32, i32),
    width: i32,
    space: &Space<'_>,
) -> Result<(), D::Error> {
    /// The least width of a block, and the room between blocks that do not touch.
    const BLOCK_MIN: i32 = 12;
    const GAP: i32 = 8;

    let (pages, resident) = space.pages();
    let resident = Bytes(resident.saturating_mul(PAGE_SIZE));
    let mapped = Bytes(pages.saturating_mul(PAGE_SIZE));
    let name = fitting(&FONT_7X13_BOLD, space.name, NAMES - 8);
    canvas.text((left, top), &FONT_7X13_BOLD, TITLE, Alignment::Left, name)?;
    let small = &FONT_6X10;
    let line = Alignment::Left;
    canvas.write((left, top + 16), small, FAINT, line, format_args!("{resident} resident"))?;
    canvas.write((left, top + 28), small, FAINT, line, format_args!("of {mapped}"))?;

    // As many windows as fit at their least width; each then grows by the logarithm of its length, and a little for its name.
    let room = width - NAMES;
    let fits = usize::try_from(room / (BLOCK_MIN + GAP)).unwrap_or(0);
    let hidden = space.windows.len().saturating_sub(fits);
    let shown = space.windows.get(..fits.min(space.windows.len())).unwrap_or_default();
    let weight = |window: &Window<'_>| {
        let length = i32::try_from(window.pages.max(1).ilog2()).unwrap_or(0);
        6 + length * 2 + i32::try_from(window.label.len().min(10)).unwrap_or(0) * 2
    };
    let weights: i32 = shown.iter().map(weight).sum();
    let fixed = i32::try_from(shown.len()).unwrap_or(0) * (BLOCK_MIN + GAP) - GAP;
    let spare = (room - fixed - if hidden > 0 { 60 } else { 0 }).max(0);

    let mut x = left + NAMES;
    let mut end = None;
    for window in shown {
        let start_address = window.start;
        if end.is_some() {
            // Windows that touch are drawn nearly touching; between others a short dash says that there is room.
            if end == Some(start_address) {
                x -= GAP - 2;
            } else {
                canvas.fill((x - GAP + 2, top + 22), (GAP - 4, 1), FAINT)?;
            }
        }
        let block = BLOCK_MIN + spare * weight(window) / weights.max(1);
        draw_window(canvas, (x, top), block, window)?;
        x += block + GAP;
        end = window.start.checked_add(window.pages.saturating_mul(PAGE_SIZE));
    }
    if hidden > 0 {
        let place = (x, top + 16);
        canvas.write(place, small, FAINT, line, format_args!("+ {hidden}"))?;
    }
    Ok(())
}

/// One window: its name and access, a strip of its pages, its address.
fn draw_window<D: DrawTarget<Color = Rgb888>>(
    canvas: &mut Canvas<'_, D>,
    (left, top): (i32, i32),
    width: i32,
    window: &Window<'_>,
) -> Result<(), D::Error> {
    const STRIP_TOP: i32 = 13;
    const STRIP: i32 = 18;

    let color = window.kind.color();
    let dim = blend(BACKGROUND, color, 60);
    let small = &FONT_6X10;

    let mut title = Text::<64>::of(format_args!("{}", window.label));
    if let Some(access) = window.access {
        title.append(format_args!(" {access}"));
    }
    let title = match title.as_str() {
        whole if text_width(small, whole) <= width => whole,
        _ => fitting(small, window.label, width),
    };
    canvas.text((left, top), small, TEXT, Alignment::Left, title)?;

    let strip_top = top + STRIP_TOP;
    let shares = window.residency.shares();
    let count = i32::try_from(shares.len()).unwrap_or(0).max(1);
    // Pages that are wide enough to be counted stand apart.
    let apart = window.pages == shares.len() as u64 && width / count >= 5;
    canvas.fill((left, strip_top), (width, STRIP), dim)?;
    for (index, share) in (0..).zip(shares) {
        let start = width * index / count;
        let end = width * (index + 1) / count;
        let gap = i32::from(apart && index + 1 < count);
        if *share == 0 && window.kind == AreaKind::Guarded {
            // Stripes: a guard, or what is not handed out, holds nothing on purpose.
            for stripe in (start..end).filter(|x| x % 6 == 0) {
                canvas.fill((left + stripe, strip_top), (2.min(width - stripe), STRIP), color)?;
            }
        }
        if *share > 0 {
            // Even a little of a share must be seen against the dim ground.
            let shade = blend(dim, color, share.saturating_add((255 - share) / 4));
            canvas.fill((left + start, strip_top), (end - start - gap, STRIP), shade)?;
        }
        if gap > 0 {
            canvas.fill((left + end - 1, strip_top), (1, STRIP), BACKGROUND)?;
        }
    }
    canvas.fill((left, strip_top + STRIP), (width, 2), color)?;
    let length = Bytes(window.pages.saturating_mul(PAGE_SIZE));
    let long = Text::<64>::of(format_args!("{:#x} {length}", window.start));
    let short = Text::<64>::of(format_args!("{length}"));
    let place = (left, strip_top + STRIP + 4);
    let below = [long.as_str(), short.as_str()].into_iter().find(|text| text_width(small, text) <= width);
    match below {
        Some(text) => canvas.text(place, small, FAINT, Alignment::Left, text),
        None => Ok(()),
    }
}
