//! Containers with real processes: the shim is the built `vk-cmd`.

mod logs;
mod run;
mod support;
