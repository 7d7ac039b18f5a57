//! The objects that every cluster has, created at start where they are missing.

pub mod roles;
