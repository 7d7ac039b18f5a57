//! End-to-end tests: the real binary, the real kubectl, real processes.

mod architecture;
mod bad_input;
mod bad_servers;
mod both;
mod clock;
mod confined;
mod counts;
mod crash;
mod documents;
mod entrypoint;
mod env;
mod everyday;
mod examples;
mod exec;
mod faults;
mod garbage;
mod gpus;
mod identities;
mod kube_rs;
mod life;
mod life_compat;
mod misuse;
mod outage;
mod partition;
mod port_forward;
mod probes;
mod resources;
mod small_client;
mod tunnels;
mod usage;
mod volumes;
mod walltime;
mod workloads;
mod writes;

/// The binary under test.
const VK_CMD: &str = env!("CARGO_BIN_EXE_vk-cmd");
