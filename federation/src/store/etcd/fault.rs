//! What a failed call means: etcd refused it, or no member answered.

use etcd_client::Error;

use super::super::contract::Fault;

/// Texts of a chain of causes, at most.
const CAUSES_MAX: usize = 6;

/// Codes of gRPC by which a member says that it understood the call and does not do it.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const DATA_LOSS: i32 = 15;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// A member answered, and another one would not answer differently.
    Refused { code: i32, message: String },
    /// No member answered; the text names each and why.
    Unreachable(String),
}

/// What one attempt at one member came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    Refused {
        code: i32,
        message: String,
    },
    /// It certainly did not reach the member.
    Unsent(String),
    /// It may have, and may have had its effect.
    Lost(String),
}

impl Attempt {
    pub(super) fn judge(error: &Error) -> Self {
        let Error::GRpcStatus(status) = error else {
            return match error {
                Error::LeaseKeepAliveError(message) if message.contains("not found") => {
                    Self::Refused { code: code::NOT_FOUND, message: message.clone() }
                }
                Error::TransportError(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
                    Self::Unsent(error.to_string())
                }
                other => Self::Lost(other.to_string()),
            };
        };
        let (code, message) = (i32::from(status.code()), status.message().to_owned());
        if is_refusal(code, &message) {
            return Self::Refused { code, message };
        }
        let causes = causes(status);
        let cause = if causes.is_empty() { message } else { causes.join(": ") };
        if is_unsent(&cause) { Self::Unsent(cause) } else { Self::Lost(cause) }
    }
}

fn is_refusal(code: i32, message: &str) -> bool {
    match code {
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::PERMISSION_DENIED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::DATA_LOSS
        | code::UNAUTHENTICATED => true,
        // "too many requests" is one member's and passes.
        code::RESOURCE_EXHAUSTED => !message.contains("too many requests"),
        _ => false,
    }
}

/// The connection was not there, so nothing was sent on it.
fn is_unsent(cause: &str) -> bool {
    [
        "tcp connect error",
        "dns error",
        "Connection refused",
        "invalid peer certificate",
        "deadline has elapsed",
    ]
    .iter()
    .any(|sign| cause.contains(sign))
}

/// The causes of a status without repetition.
fn causes(status: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = status.source();
    while let Some(cause) = next.filter(|_| causes.len() < CAUSES_MAX) {
        let text = cause.to_string();
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

impl Failed {
    pub(super) fn into_fault(self) -> Fault {
        match self {
            Self::Unreachable(why) => Fault::Unavailable(why),
            Self::Refused { code, message } => refusal(code, message),
        }
    }

    pub(super) fn is_unknown_lease(&self) -> bool {
        matches!(self, Self::Refused { code: code::NOT_FOUND, message } if message.contains("lease not found"))
    }

    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { code: code::OUT_OF_RANGE, message } if message.contains("compacted"))
    }

    /// The answer is larger than the bound of this program.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("message length too large"))
    }
}

fn refusal(code: i32, message: String) -> Fault {
    match code {
        code::RESOURCE_EXHAUSTED if message.contains("space exceeded") => Fault::NoSpace(message),
        code::PERMISSION_DENIED | code::UNAUTHENTICATED => Fault::Denied(message),
        code::DATA_LOSS => Fault::Corrupt(message),
        // "user name is empty" or "not found": no certificate, or one of somebody whom etcd does not know.
        _ if message.contains("user name") => Fault::Denied(message),
        _ => Fault::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32, message: &str) -> Fault {
        Failed::Refused { code, message: message.to_owned() }.into_fault()
    }

    #[test]
    fn what_etcd_says_becomes_what_a_caller_can_do() {
        let space = "etcdserver: mvcc: database space exceeded";
        assert!(matches!(refused(8, space), Fault::NoSpace(text) if text == space));
        assert!(matches!(refused(7, "etcdserver: permission denied"), Fault::Denied(_)));
        assert!(matches!(refused(16, "etcdserver: invalid auth token"), Fault::Denied(_)));
        assert!(matches!(refused(3, "etcdserver: user name is empty"), Fault::Denied(_)));
        assert!(matches!(refused(9, "etcdserver: user name not found"), Fault::Denied(_)));
        assert!(matches!(refused(15, "etcdserver: corrupt cluster"), Fault::Corrupt(_)));
        assert!(matches!(refused(9, "etcdserver: something else"), Fault::Unavailable(_)));
    }

    #[test]
    fn only_what_was_never_sent_counts_as_unsent() {
        for cause in [
            "tcp connect error: Connection refused (os error 111)",
            "tcp connect error: deadline has elapsed",
        ] {
            assert!(is_unsent(cause), "{cause}");
        }
        for cause in [
            "connection reset",
            "h2 protocol error: error reading a body from connection",
            "etcdserver: request timed out",
        ] {
            assert!(!is_unsent(cause), "{cause}");
        }
    }

    #[test]
    fn a_busy_member_is_no_refusal() {
        assert!(!is_refusal(code::RESOURCE_EXHAUSTED, "etcdserver: too many requests"));
        assert!(is_refusal(code::RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"));
        assert!(!is_refusal(14, "etcdserver: no leader"));
    }
}
