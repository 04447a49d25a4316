//! The audit log: one line for each change of a model.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::Arc;

use super::changes::ChangeKind;
use crate::store::ModelName;

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// The name of the API key; `None` on a server without keys.
    pub key: Option<Arc<str>>,
    /// The address of the client; `None` without a connection.
    pub address: Option<SocketAddr>,
    /// The `X-Request-Id` of the request, if it had one.
    pub request_id: Option<Arc<str>>,
}

impl Actor {
    /// The name of the API key, or `open`.
    pub fn name(&self) -> &str {
        self.key.as_deref().unwrap_or("open")
    }

    /// The operator, whose `--train` retrains the default model at the start.
    pub(super) fn operator() -> Self {
        Self {
            key: Some("--train".into()),
            ..Self::default()
        }
    }
}

/// What an audit line says of a change, whatever its outcome.
#[derive(Debug)]
pub(super) struct Audit {
    actor: Actor,
    pub(super) kind: ChangeKind,
    model: ModelName,
}

impl Audit {
    pub(super) fn new(actor: Actor, kind: ChangeKind, model: &ModelName) -> Self {
        Self {
            actor,
            kind,
            model: model.clone(),
        }
    }

    pub(super) fn done(&self, before: Option<u64>, after: Option<u64>) {
        tracing::info!(
            change = %self.kind,
            model = %self.model,
            who = %self.actor.name(),
            client = %OrNone(self.actor.address),
            request_id = self.actor.request_id.as_ref().map(tracing::field::display),
            before = %OrNone(before),
            after = %OrNone(after),
            outcome = %"done",
            "audit"
        );
    }

    pub(super) fn refused(&self, before: Option<u64>, reason: &dyn Display) {
        tracing::warn!(
            change = %self.kind,
            model = %self.model,
            who = %self.actor.name(),
            client = %OrNone(self.actor.address),
            request_id = self.actor.request_id.as_ref().map(tracing::field::display),
            before = %OrNone(before),
            after = %OrNone(before),
            outcome = %"refused",
            // Quoted, so that text from a client does not look like another field.
            reason = reason.to_string(),
            "audit"
        );
    }
}

/// A value, or `none`, so that every line has all fields.
struct OrNone<T>(Option<T>);

impl<T: Display> Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}
