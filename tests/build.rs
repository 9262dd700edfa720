//! Builds the lab's own BPF object: the flood's sender.

#[path = "../filter-ctl/build/bpf.rs"]
mod bpf;

fn main() {
    bpf::build("flood-ebpf", "flood-ebpf");
}
