//! The names of services as host names (design.md, section 4), read without allocating.

/// The zone of merged services (MCS API).
const CLUSTERSET: &str = "svc.clusterset.local";
/// The zone of this cluster's own services.
const CLUSTER: &str = "svc.cluster.local";
/// The zone of names that pin one cluster.
const PINNED: &str = "isthmus.internal";

/// A host name in one of the three zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MeshName<'a> {
    pub(super) service: &'a str,
    pub(super) namespace: &'a str,
    pub(super) zone: Zone<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone<'a> {
    Clusterset,
    Cluster,
    Pinned(&'a str),
}

impl<'a> MeshName<'a> {
    /// Reads a host in lower case; none if it is in no zone or has another number of labels.
    pub(super) fn parse(host: &'a str) -> Option<Self> {
        let within = |zone: &str| host.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.'));
        if let Some(rest) = within(CLUSTERSET) {
            return Self::new(rest, Zone::Clusterset);
        }
        if let Some(rest) = within(CLUSTER) {
            return Self::new(rest, Zone::Cluster);
        }
        let (rest, cluster) = within(PINNED)?.rsplit_once('.')?;
        Self::new(rest, Zone::Pinned(cluster))
    }

    fn new(text: &'a str, zone: Zone<'a>) -> Option<Self> {
        let (service, namespace) = text.split_once('.')?;
        let single = !namespace.contains('.') && !namespace.is_empty() && !service.is_empty();
        single.then_some(Self { service, namespace, zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_zone_has_its_number_of_labels() {
        let name = |zone| Some(MeshName { service: "cart", namespace: "shop", zone });
        for (host, expected) in [
            ("cart.shop.svc.clusterset.local", name(Zone::Clusterset)),
            ("cart.shop.svc.cluster.local", name(Zone::Cluster)),
            ("cart.shop.cloud.isthmus.internal", name(Zone::Pinned("cloud"))),
            ("shop.svc.clusterset.local", None),
            ("a.cart.shop.svc.clusterset.local", None),
            ("cart.shop.clusterset.local", None),
            ("cart.shop.isthmus.internal", None),
            ("a.cart.shop.cloud.isthmus.internal", None),
            (".shop.svc.cluster.local", None),
            ("cart..svc.cluster.local", None),
            ("svc.clusterset.local", None),
            ("isthmus.internal", None),
            ("cart.shop.xsvc.cluster.local", None),
            ("example.com", None),
        ] {
            assert_eq!(MeshName::parse(host), expected, "{host}");
        }
    }
}
