//! A progress line on the terminal. Nothing is shown if stderr is not a terminal.

use std::io::{IsTerminal, Write, stderr};

pub struct Progress {
    is_shown: bool,
    last: String,
}

/// Characters of the bar.
const WIDTH: usize = 30;

impl Progress {
    pub fn new() -> Self {
        Self { is_shown: stderr().is_terminal(), last: String::new() }
    }

    /// `share` is from 0 to 1.
    pub fn show(&mut self, what: &str, share: f64, more: &str) {
        let line = line(what, share, more);
        if self.is_shown && line != self.last {
            // An error: the terminal is gone.
            let _ = write!(stderr(), "\r\x1b[K{line}");
            self.last = line;
        }
    }

    pub fn clear(&mut self) {
        if self.is_shown && !self.last.is_empty() {
            // As above.
            let _ = write!(stderr(), "\r\x1b[K");
            self.last.clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(what: &str, share: f64, more: &str) -> String {
    let full = (share.clamp(0.0, 1.0) * WIDTH as f64) as usize;
    format!("{what:<10} {}{} {more}", "━".repeat(full), "─".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_the_share() {
        assert_eq!(line("measuring", 0.5, "5 s").matches('━').count(), WIDTH / 2);
        assert_eq!(line("measuring", 7.0, "").matches('━').count(), WIDTH);
    }
}
