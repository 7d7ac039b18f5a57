//! Tests that run on the embedded and on the real control plane.

/// `both![name, …]` makes the tests `name::embedded` and `name::real` of each `fn name(cluster: &Cluster)`.
/// `both! { fn name(cluster: &Cluster) { … } }` holds the functions itself.
macro_rules! both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn embedded() {
                crate::both::run(testkit::Plane::Embedded, super::$name);
            }

            #[test]
            fn real() {
                crate::both::run(testkit::Plane::Real, super::$name);
            }
        }
    )*};
    ($($(#[$attribute:meta])* fn $name:ident($cluster:ident: &Cluster) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            fn run($cluster: &testkit::Cluster) $body

            #[test]
            fn embedded() {
                crate::both::run(testkit::Plane::Embedded, run);
            }

            #[test]
            fn real() {
                crate::both::run(testkit::Plane::Real, run);
            }
        }
    )*};
}
pub(crate) use both;

/// Runs a test on a control plane, where that can be had.
pub(crate) fn run(plane: testkit::Plane, test: fn(&testkit::Cluster)) {
    if let Some(cluster) = testkit::Cluster::on(plane, crate::VK_CMD) {
        test(&cluster);
    }
}
