//! Serves a control plane out of a directory, until it is interrupted:
//! `cargo run -p control-plane --example serve -- DIR [PORT]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use control_plane::{Config, ControlPlane};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [PORT]")?);
    let port = match arguments.next() {
        Some(port) => port.parse()?,
        None => 0,
    };
    let plane = ControlPlane::start(Config {
        state_dir: state_dir.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        scheduler: true,
        controllers: true,
        names: Vec::new(),
    })
    .await?;
    let kubeconfig = state_dir.join("admin.kubeconfig");
    plane
        .pki()
        .write_kubeconfig(&kubeconfig, &plane.url(), "vk-cmd", &plane.pki().admin)?;
    tokio::signal::ctrl_c().await?;
    plane.shutdown().await;
    Ok(())
}
