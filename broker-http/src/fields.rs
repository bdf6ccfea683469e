//! The JSON object of a request, read as it comes: flat, with few fields.
//!
//! No route takes more than texts, numbers and flags, so nothing else is kept. A megabyte of small values in lists would
//! become a hundred megabytes of them in memory, and a client may send many at once.

use std::fmt;
use std::io::{Cursor, Read};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use struson::reader::{JsonReader, JsonStreamReader, ReaderError, ValueType};

use crate::refusal::Refusal;

/// The most fields of one request; the route with the most takes 14.
const MAX_FIELDS: usize = 64;

/// A field that is not kept but read by somebody else while it comes.
pub(crate) struct Apart<'a> {
    pub(crate) name: &'static str,
    pub(crate) read: &'a mut dyn FnMut(&mut dyn Read) -> Result<(), Refusal>,
}

/// Reads the object, but for the field that somebody else reads. Nothing at all is an empty one. Blocks as `input` does.
pub(crate) fn read(mut input: impl Read, mut apart: Option<Apart<'_>>) -> Result<Map<String, Value>, Refusal> {
    let mut first = [0];
    if input.read(&mut first).map_err(|error| not_json(&error))? == 0 {
        return Ok(Map::new());
    }
    let mut json = JsonStreamReader::new(Cursor::new(first).chain(input));
    if json.peek().map_err(wrong)? != ValueType::Object {
        return Err(Refusal::Malformed("the body has to be a JSON object".to_owned()));
    }
    let mut object = Map::new();
    json.begin_object().map_err(wrong)?;
    while json.has_next().map_err(wrong)? {
        let name = json.next_name_owned().map_err(wrong)?;
        if object.contains_key(&name) {
            return Err(Refusal::Malformed(format!("`{}` stands in the body twice", beginning(&name))));
        }
        if object.len() == MAX_FIELDS {
            return Err(Refusal::Malformed(format!("the body has more than {MAX_FIELDS} fields")));
        }
        let is_text = json.peek().map_err(wrong)? == ValueType::String;
        let value = match &mut apart {
            Some(apart) if apart.name == name && is_text => {
                let mut content = json.next_string_reader().map_err(wrong)?;
                (apart.read)(&mut content)?;
                // It was there, and whoever reads it says what it was.
                Value::Null
            }
            _ => json.deserialize_next::<Flat>().map_err(|error| not_json(&error))?.0,
        };
        object.insert(name, value);
    }
    json.end_object().map_err(wrong)?;
    json.consume_trailing_whitespace().map_err(wrong)?;
    Ok(object)
}

/// The beginning of something that a client wrote.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(100).collect()
}

fn wrong(error: ReaderError) -> Refusal {
    not_json(&error)
}

pub(crate) fn not_json(error: &dyn fmt::Display) -> Refusal {
    Refusal::Malformed(format!("the body is not JSON: {error}"))
}

/// A value without what is in it: of a list or an object it is remembered that it was one.
struct Flat(Value);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FlatVisitor).map(Self)
    }
}

struct FlatVisitor;

impl<'de> Visitor<'de> for FlatVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        while values.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(Map::new()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(body: &str) -> Result<Value, Refusal> {
        read(body.as_bytes(), None).map(Value::Object)
    }

    #[test]
    fn lists_and_objects_are_not_kept() {
        for (body, expected) in [
            ("", json!({})),
            (" {} ", json!({})),
            (
                r#"{"a":"x","b":-5,"c":7,"d":1.5,"e":true,"f":null}"#,
                json!({"a": "x", "b": -5, "c": 7, "d": 1.5, "e": true, "f": null}),
            ),
            (r#"{"a":[1,[2,{"x":[]}]],"b":{"c":{"d":1}}}"#, json!({"a": [], "b": {}})),
            (r#"{"a":"\ud83d\ude00\n"}"#, json!({"a": "😀\n"})),
        ] {
            assert_eq!(kept(body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_no_flat_object_is_refused() {
        let many: Vec<String> = (0..=MAX_FIELDS).map(|n| format!("\"f{n}\":1")).collect();
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for (body, part) in [
            ("[]", "has to be a JSON object"),
            ("\"x\"", "has to be a JSON object"),
            ("{\"a\":1,\"a\":2}", "`a` stands in the body twice"),
            ("{\"a\":1} {}", "not JSON"),
            ("{\"a\":", "not JSON"),
            ("{'a':1}", "not JSON"),
            ("{\"a\":\"\u{1}\"}", "not JSON"),
            (deep.as_str(), "not JSON"),
            (format!("{{{}}}", many.join(",")).as_str(), "more than 64 fields"),
        ] {
            let refused = kept(body);
            assert!(matches!(&refused, Err(Refusal::Malformed(what)) if what.contains(part)), "{part}: {refused:?}");
        }
        let bytes = [b"{\"a\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat();
        assert!(matches!(read(bytes.as_slice(), None), Err(Refusal::Malformed(_))), "no UTF-8");
    }

    #[test]
    fn one_field_is_read_by_somebody_else_once() {
        let read_apart = |body: &str| {
            let mut seen = Vec::new();
            let mut keep = |content: &mut dyn Read| {
                content.read_to_end(&mut seen).map_err(|error| not_json(&error))?;
                Ok(())
            };
            let object = read(body.as_bytes(), Some(Apart { name: "big", read: &mut keep }));
            (object.map(Value::Object), String::from_utf8(seen).expect("UTF-8"))
        };
        assert_eq!(
            read_apart(r#"{"a":1,"big":"x\u0041","b":2}"#),
            (Ok(json!({"a": 1, "big": null, "b": 2})), "xA".to_owned())
        );
        assert_eq!(read_apart(r#"{"big":7}"#), (Ok(json!({"big": 7})), String::new()), "no text: the route refuses it");
        assert_eq!(read_apart(r#"{"big":"x","big":"y"}"#).1, "x");
        assert!(read_apart(r#"{"big":"x","big":"y"}"#).0.is_err());
    }
}
