//! Why a gateway answers in place of the application; travels as `isthmus-fault` on an answer.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;

/// Absent from an answer means that the application gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No such service, or not for this caller: the two are not told apart (T8).
    NotFound,
    NoEndpoint,
    Overloaded,
    Draining,
    /// No endpoint could be connected to.
    Connect,
    /// The endpoint or the link went away, or stayed silent, after the request had begun.
    Reset,
    /// A policy or a configuration refuses it.
    Policy,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::NotFound,
        Self::NoEndpoint,
        Self::Overloaded,
        Self::Draining,
        Self::Connect,
        Self::Reset,
        Self::Policy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::NoEndpoint => "no-endpoint",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Policy => "policy",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoEndpoint | Self::Overloaded | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect | Self::Reset => StatusCode::BAD_GATEWAY,
            Self::Policy => StatusCode::FORBIDDEN,
        }
    }

    /// Is it certain that no application has seen the request, so that any request may be retried.
    pub fn is_before_processing(self) -> bool {
        matches!(self, Self::NoEndpoint | Self::Overloaded | Self::Draining | Self::Connect)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is none of the contract between clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fault that one gateway tells another")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == text).ok_or(UnknownFault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_back_as_written() {
        for fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
            assert!(fault.status().is_client_error() || fault.status().is_server_error());
        }
        assert!("teapot".parse::<Fault>().is_err());
    }
}
