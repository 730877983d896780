//! What exists where: model, catalog, store, peering, sources, DNS.
