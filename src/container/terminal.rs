//! Sizes of terminals.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::{errno::Errno, libc};

use super::protocol::TerminalSize;

/// Tells a terminal its size; the kernel tells its processes.
pub(super) fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    let set = unsafe {
        libc::ioctl(
            terminal.as_raw_fd(),
            libc::TIOCSWINSZ,
            std::ptr::from_ref(&size),
        )
    };
    Errno::result(set).map(drop)
}

/// Asks a terminal for its size.
///
/// # Errors
/// Where it is none.
pub fn size(terminal: BorrowedFd<'_>) -> nix::Result<TerminalSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which outlives the call.
    let got = unsafe {
        libc::ioctl(
            terminal.as_raw_fd(),
            libc::TIOCGWINSZ,
            std::ptr::from_mut(&mut size),
        )
    };
    Errno::result(got).map(|_| TerminalSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}
