//! Where the bodies are at which time: each swings from side to side and up and down, at speeds of its own.

/// How many.
pub(crate) const COUNT: usize = 14;

/// How far a body's light reaches, in pixels.
pub(crate) const RADIUS: i32 = 15;

/// Hues, as parts of red, green and blue out of 255.
const HUES: [[u16; 3]; 5] = [[255, 190, 90], [120, 200, 255], [255, 120, 170], [150, 255, 170], [200, 160, 255]];

/// The bodies, at some time.
#[derive(Clone, Copy)]
pub(crate) struct Bodies {
    width: i32,
    height: i32,
    time: u32,
    places: [(i32, i32); COUNT],
}

/// A sine, of an angle of which 1,024 make a circle: -256 to 256. By Bhaskara's formula, which is off by less than one in five hundred.
fn sine(angle: u32) -> i32 {
    let angle = (angle % 1024) as i32;
    let (half, sign) = if angle < 512 { (angle, 1) } else { (angle - 512, -1) };
    // 16 x (pi - x) / (5 pi^2 - 4 x (pi - x)), with pi = 512.
    let product = half * (512 - half);
    sign * (16 * 256 * product / (5 * 512 * 512 - 4 * product))
}

impl Bodies {
    /// The bodies of a screen of this size.
    pub(crate) fn new(width: i32, height: i32) -> Self {
        let mut bodies = Self { width, height, time: 0, places: [(0, 0); COUNT] };
        bodies.place();
        bodies
    }

    /// The next moment.
    pub(crate) fn step(&mut self) {
        self.time = self.time.wrapping_add(1);
        self.place();
    }

    fn place(&mut self) {
        let (width, height, time) = (self.width, self.height, self.time);
        for (number, place) in (0_u32..).zip(&mut self.places) {
            let sideways = sine(number * 173 + time * (2 + number % 5));
            let upwards = sine(number * 311 + time * (5 + number % 7));
            *place = (width / 2 + (width / 2 - 8) * sideways / 256, height / 2 + (height / 2 - 6) * upwards / 256);
        }
    }

    /// Where each is.
    pub(crate) fn places(&self) -> impl Iterator<Item = (i32, i32)> + '_ {
        self.places.iter().copied()
    }

    /// Those whose light may fall on a row.
    pub(crate) fn near_row(&self, y: i32) -> Near {
        let mut near = Near { bodies: [(0, 0, [0; 3]); COUNT], count: 0 };
        for (place, hue) in self.places.iter().zip(HUES.iter().cycle()) {
            if (place.1 - y).abs() <= RADIUS
                && let Some(slot) = near.bodies.get_mut(near.count)
            {
                *slot = (place.0, place.1, *hue);
                near.count += 1;
            }
        }
        near
    }
}

/// Some of the bodies.
pub(crate) struct Near {
    bodies: [(i32, i32, [u16; 3]); COUNT],
    count: usize,
}

impl Near {
    /// The light that falls on a pixel, as red, green and blue.
    pub(crate) fn glow(&self, x: i32, y: i32) -> [u16; 3] {
        const REACH: i32 = RADIUS * RADIUS;
        let mut sum = [0_u16; 3];
        for (left, top, hue) in self.bodies.iter().take(self.count) {
            let distance = (left - x) * (left - x) + (top - y) * (top - y);
            if distance < REACH {
                // Falls off with the fourth power, from a bright core.
                let share = (REACH - distance) * 256 / REACH;
                let share = (share * share / 256) as u16;
                for (sum, hue) in sum.iter_mut().zip(hue) {
                    *sum = sum.saturating_add(((u32::from(*hue) * u32::from(share)) >> 8) as u16);
                }
            }
        }
        sum
    }
}
