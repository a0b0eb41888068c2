//! docs/openapi.yaml as a judge: whether an answer is one that it promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::http::Reply;

/// The description, read once for all tests.
pub struct Spec {
    doc: Value,
    /// Of each schema that was asked for, by its place in the description.
    validators: BTreeMap<String, Validator>,
}

const METHODS: [&str; 6] = ["get", "post", "put", "delete", "patch", "head"];

/// One answer that the description promises.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Promise {
    pub method: String,
    pub path: String,
    pub status: String,
}

pub fn spec() -> &'static Spec {
    static SPEC: OnceLock<Spec> = OnceLock::new();
    SPEC.get_or_init(|| Spec::read(include_str!("../../../docs/openapi.yaml")))
}

/// A validator for a schema of a document, whose `$ref`s point into it.
pub fn validator(doc: &Value, schema: &Value) -> Validator {
    let schema = json!({"allOf": [schema], "components": doc["components"]});
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema);
    validator.unwrap_or_else(|err| panic!("not a schema: {err}"))
}

/// Follows a `$ref`, if there is one.
pub fn resolved<'a>(doc: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        None => value,
        Some(place) => {
            let place = place.strip_prefix('#').expect("a reference to another file");
            resolved(doc, doc.pointer(place).unwrap_or_else(|| panic!("there is no {place}")))
        }
    }
}

/// Fails with what is wrong, and with the value.
pub fn assert_valid(validator: &Validator, value: &Value, what: &str) {
    let wrong: Vec<_> = validator.iter_errors(value).map(|err| err.to_string()).collect();
    assert!(wrong.is_empty(), "{what}: {}\n{value}", wrong.join("; "));
}

impl Spec {
    pub fn read(text: &str) -> Self {
        let doc: Value = yaml_serde::from_str(text).expect("not YAML");
        let mut validators = BTreeMap::new();
        for (path, methods) in doc["paths"].as_object().unwrap() {
            for (method, operation) in operations(methods) {
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    for (kind, content) in resolved(&doc, answer)["content"].as_object().unwrap() {
                        let place = format!("{method} {path} {status} {kind}");
                        validators.insert(place, validator(&doc, &content["schema"]));
                    }
                }
            }
        }
        Self { doc, validators }
    }

    pub fn doc(&self) -> &Value {
        &self.doc
    }

    /// The methods of each path.
    pub fn routes(&self) -> BTreeMap<String, BTreeSet<String>> {
        let paths = self.doc["paths"].as_object().unwrap().iter();
        let of = |methods| operations(methods).map(|(method, _)| method.to_uppercase()).collect();
        paths.map(|(path, methods)| (path.clone(), of(methods))).collect()
    }

    pub fn promises(&self) -> BTreeSet<Promise> {
        let mut promises = BTreeSet::new();
        for (path, methods) in self.doc["paths"].as_object().unwrap() {
            for (method, operation) in operations(methods) {
                for status in operation["responses"].as_object().unwrap().keys() {
                    let method = method.to_uppercase();
                    promises.insert(Promise { method, path: path.clone(), status: status.clone() });
                }
            }
        }
        promises
    }

    /// Fails unless the answer is one that the description promises for this request; says which.
    /// `None`: the request is for no operation.
    pub fn check(&self, line: &str, reply: &Reply) -> Option<Promise> {
        let (method, uri) = line.split_once(' ').unwrap();
        let path = uri.split('?').next().unwrap();
        let error = validator(&self.doc, &self.doc["components"]["schemas"]["Error"]);
        let template = self.doc["paths"].as_object().unwrap().keys().find(|t| fits(t, path));
        let operation = template.and_then(|template| {
            // A HEAD is a GET whose body is not sent.
            let method = if method == "HEAD" { "get" } else { &method.to_lowercase() };
            self.doc["paths"][template].get(method)
        });
        let (Some(template), Some(operation)) = (template, operation) else {
            return self.check_no_operation(method, template.is_some(), reply, &error);
        };
        let method = if method == "HEAD" { "GET" } else { method };
        let status = reply.status.to_string();
        let what = format!("{line} {status}");
        let answer = operation["responses"].get(&status);
        let answer = answer.unwrap_or_else(|| panic!("{what} is not promised: {}", reply.body));
        let answer = resolved(&self.doc, answer);
        for (name, header) in answer["headers"].as_object().into_iter().flatten() {
            let value = reply.header(&name.to_lowercase());
            let value = value.unwrap_or_else(|| panic!("{what}: no {name}"));
            let value = value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
            let schema = &resolved(&self.doc, header)["schema"];
            assert_valid(&validator(&self.doc, schema), &value, &format!("{what} {name}"));
        }
        let kind = reply.header("content-type").unwrap_or_else(|| panic!("{what}: of no type"));
        let kind = kind.split(';').next().unwrap();
        let place = format!("{} {template} {status} {kind}", method.to_lowercase());
        let validator = self.validators.get(&place);
        let validator = validator.unwrap_or_else(|| panic!("{place} is not promised"));
        if kind == "application/json" && !line.starts_with("HEAD ") {
            assert_valid(validator, &reply.json(), &what);
            if reply.status >= 400 && reply.json()["type"] == "error" {
                assert_eq!(reply.json()["status"], reply.status, "{what}");
            }
        }
        Some(Promise { method: method.to_owned(), path: template.clone(), status })
    }

    /// What the description says in words: `OPTIONS`, 405, 404, and what comes before all that.
    fn check_no_operation(
        &self,
        method: &str,
        is_there: bool,
        reply: &Reply,
        error: &Validator,
    ) -> Option<Promise> {
        if method == "OPTIONS" && reply.status == 204 {
            assert_eq!(reply.body, "");
            return None;
        }
        let usual = if is_there { 405 } else { 404 };
        assert!([usual, 403, 429, 503].contains(&reply.status), "{method}: {reply:?}");
        assert_eq!(reply.header("allow").is_some(), reply.status == 405);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        if method != "HEAD" {
            assert_valid(error, &reply.json(), method);
        }
        None
    }
}

fn operations(methods: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = methods.as_object().unwrap().iter();
    let known = all.filter(|(method, _)| METHODS.contains(&method.as_str()));
    known.map(|(method, operation)| (method.as_str(), operation))
}

/// Whether a path is of that template. Names are still encoded, so a slash is always one of ours.
fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    let is_name = |piece: &str| piece.starts_with('{');
    template.len() == path.len()
        && template.iter().zip(&path).all(|(known, piece)| is_name(known) || known == piece)
}
