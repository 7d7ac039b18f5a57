//! The supervisor of one container: small and synchronous.
use std::{ffi::OsString, process::ExitCode};

/// Entry of `vk-cmd shim`; `args` are the arguments after the verb.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    todo!()
}
