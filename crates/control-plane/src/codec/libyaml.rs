//! A safe face for libyaml's event parser (its translation to Rust, which `serde_norway` uses
//! too). `serde_norway` itself does not tell plain scalars from quoted ones, and YAML 1.1 needs
//! that.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::raw::c_char;
use std::ptr::NonNull;

use unsafe_libyaml_norway as unsafe_libyaml;

/// What the parser finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    DocumentStart,
    Alias(String),
    Scalar {
        anchor: Option<String>,
        tag: Option<String>,
        value: String,
        /// Neither quoted nor tagged.
        plain: bool,
    },
    SequenceStart {
        anchor: Option<String>,
    },
    SequenceEnd,
    MappingStart {
        anchor: Option<String>,
    },
    MappingEnd,
    StreamEnd,
    /// The start of the stream, the end of a document.
    Other,
}

/// A text that is no YAML: the words of libyaml, and the line as go-yaml gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) words: String,
    /// Counted from 1; `None` where go-yaml names no line.
    pub(super) line: Option<u64>,
}

/// Reads one text.
pub(super) struct Parser<'a> {
    /// Ours alone, and freed when we are. The parser points to itself, so it must not move, and no
    /// Rust reference to it is kept.
    parser: NonNull<unsafe_libyaml::yaml_parser_t>,
    failed: Option<Problem>,
    ended: bool,
    text: PhantomData<&'a [u8]>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let memory = Box::leak(Box::new(
            MaybeUninit::<unsafe_libyaml::yaml_parser_t>::uninit(),
        ));
        let parser = NonNull::from(memory).cast::<unsafe_libyaml::yaml_parser_t>();
        // SAFETY: the memory is ours and large enough; initialisation fails only where it cannot
        // allocate, and then the library aborts. The text outlives the parser by `'a`.
        unsafe {
            let started = unsafe_libyaml::yaml_parser_initialize(parser.as_ptr());
            assert!(started.ok, "libyaml could not be initialised");
            unsafe_libyaml::yaml_parser_set_encoding(
                parser.as_ptr(),
                unsafe_libyaml::YAML_UTF8_ENCODING,
            );
            unsafe_libyaml::yaml_parser_set_input_string(
                parser.as_ptr(),
                text.as_ptr(),
                text.len() as u64,
            );
        }
        Self {
            parser,
            failed: None,
            ended: false,
            text: PhantomData,
        }
    }

    /// The next event and the line it starts in, counted from 1. After a problem it is the same
    /// problem again, after the end the end.
    pub(super) fn next(&mut self) -> Result<(Event, u64), Problem> {
        if let Some(problem) = &self.failed {
            return Err(problem.clone());
        }
        if self.ended {
            return Ok((Event::StreamEnd, 0));
        }
        let mut event = MaybeUninit::<unsafe_libyaml::yaml_event_t>::uninit();
        // SAFETY: the parser is initialised, has an input and no problem so far. It fills the
        // event in both cases.
        let parsed =
            unsafe { unsafe_libyaml::yaml_parser_parse(self.parser.as_ptr(), event.as_mut_ptr()) };
        if parsed.fail {
            let problem = self.problem();
            self.failed = Some(problem.clone());
            return Err(problem);
        }
        // SAFETY: the parser reported success, so the event is filled in; what it points to lives
        // until it is deleted, once, below.
        let (found, line) = unsafe {
            let mut event = event.assume_init();
            let found = owned(&event);
            let line = event.start_mark.line;
            unsafe_libyaml::yaml_event_delete(&mut event);
            (found, line)
        };
        self.ended = found == Event::StreamEnd;
        Ok((found, line + 1))
    }

    fn problem(&self) -> Problem {
        // SAFETY: the parser is initialised, and only read here.
        let parser = unsafe { self.parser.as_ref() };
        let scanner = parser.error == unsafe_libyaml::YAML_SCANNER_ERROR;
        let line = match (parser.problem_mark.line, parser.context_mark.line) {
            (0, 0) => None,
            (0, line) => Some(line),
            (line, _) => Some(line + u64::from(scanner)),
        };
        // SAFETY: the library's messages are static strings with a zero byte at the end, or null.
        let words = unsafe { string(parser.problem.cast::<u8>()) };
        Problem {
            words: words.unwrap_or_else(|| "unknown problem parsing YAML content".to_owned()),
            line,
        }
    }
}

impl Drop for Parser<'_> {
    fn drop(&mut self) {
        // SAFETY: the parser is initialised and nobody uses it after this; its memory came from a
        // box of the same layout.
        unsafe {
            unsafe_libyaml::yaml_parser_delete(self.parser.as_ptr());
            drop(Box::from_raw(
                self.parser
                    .as_ptr()
                    .cast::<MaybeUninit<unsafe_libyaml::yaml_parser_t>>(),
            ));
        }
    }
}

/// # Safety
///
/// `text` is null or points to a string that ends with a zero byte.
unsafe fn string(text: *const u8) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text.cast::<c_char>()) };
    Some(text.to_string_lossy().into_owned())
}

/// # Safety
///
/// The event was filled in by the parser and is not deleted yet.
unsafe fn owned(event: &unsafe_libyaml::yaml_event_t) -> Event {
    // SAFETY: each member of the union is read only where the type of the event names it; names
    // end with a zero byte, and values are `length` bytes long.
    unsafe {
        match event.type_ {
            unsafe_libyaml::YAML_DOCUMENT_START_EVENT => Event::DocumentStart,
            unsafe_libyaml::YAML_STREAM_END_EVENT | unsafe_libyaml::YAML_NO_EVENT => {
                Event::StreamEnd
            }
            unsafe_libyaml::YAML_ALIAS_EVENT => {
                Event::Alias(string(event.data.alias.anchor).unwrap_or_default())
            }
            unsafe_libyaml::YAML_SCALAR_EVENT => {
                let scalar = event.data.scalar;
                let length = usize::try_from(scalar.length).unwrap_or_default();
                let bytes = std::slice::from_raw_parts(scalar.value, length);
                Event::Scalar {
                    anchor: string(scalar.anchor),
                    tag: string(scalar.tag),
                    value: String::from_utf8_lossy(bytes).into_owned(),
                    plain: scalar.plain_implicit,
                }
            }
            unsafe_libyaml::YAML_SEQUENCE_START_EVENT => Event::SequenceStart {
                anchor: string(event.data.sequence_start.anchor),
            },
            unsafe_libyaml::YAML_SEQUENCE_END_EVENT => Event::SequenceEnd,
            unsafe_libyaml::YAML_MAPPING_START_EVENT => Event::MappingStart {
                anchor: string(event.data.mapping_start.anchor),
            },
            unsafe_libyaml::YAML_MAPPING_END_EVENT => Event::MappingEnd,
            _ => Event::Other,
        }
    }
}
