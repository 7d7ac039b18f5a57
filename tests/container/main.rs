//! Containers with real processes: the shim is the built `vk-cmd`.

mod counts;
mod crashes;
mod exec;
mod faults;
mod hostpipe;
mod logs;
mod run;
mod support;
