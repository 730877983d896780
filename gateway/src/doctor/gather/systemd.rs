//! What systemd knows: our units, and whether the clock is synchronised.

use std::collections::BTreeMap;
use std::process::Command;

use crate::doctor::facts::UnitFact;

/// Of these at most one runs on a machine; the first that does is judged.
const UNITS: [&str; 3] = ["isthmus.service", "isthmus-gateway.service", "isthmus-federation.service"];
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,NRestarts,NeedDaemonReload,AmbientCapabilities,LimitNOFILESoft,MemoryCurrent,MemoryMax,TriggeredBy";

/// What a unit allows its process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UnitLimits {
    pub(super) descriptors: Option<u64>,
    pub(super) memory: Option<(u64, u64)>,
}

pub(super) fn unit() -> Option<(UnitFact, UnitLimits)> {
    let output = Command::new("systemctl").arg("show").arg("--property").arg(PROPERTIES).args(UNITS).output();
    judged(&String::from_utf8_lossy(&output.ok()?.stdout))
}

pub(super) fn synchronised() -> Option<bool> {
    let output =
        Command::new("timedatectl").args(["show", "--property", "NTPSynchronized", "--value"]).output();
    match String::from_utf8_lossy(&output.ok()?.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// The unit that runs, or has failed, or at least exists.
fn judged(text: &str) -> Option<(UnitFact, UnitLimits)> {
    let units = text
        .split("\n\n")
        .map(|block| block.lines().filter_map(|line| line.split_once('=')).collect::<BTreeMap<_, _>>());
    let loaded: Vec<_> = units.filter(|unit| unit.get("LoadState") == Some(&"loaded")).collect();
    let state = |unit: &&BTreeMap<&str, &str>, states: &[&str]| {
        unit.get("ActiveState").is_some_and(|state| states.contains(state))
    };
    let running =
        loaded.iter().find(|unit| state(unit, &["active", "activating", "reloading", "deactivating"]));
    let unit = running.or_else(|| loaded.iter().find(|unit| state(unit, &["failed"]))).or(loaded.first())?;
    let text = |key: &str| unit.get(key).copied().unwrap_or_default();
    let number = |key: &str| text(key).parse::<u64>().ok();
    let fact = UnitFact {
        name: text("Id").to_owned(),
        active: text("ActiveState").to_owned(),
        sub: text("SubState").to_owned(),
        result: text("Result").to_owned(),
        restarts: number("NRestarts").unwrap_or_default(),
        reload_needed: text("NeedDaemonReload") == "yes",
        may_bind_low_ports: text("AmbientCapabilities").contains("cap_net_bind_service")
            || text("TriggeredBy").contains(".socket"),
    };
    let limits = UnitLimits {
        descriptors: number("LimitNOFILESoft"),
        memory: number("MemoryCurrent").zip(number("MemoryMax")),
    };
    Some((fact, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_that_runs_is_judged() {
        let block = |id: &str, load: &str, active: &str| {
            format!(
                "NRestarts=3\nMemoryCurrent=[not set]\nMemoryMax=infinity\nLimitNOFILESoft=262144\nAmbientCapabilities=cap_net_bind_service\nId={id}\nLoadState={load}\nActiveState={active}\nNeedDaemonReload=no\n"
            )
        };
        let text = [
            block("isthmus.service", "loaded", "inactive"),
            block("isthmus-gateway.service", "loaded", "active"),
            block("isthmus-federation.service", "not-found", "inactive"),
        ]
        .join("\n");
        let (unit, limits) = judged(&text).unwrap();
        assert_eq!(
            (unit.name.as_str(), unit.restarts, unit.may_bind_low_ports),
            ("isthmus-gateway.service", 3, true)
        );
        assert_eq!(limits, UnitLimits { descriptors: Some(262_144), memory: None });
        assert_eq!(judged(&block("isthmus.service", "not-found", "inactive")), None);
        assert_eq!(judged(""), None);
    }
}
