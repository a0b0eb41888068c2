//! Style as a test: what STYLE would have to ask for, the suite insists on.
//!
//! It reads the sources as text, which is enough for rules that are kept by habit. Each rule is a
//! function from a file to its violations, and is itself shown to catch what it is for. `pages` has
//! the rules for what people read.

// By its path, because this file belongs to two programs (`tests/tidy.rs`).
#[path = "tidy/pages.rs"]
mod pages;

use std::path::Path;

/// A source file: its path from the top of the repository, and its text.
struct File {
    path: String,
    text: String,
}

/// Lines of a file beyond which it is more than one noun.
const LINES_MAX: usize = 500;
/// Characters of a line.
const COLUMNS_MAX: usize = 100;

/// The modules of the library from the top down. A module may use those of its own line and of the
/// lines below. (`main` and `lib` stand above all; they are checked as `node` is.)
const LEVELS: [&[&str]; 13] = [
    &["main", "lib", "node", "probe", "health"],
    &["server"],
    &["session"],
    &["desk"],
    &["feed", "signals"],
    &["lane", "outbox"],
    &["replay", "doubt", "clock"],
    &["relay"],
    &["hub"],
    &["log", "mirror", "socket"],
    &["rules"],
    &["protocol"],
    &[
        "model", "budget", "config", "metrics", "rate", "share", "shutdown", "tasks", "trace",
        "trim",
    ],
];

/// Of one level, and still strangers: replacing one must not touch another.
const STRANGERS: [&str; 3] = ["log", "mirror", "socket"];

/// Foreign crates with the places, by the beginning of their paths, that may use them: replacing a
/// library is rewriting one place. (What only another package has needs no rule.)
const CRATES: [(&str, &[&str]); 18] = [
    ("hyper", &["src/server"]),
    ("hyper_util", &["src/server"]),
    ("http_body_util", &["src/server"]),
    ("tungstenite", &["src/socket", "src/server/upgrade", "client/src/connection"]),
    ("tokio_tungstenite", &["src/socket", "src/server/upgrade", "client/src/connection"]),
    // The clients of the program are none of the library's business.
    ("verbatim_checker", &["src/main", "tools/src/verify"]),
    ("verbatim_tools", &["src/main"]),
    ("verbatim_heap", &["src/trim"]),
    ("tokio_postgres", &["src/log/postgres"]),
    ("bb8", &["src/log/postgres"]),
    ("bb8_postgres", &["src/log/postgres"]),
    ("rusqlite", &["src/log/sqlite"]),
    ("redis", &["src/mirror"]),
    ("prometheus_client", &["src/metrics"]),
    ("unicode_normalization", &["src/model/name"]),
    ("icu_properties", &["src/model/name"]),
    ("tracing_subscriber", &["src/trace"]),
    ("clap", &["src/main", "tools/src/bench/args"]),
];

