//! To come.

#![no_std]
#![no_main]

use refkernel_runtime::{StartInformation, program};

program!(main);

fn main(_: &StartInformation) -> u32 {
    0
}
