//! How this process stands to the control plane: who leads, how the store is, since when what is stale.

use std::sync::atomic::Ordering;

use federation::app::{FederationStatus, StoreCondition};

use super::api::{ControlStatus, GatewayStatus, LeaderStatus, Problem, StoreStatus};
use super::server::{Above, Context, Inspected};

/// A data plane serves without anybody; federation alone is of no use while nobody is known to lead.
pub(super) fn is_ready(context: &Context) -> bool {
    let of_use = context.inspected.data_plane.is_some() || leader(&context.inspected).is_some();
    context.ready.load(Ordering::Relaxed) && of_use
}

/// Whether what is served is the control plane's newest word.
pub(super) fn control(context: &Context) -> ControlStatus {
    let served_since = context.inspected.served_since.borrow().map(|at| at.to_string());
    match &context.inspected.above {
        Above::Here(_) => match context.operator.vacancy() {
            None => ControlStatus { reachable: true, served_since, ..ControlStatus::default() },
            Some(vacancy) => ControlStatus {
                reachable: false,
                since: Some(vacancy.since.to_string()),
                reason: Some(vacancy.why.to_string()),
                served_since,
            },
        },
        Above::There(status) => match &*status.borrow() {
            federation::control::ControlStatus::Connected { since, .. } => ControlStatus {
                reachable: true,
                since: Some(since.to_string()),
                served_since,
                ..ControlStatus::default()
            },
            federation::control::ControlStatus::Apart { since, reason } => ControlStatus {
                reachable: false,
                since: Some(since.to_string()),
                reason: Some(reason.clone()),
                served_since,
            },
        },
    }
}

pub(super) fn leader(inspected: &Inspected) -> Option<LeaderStatus> {
    match &inspected.above {
        Above::Here(FederationStatus { leadership, .. }) => {
            let leadership = leadership.borrow();
            let leader = leadership.leader()?;
            Some(LeaderStatus {
                name: leader.name.to_string(),
                here: leadership.is_leading(),
                since: Some(leader.since.to_string()),
                addresses: leader.addresses.iter().map(ToString::to_string).collect(),
            })
        }
        Above::There(status) => match &*status.borrow() {
            federation::control::ControlStatus::Connected { to, since } => Some(LeaderStatus {
                name: to.to_string(),
                here: false,
                since: Some(since.to_string()),
                addresses: vec![to.to_string()],
            }),
            federation::control::ControlStatus::Apart { .. } => None,
        },
    }
}

/// The gateways that this process leads, or is.
pub(super) fn gateways(context: &Context) -> Vec<GatewayStatus> {
    let newest = context.operator.snapshot().generation;
    let status = |gateway: federation::control::GatewayStatus| GatewayStatus {
        replica: gateway.replica.to_string(),
        addresses: gateway.addresses.iter().map(ToString::to_string).collect(),
        connected_since: gateway.connected_since.map(|at| at.to_string()),
        generation: gateway.serving.0,
        behind: newest.0.saturating_sub(gateway.serving.0),
    };
    context.operator.gateways().into_iter().map(status).collect()
}

pub(super) fn store(inspected: &Inspected) -> Option<StoreStatus> {
    match &inspected.above {
        Above::Here(FederationStatus { store, .. }) => {
            let store = store.borrow();
            let (condition, reason) = match &store.condition {
                StoreCondition::Opening(reason) => ("opening", reason.clone()),
                StoreCondition::Good => ("good", None),
                StoreCondition::Failing(reason) => ("failing", Some(reason.clone())),
                StoreCondition::Suspicious(reason) => ("suspicious", Some(reason.clone())),
            };
            let (kind, since) = (store.kind.to_owned(), store.since.to_string());
            Some(StoreStatus { kind, condition: condition.to_owned(), since, reason })
        }
        Above::There(_) => None,
    }
}

/// What is stale, and since when.
pub(super) fn problems(context: &Context) -> Vec<Problem> {
    let mut problems = Vec::new();
    let follows = leader(&context.inspected).is_some_and(|leader| !leader.here);
    let control = control(context);
    // A follower is as it should be; only a data plane that it has, too, is stale.
    if !control.reachable && context.inspected.data_plane.is_some() {
        problems.push(stale(context.operator.snapshot().generation.0, &control));
    } else if !control.reachable && !follows {
        let known =
            "this process does not lead, and knows of none that does: gateways go on with what they have";
        problems.push(told("the control plane", known));
    }
    if let Some(StoreStatus { kind, condition, since, reason: Some(reason) }) = store(&context.inspected) {
        problems.push(told(&format!("the {kind} store"), &format!("is {condition} since {since}: {reason}")));
    }
    problems
}

fn stale(generation: u64, control: &ControlStatus) -> Problem {
    let of = control.served_since.as_ref().map(|at| format!(" of {at}")).unwrap_or_default();
    let serving = if generation == 0 {
        "nothing to serve yet".to_owned()
    } else {
        format!("serving generation {generation}{of}")
    };
    let since = control.since.as_deref().unwrap_or("the start");
    let reason = control.reason.as_deref().unwrap_or("no reason is known");
    told("the control plane", &format!("{serving}, control plane unreachable since {since}: {reason}"))
}

/// Our own messages bring their hint along.
fn told(subject: &str, text: &str) -> Problem {
    let (message, hint) = match text.split_once("; hint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    };
    Problem { subject: subject.to_owned(), message, hint }
}
