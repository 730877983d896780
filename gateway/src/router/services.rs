//! All services of a snapshot, found by the parts of a host name without allocating.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use federation::snapshot::{ServiceView, Snapshot};

#[derive(Debug)]
pub(super) struct Services {
    /// In the order of the snapshot: by namespace, then name.
    sorted: Box<[Arc<ServiceView>]>,
    by_address: HashMap<IpAddr, Arc<ServiceView>>,
}

impl Services {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let sorted: Box<[_]> = snapshot.services.values().cloned().collect();
        let addresses = |view: &Arc<ServiceView>| {
            view.merged.iter().flat_map(|merged| merged.addresses.clone()).collect::<Vec<_>>()
        };
        let by_address = sorted
            .iter()
            .flat_map(|view| {
                addresses(view).into_iter().map(|address| (address.to_canonical(), view.clone()))
            })
            .collect();
        Self { sorted, by_address }
    }

    pub(super) fn find(&self, name: &str, namespace: &str) -> Option<&Arc<ServiceView>> {
        let found = self.sorted.binary_search_by(|view| {
            let known = (view.name.namespace.as_str(), view.name.name.as_str());
            known.cmp(&(namespace, name))
        });
        found.ok().map(|at| &self.sorted[at])
    }

    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<ServiceView>> {
        self.by_address.get(&address.to_canonical())
    }
}
