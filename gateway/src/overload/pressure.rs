//! When to shed and when to stop shedding, by how much of a resource is used. Pure.

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Memory,
    Descriptors,
    /// Requests and tunnels under way.
    Requests,
}

/// How far a resource has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    #[default]
    Calm,
    /// New requests and tunnels are told 503.
    Shedding,
    /// New connections of clients are closed too: even a TLS handshake costs memory.
    Refusing,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Descriptors, Self::Requests];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
            Self::Requests => "requests",
        }
    }

    /// The word of an answer that was shed, and of a connection that was refused.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "overload_memory",
            Self::Descriptors => "overload_descriptors",
            Self::Requests => "overload_requests",
        }
    }
}

impl Level {
    /// The next level of a resource of which a share is used, where shedding begins at `shed`.
    ///
    /// It is left again only some way below where it began, so that what shedding frees does not
    /// end the shedding at once.
    #[must_use]
    pub fn after(self, used: f64, shed: f64) -> Self {
        let refuse = f64::midpoint(shed, 1.0);
        let (to_shed, to_refuse) = match self {
            Self::Calm => (shed, refuse),
            Self::Shedding => (shed - GAP, refuse),
            Self::Refusing => (shed - GAP, refuse - GAP),
        };
        match used {
            used if used >= to_refuse => Self::Refusing,
            used if used >= to_shed => Self::Shedding,
            _ => Self::Calm,
        }
    }
}

/// Of the whole: as much has to be free again before shedding ends.
const GAP: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_below_where_it_was_entered() {
        use Level::{Calm, Refusing, Shedding};
        let mut level = Calm;
        for (used, expected) in [
            (0.0, Calm),
            (0.899, Calm),
            (0.90, Shedding),
            (0.86, Shedding),
            (0.849, Calm),
            (0.86, Calm),
            (0.95, Refusing),
            (0.91, Refusing),
            (0.899, Shedding),
            (0.94, Shedding),
            (0.96, Refusing),
            (0.10, Calm),
            (7.0, Refusing),
            (f64::NAN, Calm),
        ] {
            level = level.after(used, 0.9);
            assert_eq!(level, expected, "at {used}");
        }
    }

    #[test]
    fn what_hovers_around_the_threshold_changes_once() {
        let (mut level, mut changes) = (Level::Calm, 0);
        for step in 0..1_000 {
            let used = 0.9 + if step % 2 == 0 { 0.01 } else { -0.04 };
            let next = level.after(used, 0.9);
            changes += usize::from(next != level);
            level = next;
        }
        assert_eq!((level, changes), (Level::Shedding, 1));
    }

    #[test]
    fn a_threshold_at_the_whole_sheds_only_when_all_is_used() {
        assert_eq!(Level::Calm.after(0.999, 1.0), Level::Calm);
        assert_eq!(Level::Calm.after(1.0, 1.0), Level::Refusing);
    }
}
