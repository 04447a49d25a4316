//! The page `/docs`, written from the OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The address in the curl lines, where the script does not put that of the page.
const ADDRESS: &str = "http://localhost:5000";

/// How a reference to a schema begins.
const SCHEMAS: &str = "#/components/schemas/";

/// A page and its `Content-Security-Policy`.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// Writes the page.
pub(super) fn render(document: &Value) -> Page {
    let mut writer = Writer {
        document,
        html: String::with_capacity(64 * 1024),
        statuses: BTreeMap::new(),
    };
    // Writing to a string never fails.
    let _ = writer.page();
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    Page {
        html: writer.html,
        policy,
    }
}

/// The source expression that allows this text inside the page.
fn hash(text: &str) -> String {
    let hash = Sha256::digest(text);
    format!("sha256-{}", BASE64.encode(hash))
}

struct Writer<'a> {
    document: &'a Value,
    html: String,
    /// The statuses of each error code, from the operations.
    statuses: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Writer<'a> {
    fn page(&mut self) -> fmt::Result {
        let document = self.document;
        let info = &document["info"];
        let (title, version) = (
            escaped(text(&info["title"])),
            escaped(text(&info["version"])),
        );
        write!(
            self.html,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title} {version}: HTTP API</title>\n<link rel=\"icon\" href=\"data:,\">\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<header>\n\
             <h1>{title} <small>{version}</small></h1>\n<p>{}.</p>\n<nav aria-label=\"Sections\">\n",
            prose(&info["summary"])
        )?;
        for tag in items(&document["tags"]) {
            let name = attribute(text(&tag["name"]));
            writeln!(self.html, "<a href=\"#tag-{name}\">{name}</a>")?;
        }
        self.html.push_str(
            "<a href=\"#shapes\">Shapes</a>\n<a href=\"#errors\">Errors</a>\n\
             <a href=\"openapi.json\">openapi.json</a>\n</nav>\n</header>\n<main>\n",
        );
        for paragraph in text(&info["description"]).split("\n\n") {
            writeln!(self.html, "<p>{}</p>", marked(paragraph))?;
        }
        for tag in items(&document["tags"]) {
            self.tag(tag)?;
        }
        self.html
            .push_str("<section id=\"shapes\">\n<h2>Shapes</h2>\n");
        for (name, schema) in fields(&document["components"]["schemas"]) {
            self.shape(name, schema)?;
        }
        self.html
            .push_str("</section>\n<section id=\"errors\">\n<h2>Errors</h2>\n");
        for code in items(&document["components"]["schemas"]["ErrorCode"]["oneOf"]) {
            self.error(code)?;
        }
        write!(
            self.html,
            "</section>\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }

    /// A group of operations.
    fn tag(&mut self, tag: &'a Value) -> fmt::Result {
        let name = &tag["name"];
        let title = attribute(text(name));
        writeln!(
            self.html,
            "<section id=\"tag-{title}\">\n<h2>{title}</h2>\n<p>{}</p>",
            prose(&tag["description"])
        )?;
        for (path, methods) in fields(&self.document["paths"]) {
            for (method, operation) in fields(methods) {
                if operation["tags"][0] == *name {
                    self.operation(method, path, operation)?;
                }
            }
        }
        self.html.push_str("</section>\n");
        Ok(())
    }

    fn operation(&mut self, method: &str, path: &str, operation: &'a Value) -> fmt::Result {
        let method = method.to_uppercase();
        writeln!(
            self.html,
            "<details id=\"{}\">\n<summary><h3>{method} <code>{}</code></h3> {}</summary>",
            attribute(text(&operation["operationId"])),
            escaped(path),
            prose(&operation["summary"])
        )?;
        if !operation["description"].is_null() {
            writeln!(self.html, "<p>{}</p>", prose(&operation["description"]))?;
        }
        let body = media_type(&operation["requestBody"]).map_or(&Value::Null, |(_, media)| media);
        if !body.is_null() {
            writeln!(self.html, "<p>Body: {}.</p>", kind(&body["schema"]))?;
        }
        let responses = &operation["responses"];
        let answer = media_type(&responses["200"]);
        if let Some((content_type, media)) = answer {
            let kind = match content_type {
                "application/json" => kind(&media["schema"]),
                other => format!("<code>{}</code>", escaped(other)),
            };
            let description = prose(&responses["200"]["description"]);
            writeln!(self.html, "<p>Answer: {kind}. {description}</p>")?;
        }
        let examples = answer.map(|(_, media)| fields(&media["examples"]));
        for (name, example) in examples.unwrap_or_default() {
            let request = &body["examples"][name];
            let title = request["summary"].as_str().unwrap_or("Example");
            let sent = match &request["value"] {
                Value::Null => None,
                value => Some(value.to_string()),
            };
            let model = text(&operation["parameters"][0]["examples"][name]["value"]);
            let path = path.replace("{name}", model);
            writeln!(self.html, "<h4>{}</h4>", marked(title))?;
            self.curl(&method, &path, sent.as_deref(), &Value::Null)?;
            self.json(&example["value"])?;
        }
        self.html.push_str("<h4>Errors</h4>\n<ul>\n");
        for (status, response) in fields(responses) {
            let response = self.resolve(response);
            let Some((_, media)) = media_type(response) else {
                continue;
            };
            let codes = items(&media["schema"]["properties"]["code"]["enum"]);
            if codes.is_empty() {
                continue;
            }
            write!(self.html, "<li>{}", escaped(status))?;
            for code in codes.iter().map(text) {
                self.statuses.entry(code).or_default().insert(status);
                let code = attribute(code);
                write!(self.html, " <a href=\"#{code}\">{code}</a>")?;
            }
            self.html.push('\n');
        }
        self.html.push_str("</ul>\n</details>\n");
        Ok(())
    }

    fn json(&mut self, value: &Value) -> fmt::Result {
        let value = escaped(&value.to_string());
        writeln!(self.html, "<pre>{value}</pre>")
    }

    /// A command that can be copied.
    fn curl(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &Value,
    ) -> fmt::Result {
        let mut line = "curl".to_owned();
        if method != "GET" {
            write!(line, " -X {method}")?;
        }
        write!(line, " {ADDRESS}{path}")?;
        if body.is_some() && headers["Content-Type"].is_null() {
            line.push_str(" -H 'Content-Type: application/json'");
        }
        for (name, value) in fields(headers) {
            write!(line, " -H '{name}: {}'", text(value))?;
        }
        if let Some(body) = body {
            write!(line, " -d '{}'", body.replace('\'', r"'\''"))?;
        }
        writeln!(
            self.html,
            "<pre class=\"curl\"><code>{}</code></pre>",
            escaped(&line)
        )
    }

    /// A named schema.
    fn shape(&mut self, name: &str, schema: &Value) -> fmt::Result {
        let name = attribute(name);
        writeln!(
            self.html,
            "<h3 id=\"{name}\">{name}</h3>\n<p>{}</p>",
            prose(&schema["description"])
        )?;
        let properties = fields(&schema["properties"]);
        if properties.is_empty() {
            if name != "ErrorCode" {
                writeln!(self.html, "<p class=\"quiet\">{}</p>", kind(schema))?;
            }
            return Ok(());
        }
        self.html.push_str("<dl>\n");
        for (field, property) in properties {
            let is_required = items(&schema["required"]).iter().any(|name| name == field);
            writeln!(
                self.html,
                "<dt><code>{}</code> <span class=\"quiet\">{}{}</span>\n<dd>{}",
                escaped(field),
                kind(property),
                if is_required { ", required" } else { "" },
                prose(&property["description"])
            )?;
        }
        self.html.push_str("</dl>\n");
        Ok(())
    }

    /// An error code, and the requests that provoke it.
    fn error(&mut self, code: &Value) -> fmt::Result {
        let name = text(&code["const"]);
        let statuses = self.statuses.get(name).into_iter().flatten().copied();
        let statuses: Vec<&str> = statuses.collect();
        writeln!(
            self.html,
            "<h3 id=\"{0}\"><code>{0}</code> <small class=\"quiet\">{1}</small></h3>\n<p>{2}</p>",
            attribute(name),
            escaped(&statuses.join(", ")),
            prose(&code["description"])
        )?;
        for (_, example) in fields(&self.document["components"]["examples"]) {
            if example["value"]["code"] != *name {
                continue;
            }
            writeln!(self.html, "<p>{}</p>", prose(&example["summary"]))?;
            let request = &example["x-request"];
            if !request.is_null() {
                let body = request["body"].as_str();
                self.curl(
                    text(&request["method"]),
                    text(&request["path"]),
                    body,
                    &request["headers"],
                )?;
            }
            self.json(&example["value"])?;
        }
        Ok(())
    }

    /// The target of a reference.
    fn resolve(&self, value: &'a Value) -> &'a Value {
        let reference = value["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix('#'));
        reference
            .and_then(|pointer| self.document.pointer(pointer))
            .unwrap_or(value)
    }
}

/// The values that a schema allows, in words.
fn kind(schema: &Value) -> String {
    let alternatives = [&schema["anyOf"], &schema["oneOf"]].map(items).concat();
    if let Some(name) = schema["$ref"].as_str() {
        let name = attribute(name.strip_prefix(SCHEMAS).unwrap_or(name));
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    if !schema["const"].is_null() {
        return literal(&schema["const"]);
    }
    if !schema["enum"].is_null() {
        return joined(items(&schema["enum"]).iter().map(literal));
    }
    match &schema["type"] {
        Value::Array(types) => joined(types.iter().map(|one| one_kind(text(one), schema))),
        Value::String(one) => one_kind(one, schema),
        _ => joined(alternatives.iter().map(kind)),
    }
}

/// The values of one type that a schema allows.
fn one_kind(name: &str, schema: &Value) -> String {
    match name {
        "null" => "<code>null</code>".to_owned(),
        "boolean" => "<code>true</code> or <code>false</code>".to_owned(),
        "integer" => format!("whole number{}", range(schema)),
        "number" => format!("number{}", range(schema)),
        "array" => format!("list of {}", kind(&schema["items"])),
        "string" if !schema["format"].is_null() => "time".to_owned(),
        "string" => "text".to_owned(),
        other => escaped(other),
    }
}

/// The range of a number. That of all doubles needs no words.
fn range(schema: &Value) -> String {
    let bounds = [
        ("minimum", " from "),
        ("exclusiveMinimum", " above "),
        ("maximum", " up to "),
    ];
    let mut range = String::new();
    for (key, words) in bounds {
        if schema[key]
            .as_f64()
            .is_some_and(|bound| bound.abs() < f64::MAX)
        {
            range += words;
            range += &schema[key].to_string();
        }
    }
    range
}

fn literal(value: &Value) -> String {
    format!("<code>{}</code>", escaped(&value.to_string()))
}

fn joined(kinds: impl Iterator<Item = String>) -> String {
    kinds.collect::<Vec<_>>().join(" or ")
}

/// The first media type of a request or a response.
fn media_type(value: &Value) -> Option<(&str, &Value)> {
    fields(&value["content"]).into_iter().next()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> Vec<(&str, &Value)> {
    let fields = value.as_object().into_iter().flat_map(Map::iter);
    fields.map(|(name, value)| (name.as_str(), value)).collect()
}

/// A description as HTML.
fn prose(value: &Value) -> String {
    marked(text(value))
}

/// A text as HTML, with code between backticks.
fn marked(text: &str) -> String {
    let mut html = String::new();
    for (i, part) in text.split('`').enumerate() {
        match i % 2 {
            0 => html += &escaped(part),
            _ => {
                html += "<code>";
                html += &escaped(part);
                html += "</code>";
            }
        }
    }
    html
}

/// A text as the value of an attribute.
fn attribute(text: &str) -> String {
    escaped(text).replace('"', "&quot;")
}

/// A text as HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            c => html.push(c),
        }
    }
    html
}
