//! The pages that people read: words that are spelled wrong, sentences that read like a
//! translation, links and targets of make that lead nowhere, decisions that are not in their index.

use std::path::Path;

use super::{COLUMNS_MAX, File, files, is_word, numbered, sources, web};

/// Pages in the words of STYLE: subject first, the common word. A page comes onto this list, by the
/// beginning of its path, when it has been written so.
const PLAIN: [&str; 6] =
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/adr/", "fuzz/", ".github/"];

/// How a translation says it.
const TRANSLATED: [&str; 5] = ["to be had", "for ever", "one can", "thereby", "whereby"];

/// Beginnings of words that are spelled wrong: what fingers do, not a dictionary.
const MISSPELLED: [&str; 39] = [
    "accomodat",
    "adress",
    "allways",
    "apparant",
    "arbitary",
    "begining",
    "beleiv",
    "commited",
    "commiting",
    "consistan",
    "definat",
    "dependan",
    "existan",
    "foward",
    "garante",
    "happend",
    "immediatly",
    "independan",
    "lenght",
    "maintainance",
    "mispell",
    "neccess",
    "occured",
    "occuring",
    "occurence",
    "persistan",
    "posible",
    "prefered",
    "priviledge",
    "reciev",
    "refered",
    "resourse",
    "seperat",
    "succesful",
    "threshhold",
    "transfered",
    "untill",
    "usefull",
    "writting",
];

/// Lines of a decision's record.
const RECORD_LINES_MAX: usize = 60;
/// What a record says, in this order.
const RECORD_HEADINGS: [&str; 4] =
    ["## Context", "## Decision", "## Not chosen, and why", "## Consequences"];

#[test]
fn the_pages_are_tidy() {
    let mut violations = Vec::new();
    let pages = pages();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = std::fs::read_to_string(top.join("Makefile")).unwrap();
    for page in &pages {
        violations.extend(links(page, |path| top.join(path).exists()));
        if PLAIN.iter().any(|plain| page.path.starts_with(plain)) {
            violations.extend(columns(page));
            violations.extend(translated(page));
            violations.extend(targets(page, &makefile));
        }
    }
    violations.extend(records(&pages));
    for file in pages.iter().chain(&sources()).chain(&web()) {
        // The list itself stands here.
        if !file.path.ends_with("tidy/pages.rs") {
            violations.extend(misspelled(file));
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Every page of the repository: those at the top, and those in folders.
fn pages() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = files(&["docs", ".github"], &["md"]);
    let beside = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY", "fuzz/README"];
    pages.extend(beside.map(|name| {
        let path = format!("{name}.md");
        File { text: std::fs::read_to_string(top.join(&path)).unwrap(), path }
    }));
    pages
}

/// The lines of a page that are prose: no code, no tables.
fn prose(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    numbered(&file.text).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with('|')
    })
}

fn columns(file: &File) -> Vec<String> {
    let long = prose(file).map(|(number, line)| (number, line.chars().count()));
    let long = long.filter(|(_, columns)| *columns > COLUMNS_MAX);
    long.map(|(number, columns)| format!("{}:{number}: {columns} columns", file.path)).collect()
}

fn translated(file: &File) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in prose(file) {
        let line = line.to_lowercase();
        for words in TRANSLATED {
            // "for every" is not "for ever".
            if line.split(words).skip(1).any(|rest| !rest.starts_with(is_word)) {
                violations.push(format!("{}:{number}: say {words:?} in plain English", file.path));
            }
        }
    }
    violations
}

fn misspelled(file: &File) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in numbered(&file.text) {
        for word in line.split(|c| !is_word(c)).map(str::to_lowercase) {
            if MISSPELLED.iter().any(|begin| word.starts_with(begin)) {
                violations.push(format!("{}:{number}: {word} is spelled wrong", file.path));
            }
        }
    }
    violations
}

/// A link to another file of the repository must lead to one.
fn links(file: &File, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let mut violations = Vec::new();
    for (number, line) in prose_and_tables(file) {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !exists(&folder.join(path)) {
                violations.push(format!("{}:{number}: there is no {path}", file.path));
            }
        }
    }
    violations
}

fn prose_and_tables(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    numbered(&file.text).filter(move |(_, line)| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code
    })
}

/// What a page says to type must be there.
fn targets(file: &File, makefile: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in numbered(&file.text) {
        for rest in line.split("`make ").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            let target = &rest[..end.unwrap_or(rest.len())];
            if !makefile.contains(&format!("\n{target}: ##")) {
                violations.push(format!("{}:{number}: there is no make {target}", file.path));
            }
        }
    }
    violations
}

