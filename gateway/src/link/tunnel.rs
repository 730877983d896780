//! Opening a byte stream through a peer's gateway: CONNECT on a link for tunnels.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use federation::model::ServiceName;
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::lender::{Lender, NoStream};
use super::line::Loan;
use crate::connection::Facts;
use crate::fault::Fault;
use crate::headers;
use crate::tunnel::Tunnel;
use crate::write_through::write_through;

/// A byte stream to a service behind a peer's gateway. End it with `shutdown()`; dropped, it is reset.
#[derive(Debug)]
pub struct BorrowedTunnel {
    // Before the loan: only a stream that is gone is free again.
    stream: Tunnel,
    loan: Loan,
}

/// Why a tunnel did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFault {
    #[error(transparent)]
    NoStream(#[from] NoStream),
    /// The peer's gateway refused, and said why.
    #[error("the peer's gateway answered {0}")]
    Refused(Fault),
    /// The peer's gateway refused without a reason that we know.
    #[error("the peer's gateway answered {0}")]
    Status(StatusCode),
    #[error("the peer's gateway did not answer in time")]
    TimedOut,
    #[error("the link broke: {0}")]
    Broken(Arc<str>),
}

impl OpenFault {
    /// Is it certain that no byte has reached the service, so that another cluster may be tried (U17).
    pub fn may_try_elsewhere(&self) -> bool {
        match self {
            Self::NoStream(_) | Self::TimedOut | Self::Broken(_) => true,
            Self::Refused(fault) => fault.is_before_processing() || *fault == Fault::Reset,
            Self::Status(status) => status.is_server_error(),
        }
    }

    /// The same in the words that gateways tell each other.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoStream(NoStream::NoLink) => Fault::NoEndpoint,
            Self::NoStream(NoStream::Busy) => Fault::Overloaded,
            Self::Refused(fault) => *fault,
            Self::Status(_) | Self::TimedOut | Self::Broken(_) => Fault::Connect,
        }
    }

    /// Reads a refusal: `isthmus-fault` if the peer's gateway set it, else the bare status.
    pub fn of(status: StatusCode, answer: &HeaderMap) -> Self {
        let said = answer.get(&headers::FAULT).and_then(|value| value.to_str().ok());
        match said.map(str::parse) {
            Some(Ok(fault)) => Self::Refused(fault),
            _ => Self::Status(status),
        }
    }
}

/// Opens a stream to a port of a service; tries another link if one says goodbye meanwhile.
pub(super) async fn open(
    lender: &Lender,
    to: &ServiceName,
    port: u16,
    headers: HeaderMap,
) -> Result<BorrowedTunnel, OpenFault> {
    let mut outcome = Err(OpenFault::NoStream(NoStream::NoLink));
    for _ in 0..TRIES {
        let (requests, loan) = lender.tunnel_stream().await?;
        let request = request(to, port, &headers)?;
        match timeout(OPEN_TIME_MAX, connect(requests, request)).await {
            Ok(Ok(stream)) => return Ok(BorrowedTunnel { stream, loan }),
            Ok(Err(Attempt { fault, unprocessed: true })) => outcome = Err(fault),
            Ok(Err(Attempt { fault, unprocessed: false })) => return Err(fault),
            Err(_elapsed) => return Err(OpenFault::TimedOut),
        }
    }
    outcome
}

struct Attempt {
    fault: OpenFault,
    /// The peer promises that it did nothing (RFC 9113, section 8.7).
    unprocessed: bool,
}

impl From<h2::Error> for Attempt {
    fn from(error: h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let goodbye = error.is_go_away() && error.is_remote();
        Self { fault: OpenFault::Broken(error.to_string().into()), unprocessed: refused || goodbye }
    }
}

async fn connect(
    mut requests: h2::client::SendRequest<bytes::Bytes>,
    request: Request<()>,
) -> Result<Tunnel, Attempt> {
    let (answer, send) = requests.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() == StatusCode::OK {
        return Ok(Tunnel::new(send, answer.into_body()));
    }
    let fault = OpenFault::of(answer.status(), answer.headers());
    Err(Attempt { fault, unprocessed: false })
}

fn request(to: &ServiceName, port: u16, headers: &HeaderMap) -> Result<Request<()>, OpenFault> {
    let target = format!("{to}:{port}");
    let mut request =
        Request::connect(target).body(()).map_err(|error| OpenFault::Broken(error.to_string().into()))?;
    request.headers_mut().clone_from(headers);
    Ok(request)
}

impl BorrowedTunnel {
    /// The link that it is on.
    pub fn facts(&self) -> &Facts {
        self.loan.facts()
    }
}

impl AsyncRead for BorrowedTunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BorrowedTunnel {
    write_through!(stream);
}

/// The service may need a connection of its own (U18).
const OPEN_TIME_MAX: Duration = Duration::from_secs(5);
/// A goodbye concerns one link; two in a row are bad luck, three a peer that goes.
const TRIES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whose_fault_it_is_and_what_may_be_retried() {
        for (status, said, fault, elsewhere) in [
            (404, Some("not-found"), Fault::NotFound, false),
            (503, Some("no-endpoint"), Fault::NoEndpoint, true),
            (503, Some("overloaded"), Fault::Overloaded, true),
            (503, Some("draining"), Fault::Draining, true),
            (502, Some("connect"), Fault::Connect, true),
            (403, Some("policy"), Fault::Policy, false),
            (404, None, Fault::Connect, false),
            (500, Some("something new"), Fault::Connect, true),
        ] {
            let headers = said.map(|said| (headers::FAULT, said.parse().unwrap()));
            let refusal =
                OpenFault::of(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect());
            assert_eq!(
                (refusal.fault(), refusal.may_try_elsewhere()),
                (fault, elsewhere),
                "{status} {said:?}"
            );
        }
    }
}
