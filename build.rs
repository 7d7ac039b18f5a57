//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A thousand shims are a thousand starts of this binary. At a fixed address it needs no
    // relocations, which would cost each of them about 0.7 MB of private memory and a
    // millisecond.
    // A static program for musl needs another start-up object for that, which only the compiler
    // chooses: `make release` asks it.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("musl") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
