//! kube's own watcher, reflector and controller, with a server that forgets its history.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config, ResourceExt};
use testkit::{Cluster, Up};

use crate::VK_CMD;
use crate::both::both;

both![pages_and_a_watch_from_a_revision_miss_nothing];

async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig");
    Client::try_from(config).expect("a client")
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

/// Waits until `look` says so, woken by nothing but time: what it looks at is another library's.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let wait = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within a minute"));
}

/// Restarts the server twice, which answers 410 to every watch that resumes, with writes between.
/// `seen` says whether an object was seen.
async fn through_restarts(streaming: bool) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    let start = |place| {
        let up = Up::of(VK_CMD).args(&["--no-node"]).port(port);
        match place {
            None => up.start(),
            Some(place) => up.at(&place).start(),
        }
    };
    let up = start(None);
    let client = client(&up.kubeconfig).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let config = || {
        let config = watcher::Config::default();
        if streaming {
            config.streaming_lists()
        } else {
            config
        }
    };
    let (store, writer) = reflector::store();
    let watched = reflector(writer, watcher(maps.clone(), config()))
        .default_backoff()
        .applied_objects()
        .for_each(|_| std::future::ready(()));
    let watched = tokio::spawn(watched);
    let reconciled = Arc::new(Mutex::new(BTreeSet::new()));
    let controller = Controller::new(maps.clone(), config())
        .run(
            |map: Arc<ConfigMap>, reconciled: Arc<Mutex<BTreeSet<String>>>| async move {
                reconciled
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(map.name_any());
                Ok::<_, kube::Error>(Action::await_change())
            },
            |_, _, _| Action::await_change(),
            Arc::clone(&reconciled),
        )
        .for_each(|_| std::future::ready(()));
    let controller = tokio::spawn(controller);

    let mut up = Some(up);
    for round in 0..3 {
        for number in 0..5 {
            let name = format!("m{round}-{number}");
            maps.create(&PostParams::default(), &config_map(&name))
                .await
                .expect("a write");
        }
        maps.delete(&format!("m{round}-0"), &kube::api::DeleteParams::default())
            .await
            .expect("a delete");
        let listed: BTreeSet<String> = maps
            .list(&ListParams::default().limit(2))
            .await
            .expect("a list")
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        assert!(!listed.is_empty());
        let all: BTreeSet<String> = maps
            .list(&ListParams::default())
            .await
            .expect("a list")
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        until("the reflector holds what the server holds", || {
            let state: BTreeSet<String> = store.state().iter().map(|map| map.name_any()).collect();
            state == all
        })
        .await;
        until("the controller reconciled every object", || {
            let reconciled = reconciled.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().all(|name| reconciled.contains(name))
        })
        .await;
        if round < 2 {
            let place = up.take().map(Up::kill);
            up = Some(start(place));
        }
    }
    watched.abort();
    controller.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflector_and_controller_follow_through_restarts() {
    through_restarts(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflector_and_controller_follow_with_streaming_lists() {
    through_restarts(true).await;
}

fn pages_and_a_watch_from_a_revision_miss_nothing(cluster: &Cluster) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(pages_and_a_watch(cluster));
}

async fn pages_and_a_watch(cluster: &Cluster) {
    let client = client(cluster.kubeconfig()).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, cluster.namespace());
    for number in 0..25 {
        maps.create(&PostParams::default(), &config_map(&format!("m{number}")))
            .await
            .expect("a write");
    }
    let mut names = BTreeSet::new();
    let mut params = ListParams::default().limit(10);
    let version = loop {
        let page = maps.list(&params).await.expect("a page");
        // Written between pages: the pages are of one revision, and do not show it.
        let _ = maps
            .create(&PostParams::default(), &config_map("between"))
            .await;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break page.metadata.resource_version.expect("a version"),
        }
    };
    assert_eq!(
        names.iter().filter(|name| name.starts_with('m')).count(),
        25
    );
    assert!(!names.contains("between"));
    let mut events = maps
        .watch(&kube::api::WatchParams::default(), &version)
        .await
        .expect("a watch")
        .boxed();
    let first = events
        .try_next()
        .await
        .expect("an event")
        .expect("an event");
    match first {
        kube::api::WatchEvent::Added(map) => assert_eq!(map.name_any(), "between"),
        other => panic!("{other:?}"),
    }
}
