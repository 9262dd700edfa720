//! Builds the BPF object, which `kernel::interface` embeds.

#[path = "build/bpf.rs"]
mod bpf;

fn main() {
    // The object is made of these two; aya-build watches the first.
    println!("cargo:rerun-if-changed=../filter-common/src");
    bpf::build("filter-ebpf", "../filter-ebpf");
}
