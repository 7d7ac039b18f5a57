//! The control plane in this process, driven over TLS as any client drives it.

mod connections;
mod crud;
mod kubectl;
mod plane;
mod refusals;
mod watches;
