//! The JSON schema of the static file, made from the table of settings.

use serde_json::{Map, Value, json};

use super::overrides::variable;
use super::settings::{Fallback, Kind, SETTINGS, Setting};

/// JSON Schema 2020-12 of `isthmus.yaml`.
pub fn schema() -> Value {
    let mut root = section();
    for setting in SETTINGS {
        insert(&mut root, setting.path, describe(setting));
    }
    let Value::Object(root) = root else { return Value::Null };
    let mut schema = Map::new();
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".into(), json!("Static configuration of isthmus"));
    schema.extend(root);
    Value::Object(schema)
}

fn section() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn insert(parent: &mut Value, path: &str, leaf: Value) {
    let properties = &mut parent["properties"];
    match path.split_once('.') {
        None => properties[path] = leaf,
        Some((name, rest)) => {
            if properties[name].is_null() {
                properties[name] = section();
            }
            insert(&mut properties[name], rest, leaf);
        }
    }
}

fn describe(setting: &Setting) -> Value {
    let mut leaf = match setting.kind {
        Kind::ClusterName => json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" }),
        Kind::TrustDomain => json!({ "type": "string", "pattern": "^[a-z0-9._-]{1,255}$" }),
        Kind::Number => json!({ "type": "integer", "minimum": 1 }),
        Kind::Duration => json!({ "type": "string", "examples": ["20s", "15m", "24h", "30days"] }),
        Kind::SocketAddress => json!({ "type": "string", "examples": ["127.0.0.1:15080", "[::1]:15080"] }),
        Kind::Network => json!({ "type": "string", "examples": ["127.80.0.0/20"] }),
        Kind::GatewayAddresses => json!({ "type": "array", "items": { "type": "string" }, "maxItems": 8 }),
        Kind::Networks => json!({ "type": "array", "items": { "type": "string" }, "maxItems": 8 }),
        Kind::Endpoints => json!({ "type": "array", "items": { "type": "string" }, "maxItems": 8 }),
        Kind::Text | Kind::Path | Kind::IpAddress => json!({ "type": "string" }),
    };
    let description = match setting.fallback {
        Fallback::Value(value) => {
            leaf["default"] = json!(value);
            setting.meaning.to_owned()
        }
        Fallback::Derived(how) => format!("{}. Default: {how}", setting.meaning),
    };
    leaf["description"] = json!(format!("{description}. Environment: {}", variable(setting)));
    leaf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_schema() {
        let schema = schema();
        for setting in SETTINGS {
            let pointer: String = setting.path.split('.').map(|part| format!("/properties/{part}")).collect();
            let leaf = schema.pointer(&pointer).unwrap_or_else(|| panic!("{} is missing", setting.path));
            assert!(leaf["description"].as_str().unwrap().starts_with(setting.meaning));
        }
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["gateway"]["additionalProperties"], json!(false));
    }
}
