//! Whole data planes in one process: real sockets on port 0, a test CA, hostile clients.
//!
//! They are also our contract with pingora, of which we use parts that are hidden from its documentation:
//! whoever updates it learns here what has changed. Each line is a scenario that was proven to work before
//! this gateway was written, and the test that shows it of this gateway.
//!
//!   listeners and identity
//!     identity on HTTP/1.1, again after keep-alive, HTTP/2   identity::each_request_of_a_connection_...
//!     no certificate, unknown authority, broken chain        identity::who_shows_no_.., what_does_not_lead_..
//!     a bundle removed; resumption; open connections live    identity::nobody_resumes_...
//!     a renewed SVID at the next handshake, open ones live   identity::a_renewed_svid_..., replacement
//!     server names passed through with every byte            east_west::federation_and_join_...
//!     listeners that come and go, options of our own         virtual_ports, streaming::megabytes_pass_...
//!   requests
//!     identity, Host and headers to an endpoint of a peer    two_clusters::a_request_crosses_...
//!     trailers and te; trailers that claim something         streaming::trailers_of_...
//!     50 echoes of 100 kB at once, pooled connections        streaming::fifty_echoes_...
//!     HTTP/1.1 to HTTP/2, hop-by-hop fields                  streaming::http1_reaches_http2_...
//!     full duplex, a client's reset reaches the endpoint     streaming::both_directions_...
//!     another target after a failed connect, POST resent     retries::a_post_is_sent_whole_...
//!     upgrades, hundreds, none torn down (issue 946)         upgrades, gateway: link::tests::proxied
//!     stalled downloads and uploads, 1 and 90                two_clusters::clients_that_stop_...,
//!                                                            gateway: link::tests::stalls
//!   links
//!     who is at the other end, both sides                    gateway: link::tests::requests
//!     another identity or authority becomes no link          gateway: link::tests::trust
//!     an idle link with probes stays, a silent one goes      gateway: link::tests::requests
//!     replaced with GOAWAY under load, none failed           replacement, gateway: link::tests::goodbyes
//!     its last link gone: in flight finished, new ones 503   two_clusters::a_drained_gateway_...
//!   tunnels
//!     3 MB both ways at once, half-close                     tunnels::bytes_go_both_ways_...
//!     what is not exported, also while a stream is open      tunnels::what_is_not_exported_..., a_withdrawn_..
//!     HTTP/1.1 keep-alive and HTTP/2 by preface inside       tunnels::a_stream_to_an_http_.., http2_by_preface_..
//!     a drain ends idle HTTP inside, and then the link       tunnels::a_drained_link_...
//!   ports
//!     500 on one proxy, opened and closed at run time        virtual_ports::five_hundred_...
//!     one of many drained, and its address opened again      virtual_ports::a_port_that_goes_...
//!     drain of everything                                    drain
//!   federation
//!     the caller's role decides, server streams              federation: peering::tests::{hostile, stream}
//!     federation is down: closed at once, requests go on     east_west::without_federation_...
//!   roles in processes of their own
//!     a gateway with nobody to lead it, and from its disk    roles::a_gateway_serves_while_nobody_leads_it_...
//!     one leads; the next after a resignation or a death     roles_leaders
//!   forward proxy
//!     absolute form, its Host, CONNECT in pieces, refusals   forward_proxy
//!     absolute form and CONNECT over a link                  two_clusters::users_of_a_forward_proxy_...
//!     absolute form to an HTTP/2 endpoint                    streaming::http1_reaches_http2_...
//!
//! Without a test, since this gateway does not do it: pingora's own TLS on either side, its `Server`, its
//! accept loop and its virtual sockets (we bring streams of our own); HTTP/2 CONNECT from clients and
//! HBONE (an adapter, later); links dialled in reverse (their ALPNs come with the clusters that cannot be
//! dialled); other answers than failed connects tried again (a policy, later); certificates chosen by
//! server name (ingress TLS, later).

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod drain;
mod east_west;
mod forward_proxy;
mod identity;
mod manners;
mod operator;
mod overload;
mod replacement;
mod retries;
mod roles;
mod roles_leaders;
mod start;
mod streaming;
mod tunnels;
mod two_clusters;
mod upgrades;
mod virtual_ports;
