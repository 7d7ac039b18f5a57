//! vk-cmd turns a batch allocation into a Kubernetes node, without root.

pub mod agent;
pub mod cli;
pub mod client;
pub mod commands;
pub mod container;
pub mod duration;
pub mod events;
pub mod exit;
pub mod hostpipe;
pub mod identity;
pub mod init;
pub mod kubelet_api;
pub mod logging;
mod multiplex;
pub mod node;
pub mod pod;
pub mod printer;
pub mod quantity;
pub mod settings;
pub mod site;
mod tls;
pub mod tunnel;