#[test]
fn the_sources_are_tidy() {
    let mut violations = Vec::new();
    for file in sources() {
        violations.extend(opening(&file));
        violations.extend(size(&file));
        violations.extend(leftovers(&file));
        if file.path.starts_with("checker/src/") {
            violations.extend(unwraps(&file));
            violations.extend(impure(&file));
        }
        let is_in = |folder: &str| file.path.starts_with(folder) && !is_test(&file);
        if ["src/", "client/src/", "tools/src/"].into_iter().any(is_in) {
            violations.extend(unwraps(&file));
            violations.extend(crates(&file));
            violations.extend(prints(&file));
        }
        if is_in("src/") {
            violations.extend(imports(&file));
        }
    }
    for file in web() {
        violations.extend(web_opening(&file));
        violations.extend(size(&file));
        violations.extend(leftovers(&file));
        violations.extend(markup(&file));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// A test module in a file of its own, or `sim`, which is one in several.
fn is_test(file: &File) -> bool {
    file.path.ends_with("/tests.rs") || file.path.starts_with("src/sim/")
}

/// Every Rust file of the repository.
fn sources() -> Vec<File> {
    let folders = [
        "src",
        "tests",
        "benches",
        "examples",
        "checker/src",
        "checker/tests",
        "client/src",
        "client/examples",
        "tools/src",
        "fuzz/fuzz_targets",
    ];
    files(&folders, &["rs"])
}

/// What the page and its tests are written in. Markup is long by nature, and has a test of its own.
fn web() -> Vec<File> {
    files(&["web", "tests/web"], &["js", "mjs", "ts", "css"])
}

fn files(folders: &[&str], extensions: &[&str]) -> Vec<File> {
    fn walk(top: &Path, folder: &Path, extensions: &[&str], files: &mut Vec<File>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("node_modules") {
                walk(top, &path, extensions, files);
            } else if path.extension().is_some_and(|it| extensions.iter().any(|known| it == *known))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                files.push(File { path, text });
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in folders {
        walk(top, &top.join(folder), extensions, &mut files);
    }
    assert!(files.len() > 10, "the sources were not found");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// A file is a noun, and says first what it is.
fn opening(file: &File) -> Vec<String> {
    let ok = file.text.starts_with("//! ");
    if ok { vec![] } else { vec![format!("{}:1: does not open with //!", file.path)] }
}

/// The same for the page: a comment, and a sentence in it.
fn web_opening(file: &File) -> Vec<String> {
    let text = file.text.trim_start_matches("/**").trim_start_matches("/*").trim_start();
    let text = text.trim_start_matches("* ").trim_start_matches("// ");
    let is_comment = text.len() < file.text.len();
    let ok = is_comment && text.starts_with(char::is_uppercase);
    if ok { vec![] } else { vec![format!("{}:1: does not open with a comment", file.path)] }
}

/// Text never becomes markup or code: there is one way to make an element, and it is `dom.js`.
fn markup(file: &File) -> Vec<String> {
    let words = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("];
    let mut violations = Vec::new();
    for (number, line) in numbered(&file.text).filter(|_| file.path.starts_with("web/")) {
        for word in words.iter().filter(|&&word| line.contains(word)) {
            violations.push(format!("{}:{number}: {word}", file.path));
        }
    }
    violations
}

fn size(file: &File) -> Vec<String> {
    let mut violations = Vec::new();
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        violations.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.path));
    }
    for (number, line) in numbered(&file.text) {
        let columns = line.chars().count();
        // A frame in a test stands there as it is on the wire, however long.
        let has_frames = file.path.starts_with("tests/") || file.path.starts_with("checker/");
        let is_frame = has_frames && line.contains("\"type\":");
        if columns > COLUMNS_MAX && !is_frame {
            violations.push(format!("{}:{number}: {columns} columns", file.path));
        }
    }
    violations
}

/// What belongs into an issue, or was forgotten.
fn leftovers(file: &File) -> Vec<String> {
    // Put together here, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
        concat!("#[should", "_panic"),
    ];
    let mut violations = Vec::new();
    for (number, line) in numbered(&file.text) {
        for word in words.iter().filter(|&&word| line.contains(word)) {
            violations.push(format!("{}:{number}: {word}", file.path));
        }
    }
    violations
}

/// `expect("why it cannot fail")` says something; `unwrap()` does not.
fn unwraps(file: &File) -> Vec<String> {
    let found = code(file).filter(|(_, line)| line.contains(".unwrap()"));
    found.map(|(number, _)| format!("{}:{number}: unwrap() outside tests", file.path)).collect()
}

/// The print macros panic when nobody takes what they print.
fn prints(file: &File) -> Vec<String> {
    let found =
        code(file).filter(|(_, line)| line.contains("print!(") || line.contains("println!("));
    found.map(|(number, _)| format!("{}:{number}: a print macro", file.path)).collect()
}

/// Imports point down.
fn imports(file: &File) -> Vec<String> {
    let from = module(&file.path);
    let Some(own_level) = level(from) else {
        return vec![format!("{}: module {from} has no level in tests/it/tidy.rs", file.path)];
    };
    let mut violations = Vec::new();
    for (number, to) in used_modules(file) {
        let above = level(&to).is_none_or(|to_level| to_level < own_level);
        let strangers = STRANGERS.contains(&from) && STRANGERS.contains(&to.as_str());
        if to != from && (above || strangers) {
            violations.push(format!("{}:{number}: {from} must not use {to}", file.path));
        }
    }
    violations
}

/// The checker asks nobody: no file, no network, no clock, no chance, and not the server it judges.
fn impure(file: &File) -> Vec<String> {
    const STD: [&str; 6] = ["fs", "net", "io", "time", "thread", "env"];
    const CRATES: [&str; 3] = ["verbatim", "tokio", "rand"];
    let mut violations = Vec::new();
    for (number, line) in code(file) {
        let std = STD.iter().map(|name| format!("std::{name}")).find(|name| line.contains(name));
        let krate = CRATES.iter().find(|name| names_crate(line, name)).map(ToString::to_string);
        for name in std.into_iter().chain(krate) {
            violations.push(format!("{}:{number}: {name} in the checker", file.path));
        }
    }
    violations
}

/// A foreign crate lives in its place.
fn crates(file: &File) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in code(file) {
        for (name, places) in CRATES {
            let here = places.iter().any(|place| file.path.starts_with(place));
            if !here && names_crate(line, name) {
                violations.push(format!("{}:{number}: {name} is not for here", file.path));
            }
        }
    }
    violations
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The lines that are code: before the tests, which stand last, without single lines that are for
/// them alone, and without comments.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = numbered(&file.text).peekable();
    std::iter::from_fn(move || {
        while lines.peek()?.1.trim() == "#[cfg(test)]" {
            let (_, hidden) = lines.nth(1)?;
            if hidden.ends_with('{') && !hidden.starts_with(' ') {
                return None;
            }
        }
        lines.next()
    })
    .map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
}

