//! Frames between agent and shim.
