//! `GET /openapi.json`: every route with what it takes, from the same schemas that requests are checked by.

use broker_core::thread_tools::{self, Method, Route};
use serde_json::{Map, Value, json};

use crate::sessions::{POSTS, RETRY, REVOKE_TOKEN};

/// The description of the whole surface.
pub(crate) fn document(version: &str, tokens: bool) -> Value {
    let mut paths = Map::new();
    for route in thread_tools::routes() {
        paths.insert(route.path().to_owned(), ability(route));
    }
    let key = parameter("key", "path", true, "`<channel>:<thread ts>`", &json!({"type": "string"}));
    let id = parameter("id", "path", true, "The post's id.", &json!({"type": "string"}));
    let empty = json!({"type": "object", "additionalProperties": false});
    let act = |about: &str| json!({"post": operation(about, std::slice::from_ref(&key), Some(&empty))});
    paths.insert(RETRY.to_owned(), act("Tries now what was put aside after too many failures."));
    paths.insert(REVOKE_TOKEN.to_owned(), act("Makes every token that was given out for the session worthless."));
    paths.insert(POSTS.to_owned(), json!({"get": operation("How a post stands.", &[id], None)}));
    for (path, about) in [
        ("/healthz", "`ok` while the process is alive."),
        ("/readyz", "Each part with `ok`, or the reason and what mends it."),
        ("/metrics", "Figures in Prometheus' text format."),
        ("/openapi.json", "This document."),
    ] {
        let mut open = operation(about, &[], None);
        open["security"] = json!([]);
        paths.insert(path.to_owned(), json!({"get": open}));
    }
    let security = if tokens { json!([{"session": []}]) } else { json!([]) };
    json!({
        "openapi": "3.1.0",
        "info": {"title": "slack-codex-broker", "version": version},
        "security": security,
        "components": {"securitySchemes": {"session": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    })
}

fn ability(route: &Route) -> Value {
    let schema = route.schema();
    match route.method {
        Method::Get => {
            let required = route.required();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let parameters: Vec<Value> = fields
                .map(|(name, field)| {
                    let about = field["description"].as_str().unwrap_or_default();
                    parameter(name, "query", required.contains(&name.as_str()), about, field)
                })
                .collect();
            json!({"get": operation(route.about(), &parameters, None)})
        }
        Method::Post => json!({"post": operation(route.about(), &[], Some(&schema))}),
    }
}

fn parameter(name: &str, place: &str, required: bool, about: &str, schema: &Value) -> Value {
    json!({"name": name, "in": place, "required": required, "description": about, "schema": schema})
}

fn operation(about: &str, parameters: &[Value], body: Option<&Value>) -> Value {
    let mut operation = json!({
        "summary": about,
        "parameters": parameters,
        "responses": {
            "200": {"description": "It is done."},
            "default": {"description": "`{\"ok\":false,\"error\":\"<code>\",\"message\":\"<what to do>\"}`"},
        },
    });
    if let Some(schema) = body {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation
}
