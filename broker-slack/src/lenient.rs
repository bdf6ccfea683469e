//! Reading fields of JSON that may be of another type than documented: a field that is odd counts as absent.

use serde_json::Value;

/// A field that is a text, and not an empty one.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// What people wrote: a text, or a number or truth value that stands where a text belongs.
pub(crate) fn written(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(scalar @ (Value::Number(_) | Value::Bool(_))) => scalar.to_string(),
        _ => String::new(),
    }
}

/// Whether a field says yes.
pub(crate) fn flag(value: &Value, name: &str) -> bool {
    match value.get(name) {
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
        Some(Value::String(text)) => matches!(text.as_str(), "true" | "1"),
        _ => false,
    }
}

/// A whole number, also one that is written as a text.
pub(crate) fn number(value: &Value, name: &str) -> Option<u64> {
    match value.get(name)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A `ts` as Slack spells it; one that came as a number is spelled out again.
pub(crate) fn ts(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => crate::ts::time(text).map(|_| text.clone()),
        Value::Number(number) => crate::ts::time(&number.to_string()).map(crate::ts::text),
        _ => None,
    }
}

/// The elements of a list; a lone object stands for a list of one.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match value.get(name) {
        Some(Value::Array(items)) => items,
        Some(object @ Value::Object(_)) => std::slice::from_ref(object),
        _ => &[],
    }
}

/// The id of an object that is given by its id, or whole.
pub(crate) fn id<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    text(value, name).or_else(|| text(value.get(name)?, "id"))
}
