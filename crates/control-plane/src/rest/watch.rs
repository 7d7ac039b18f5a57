//! Watches over HTTP: one JSON line for each event, bookmarks, an end in time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::{Encoding, Shape};
use super::body::{self, Body};
use super::handler::Call;
use super::render::View;
use crate::registry::{WatchItem, WatchStream};
use crate::status::ApiError;
use crate::store::WatchEnd;

/// How long a watch lasts at least where the client names no time.
const SHORTEST: Duration = Duration::from_secs(30 * 60);
/// How long a watch lasts at most; a client may ask for more than a clock holds.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often clients that want bookmarks get one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// How long before its end a watch gets its last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// How much is collected before it is sent, in bytes.
const BATCH: usize = 64 << 10;

const LINES: HeaderValue = HeaderValue::from_static("application/json");

pub(super) fn answer(call: &Call) -> Result<Response<Body>, ApiError> {
    if call.form.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(&["application/json;stream=watch"]));
    }
    let mut options = call.query.watch_options()?;
    if !call.path.name.is_empty() {
        // A watch of one object by its path: an old form that still works.
        let name = format!("metadata.name={}", call.path.name);
        options.field_selector = match options.field_selector.as_str() {
            "" => name,
            other => format!("{other},{name}"),
        };
    }
    let timeout = match call.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()).min(LONGEST),
        _ => SHORTEST + random_part(SHORTEST),
    };
    let view = call.view();
    let watch = call
        .api
        .registry
        .watch(call.def, &call.path.namespace, &options);
    let watch = match watch {
        Ok(watch) => watch,
        // Once a watch is understood, its failures are events: clients look for them there.
        Err(error) if error.reason == "Expired" || error.reason == "Timeout" => {
            let line = error_line(&error);
            return Ok(body::stream(
                LINES,
                futures::stream::once(std::future::ready(line)),
            ));
        }
        Err(error) => return Err(error),
    };
    let now = Instant::now();
    let feed = Feed {
        watch,
        view,
        heading: true,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_PERIOD,
        end: now + timeout,
        last_bookmark: (timeout > LAST_BOOKMARK).then(|| now + timeout - LAST_BOOKMARK),
        shutdown: call.shutdown.clone(),
        ended: false,
    };
    let lines = futures::stream::unfold(feed, |mut feed| async move {
        let batch = feed.batch().await?;
        Some((batch, feed))
    });
    Ok(body::stream(LINES, lines))
}

/// A part of `whole`, so that watches that began together do not end together.
fn random_part(whole: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    whole.mul_f64(f64::from((random & 0xffff) as u16) / f64::from(u16::MAX))
}

struct Feed {
    watch: WatchStream,
    view: View,
    /// The next Table carries the headings.
    heading: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    last_bookmark: Option<Instant>,
    end: Instant,
    shutdown: CancellationToken,
    ended: bool,
}

impl Feed {
    /// The next lines; `None` at the end.
    async fn batch(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut lines = BytesMut::new();
        let bookmark = match self.last_bookmark {
            Some(last) if self.bookmarks => last.min(self.next_bookmark),
            _ => self.next_bookmark,
        };
        tokio::select! {
            biased; // Events first: a busy watch must not starve behind its timers.
            // Cancel-safe: an item is either returned or still to come.
            item = self.watch.next() => match item {
                Ok(item) => self.write(&mut lines, &item),
                Err(end) => return self.finish(end),
            },
            () = tokio::time::sleep_until(self.end) => return None,
            () = self.shutdown.cancelled() => return None,
            () = tokio::time::sleep_until(bookmark), if self.bookmarks => {
                if self.last_bookmark.is_some_and(|last| Instant::now() >= last) {
                    self.last_bookmark = None;
                }
                self.next_bookmark = Instant::now() + BOOKMARK_PERIOD;
                let revision = self.watch.progress();
                self.write_bookmark(&mut lines, revision, false);
                return Some(lines.freeze());
            }
        }
        while lines.len() < BATCH {
            match self.watch.try_next() {
                Ok(Some(item)) => self.write(&mut lines, &item),
                // The end shows again at the next call, after these lines.
                Ok(None) | Err(_) => break,
            }
        }
        Some(lines.freeze())
    }

    fn write(&mut self, lines: &mut BytesMut, item: &WatchItem) {
        match item {
            WatchItem::Change(kind, object) => {
                let shown = self.view.object(object, self.heading, Timestamp::now());
                self.heading = false;
                lines.put(&b"{\"type\":\""[..]);
                lines.put(kind.name().as_bytes());
                lines.put(&b"\",\"object\":"[..]);
                lines.put(shown);
                lines.put(&b"}\n"[..]);
            }
            WatchItem::InitialEnd(revision) => self.write_bookmark(lines, *revision, true),
        }
    }

    fn write_bookmark(&mut self, lines: &mut BytesMut, revision: u64, initial_end: bool) {
        let shown = self.view.bookmark(revision, initial_end, self.heading);
        self.heading &= self.view.shape != Shape::Table;
        lines.put(&b"{\"type\":\"BOOKMARK\",\"object\":"[..]);
        lines.put(shown);
        lines.put(&b"}\n"[..]);
    }

    fn finish(&mut self, end: WatchEnd) -> Option<Bytes> {
        self.ended = true;
        match end {
            WatchEnd::Closed => None,
            // The client comes back with its last revision; where the history is too short for
            // that, it gets its 410 then.
            WatchEnd::Lagged => {
                tracing::debug!("a watch was closed: its client is too slow");
                None
            }
        }
    }
}

fn error_line(error: &ApiError) -> Bytes {
    let mut line = serde_json::json!({"type": "ERROR", "object": error.to_value()}).to_string();
    line.push('\n');
    line.into()
}
