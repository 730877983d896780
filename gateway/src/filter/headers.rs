//! Which headers nobody may say: what a receiver could take for a statement of identity (T9).
//!
//! They are removed from every request and set anew from what we know. Only a link's own are read first;
//! see `crate::headers`.

/// Who sent a request, as far as its headers are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client or workload of this cluster, or anybody at an ingress listener.
    Client,
    /// A peer's gateway, with the requests of clients that we know nothing of.
    Link,
}

/// Must a header of this name go. Underscores count as hyphens: CGI-like backends cannot tell them apart.
pub fn is_reserved(name: &str, sender: Sender) -> bool {
    begins(name, "isthmus-")
        || begins(name, "x-forwarded-")
        || same(name, "forwarded")
        || same(name, "l5d-client-id")
        || (sender == Sender::Link && same(name, "baggage"))
}

fn begins(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| alike(start, prefix.as_bytes()))
}

fn same(name: &str, other: &str) -> bool {
    alike(name.as_bytes(), other.as_bytes())
}

fn alike(name: &[u8], other: &[u8]) -> bool {
    let plain = |b: &u8| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == other.len() && name.iter().zip(other).all(|(a, b)| plain(a) == *b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t9_statements_of_identity_are_nobodys_to_make() {
        // Name; must it go from a client, from a link.
        for (name, client, link) in [
            ("isthmus-to", true, true),
            ("isthmus-caller", true, true),
            ("Isthmus-Caller", true, true),
            ("ISTHMUS_CALLER", true, true),
            ("isthmus-", true, true),
            ("isthmus-not-known-yet", true, true),
            ("x-forwarded-client-cert", true, true),
            ("X-Forwarded-Client-Cert", true, true),
            ("x_forwarded_client_cert", true, true),
            ("x-forwarded_for", true, true),
            ("X-Forwarded-Host", true, true),
            ("Forwarded", true, true),
            ("l5d-client-id", true, true),
            ("L5D_Client_ID", true, true),
            ("baggage", false, true),
            ("Baggage", false, true),
            ("isthmus", false, false),
            ("xisthmus-caller", false, false),
            ("x-forwarded", false, false),
            ("forwarded-by", false, false),
            ("l5d-client-ids", false, false),
            ("authorization", false, false),
            ("traceparent", false, false),
            ("host", false, false),
            ("", false, false),
            ("ä", false, false),
        ] {
            assert_eq!(is_reserved(name, Sender::Client), client, "{name}");
            assert_eq!(is_reserved(name, Sender::Link), link, "{name}");
        }
    }
}
