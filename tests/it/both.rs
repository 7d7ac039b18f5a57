//! Tests that run on the embedded and on the real control plane.

/// `both! { fn name(cluster) { … } }` makes the tests `name::embedded` and `name::real`.
macro_rules! both {
    ($($(#[$attribute:meta])* fn $name:ident($cluster:ident: &Cluster) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            fn run($cluster: &testkit::Cluster) $body

            #[test]
            fn embedded() {
                if let Some(cluster) = testkit::Cluster::on(testkit::Plane::Embedded, crate::VK_CMD) {
                    run(&cluster);
                }
            }

            #[test]
            fn real() {
                if let Some(cluster) = testkit::Cluster::on(testkit::Plane::Real, crate::VK_CMD) {
                    run(&cluster);
                }
            }
        }
    )*};
}
pub(crate) use both;
