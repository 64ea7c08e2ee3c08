//! Link arguments of the kernel image: no C start-up files, fixed address, our linker script.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for argument in ["-nostartfiles", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--gc-sections", &format!("-Wl,-T,{dir}/link.ld")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
}
