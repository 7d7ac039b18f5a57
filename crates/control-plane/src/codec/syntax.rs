//! Why a text is no JSON, in the words of Go's scanner.

/// Nesting that Go refuses.
const GO_MAX_DEPTH: usize = 10_000;

/// The complaint about the first byte that breaks the grammar; `None` for valid JSON.
pub(super) fn complaint(text: &[u8]) -> Option<String> {
    Scanner { text, at: 0 }.run().err()
}

type Scan = Result<(), String>;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

fn at_end() -> String {
    "unexpected end of JSON input".to_owned()
}

impl Scanner<'_> {
    fn run(mut self) -> Scan {
        // What is open: `true` for an object, `false` for a list.
        let mut open: Vec<bool> = Vec::new();
        self.space();
        loop {
            // One value.
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.space();
                    open.push(true);
                    if self.peek()? != b'}' {
                        self.key()?;
                        continue;
                    }
                    self.at += 1;
                    open.pop();
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    open.push(false);
                    if self.peek()? != b']' {
                        if open.len() > GO_MAX_DEPTH {
                            return Err("exceeded max depth".to_owned());
                        }
                        continue;
                    }
                    self.at += 1;
                    open.pop();
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => return Err(self.invalid("looking for beginning of value")),
            }
            if open.len() > GO_MAX_DEPTH {
                return Err("exceeded max depth".to_owned());
            }
            // What may follow it.
            loop {
                self.space();
                let Some(in_object) = open.last() else {
                    return if self.at == self.text.len() {
                        Ok(())
                    } else {
                        Err(self.invalid("after top-level value"))
                    };
                };
                match (self.peek()?, in_object) {
                    (b',', true) => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        break;
                    }
                    (b',', false) => {
                        self.at += 1;
                        self.space();
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        open.pop();
                    }
                    (_, true) => return Err(self.invalid("after object key:value pair")),
                    (_, false) => return Err(self.invalid("after array element")),
                }
            }
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.text.get(self.at).copied().ok_or_else(at_end)
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn invalid(&self, context: &str) -> String {
        match self.text.get(self.at) {
            None => at_end(),
            Some(byte) => format!("invalid character {} {context}", quoted(*byte)),
        }
    }

    fn key(&mut self) -> Scan {
        if self.peek()? != b'"' {
            return Err(self.invalid("looking for beginning of object key string"));
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return Err(self.invalid("after object key"));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn string(&mut self) -> Scan {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return Err(self.invalid("in \\u hexadecimal character escape"));
                                }
                                self.at += 1;
                            }
                        }
                        _ => return Err(self.invalid("in string escape code")),
                    }
                }
                0..=0x1f => return Err(self.invalid("in string literal")),
                _ => self.at += 1,
            }
        }
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Scan {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.invalid("in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return Err(self.invalid("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return Err(self.invalid("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Scan {
        for expected in word.bytes() {
            if self.peek()? != expected {
                let expected = expected as char;
                return Err(self.invalid(&format!("in literal {word} (expecting '{expected}')")));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// A byte in single quotes, as Go's scanner shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b' '..=b'~' | 0xa1..=0xac | 0xae..=0xff => format!("'{}'", byte as char),
        0x00..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        other => format!("'\\u{other:04x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn complaints_have_gos_words() {
        for (text, words) in [
            ("", "unexpected end of JSON input"),
            ("{\"a\":1", "unexpected end of JSON input"),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 \"b\"}",
                "invalid character '\"' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            ("{} x", "invalid character 'x' after top-level value"),
            ("nul", "unexpected end of JSON input"),
            (
                "nope",
                "invalid character 'o' in literal null (expecting 'u')",
            ),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                "1ex",
                "invalid character 'x' in exponent of numeric literal",
            ),
            ("<", "invalid character '<' looking for beginning of value"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(words), "{text}");
        }
        assert_eq!(
            complaint(b" {\"a\":[1,-2.5e+3,{},[],\"\\u00e4\",true,null]} "),
            None
        );
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_parser(text in "[\\[\\]{}:,\"0-9eE.+\\-truefalsn \\\\u]{0,24}") {
            let valid = serde_json::from_str::<serde_json::Value>(&text);
            match valid {
                Ok(_) => proptest::prop_assert_eq!(complaint(text.as_bytes()), None),
                // The parser refuses numbers and surrogates that the grammar allows.
                Err(error) if error.to_string().contains("out of range")
                    || error.to_string().contains("surrogate")
                    || error.to_string().contains("hex escape")
                    || error.to_string().contains("unicode") => {}
                Err(_) => proptest::prop_assert!(complaint(text.as_bytes()).is_some()),
            }
        }
    }
}
