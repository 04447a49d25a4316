//! Who may send which request: keys, and the web pages that may change models.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::keys::{ApiKeys, KeyList, Role};
use super::origin::{Origin, OriginCheck};
use super::paths;
use super::requests::{client, request_id};
use crate::registry::Actor;

/// Shortest time between two warnings about refused requests; otherwise any client could fill the
/// disk with log lines.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The role that a request needs; `None` if it is open to everybody.
///
/// All that is not listed needs [`Role::All`], so that no new route is open by accident.
fn required_role(method: &Method, path: &str) -> Option<Role> {
    match *method {
        // Which methods a path takes is no secret, and browsers ask before they send a key.
        Method::OPTIONS => None,
        // Supervisors have no key, and learn nothing of the models.
        Method::GET | Method::HEAD if matches!(path, paths::HEALTH | paths::READY) => None,
        // They are the same in every server of this release.
        Method::GET | Method::HEAD if matches!(path, paths::OPENAPI | paths::DOCS) => None,
        Method::GET | Method::HEAD => Some(Role::Read),
        Method::POST if is_prediction(path) => Some(Role::Read),
        _ => Some(Role::All),
    }
}

fn is_prediction(path: &str) -> bool {
    path == paths::PREDICT
        || (path.starts_with("/models/") && path.ends_with("/predict"))
        || paths::flask_path(path) == Some(paths::PREDICT)
}

/// The name of the key that a request carries.
#[derive(Debug, Clone)]
struct KeyName(Arc<str>);

/// Refuses requests without the key they need.
#[derive(Debug)]
pub(super) struct KeyCheck {
    keys: Arc<ApiKeys>,
    refusals: Refusals,
}

/// Why [`KeyCheck`] refuses a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    NoValidKey,
    RoleRead,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoValidKey => ApiError::unauthorized().into_response(),
            Self::RoleRead => ApiError::forbidden().into_response(),
        }
    }
}

impl KeyCheck {
    pub(super) fn new(keys: Arc<ApiKeys>) -> Self {
        Self {
            keys,
            refusals: Refusals::default(),
        }
    }

    /// The keys as of now.
    pub(super) fn list(&self) -> KeyList {
        self.keys.list()
    }

    /// Checks the key of a request. Adds its name to a request that needs the role `all`. `list` are
    /// the keys of an earlier check, or of [`list`](Self::list).
    pub(super) fn check(&self, list: &mut KeyList, request: &mut Request) -> Result<(), Refusal> {
        let Some(required) = required_role(request.method(), request.uri().path()) else {
            return Ok(());
        };
        self.keys.refresh(list);
        let found = list.find(request.headers(), |name, role| {
            if role < required {
                return Err(Arc::clone(name));
            }
            // Only changes are logged with their key.
            Ok((required == Role::All).then(|| KeyName(Arc::clone(name))))
        });
        match found {
            Some(Ok(None)) => Ok(()),
            Some(Ok(Some(name))) => {
                request.extensions_mut().insert(name);
                Ok(())
            }
            Some(Err(name)) => {
                let reason = "its key has the role read";
                self.refusals.warn(request, &name, reason);
                Err(Refusal::RoleRead)
            }
            None => {
                self.refusals
                    .warn(request, "unknown", "it has no valid key");
                Err(Refusal::NoValidKey)
            }
        }
    }
}

/// The state of [`guard_change`].
#[derive(Debug)]
pub(super) struct ChangeGuard {
    origins: OriginCheck,
    refusals: Refusals,
}

impl ChangeGuard {
    pub(super) fn new(allowed_origins: Vec<Origin>) -> Self {
        Self {
            origins: OriginCheck::new(allowed_origins),
            refusals: Refusals::default(),
        }
    }
}

/// Middleware of the routes that change models: refuses the requests of foreign web pages, and adds
/// the [`Actor`] to the others. The handlers of changes need one, so they cannot do without.
pub(super) async fn guard_change(
    State(guard): State<Arc<ChangeGuard>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !guard.origins.allows(request.headers(), request.uri()) {
        let actor = actor(&request);
        guard
            .refusals
            .warn(&request, actor.name(), "a foreign web page sent it");
        return ApiError::forbidden_origin().into_response();
    }
    let actor = actor(&request);
    request.extensions_mut().insert(actor);
    next.run(request).await
}

fn actor(request: &Request) -> Actor {
    let extensions = request.extensions();
    Actor {
        key: extensions.get().map(|KeyName(name)| Arc::clone(name)),
        address: client(extensions),
        request_id: request_id(request),
    }
}

/// Warns of refused requests.
#[derive(Debug, Default)]
struct Refusals {
    last_warned: Mutex<Option<Instant>>,
}

impl Refusals {
    fn warn(&self, request: &Request, who: &str, reason: &str) {
        let mut last_warned = self
            .last_warned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last_warned.is_some_and(|last_warned| last_warned.elapsed() < WARN_INTERVAL) {
            return;
        }
        *last_warned = Some(Instant::now());
        drop(last_warned);
        let client = client(request.extensions()).map(tracing::field::display);
        let request_id = request_id(request).map(tracing::field::display);
        tracing::warn!(
            who,
            client,
            request_id,
            method = %request.method(),
            path = request.uri().path(),
            reason,
            "a request was refused; further ones are not logged for {WARN_INTERVAL:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A path that changes models must never pass for a prediction.
    #[test]
    fn each_request_needs_a_role() {
        let all = Some(Role::All);
        let read = Some(Role::Read);
        for (method, path, role) in [
            ("OPTIONS", "/predict", None),
            ("OPTIONS", "/models/motor/retrain", None),
            ("GET", "/openapi.json", None),
            ("HEAD", "/docs", None),
            ("POST", "/docs", all),
            ("GET", "/docs/", read),
            ("POST", "/predict", read),
            ("POST", "//predict", read),
            ("POST", "/%70redict", read),
            ("POST", "/models/motor/predict", read),
            ("GET", "/models", read),
            ("HEAD", "/models/motor", read),
            ("GET", "/models/motor/versions", read),
            ("GET", "/health", None),
            ("HEAD", "/ready", None),
            ("GET", "/health/", read),
            ("GET", "/version", read),
            ("GET", "/metrics", read),
            ("POST", "/health", all),
            ("GET", "/elsewhere", read),
            ("POST", "/retrain", all),
            ("POST", "//retrain", all),
            ("POST", "/%72etrain", all),
            ("POST", "/models/motor/retrain", all),
            ("POST", "/models/motor/rollback", all),
            ("POST", "/models/predict/retrain", all),
            ("DELETE", "/models/motor", all),
            ("DELETE", "/models/predict", all),
            ("POST", "/elsewhere", all),
            ("POST", "/retrain?/predict", all),
            ("PUT", "/predict", all),
            ("CONNECT", "/predict", all),
        ] {
            let uri: axum::http::Uri = path.parse().expect("a path");
            let method = method.parse().expect("a method");
            assert_eq!(required_role(&method, uri.path()), role, "{method} {path}");
        }
    }
}
