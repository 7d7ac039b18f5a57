//! Word of changes: one task watches what the volumes of pods refer to, one watch an object
//! however many pods refer to it, and the services of the cluster.
//!
//! | in | out |
//! |---|---|
//! | interests of workers, dropped with their [`Interest`] | a [`Notify`] of each worker concerned |
//! | watches, metadata alone | |
//! | the watch of services | [`Services`], latest only |
//!
//! Nothing of an object but its version is kept: who is told reads it anew. Where a watch is
//! forbidden the worker is told whenever it is tried again, which makes it a slow poll.

use std::{
    collections::HashMap,
    fmt::Debug,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::{
    Api, Client, Resource,
    core::{NamespaceResourceScope, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, watch_object, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Kind, Reference};
use crate::pod::{api::chain, env::Services};

/// Watches on one connection; servers allow between 100 and 1,000.
const ON_ONE_CONNECTION: usize = 90;

/// Makes a client with a connection of its own.
pub(crate) type Connect = Box<dyn Fn() -> Result<Client, kube::Error> + Send>;

/// What workers hold.
#[derive(Debug)]
pub(crate) struct Follow {
    commands: mpsc::UnboundedSender<Command>,
    services: watch::Receiver<Option<Arc<Services>>>,
    next: AtomicU64,
}

/// Keeps watches alive while it lives.
#[derive(Debug)]
pub(crate) struct Interest {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        // The task ends with the agent.
        let _ = self.commands.send(Command::Forget(self.id));
    }
}

impl Follow {
    /// Has `tell` notified whenever one of the objects is no longer in the version that was
    /// seen; none is seen of an object that does not exist.
    pub(crate) fn interest(&self, seen: Vec<(Key, Version)>, tell: Arc<Notify>) -> Interest {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let command = Command::Follow { id, seen, tell };
        // The task ends with the agent.
        let _ = self.commands.send(command);
        Interest {
            id,
            commands: self.commands.clone(),
        }
    }

    /// The services of the cluster, once they were read for the first time.
    pub(crate) async fn services(&self) -> Arc<Services> {
        let mut services = self.services.clone();
        if let Ok(found) = services.wait_for(Option::is_some).await {
            return found.clone().unwrap_or_default();
        }
        // The task ends with the agent, and this caller with it.
        std::future::pending().await
    }
}

/// An object of a namespace.
pub(crate) type Key = (Arc<str>, Reference);
/// A `resourceVersion`; none where there is no object.
pub(crate) type Version = Option<Box<str>>;

#[derive(Debug)]
enum Command {
    Follow {
        id: u64,
        seen: Vec<(Key, Version)>,
        tell: Arc<Notify>,
    },
    Forget(u64),
}

/// Makes the handle and the task, which ends with the last handle.
pub(crate) fn follow(connect: Connect) -> (Follow, impl Future<Output = ()> + Send) {
    let (commands, orders) = mpsc::unbounded_channel();
    let (publish, services) = watch::channel(None);
    let follow = Follow {
        commands,
        services,
        next: AtomicU64::new(0),
    };
    let follower = Follower {
        connect,
        clients: Vec::new(),
        entries: HashMap::new(),
        interests: HashMap::new(),
        signals: SelectAll::new(),
        warned: false,
    };
    (follow, follower.run(orders, publish))
}

struct Follower {
    connect: Connect,
    /// Each with the number of its watches.
    clients: Vec<(Client, usize)>,
    entries: HashMap<Key, Entry>,
    interests: HashMap<u64, (Vec<Key>, Arc<Notify>)>,
    signals: SelectAll<BoxStream<'static, (Key, Signal)>>,
    warned: bool,
}

struct Entry {
    version: Version,
    interested: Vec<u64>,
    client: usize,
    /// Ends the watch.
    _stop: DropGuard,
}

enum Signal {
    Is(Version),
    Failed(watcher::Error),
}

impl Follower {
    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Command>,
        publish: watch::Sender<Option<Arc<Services>>>,
    ) {
        let services = match self.client() {
            Ok(client) => {
                let services = Api::<Service>::all(self.clients[client].0.clone());
                watcher(services, watcher::Config::default())
                    .default_backoff()
                    .boxed()
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "services are not watched");
                publish.send_replace(Some(Arc::default()));
                futures::stream::pending().boxed()
            }
        };
        let mut services = pin!(services);
        let mut table = Table {
            publish,
            listing: Services::default(),
        };
        loop {
            tokio::select! {
                // Cancel-safe per docs on `recv`.
                order = orders.recv() => match order {
                    Some(Command::Follow { id, seen, tell }) => self.follow(id, seen, tell),
                    Some(Command::Forget(id)) => self.forget(id),
                    None => return,
                },
                // Cancel-safe: `next` of streams that are kept.
                Some((key, signal)) = self.signals.next(), if !self.signals.is_empty() => {
                    self.observe(&key, signal);
                }
                Some(event) = services.next() => table.observe(event),
            }
        }
    }

    /// A client with room for one more watch.
    fn client(&mut self) -> Result<usize, kube::Error> {
        let free = self
            .clients
            .iter()
            .position(|(_, watches)| *watches < ON_ONE_CONNECTION);
        let at = match free {
            Some(at) => at,
            None => {
                self.clients.push(((self.connect)()?, 0));
                self.clients.len() - 1
            }
        };
        self.clients[at].1 += 1;
        Ok(at)
    }

    fn follow(&mut self, id: u64, seen: Vec<(Key, Version)>, tell: Arc<Notify>) {
        let mut keys = Vec::with_capacity(seen.len());
        for (key, version) in seen {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.interested.push(id);
                if entry.version != version {
                    tell.notify_one();
                }
            } else {
                let client = match self.client() {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::error!(error = chain(&error), "an object is not watched");
                        continue;
                    }
                };
                let stop = CancellationToken::new();
                let watched = watch(self.clients[client].0.clone(), &key);
                let signals = {
                    let key = key.clone();
                    watched.map(move |signal| (key.clone(), signal))
                };
                let until = stop.clone().cancelled_owned();
                self.signals.push(signals.take_until(until).boxed());
                let entry = Entry {
                    version,
                    interested: vec![id],
                    client,
                    _stop: stop.drop_guard(),
                };
                self.entries.insert(key.clone(), entry);
            }
            keys.push(key);
        }
        self.interests.insert(id, (keys, tell));
    }

    fn forget(&mut self, id: u64) {
        let Some((keys, _)) = self.interests.remove(&id) else {
            return;
        };
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.interested.retain(|it| *it != id);
            if entry.interested.is_empty() {
                self.clients[entry.client].1 -= 1;
                self.entries.remove(&key);
            }
        }
    }

    fn observe(&mut self, key: &Key, signal: Signal) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match signal {
            Signal::Is(version) if version == entry.version => return,
            Signal::Is(version) => entry.version = version,
            Signal::Failed(error) if refused(&error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(
                        error = chain(&error),
                        object = ?key.1,
                        "watches of config maps and secrets are refused: volumes follow changes late"
                    );
                }
            }
            Signal::Failed(error) => {
                tracing::debug!(error = chain(&error), object = ?key.1, "the watch is taken up again");
                return;
            }
        }
        for id in &entry.interested {
            if let Some((_, tell)) = self.interests.get(id) {
                tell.notify_one();
            }
        }
    }
}

