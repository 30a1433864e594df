//! The picture's colours: those of Okabe and Ito, which people with any kind of colour vision can tell apart, lightened where a
//! dark background needs it.

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::RgbColor;

use super::{AreaKind, Use};

pub(super) const BACKGROUND: Rgb888 = Rgb888::new(13, 17, 26);
pub(super) const PANEL: Rgb888 = Rgb888::new(21, 27, 40);
pub(super) const LINE: Rgb888 = Rgb888::new(52, 64, 88);
pub(super) const TITLE: Rgb888 = Rgb888::new(245, 248, 252);
pub(super) const TEXT: Rgb888 = Rgb888::new(205, 214, 228);
pub(super) const FAINT: Rgb888 = Rgb888::new(132, 146, 170);
pub(super) const ACCENT: Rgb888 = Rgb888::new(86, 180, 233);

const BLUE: Rgb888 = Rgb888::new(45, 130, 215);
const SKY: Rgb888 = Rgb888::new(126, 205, 250);
const GREEN: Rgb888 = Rgb888::new(0, 178, 130);
const ORANGE: Rgb888 = Rgb888::new(240, 165, 10);
const YELLOW: Rgb888 = Rgb888::new(245, 232, 90);
const VERMILION: Rgb888 = Rgb888::new(226, 96, 20);
const PURPLE: Rgb888 = Rgb888::new(214, 130, 178);
const GREY: Rgb888 = Rgb888::new(112, 122, 140);

impl Use {
    pub(super) const fn color(self) -> Rgb888 {
        match self {
            Self::Free => Rgb888::new(39, 49, 70),
            Self::KernelImage => BLUE,
            Self::KernelMemory => VERMILION,
            Self::Table => ORANGE,
            Self::Pool => YELLOW,
            Self::UserPage => GREEN,
            Self::Framebuffer => SKY,
            Self::BootModule => PURPLE,
            Self::Reserved => GREY,
            Self::Absent => PANEL,
        }
    }
}

impl AreaKind {
    pub(super) const fn color(self) -> Rgb888 {
        match self {
            Self::Open => GREEN,
            Self::Fixed => SKY,
            Self::Guarded => VERMILION,
            Self::Ring => YELLOW,
            Self::Untracked => BLUE,
            Self::Copy => PURPLE,
            Self::Paged => ORANGE,
        }
    }
}

/// `share` 255ths of `over` on `under`.
pub(super) fn blend(under: Rgb888, over: Rgb888, share: u8) -> Rgb888 {
    let mix = |under: u8, over: u8| {
        let share = u32::from(share);
        ((u32::from(under) * (255 - share) + u32::from(over) * share) / 255) as u8
    };
    Rgb888::new(mix(under.r(), over.r()), mix(under.g(), over.g()), mix(under.b(), over.b()))
}
