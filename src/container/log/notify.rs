//! Wakes readers when a directory changes.
//!
//! One inotify instance serves the whole program, since a user may hold only some 128 of them. It is read by a thread
//! of its own, so that it belongs to no runtime.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::sync::Notify;

/// Changes of a directory: a change before [`DirWatch::changed`] is called is remembered.
#[derive(Debug)]
pub struct DirWatch {
    notify: Arc<Notify>,
    descriptor: WatchDescriptor,
}

struct Hub {
    inotify: Inotify,
    watches: Mutex<HashMap<WatchDescriptor, Vec<Weak<Notify>>>>,
}

static HUB: OnceLock<Result<Arc<Hub>, Errno>> = OnceLock::new();

impl Hub {
    fn get() -> io::Result<Arc<Self>> {
        HUB.get_or_init(|| {
            let hub = Arc::new(Self {
                inotify: Inotify::init(InitFlags::IN_CLOEXEC)?,
                watches: Mutex::new(HashMap::new()),
            });
            let reader = Arc::clone(&hub);
            std::thread::Builder::new()
                .name("log-notify".into())
                .spawn(move || reader.run())
                .map_err(|_| Errno::EAGAIN)?;
            Ok(hub)
        })
        .clone()
        .map_err(io::Error::from)
    }

    /// A panic elsewhere leaves the map whole: each change of it is one call.
    fn watches(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Vec<Weak<Notify>>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "log followers are no longer woken");
                    return;
                }
            };
            let mut watches = self.watches();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    watches
                        .values()
                        .flatten()
                        .filter_map(Weak::upgrade)
                        .for_each(|notify| notify.notify_one());
                } else if let Some(waiting) = watches.get(&event.wd) {
                    waiting
                        .iter()
                        .filter_map(Weak::upgrade)
                        .for_each(|notify| notify.notify_one());
                    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        watches.remove(&event.wd);
                    }
                }
            }
        }
    }
}

impl DirWatch {
    /// Watches a directory for new, renamed, removed and changed files.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let hub = Hub::get()?;
        let notify = Arc::new(Notify::new());
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        let mut watches = hub.watches();
        // Under the lock: a watch of the same directory that goes at this moment would take the descriptor with it.
        let descriptor = hub.inotify.add_watch(dir, flags)?;
        watches
            .entry(descriptor)
            .or_default()
            .push(Arc::downgrade(&notify));
        Ok(Self { notify, descriptor })
    }

    /// Waits for a change since the last call. Cancel-safe.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for DirWatch {
    fn drop(&mut self) {
        let Ok(hub) = Hub::get() else { return };
        let mut watches = hub.watches();
        let Some(waiting) = watches.get_mut(&self.descriptor) else {
            return;
        };
        let own = Arc::downgrade(&self.notify);
        waiting.retain(|other| !other.ptr_eq(&own));
        if waiting.is_empty() {
            watches.remove(&self.descriptor);
            // Fails where the directory is gone, and the watch with it.
            let _ = hub.inotify.rm_watch(self.descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watcher_of_a_directory_is_woken_and_one_that_goes_takes_no_other_with_it() {
        let temp = tempfile::tempdir().expect("tempdir");
        let first = DirWatch::new(temp.path()).expect("watch");
        let second = DirWatch::new(temp.path()).expect("watch");
        std::fs::write(temp.path().join("a"), "x").expect("write");
        first.changed().await;
        second.changed().await;
        drop(first);
        std::fs::write(temp.path().join("b"), "x").expect("write");
        second.changed().await;
    }
}
