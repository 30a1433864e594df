//! Links the probe as a plain C program: the only Rust code in it is the probe, `vmcore` and `core`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The C library brings the entry point and `memcpy`; what nobody refers to is left out; the relocations stay in the file, so that
    // whoever refers to a function can be named.
    for argument in ["-lc", "-Wl,--gc-sections", "-Wl,--emit-relocs"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
