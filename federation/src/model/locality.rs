//! Where something runs, and how far two places are from each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Region, zone and sub-zone; an empty part is unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

/// How near a place is; the order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proximity {
    SameSubZone,
    SameZone,
    SameRegion,
    Elsewhere,
}

impl Locality {
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }

    /// An unknown part is near nobody: it never wins over a known equal one.
    pub fn proximity(&self, other: &Self) -> Proximity {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        if !same(&self.region, &other.region) {
            return Proximity::Elsewhere;
        }
        if !same(&self.zone, &other.zone) {
            return Proximity::SameRegion;
        }
        if same(&self.sub_zone, &other.sub_zone) { Proximity::SameSubZone } else { Proximity::SameZone }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unknown() {
            return f.write_str("-");
        }
        f.write_str(&self.region)?;
        for part in [&self.zone, &self.sub_zone].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), sub_zone: next() }
    }

    #[test]
    fn nearness_needs_every_wider_part_equal() {
        for (a, b, expected) in [
            ("eu/a/1", "eu/a/1", Proximity::SameSubZone),
            ("eu/a/1", "eu/a/2", Proximity::SameZone),
            ("eu/a", "eu/a", Proximity::SameZone),
            ("eu/a", "eu/b", Proximity::SameRegion),
            ("eu", "eu", Proximity::SameRegion),
            ("eu/a", "us/a", Proximity::Elsewhere),
            ("", "", Proximity::Elsewhere),
        ] {
            assert_eq!(at(a).proximity(&at(b)), expected, "{a} {b}");
        }
    }
}
