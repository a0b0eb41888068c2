//! What docs/protocol.md says of each command is what the table of commands has.

use std::collections::BTreeMap;

use serde_json::Value;
use verbatim::protocol::command::Request;
use verbatim::protocol::table::of_socket;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// What stands under the headings that begin so, up to the next heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n## ").next().unwrap()
}

#[test]
fn the_page_shows_each_command_once_and_it_is_understood() {
    let commands = ["\n## The four commands\n", "\n## More commands\n"].map(section);
    let lines = commands.iter().flat_map(|text| text.lines());
    let mut shown: Vec<_> = lines
        .filter(|line| line.starts_with("{\""))
        .map(|line| Request::parse(line, 100).unwrap().command.kind().name())
        .collect();
    let mut known = of_socket().each_ref().map(|row| row.name);
    shown.sort_unstable();
    known.sort_unstable();
    assert_eq!(shown, known);
}

#[test]
fn the_page_names_each_field_of_a_command() {
    let text = ["\n## The four commands\n", "\n## More commands\n", "\n## Signals\n"].map(section);
    for row in of_socket() {
        for key in row.needs.iter().chain(row.takes) {
            let named = [format!("`{}`", key.name()), format!("`{}: ", key.name())];
            let shown = format!("\"{}\":", key.name());
            let is_named = text.iter().any(|text| {
                named.iter().any(|named| text.contains(named)) || text.contains(&shown)
            });
            assert!(is_named, "{} of {}", key.name(), row.name);
        }
    }
}

#[test]
fn the_page_has_the_weights_of_the_table() {
    let weights = section("\n## Limits\n").lines().filter_map(|line| {
        let [_, what, each, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            return None;
        };
        let name = what.strip_prefix('`')?.strip_suffix('`')?;
        let items: usize = each.split(' ').next()?.parse().ok()?;
        Some((name, items))
    });
    let known = of_socket().iter().filter(|row| row.items_per_weight > 0);
    assert_eq!(
        weights.collect::<BTreeMap<_, _>>(),
        known.map(|row| (row.name, row.items_per_weight)).collect()
    );
}

#[test]
fn an_example_of_the_page_has_no_field_that_the_table_has_not() {
    for line in PAGE.lines().filter(|line| line.starts_with("{\"user_id\"")) {
        let example: Value = serde_json::from_str(line).unwrap();
        let Some(row) = of_socket().iter().find(|row| row.name == example["type"]) else {
            continue;
        };
        for name in example.as_object().unwrap().keys() {
            let mut keys = row.needs.iter().chain(row.takes);
            let is_known = keys.any(|key| key.name() == name);
            assert!(is_known || ["type", "id"].contains(&&**name), "{name} of {line}");
        }
    }
}
