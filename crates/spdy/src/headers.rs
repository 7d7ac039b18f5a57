//! Blocks of headers (SPDY/3 section 2.6.10). One context of zlib for each direction lives as long as the connection,
//! so every block has to be read, wanted or not.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::{dictionary, frame::Malformed};

/// Names in lower case, and values; one that came several times is joined by NUL.
pub type Headers = Vec<(String, String)>;

/// Bytes of a block; clients send a few hundred.
const MAX_BLOCK: usize = 64 * 1024;
/// More than the dictionary has; a larger window would only take memory.
const WINDOW_BITS: u8 = 11;

/// Makes blocks.
pub(crate) struct Packer(Compress);

impl Packer {
    pub(crate) fn new() -> Result<Self, Malformed> {
        let mut zlib = Compress::new_with_window_bits(Compression::fast(), true, WINDOW_BITS);
        zlib.set_dictionary(&dictionary::bytes())
            .map_err(|_| Malformed::Compression)?;
        Ok(Self(zlib))
    }

    pub(crate) fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>, Malformed> {
        let length = |length: usize| {
            u32::try_from(length)
                .map(u32::to_be_bytes)
                .map_err(|_| Malformed::Headers)
        };
        let mut plain = length(headers.len())?.to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend(length(text.len())?);
                plain.extend(text.as_bytes());
            }
        }
        // Room for what cannot be made smaller, and for the mark of the flush.
        let mut packed = Vec::with_capacity(plain.len() + plain.len() / 8 + 64);
        self.0
            .compress_vec(&plain, &mut packed, FlushCompress::Sync)
            .map_err(|_| Malformed::Compression)?;
        Ok(packed)
    }
}

/// Reads blocks.
pub(crate) struct Unpacker {
    zlib: Decompress,
    primed: bool,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            primed: false,
        }
    }

    pub(crate) fn unpack(&mut self, mut packed: &[u8]) -> Result<Headers, Malformed> {
        let mut plain = Vec::with_capacity(1024);
        while !packed.is_empty() {
            let before = self.zlib.total_in();
            let done = self
                .zlib
                .decompress_vec(packed, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - before).unwrap_or(packed.len());
            packed = packed.get(taken..).unwrap_or_default();
            match done {
                Ok(Status::Ok) => {}
                Ok(Status::BufError) if plain.len() < plain.capacity() => break,
                Ok(Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(Malformed::Compression),
                // It is asked for once, at the first block.
                Err(error) if error.needs_dictionary().is_some() && !self.primed => {
                    self.primed = true;
                    self.zlib
                        .set_dictionary(&dictionary::bytes())
                        .map_err(|_| Malformed::Compression)?;
                }
                Err(_) => return Err(Malformed::Compression),
            }
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_BLOCK {
                    return Err(Malformed::Headers);
                }
                plain.reserve(plain.len());
            }
        }
        parse(&plain).ok_or(Malformed::Headers)
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let number = |rest: &mut &[u8]| -> Option<usize> {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        usize::try_from(u32::from_be_bytes(*head)).ok()
    };
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut plain)?;
            let (text, rest) = plain.split_at_checked(length)?;
            plain = rest;
            String::from_utf8(text.to_vec()).ok()
        };
        let (name, value) = (text()?, text()?);
        let known = headers.iter().any(|(it, _)| *it == name);
        if name.is_empty() || known || name.bytes().any(|it| it.is_ascii_uppercase()) {
            return None;
        }
        headers.push((name, value));
    }
    plain.is_empty().then_some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_block_of_the_reference_is_read() {
        // moby/spdystream 0.5.1 (Go 1.26), first and second SYN_STREAM of a session.
        let mut unpacker = Unpacker::new();
        let first = include_bytes!("../testdata/first-block.bin");
        assert_eq!(
            unpacker.unpack(first),
            Ok(vec![header("streamtype", "error")])
        );
        let second = include_bytes!("../testdata/second-block.bin");
        let mut headers = unpacker.unpack(second).expect("a block");
        headers.sort();
        assert_eq!(
            headers,
            [header("port", "8080"), header("streamtype", "data")]
        );
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let mut packer = Packer::new().expect("a dictionary");
        let mut unpacker = Unpacker::new();
        let twice = vec![header("a", "1"), header("a", "2")];
        let block = packer.pack(&twice).expect("packed");
        assert_eq!(unpacker.unpack(&block), Err(Malformed::Headers));
        let block = packer.pack(&vec![header("Upper", "1")]).expect("packed");
        assert_eq!(unpacker.unpack(&block), Err(Malformed::Headers));
        let huge = vec![header("a", &"x".repeat(10 * MAX_BLOCK))];
        let block = packer.pack(&huge).expect("packed");
        assert_eq!(unpacker.unpack(&block), Err(Malformed::Headers));
        assert_eq!(
            Unpacker::new().unpack(b"no zlib"),
            Err(Malformed::Compression)
        );
    }

    proptest! {
        #[test]
        fn blocks_come_back_as_they_were(
            blocks in prop::collection::vec(prop::collection::btree_map("[a-z-]{1,12}", ".{0,200}", 0..8), 1..6),
        ) {
            let mut packer = Packer::new().expect("a dictionary");
            let mut unpacker = Unpacker::new();
            for block in blocks {
                let headers: Headers = block.into_iter().collect();
                let packed = packer.pack(&headers).expect("packed");
                prop_assert_eq!(unpacker.unpack(&packed), Ok(headers));
            }
        }

        #[test]
        fn any_bytes_end_in_a_word(bytes: Vec<u8>) {
            let _ = Unpacker::new().unpack(&bytes);
            let _ = parse(&bytes);
        }
    }
}