/// `src/log/sqlite.rs` belongs to `log`.
fn module(path: &str) -> &str {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').next().unwrap_or(path)
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// Every `m` of `crate::m` and of `crate::{m, …}`, with its line.
fn used_modules(file: &File) -> Vec<(usize, String)> {
    let mut text = String::new();
    for (_, line) in code(file) {
        text.push_str(line);
        text.push('\n');
    }
    let mut used = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        // `$crate::` and `other_crate::` are not ours.
        if text[..at].ends_with(is_word) {
            continue;
        }
        let number = text[..at].lines().count().max(1);
        let rest = &text[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push((number, first_word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => used.push((number, first_word(&std::mem::take(&mut item)))),
                _ => item.push(c),
            }
        }
        used.push((number, first_word(&item)));
    }
    used.retain(|(_, module)| !module.is_empty());
    used
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|&c| is_word(c)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Whether `name::` is used as a crate: not as the end of a longer word or path.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let is_path =
            after.starts_with("::") || (before.ends_with("use ") && after.starts_with(';'));
        let is_root = !before.ends_with(is_word)
            && (!before.ends_with("::") || !before.trim_end_matches(':').ends_with(is_word));
        is_path && is_root
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule finds exactly these lines of the text, at that path, wrong.
    fn check(rule: fn(&File) -> Vec<String>, path: &str, text: &str, wrong: &[&str]) {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(rule(&file), wrong, "in {text:?}");
    }

    #[test]
    fn a_file_without_a_first_sentence_is_caught() {
        check(opening, "src/hub.rs", "//! The hub.\n", &[]);
        check(opening, "src/hub.rs", "use std::io;\n", &["src/hub.rs:1: does not open with //!"]);
    }

    #[test]
    fn a_script_without_a_first_sentence_is_caught() {
        for fine in ["/** The page. */", "/**\n * The page", "/* How it looks", "// All tests"] {
            check(web_opening, "web/a.js", fine, &[]);
        }
        for wrong in ["import x from 'y';", "/** */", "Text", ""] {
            let caught = "web/a.js:1: does not open with a comment";
            check(web_opening, "web/a.js", wrong, &[caught]);
        }
    }

    #[test]
    fn text_that_could_become_markup_is_caught() {
        check(markup, "web/a.js", "a.textContent = b;\n", &[]);
        check(markup, "web/a.js", "\na.innerHTML = b;\n", &["web/a.js:2: innerHTML"]);
        check(markup, "tests/web/a.mjs", "a.innerHTML\n", &[]);
    }

    #[test]
    fn long_files_and_long_lines_are_caught() {
        check(size, "src/hub.rs", &format!("{}\n{}\n", "x".repeat(100), "é".repeat(100)), &[]);
        check(size, "src/hub.rs", &"y".repeat(101), &["src/hub.rs:1: 101 columns"]);
        check(size, "src/hub.rs", &"\n".repeat(501), &["src/hub.rs: 501 lines, more than 500"]);
    }

    #[test]
    fn leftovers_are_caught() {
        let todo = concat!("// TO", "DO: more\n");
        check(leftovers, "tests/a.rs", todo, &[concat!("tests/a.rs:1: TO", "DO")]);
        let dbg = concat!("let x = dbg", "!(y);\n");
        check(leftovers, "src/a.rs", dbg, &[concat!("src/a.rs:1: dbg", "!(")]);
        let stub = concat!("\n    unimplemented", "!()\n");
        check(leftovers, "src/a.rs", stub, &[concat!("src/a.rs:2: unimplemented", "!(")]);
    }

    #[test]
    fn unwrap_is_caught_outside_of_tests_only() {
        let text = "a.unwrap();\n// b.unwrap()\na.unwrap_or(b)\n    #[cfg(test)]\n    c.unwrap();\n\
                    #[cfg(test)]\nmod tests {\n    d.unwrap();\n";
        check(unwraps, "src/hub.rs", text, &["src/hub.rs:1: unwrap() outside tests"]);
    }

    #[test]
    fn print_macros_are_caught() {
        let text =
            "print!(x);\neprintln!(x);\nwriteln!(stderr(), x);\n#[cfg(test)]\nprintln!(x);\n";
        let caught = ["src/hub.rs:1: a print macro", "src/hub.rs:2: a print macro"];
        check(prints, "src/hub.rs", text, &caught);
    }

    #[test]
    fn imports_that_point_up_or_to_strangers_are_caught() {
        let fine = "use crate::model::Seq;\nuse crate::log::Log;\nuse crate::hub::ring;\n";
        check(imports, "src/hub/shard.rs", fine, &[]);
        check(imports, "src/node.rs", "use crate::server::Server;\n", &[]);
        check(
            imports,
            "src/hub.rs",
            "\nuse crate::session::Session;\n",
            &["src/hub.rs:2: hub must not use session"],
        );
        check(
            imports,
            "src/socket/mod.rs",
            "fn f(x: &crate::log::Log) {}\n",
            &["src/socket/mod.rs:1: socket must not use log"],
        );
        let group = "use crate::{\n    model::{Event, Seq},\n    lane::Lane,\n};\n";
        check(imports, "src/rules.rs", group, &["src/rules.rs:1: rules must not use lane"]);
        check(imports, "src/model.rs", "#[cfg(test)]\nuse crate::lane::Lane;\n", &[]);
        check(
            imports,
            "src/model.rs",
            "use crate::novelty::New;\n",
            &["src/model.rs:1: model must not use novelty"],
        );
        check(
            imports,
            "src/novelty.rs",
            "",
            &["src/novelty.rs: module novelty has no level in tests/it/tidy.rs"],
        );
    }

    #[test]
    fn a_checker_that_asks_somebody_is_caught() {
        let wrong = |what: &str| vec![format!("checker/src/a.rs:1: {what} in the checker")];
        let find = |text: &str| {
            impure(&File { path: "checker/src/a.rs".to_owned(), text: text.to_owned() })
        };
        assert_eq!(find("use std::time::Instant;\n"), wrong("std::time"));
        assert_eq!(find("let now = tokio::time::Instant::now();\n"), wrong("tokio"));
        assert_eq!(find("use verbatim::rules;\n"), wrong("verbatim"));
        assert_eq!(find("use std::collections::HashMap; // std::fs\n"), [""; 0]);
        assert_eq!(find("#[cfg(test)]\nuse std::fs;\n"), [""; 0]);
    }

    #[test]
    fn foreign_crates_outside_of_their_place_are_caught() {
        let text = "use tokio_postgres::Row;\n";
        check(crates, "src/log/postgres/read.rs", text, &[]);
        check(crates, "src/lane.rs", text, &["src/lane.rs:1: tokio_postgres is not for here"]);
        let text = "fn f() -> ::redis::Client { x }\nuse bb8;\n";
        check(
            crates,
            "src/hub.rs",
            text,
            &["src/hub.rs:1: redis is not for here", "src/hub.rs:2: bb8 is not for here"],
        );
        let text = "use tokio_tungstenite::tungstenite::Message;\n";
        check(crates, "src/server/upgrade.rs", text, &[]);
        check(
            crates,
            "src/server/mod.rs",
            text,
            &["src/server/mod.rs:1: tokio_tungstenite is not for here"],
        );
        check(crates, "src/hub.rs", "let hyper = self.hyper_count; mirror::redis::x()\n", &[]);
    }
}
