//! The OpenAPI document of version 2, which names no types.
//!
//! kubectl asks for it before it creates a `List`, and what it finds no type for it leaves to the
//! server, which checks every field. All that there is to tell of types is told in version 3.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

/// The media type of the document in protobuf, as clients name it and as it is answered.
pub const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Part of every name that the media type had over time.
const PROTOBUF_MARK: &str = "proto-openapi.spec.v2";

const SWAGGER: &str = "2.0";
const TITLE: &str = "Kubernetes";

/// Whether a client asks for protobuf.
pub fn wants_protobuf(accept: &str) -> bool {
    accept.contains(PROTOBUF_MARK)
}

/// The document.
pub fn json(version: &str) -> Value {
    json!({"swagger": SWAGGER, "info": {"title": TITLE, "version": version}, "paths": {}})
}

/// The same as a message `openapi.v2.Document`: field 1 is `swagger`, 2 `info` (1 `title`, 2
/// `version`), 8 `paths`.
pub fn protobuf(version: &str) -> Bytes {
    let mut info = BytesMut::new();
    field(&mut info, 1, TITLE.as_bytes());
    field(&mut info, 2, version.as_bytes());
    let mut document = BytesMut::new();
    field(&mut document, 1, SWAGGER.as_bytes());
    field(&mut document, 2, &info);
    field(&mut document, 8, &[]);
    document.freeze()
}

/// A length-delimited field.
fn field(message: &mut BytesMut, number: u8, content: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = content.len();
    while length >= 0x80 {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8((length & 0x7f) as u8);
    message.put_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_as_the_protocol_says() {
        let expected = b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.34\x42\x00";
        assert_eq!(protobuf("v1.34"), expected.as_slice());
        let long = "v".repeat(200);
        let message = protobuf(&long);
        assert_eq!(message.len(), 5 + 3 + 12 + 3 + 200 + 2);
        assert_eq!(message[5..8], [0x12, 0xd7, 0x01]);
    }

    #[test]
    fn clients_name_it_in_two_ways() {
        assert!(wants_protobuf(PROTOBUF));
        assert!(wants_protobuf(
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        ));
        assert!(!wants_protobuf("application/json"));
    }
}
