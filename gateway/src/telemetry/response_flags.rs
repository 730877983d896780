//! What went wrong on the way of a request, in the letters that Envoy writes and operators know.

use std::fmt;

/// One thing that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    NoHealthyUpstream,
    UpstreamConnectionFailure,
    UpstreamConnectionTermination,
    UpstreamRemoteReset,
    UpstreamRequestTimeout,
    UpstreamRetryLimitExceeded,
    UpstreamOverflow,
    UpstreamProtocolError,
    NoRouteFound,
    DownstreamConnectionTermination,
    DownstreamProtocolError,
    LocalReset,
    RateLimited,
    Unauthorized,
    Overload,
    DurationTimeout,
}

/// A set of flags; empty if nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ResponseFlags(u16);

impl Flag {
    pub const ALL: [Self; 16] = [
        Self::NoHealthyUpstream,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamRemoteReset,
        Self::UpstreamRequestTimeout,
        Self::UpstreamRetryLimitExceeded,
        Self::UpstreamOverflow,
        Self::UpstreamProtocolError,
        Self::NoRouteFound,
        Self::DownstreamConnectionTermination,
        Self::DownstreamProtocolError,
        Self::LocalReset,
        Self::RateLimited,
        Self::Unauthorized,
        Self::Overload,
        Self::DurationTimeout,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamProtocolError => "UPE",
            Self::NoRouteFound => "NR",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::LocalReset => "LR",
            Self::RateLimited => "RL",
            Self::Unauthorized => "UAEX",
            Self::Overload => "OM",
            Self::DurationTimeout => "DT",
        }
    }
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn with(self, flag: Flag) -> Self {
        Self(self.0 | 1 << flag as u16)
    }

    pub fn insert(&mut self, flag: Flag) {
        *self = self.with(flag);
    }

    pub fn contains(self, flag: Flag) -> bool {
        self.with(flag) == self
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Flag> for ResponseFlags {
    fn from_iter<I: IntoIterator<Item = Flag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::default(), Self::with)
    }
}

impl From<Flag> for ResponseFlags {
    fn from(flag: Flag) -> Self {
        Self::default().with(flag)
    }
}

impl fmt::Display for ResponseFlags {
    /// Writes `UF,URX`, and `-` for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let flags = Flag::ALL.into_iter().filter(|flag| self.contains(*flag));
        flags.enumerate().try_for_each(|(at, flag)| {
            f.write_str(if at == 0 { "" } else { "," })?;
            f.write_str(flag.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_writes_them() {
        use Flag::{NoRouteFound, UpstreamConnectionFailure, UpstreamRetryLimitExceeded};
        for (flags, expected) in [
            (&[][..], "-"),
            (&[NoRouteFound], "NR"),
            (&[UpstreamRetryLimitExceeded, UpstreamConnectionFailure], "UF,URX"),
        ] {
            assert_eq!(flags.iter().copied().collect::<ResponseFlags>().to_string(), expected);
        }
        let all: ResponseFlags = Flag::ALL.into_iter().collect();
        assert!(Flag::ALL.into_iter().all(|flag| all.contains(flag)));
        assert_eq!(all.to_string().split(',').count(), Flag::ALL.len());
    }
}
