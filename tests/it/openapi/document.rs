//! `docs/openapi.json`, and whether a response is as it says.

use axum::http::header;
use jsonschema::Draft;
use serde_json::Value;

use crate::support::http::Response;

/// The OpenAPI document.
pub(crate) struct Document(pub(super) Value);

impl Document {
    pub(crate) fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let text = std::fs::read_to_string(path).expect("the document");
        Self(serde_json::from_str(&text).expect("it is JSON"))
    }

    /// All operations: method in capitals, path, and what the document says of it.
    pub(super) fn operations(&self) -> Vec<(String, &str, &Value)> {
        let mut operations = Vec::new();
        for (path, item) in fields(&self.0["paths"]) {
            for (method, operation) in fields(item) {
                if method != "parameters" {
                    operations.push((method.to_uppercase(), path, operation));
                }
            }
        }
        operations
    }

    /// The operation that answers a request, if any.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or_default();
        let matches = |template: &str| {
            let (mut parts, mut templates) = (path.split('/'), template.split('/'));
            parts.clone().count() == templates.clone().count()
                && parts.all(|part| {
                    let template = templates.next();
                    template == Some(part) || template == Some("{name}") && !part.is_empty()
                })
        };
        let mut operations = self.operations().into_iter();
        operations
            .find(|(known, template, _)| known == method && matches(template))
            .map(|(_, _, operation)| operation)
    }

    /// Panics unless the document says that this request may be answered so.
    pub(crate) fn check(&self, method: &str, path: &str, response: &Response) {
        let status = response.status.as_u16().to_string();
        let documented = match (self.operation(method, path), &*status) {
            (Some(operation), _) => self.resolve(&operation["responses"][&status]),
            (None, "404") => &self.0["components"]["responses"]["NotFound"],
            (None, _) => &self.0["components"]["responses"]["MethodNotAllowed"],
        };
        let request = format!("{method} {path}");
        assert!(!documented.is_null(), "{request}: {response:?}");
        let content_type = response.headers[header::CONTENT_TYPE].to_str();
        let content_type = content_type.expect("text").split(';').next();
        let media = &documented["content"][content_type.expect("a type")];
        assert!(!media.is_null(), "{request}: {response:?}");
        let body = match content_type {
            Some("application/json") => response.json(),
            _ => Value::String(response.body.clone()),
        };
        self.validate(&request, &media["schema"], &body);
        for (name, known) in fields(&documented["headers"]) {
            if known["required"] == true {
                assert!(response.headers.contains_key(name), "{request}: {name}");
            }
        }
    }

    /// Panics unless a schema of the document allows this value.
    pub(super) fn validate(&self, what: &str, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.0["components"].clone();
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&schema)
            .expect("a sound schema");
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {value}:\n{}", errors.join("\n"));
    }

    /// The target of a reference.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let target = reference.strip_prefix('#');
                let target = target.and_then(|pointer| self.0.pointer(pointer));
                target.unwrap_or_else(|| panic!("there is no {reference}"))
            }
            None => value,
        }
    }
}

/// The fields of an object; none of anything else.
pub(super) fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.as_str(), value))
}
