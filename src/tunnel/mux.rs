//! Whether our ssh still answers: one question over its control socket.
//!
//! The alive check of OpenSSH's `PROTOCOL.mux` (version 4): both sides say hello, we ask, it answers with its number.
//! A child that somebody has stopped holds its connection and its ports, and answers nothing.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const HELLO: u32 = 0x0000_0001;
const VERSION: u32 = 4;
const ALIVE_CHECK: u32 = 0x1000_0004;
const ALIVE: u32 = 0x8000_0005;
/// The longest answer to either.
const MAX_PACKET: u32 = 4096;

/// Asks; the answer is the number of the process.
///
/// # Errors
/// Where nobody listens, or the answer is none; `TimedOut` where none comes within `patience`.
pub async fn alive(control: &Path, patience: Duration) -> io::Result<u32> {
    tokio::time::timeout(patience, ask(control))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask(control: &Path) -> io::Result<u32> {
    let mut stream = UnixStream::connect(control).await?;
    stream.write_all(&packet(&[HELLO, VERSION])).await?;
    let hello = receive(&mut stream).await?;
    if hello.first() != Some(&HELLO) {
        return Err(strange(&hello));
    }
    let request = 1;
    stream.write_all(&packet(&[ALIVE_CHECK, request])).await?;
    match receive(&mut stream).await?.as_slice() {
        [ALIVE, id, pid] if *id == request => Ok(*pid),
        other => Err(strange(other)),
    }
}

fn strange(words: &[u32]) -> io::Error {
    let text = format!("ssh answers {words:x?} at its control socket");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn packet(words: &[u32]) -> Vec<u8> {
    let length = u32::try_from(words.len() * 4).unwrap_or(u32::MAX);
    std::iter::once(&length)
        .chain(words)
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

/// The whole words of a packet.
async fn receive(stream: &mut UnixStream) -> io::Result<Vec<u32>> {
    let length = stream.read_u32().await?;
    if length > MAX_PACKET {
        return Err(strange(&[length]));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    let words = bytes.chunks_exact(4);
    Ok(words
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}