/// The records of decisions are numbered without a hole, short, alike, and in their index.
fn records(pages: &[File]) -> Vec<String> {
    const FOLDER: &str = "docs/adr/";
    let Some(index) = pages.iter().find(|page| page.path == "docs/adr/README.md") else {
        return vec![format!("{FOLDER}: has no index")];
    };
    let mut found = Vec::new();
    for page in pages {
        let name = page.path.strip_prefix(FOLDER).filter(|name| *name != "README.md");
        found.extend(name.map(|name| (name, page)));
    }
    found.sort_by_key(|(name, _)| *name);
    let mut violations = Vec::new();
    for (number, (name, page)) in (1..).zip(found) {
        let mut wrong = |what: &str| violations.push(format!("{}: {what}", page.path));
        if !name.starts_with(&format!("{number:04}-")) {
            wrong(&format!("is not number {number}"));
        }
        let title = page.text.lines().next().unwrap_or_default();
        let title = title.strip_prefix(&format!("# {number}. ")).unwrap_or_default();
        if title.is_empty() || !index.text.contains(&format!("| {number} | [{title}]({name}) | ")) {
            wrong("its title is not in the index");
        }
        if page.text.lines().count() > RECORD_LINES_MAX {
            wrong("is too long");
        }
        if !page.text.contains("\nDate: 20") || !page.text.contains("Status:") {
            wrong("has no date, or no status");
        }
        let headings: Vec<_> = page.text.lines().filter(|line| line.starts_with("## ")).collect();
        if headings != RECORD_HEADINGS {
            wrong("has other headings");
        }
    }
    violations
}

#[cfg(test)]
mod rules {
    use super::*;

    fn page(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn words_that_are_spelled_wrong_are_caught_and_parts_of_words_are_not() {
        let text = concat!("It Occur", "ed.\npreferred, address\n");
        let wrong = [concat!("a.md:1: occur", "ed is spelled wrong")];
        assert_eq!(misspelled(&page("a.md", text)), wrong);
    }

    #[test]
    fn translations_are_caught_outside_of_code_and_tables() {
        let text = "It is To Be Had.\n```\nfor ever\n```\n| for ever |\nkept for ever, for every\n";
        let say =
            |number: usize, words: &str| format!("a.md:{number}: say {words:?} in plain English");
        let wrong = [say(1, "to be had"), say(6, "for ever")];
        assert_eq!(translated(&page("a.md", text)), wrong);
    }

    #[test]
    fn long_lines_are_caught_in_prose_only() {
        let long = "x ".repeat(51);
        let text = format!("{long}\n| {long} |\n```\n{long}\n```\n");
        assert_eq!(columns(&page("a.md", &text)), ["a.md:1: 102 columns"]);
    }

    #[test]
    fn links_that_lead_nowhere_are_caught() {
        let text = "[a](b.md) [c](../d.md#e) [f](#g)\n| [h](https://example.com) |\n";
        let exists = |path: &Path| path == Path::new("docs/b.md");
        assert_eq!(links(&page("docs/a.md", text), exists), ["docs/a.md:1: there is no ../d.md"]);
    }

    #[test]
    fn targets_of_make_that_are_not_there_are_caught() {
        let text = "`make test` and `make tea N=1`\n";
        let makefile = "\ntest: ## Test\n";
        assert_eq!(targets(&page("a.md", text), makefile), ["a.md:1: there is no make tea"]);
    }

    #[test]
    fn records_that_are_not_like_the_others_are_caught() {
        let whole = "# 1. It is\n\nDate: 2026-11-23. Status: in force.\n\n## Context\n## Decision\n\
                     ## Not chosen, and why\n## Consequences\n";
        let index = page("docs/adr/README.md", "| 1 | [It is](0001-it-is.md) | 2026-11-23 |\n");
        let find = |path: &str, text: &str| {
            let pages = [page("docs/adr/README.md", &index.text), page(path, text)];
            records(&pages)
        };
        assert_eq!(find("docs/adr/0001-it-is.md", whole), [""; 0]);
        let wrong = |what: &str| vec![format!("docs/adr/0001-it-is.md: {what}")];
        let cut = whole.replace("## Context\n", "");
        assert_eq!(find("docs/adr/0001-it-is.md", &cut), wrong("has other headings"));
        let long = format!("{whole}{}", "x\n".repeat(RECORD_LINES_MAX));
        assert_eq!(find("docs/adr/0001-it-is.md", &long), wrong("is too long"));
        let undated = whole.replace("Date: 2026-11-23. ", "");
        assert_eq!(find("docs/adr/0001-it-is.md", &undated), wrong("has no date, or no status"));
        let other = whole.replace("It is", "It was");
        assert_eq!(find("docs/adr/0001-it-is.md", &other), wrong("its title is not in the index"));
        assert_eq!(find("docs/adr/0002-it-is.md", whole).len(), 2);
        assert_eq!(records(&[]), ["docs/adr/: has no index"]);
    }
}
