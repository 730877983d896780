//! How a request gets there: listeners, router, balancer, links, upstream, telemetry.
