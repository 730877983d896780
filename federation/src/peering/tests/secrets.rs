//! The secret of a token is nowhere but in the token (J4).

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use trust_bundle::Hex;

use super::fixture::{TestCluster, name};

/// Everything that is logged, at every level.
#[derive(Debug, Clone, Default)]
struct Everything(Arc<Mutex<String>>);

impl Visit for Everything {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _always_fits = writeln!(self.0.lock(), "{field}={value:?}");
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[tokio::test]
async fn j4_the_secret_is_in_no_log_and_in_no_store() {
    let everything = Everything::default();
    // With one subscriber in all, tracing asks that of the thread which comes first to a place in the
    // code, perhaps another test's that has none, and stays silent there for ever. With two it asks both.
    let _second = tracing::Dispatch::new(everything.clone());
    let logging = tracing::subscriber::set_default(everything.clone());
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let token = onprem.peering.invite(&name("cloud"), Duration::from_secs(900), "test").await.unwrap();
    let text = token.text();
    cloud.peering.join(&text).await.unwrap();
    drop(cloud.peering.join(&text[..text.len() - 9]).await.unwrap_err());
    onprem.has_a_stream_to(&cloud).await;
    drop(logging);

    let document = URL_SAFE_NO_PAD.decode(&text["isthmus1.".len()..]).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let secret = URL_SAFE_NO_PAD.decode(document["key"].as_str().unwrap()).unwrap();
    assert_eq!(secret.len(), 32);
    let forms = [
        text[9..49].to_owned(),
        URL_SAFE_NO_PAD.encode(&secret)[..40].to_owned(),
        STANDARD.encode(&secret)[..40].to_owned(),
        Hex(&secret).to_string(),
        format!("{:?}", &secret[..8]).trim_matches(['[', ']']).to_owned(),
    ];
    let logged = everything.0.lock().clone();
    assert!(logged.contains("join token created") && logged.contains(&token.id().to_string()), "{logged}");
    for form in &forms {
        assert!(!logged.contains(form), "the log has {form}");
    }
    for cluster in [&onprem, &cloud] {
        let stored = cluster.everything_stored().await;
        let holds = |part: &[u8]| stored.windows(part.len()).any(|window| window == part);
        assert!(!holds(&secret) && forms.iter().all(|form| !holds(form.as_bytes())));
    }
}
