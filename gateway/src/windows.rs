//! HTTP/2 flow control of everything that many requests share: links, their tunnels, h2c endpoints.
//!
//! A stream whose reader stopped keeps its window full, and what it holds counts against the window of
//! the connection too. So `streams × stream window < connection window` (U1): then no number of stalled
//! streams can stall the rest. The defaults of pingora and of h2 break it. Downloads are bounded by the
//! HTTP/2 client of a connection and uploads by its server, so both ends take their settings from here.

use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};

/// Flow control of one connection, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    streams: u32,
    stream: u32,
    connection: u32,
}

/// Settings with which stalled streams could stall the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{streams} streams of {stream} bytes fill a connection window of {connection} bytes; \
     hint: streams x stream window must stay below the connection window"
)]
pub struct Stallable {
    pub streams: u32,
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    /// One stream of 512 KiB carries 84 Mbit/s over a round trip of 50 ms.
    pub const LINK: Self = Self { streams: 100, stream: 512 << 10, connection: 64 << 20 };

    /// For clients of listeners and for h2c endpoints, which are near.
    pub const CLIENTS: Self = Self { streams: 100, stream: 256 << 10, connection: 32 << 20 };

    pub const fn new(streams: u32, stream: u32, connection: u32) -> Result<Self, Stallable> {
        let windows = Self { streams, stream, connection };
        if windows.never_stall() { Ok(windows) } else { Err(Stallable { streams, stream, connection }) }
    }

    /// U1, and what RFC 9113 (section 6.9.1) allows.
    const fn never_stall(self) -> bool {
        let held = self.streams as u64 * self.stream as u64;
        self.streams > 0
            && self.stream > 0
            && held < self.connection as u64
            && self.connection <= WINDOW_BYTES_MAX
    }

    /// Streams that one connection carries at once.
    pub const fn streams(self) -> u32 {
        self.streams
    }

    pub const fn stream(self) -> u32 {
        self.stream
    }

    pub const fn connection(self) -> u32 {
        self.connection
    }

    /// For the accepting end of a link that carries HTTP.
    pub fn link_server(self) -> H2Options {
        let mut options = self.server();
        options.max_pending_accept_reset_streams(ABANDONED_MAX);
        options
    }

    /// For whatever else serves many streams.
    pub fn server(self) -> H2Options {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(self.streams)
            .initial_window_size(self.stream)
            .initial_connection_window_size(self.connection);
        options
    }

    /// For the dialling end of a link that carries HTTP.
    pub fn client(self) -> h2::client::Builder {
        let mut builder = self.any_client();
        builder.max_frame_size(FRAME_BYTES).max_header_list_size(HEAD_BYTES_MAX);
        builder
    }

    /// For the dialling end of a link that carries tunnels.
    pub fn tunnel_client(self) -> h2::client::Builder {
        let mut builder = self.any_client();
        builder.max_header_list_size(CONNECT_HEAD_BYTES_MAX);
        builder
    }

    fn any_client(self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(self.streams as usize)
            .initial_window_size(self.stream)
            .initial_connection_window_size(self.connection);
        builder
    }

    /// For the accepting end of a link that carries tunnels.
    pub fn tunnel_server(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_pending_accept_reset_streams(ABANDONED_MAX)
            .max_concurrent_streams(self.streams)
            .max_header_list_size(CONNECT_HEAD_BYTES_MAX)
            .initial_window_size(self.stream)
            .initial_connection_window_size(self.connection);
        builder
    }
}

/// Streams of a link that its other end gave up before we came to look at them. More end the link, and h2
/// alone allows 20: a gateway that goes on after a pause would end the link of a peer that did nothing wrong.
const ABANDONED_MAX: usize = 1024;
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// Fewer frames for large answers, and still short enough that others get their turn.
const FRAME_BYTES: u32 = 32 << 10;
/// As much as pingora's server takes of a request; h2 alone would take 16 MiB of each answer.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// A CONNECT request and its answer have a handful of short headers.
const CONNECT_HEAD_BYTES_MAX: u32 = 16 << 10;

const _: () = assert!(Windows::LINK.never_stall() && Windows::CLIENTS.never_stall());

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[test]
    fn u1_holds_where_every_stream_may_stall() {
        for (streams, stream, connection, holds) in [
            (100, 512 << 10, 64 << 20, true),
            (100, 640 << 10, 64 << 20, true),
            (128, 512 << 10, 64 << 20, false), // equal: the last byte is held too
            (100, 65_535, 65_535, false),      // h2's defaults
            (100, 8 << 20, 8 << 20, false),    // pingora's defaults as a client
            (4, 4 << 20, 16 << 20, false),     // ztunnel's defaults
            (0, 1, 10, false),
            (10, 0, 10, false),
            (u32::MAX, u32::MAX, WINDOW_BYTES_MAX, false), // no overflow
            (1, 1 << 20, u32::MAX, false),                 // above what HTTP/2 allows
        ] {
            assert_eq!(Windows::new(streams, stream, connection).is_ok(), holds, "{streams} x {stream}");
        }
    }

    #[test]
    fn both_ends_of_a_link_take_the_same_settings() {
        let (connection, stream) = (Windows::LINK.connection(), Windows::LINK.stream());
        for built in [
            format!("{:?}", Windows::LINK.link_server()),
            format!("{:?}", Windows::LINK.client()),
            format!("{:?}", Windows::LINK.tunnel_client()),
            format!("{:?}", Windows::LINK.tunnel_server()),
        ] {
            for setting in [
                format!("initial_target_connection_window_size: Some({connection})"),
                format!("initial_window_size: {stream},"),
                "max_header_list_size: ".to_owned(),
            ] {
                assert!(built.contains(&setting), "{setting} is not in {built}");
            }
        }
    }

    #[tokio::test]
    async fn streams_given_up_during_a_pause_do_not_end_a_link() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (client, connection) = Windows::LINK.client().handshake::<_, Bytes>(near).await.unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = || http::Request::get("http://web.shop/").body(()).unwrap();
        // The other end has not looked yet.
        for _ in 0..Windows::LINK.streams() - 1 {
            client = client.ready().await.unwrap();
            let (_answer, mut stream) = client.send_request(request(), false).unwrap();
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        let mut client = client.ready().await.unwrap();
        let (answer, _stream) = client.send_request(request(), true).unwrap();
        let mut server = Windows::LINK.link_server().handshake::<_, Bytes>(far).await.unwrap();
        tasks.spawn(async move {
            while let Some(Ok((_request, mut answering))) = server.accept().await {
                drop(answering.send_response(http::Response::new(()), true));
            }
        });
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}
