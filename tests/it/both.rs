//! Tests that run on the embedded and on the real control plane.

/// `both![name, …]` makes the tests `name::embedded` and `name::real` of each `fn name(cluster: &Cluster)`.
/// `both! { fn name(cluster: &Cluster) { … } }` holds the functions itself.
/// `both![with controllers: name, …]` gives each Kubernetes' own controllers on either plane.
macro_rules! both {
    (@pair $cluster:path, $test:path) => {
        #[test]
        fn embedded() {
            crate::both::run($cluster(testkit::Plane::Embedded, crate::VK_CMD), $test);
        }

        #[test]
        fn real() {
            crate::both::run($cluster(testkit::Plane::Real, crate::VK_CMD), $test);
        }
    };
    (with controllers: $($name:ident),* $(,)?) => {$(
        mod $name {
            crate::both::both!(@pair testkit::Cluster::with_controllers, super::$name);
        }
    )*};
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            crate::both::both!(@pair testkit::Cluster::on, super::$name);
        }
    )*};
    ($($(#[$attribute:meta])* fn $name:ident($cluster:ident: &Cluster) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            fn run($cluster: &testkit::Cluster) $body

            crate::both::both!(@pair testkit::Cluster::on, run);
        }
    )*};
}
pub(crate) use both;

/// Runs a test on a control plane, where that can be had.
pub(crate) fn run(cluster: Option<testkit::Cluster>, test: fn(&testkit::Cluster)) {
    if let Some(cluster) = cluster {
        test(&cluster);
    }
}
