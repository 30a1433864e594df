// How every user program is linked; each program's `build.rs` includes this file.
//
// The linker script puts everything where `refkernel`'s loader wants it. On the host's own target the compiler links through
// `cc`, which must be told to leave out what a Linux program has; on a bare target it calls the linker itself.

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "none");
    let runtime = format!("{manifest}/../runtime");
    println!("cargo::rerun-if-changed={runtime}/link.rs");
    println!("cargo::rerun-if-changed={runtime}/program.ld");

    if !bare {
        for argument in ["-static", "-no-pie", "-nostdlib", "-nostartfiles"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    let script = format!("-T{runtime}/program.ld");
    for argument in [
        script.as_str(),
        "--no-eh-frame-hdr",
        "--build-id=none",
        "-znorelro",
        "-zseparate-code",
        "-zmax-page-size=4096",
        "-znoexecstack",
    ] {
        let prefix = if bare { "" } else { "-Wl," };
        println!("cargo::rustc-link-arg-bins={prefix}{argument}");
    }
}