fn watch(client: Client, (namespace, reference): &Key) -> BoxStream<'static, Signal> {
    match reference.kind {
        Kind::ConfigMap => versions::<ConfigMap>(client, namespace, &reference.name).boxed(),
        Kind::Secret => versions::<Secret>(client, namespace, &reference.name).boxed(),
    }
}

fn versions<K>(client: Client, namespace: &str, name: &str) -> impl Stream<Item = Signal> + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::namespaced(client, namespace);
    let version = |object: PartialObjectMeta<K>| {
        let version = object.metadata.resource_version;
        version.map(String::into_boxed_str)
    };
    watch_object(api, name)
        .default_backoff()
        .map(move |found| match found {
            Ok(object) => Signal::Is(object.and_then(version)),
            Err(error) => Signal::Failed(error),
        })
}

/// Whether the server answers and will not do it.
fn refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 405))
        }
        _ => false,
    }
}

struct Table {
    publish: watch::Sender<Option<Arc<Services>>>,
    listing: Services,
}

impl Table {
    fn observe(&mut self, event: Result<watcher::Event<Service>, watcher::Error>) {
        let change = |change: &dyn Fn(&mut Services)| {
            self.publish.send_modify(|services| {
                change(Arc::make_mut(services.get_or_insert_default()));
            });
        };
        match event {
            Ok(watcher::Event::Init) => self.listing = Services::default(),
            Ok(watcher::Event::InitApply(service)) => self.listing.put(&service),
            Ok(watcher::Event::InitDone) => {
                let listed = std::mem::take(&mut self.listing);
                self.publish.send_replace(Some(Arc::new(listed)));
            }
            Ok(watcher::Event::Apply(service)) => change(&|services| services.put(&service)),
            Ok(watcher::Event::Delete(service)) => change(&|services| services.remove(&service)),
            Err(error) if refused(&error) => {
                if self.publish.borrow().is_none() {
                    tracing::warn!(
                        error = chain(&error),
                        "services may not be watched: pods get no variables that tell of them"
                    );
                    self.publish.send_replace(Some(Arc::default()));
                }
            }
            Err(error) => tracing::debug!(error = chain(&error), "the watch of services broke off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A server that lists one config map in a version, and whose watches say nothing.
    #[derive(Clone, Default)]
    struct Server {
        version: Arc<Mutex<u64>>,
        watches: Arc<Mutex<Vec<String>>>,
        refuse: bool,
    }

    impl Server {
        fn answer(&self, request: &Request<Body>) -> (u16, Value) {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
            if self.refuse {
                return (
                    403,
                    json!({"kind": "Status", "status": "Failure", "code": 403,
                    "message": "no", "reason": "Forbidden"}),
                );
            }
            let version = *self.version.lock().unwrap();
            let metadata = json!({"resourceVersion": version.to_string()});
            if path.ends_with("/services") {
                let spec = json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]});
                let service = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec});
                return (
                    200,
                    json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": [service]}),
                );
            }
            self.watches.lock().unwrap().push(format!("{path}?{query}"));
            let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"name": "cm", "namespace": "ns", "resourceVersion": version.to_string()}});
            (
                200,
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": [object]}),
            )
        }

        fn connect(&self) -> Connect {
            let server = self.clone();
            Box::new(move || {
                let server = server.clone();
                let service = tower::service_fn(move |request: Request<Body>| {
                    let watch = request
                        .uri()
                        .query()
                        .is_some_and(|it| it.contains("watch=true"));
                    let (code, body) = server.answer(&request);
                    async move {
                        if watch {
                            std::future::pending::<()>().await;
                        }
                        let body = Body::from(serde_json::to_vec(&body).unwrap());
                        let response = Response::builder().status(code).body(body);
                        Ok::<_, std::convert::Infallible>(response.unwrap())
                    }
                });
                Ok(Client::new(service, "default"))
            })
        }

        fn lists(&self) -> usize {
            let all = self.watches.lock().unwrap();
            all.iter().filter(|it| !it.contains("watch=true")).count()
        }
    }

    fn key(name: &str) -> Key {
        let reference = Reference {
            kind: Kind::ConfigMap,
            name: name.to_owned(),
        };
        ("ns".into(), reference)
    }

    async fn told(tell: &Notify) -> bool {
        tokio::time::timeout(Duration::from_secs(5), tell.notified())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_version_is_told_and_a_seen_one_is_not() {
        let server = Server::default();
        *server.version.lock().unwrap() = 7;
        let (follow, task) = super::follow(server.connect());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        let (old, new) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = follow.interest(vec![(key("cm"), Some("6".into()))], old.clone());
        assert!(told(&old).await, "version 7 is there");
        let second = follow.interest(vec![(key("cm"), Some("7".into()))], new.clone());
        assert!(!told(&new).await, "version 7 was seen");
        assert_eq!(server.lists(), 1, "one watch for both");
        let listed = server.watches.lock().unwrap()[0].clone();
        assert!(
            listed.contains("fieldSelector=metadata.name%3Dcm"),
            "{listed}"
        );
        drop((first, second));
        let third = follow.interest(vec![(key("cm"), Some("7".into()))], new.clone());
        assert!(!told(&new).await);
        assert_eq!(
            server.lists(),
            2,
            "the watch was dropped with its last interest"
        );
        drop((third, follow));
        assert!(
            tasks.join_next().await.unwrap().is_ok(),
            "the task ends with its handle"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn services_are_there_once_they_were_listed() {
        let server = Server::default();
        let (follow, task) = super::follow(server.connect());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        let mut hosts = Vec::new();
        follow.services().await.links("ns", |name, value| {
            if name.ends_with("HOST") {
                hosts.push(value);
            }
        });
        assert_eq!(hosts, ["10.0.0.1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_watch_is_told_to_look_and_waits_for_no_services() {
        let server = Server {
            refuse: true,
            ..Server::default()
        };
        let (follow, task) = super::follow(server.connect());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        assert_eq!(*follow.services().await, Services::default());
        let tell = Arc::new(Notify::new());
        let _interest = follow.interest(vec![(key("cm"), None)], tell.clone());
        tokio::time::timeout(Duration::from_secs(600), async {
            tell.notified().await;
            tell.notified().await;
        })
        .await
        .expect("told again and again");
    }
}
