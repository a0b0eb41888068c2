//! What all runs came to, and what is read out of it: medians over the rounds, and ratios of two
//! servers within a round. Kept as lines of JSON in a file, so that the page can be written again.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::rig::Server;

pub struct Results {
    path: PathBuf,
    entries: Vec<Value>,
}

impl Results {
    /// Begins anew; `about` says when, where and of what.
    pub fn create(path: &Path, about: &Value) -> Result<Self> {
        std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        File::create(path)?;
        let mut results = Self { path: path.to_owned(), entries: Vec::new() };
        results.push(json!({ "about": about }))?;
        Ok(results)
    }

    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        let mut entries = Vec::new();
        for line in BufReader::new(file).lines() {
            entries.push(serde_json::from_str(&line?)?);
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    pub fn add(&mut self, round: usize, case: &Case, report: &Value) -> Result<()> {
        self.push(json!({
            "round": round,
            "load": case.load,
            "server": case.server.name(),
            "arguments": case.arguments,
            "report": report,
        }))
    }

    fn push(&mut self, entry: Value) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        writeln!(file, "{entry}")?;
        self.entries.push(entry);
        Ok(())
    }

    pub fn about(&self, what: &str) -> &str {
        let entry = self.entries.first().and_then(|entry| entry.pointer(&format!("/about/{what}")));
        entry.and_then(Value::as_str).unwrap_or("?")
    }

    /// One for each round, a number by its path in the report, such as `/delivery/p50`.
    fn values(&self, load: &str, server: Server, path: &str) -> Vec<(u64, f64)> {
        let name = server.name();
        let is_of = |entry: &&Value| entry["load"] == *load && entry["server"] == *name;
        let value = |entry: &Value| {
            let (round, report) = (entry["round"].as_u64()?, &entry["report"]);
            // Of nothing there is no percentile, though a histogram says 0.
            let (parent, _) = path.rsplit_once('/')?;
            let is_empty = report.pointer(&format!("{parent}/count")) == Some(&json!(0));
            let value = report.pointer(path)?.as_f64()?;
            (!is_empty).then_some((round, value))
        };
        self.entries.iter().filter(is_of).filter_map(value).collect()
    }

    pub fn median(&self, load: &str, server: Server, path: &str) -> Option<f64> {
        median(self.values(load, server, path).into_iter().map(|(_, value)| value).collect())
    }

    /// The median of the rounds' ratios: what disturbed a round disturbed both.
    pub fn ratio(&self, a: (&str, Server), b: (&str, Server), path: &str) -> Option<f64> {
        let (over, under) = (self.values(a.0, a.1, path), self.values(b.0, b.1, path));
        let of_round = |round: u64| under.iter().find(|(of, _)| *of == round);
        let ratio = |(round, value): &(u64, f64)| Some(value / of_round(*round)?.1);
        median(over.iter().filter_map(ratio).collect())
    }

    /// The arguments of a load, as the first run had them.
    pub fn arguments(&self, load: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry["load"] == *load)?["arguments"].as_str()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
