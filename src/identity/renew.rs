//! Keeping certificates valid, and saying when one ends that is not ours to renew.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use super::pair::{Pair, Validity};
use super::request::{self, Wanted};
use super::{Bootstrapped, CLIENT, IdentityError, SERVING, client, config_of, subject, tls_of};

/// The wall clock may jump, and machines sleep: it is looked at this often at least.
const LOOK: Duration = Duration::from_secs(600);
/// How long before its end a given certificate is spoken of.
const WARNING: SignedDuration = SignedDuration::from_hours(1);
/// How soon a renewal that failed is tried again, at the soonest and at the latest.
const AGAIN: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(5), SignedDuration::from_hours(1));

/// When a certificate is renewed: after seven to nine tenths of its life, as a kubelet does it, so that the
/// nodes of a cluster do not come at once. `spread` is from 0 to 1.
fn due(validity: Validity, spread: f64) -> Timestamp {
    let life = validity.until.duration_since(validity.from);
    validity.from + life.mul_f64(0.7 + 0.2 * spread)
}

/// When a renewal that failed is tried again.
fn again(validity: Validity, now: Timestamp) -> SignedDuration {
    let left = validity.until.duration_since(now) / 8;
    left.clamp(AGAIN.0, AGAIN.1)
}

/// From 0 to 1.
fn spread() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_u128() as u16) / f64::from(u16::MAX)
}

/// Waits until the wall clock shows a time.
async fn until(time: Timestamp) {
    loop {
        let left = time.duration_since(Timestamp::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK)).await,
            _ => return,
        }
    }
}

/// What was issued now is good from now on: signers date it back, by more than its whole life where that is
/// short.
fn issued(mut validity: Validity, now: Timestamp) -> Validity {
    validity.from = validity.from.max(now);
    validity
}

/// Says shortly before and at the end of a certificate that it ends.
pub(super) async fn tell_the_end(origin: &str, validity: Validity) {
    until(validity.until - WARNING).await;
    if Timestamp::now() < validity.until {
        tracing::warn!(
            "the client certificate of {origin} expires at {}: renew it there and start this agent anew, its \
             containers go on meanwhile; with --bootstrap-kubeconfig the agent renews its own",
            validity.until
        );
    }
    until(validity.until).await;
    tracing::error!(
        "the client certificate of {origin} expired at {}: the API server does not know this agent any more, and \
         its containers go on. Renew it there and start the agent anew",
        validity.until
    );
}

impl Bootstrapped {
    pub(super) async fn keep(self, client: Client) {
        tokio::join!(self.keep_client(&client), self.keep_serving(&client));
    }

    /// Renews the node's certificate as long as the agent runs.
    async fn keep_client(&self, client: &Client) {
        let mut validity = self.validity;
        let mut next = due(validity, spread());
        loop {
            until(next).await;
            match self.renew(client, validity).await {
                Ok(renewed) => {
                    tracing::info!(until = %renewed.until, "this node has a new certificate");
                    validity = renewed;
                    next = due(validity, spread());
                }
                Err(error) => {
                    let now = Timestamp::now();
                    let pause = again(validity, now);
                    next = now + pause;
                    let error = in_full(&error);
                    let state = if validity.until <= now {
                        "expired"
                    } else {
                        "expires"
                    };
                    tracing::warn!(
                        "the certificate of this node, which {state} at {}, was not renewed: {error}; tried again in {}",
                        validity.until,
                        crate::duration::show(pause.unsigned_abs())
                    );
                }
            }
        }
    }

    async fn renew(&self, own: &Client, old: Validity) -> Result<Validity, IdentityError> {
        let wanted = Wanted::client(&self.node);
        let mut pair = if Timestamp::now() < old.until {
            request::obtain(own, &wanted).await?
        } else {
            // Nobody knows us by the old one any more.
            let first = self.bootstrap.clone();
            let config = Config::from_custom_kubeconfig(first, &KubeConfigOptions::default()).await;
            let config = config.map_err(|error| self.wrong(error.to_string()))?;
            request::obtain(&client(&config)?, &wanted).await?
        };
        let now = Timestamp::now();
        let validity = self.check(&pair, now)?;
        pair.cluster = self.config.cluster_url.to_string();
        pair.store(&self.dir.join(CLIENT))?;
        let config = config_of(&self.bootstrap, &pair).await;
        let config = config.map_err(|why| self.wrong(why))?;
        self.tls.send_replace(Arc::new(tls_of(&config)?));
        Ok(issued(validity, now))
    }

    fn wrong(&self, problem: String) -> IdentityError {
        IdentityError::Bootstrap {
            path: self.dir.clone(),
            problem,
        }
    }

    fn check(&self, pair: &Pair, now: Timestamp) -> Result<Validity, IdentityError> {
        pair.usable(&subject(&self.node), now).map_err(|why| {
            IdentityError::Request(request::RequestError::Unusable {
                name: format!("for {}", self.node),
                why,
            })
        })
    }

    /// Gets a certificate for the kubelet API where an approver gives one, and renews it.
    async fn keep_serving(&self, client: &Client) {
        let Some(serve) = &self.serve else {
            return pending().await;
        };
        let path = self.dir.join(SERVING);
        let wanted = Wanted::serving(&self.node, &self.names);
        let mut next = Timestamp::now();
        if let Ok(Some(pair)) = Pair::load(&path)
            && pair.cluster == self.config.cluster_url.to_string()
            && let Ok(validity) = self.check(&pair, next)
        {
            serve(&pair);
            next = due(validity, spread());
        }
        loop {
            until(next).await;
            let asked = request::obtain(client, &wanted).await;
            let now = Timestamp::now();
            let done = asked.map_err(IdentityError::from).and_then(|mut pair| {
                let validity = self.check(&pair, now)?;
                pair.cluster = self.config.cluster_url.to_string();
                pair.store(&path)?;
                Ok((pair, validity))
            });
            match done {
                Ok((pair, validity)) => {
                    tracing::info!(until = %validity.until, "the kubelet API has a certificate of the cluster");
                    serve(&pair);
                    next = due(issued(validity, now), spread());
                }
                Err(error) => {
                    tracing::warn!(
                        "the kubelet API goes on with the certificate that it has: {}",
                        in_full(&error)
                    );
                    next = now + AGAIN.1;
                }
            }
        }
    }
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    crate::pod::api::chain(error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    proptest! {
        #[test]
        fn a_renewal_lies_in_the_last_third_and_before_the_end(from in 0_i64..1 << 33, life in 10_i64..1 << 30, spread in 0.0..=1.0) {
            let validity = Validity { from: at(from), until: at(from + life) };
            let due = due(validity, spread);
            prop_assert!(due > at(from + life * 2 / 3));
            prop_assert!(due < validity.until);
        }

        #[test]
        fn another_try_comes_before_the_end_where_there_is_time(left in 40_i64..1 << 30) {
            let validity = Validity { from: at(0), until: at(left) };
            let pause = again(validity, at(0));
            prop_assert!(pause >= AGAIN.0 && pause <= AGAIN.1);
            prop_assert!(pause < SignedDuration::from_secs(left));
        }
    }

    #[test]
    fn a_certificate_that_is_dated_back_is_new_all_the_same() {
        let (back, now, end) = (at(0), at(300), at(330));
        let validity = issued(
            Validity {
                from: back,
                until: end,
            },
            now,
        );
        assert!(due(validity, 0.0) >= now + SignedDuration::from_secs(20));
    }
}
