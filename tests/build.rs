//! Builds the lab's own BPF objects: the flood's sender, and what the bench measures.

#[path = "../filter-ctl/build/bpf.rs"]
mod bpf;

fn main() {
    // The bench's objects hold the filter; aya-build watches their own package.
    println!("cargo:rerun-if-changed=../filter-common/src");
    println!("cargo:rerun-if-changed=../filter-ebpf/src");
    bpf::build("flood-ebpf", "flood-ebpf");
    bpf::build("bench-ebpf", "bench-ebpf");
}
