//! What asks the DNS of a gateway.

use std::sync::{Arc, LazyLock};

use hickory_proto::op::{Message, MessageType};

use super::catalog;
use crate::catalog::{Event, Source};
use crate::dns::{Carrier, respond};
use crate::kubernetes::objects::{ParsedDocument, parse_documents};
use crate::model::{ServiceName, Timestamp};
use crate::snapshot::Snapshot;

const OBJECTS: &str = include_str!("query.yaml");

/// A service with an address, and a headless one that has too many endpoints for a small response.
static SNAPSHOT: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let mut catalog = catalog();
    for document in parse_documents(OBJECTS) {
        let document = document.expect("our own objects");
        let source = Source::Applied;
        let ParsedDocument { key, object, .. } = document;
        catalog.apply(Event::ObjectApplied { source, key, created: Timestamp::from_unix(0), object });
    }
    let addresses = ["127.64.0.7", "2001:db8::7"].map(|text| text.parse().expect("an address"));
    let service = ServiceName::try_from("cart.shop").expect("a name");
    catalog.apply(Event::AddressesAllocated { service, addresses: addresses.to_vec() });
    catalog.snapshot().expect("the first snapshot is news")
});

pub(super) fn dns(bytes: &[u8]) {
    let over = |carrier| respond(&SNAPSHOT, bytes, carrier);
    let (udp, tcp) = (over(Carrier::Udp), over(Carrier::Tcp));
    assert_eq!(udp.is_some(), tcp.is_some());
    let (Some(udp), Some(tcp)) = (udp, tcp) else { return };
    assert!(bytes.len() >= 12 && bytes[2] & 0x80 == 0, "an answer is not answered");
    assert!(udp.len() <= 1232 && (udp.len() <= 512 || bytes.len() > 12 + 11), "{} bytes by UDP", udp.len());
    for response in [udp, tcp] {
        let read = Message::from_vec(&response).expect("what we answer can be read");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(response[..2], bytes[..2], "it answers this query");
        if let Ok(query) = Message::from_vec(bytes)
            && !read.metadata.truncation
        {
            assert_eq!(read.queries, query.queries);
        }
    }
}
