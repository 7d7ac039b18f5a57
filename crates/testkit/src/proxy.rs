//! A TCP proxy between an agent and its API server: passes, hangs, refuses, cuts.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything passes.
    Up,
    /// Connections stay open and are accepted, and nothing passes: a route that lost its packets.
    Hung,
    /// Connections break, new ones are closed at once.
    Cut,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    target: SocketAddr,
}

struct State {
    line: Line,
    closed: bool,
    open: Vec<(TcpStream, TcpStream)>,
    accepted: usize,
}

/// A proxy on a loopback port of its own; it ends with the value.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Proxy").field(&self.address).finish()
    }
}

impl Proxy {
    /// A proxy for the server of a kubeconfig, and that kubeconfig, written to `new`, with the proxy in its
    /// place.
    ///
    /// # Errors
    /// Where the file cannot be read or has no `https://127.0.0.1:PORT` in it.
    pub fn before(kubeconfig: &Path, new: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let port = text
            .split("https://127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|port| port.parse::<u16>().ok())
            .context("no https://127.0.0.1:PORT in the kubeconfig")?;
        let proxy = Self::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let changed = text.replace(
            &format!("https://127.0.0.1:{port}"),
            &format!("https://127.0.0.1:{}", proxy.address.port()),
        );
        std::fs::write(new, changed)?;
        Ok(proxy)
    }

    /// A proxy for `target`.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                line: Line::Up,
                closed: false,
                open: Vec::new(),
                accepted: 0,
            }),
            changed: Condvar::new(),
            target,
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// Changes what happens to connections, also to those that are open.
    pub fn set(&self, line: Line) {
        let mut state = self.shared.lock();
        state.line = line;
        if line == Line::Cut {
            state.break_all();
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.break_all();
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn break_all(&mut self) {
        for (near, far) in self.open.drain(..) {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for near in listener.incoming() {
            let Ok(near) = near else { return };
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.accepted += 1;
            if state.line == Line::Cut {
                continue;
            }
            let Ok(far) = TcpStream::connect(self.target) else {
                continue;
            };
            let (Ok(n), Ok(f)) = (near.try_clone(), far.try_clone()) else {
                continue;
            };
            state.open.push((n, f));
            drop(state);
            let (Ok(n), Ok(f)) = (near.try_clone(), far.try_clone()) else {
                continue;
            };
            let shared = Arc::clone(self);
            thread::spawn(move || shared.copy(near, far));
            let shared = Arc::clone(self);
            thread::spawn(move || shared.copy(f, n));
        }
    }

    /// Copies one way while the line is up.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // Waits for bytes without taking them: a line that hangs keeps them.
            let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let state = self
                .changed
                .wait_while(self.lock(), |it| it.line == Line::Hung && !it.closed)
                .unwrap_or_else(PoisonError::into_inner);
            drop(state);
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_passes_hangs_and_cuts() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let proxy = Proxy::to(server.local_addr().expect("bound")).expect("a proxy");
        let mut near = TcpStream::connect(proxy.address()).expect("connected");
        let (mut far, _) = server.accept().expect("passed on");
        let mut one = [0];
        near.write_all(b"a").expect("written");
        far.read_exact(&mut one).expect("passed");
        assert_eq!(&one, b"a");

        proxy.set(Line::Hung);
        near.write_all(b"b").expect("written");
        far.set_read_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        far.read_exact(&mut one).expect_err("nothing passes");
        far.set_read_timeout(None).expect("set");
        proxy.set(Line::Up);
        far.read_exact(&mut one).expect("it was kept");
        assert_eq!(&one, b"b");

        proxy.set(Line::Cut);
        assert_eq!(far.read(&mut one).unwrap_or(0), 0);
        let mut refused = TcpStream::connect(proxy.address()).expect("accepted");
        assert_eq!(refused.read(&mut one).unwrap_or(0), 0);
        assert_eq!(proxy.accepted(), 2);
    }
}
