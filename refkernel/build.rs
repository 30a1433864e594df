//! Gives the linker what a kernel needs: its own layout and nothing of the host's.
//!
//! The arguments are given here and not in flags, so that `cargo build -p refkernel` is enough on the host's own
//! target, and flags in the environment do not leak into the layout.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernel.ld");
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{directory}/kernel.ld");
    let bare = std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none");
    // A bare target calls the linker itself, the host's target calls it through the C compiler.
    let for_linker = |argument: &str| {
        if bare {
            println!("cargo:rustc-link-arg-bins={argument}");
        } else {
            println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
        }
    };
    if !bare {
        for argument in ["-nostdlib", "-static", "-no-pie", "-nostartfiles"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
    for_linker(&format!("--script={script}"));
    for_linker("--build-id=none");
    for_linker("--gc-sections");
    for argument in ["norelro", "max-page-size=4096", "noexecstack"] {
        if bare {
            println!("cargo:rustc-link-arg-bins=-z");
            println!("cargo:rustc-link-arg-bins={argument}");
        } else {
            println!("cargo:rustc-link-arg-bins=-Wl,-z,{argument}");
        }
    }
}
