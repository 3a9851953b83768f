//! How results are shown: tables for people, JSON for scripts.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// Prints as people or as scripts like it.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// One JSON document instead of words.
    pub json: bool,
}

impl Out {
    /// Prints a value as JSON, or what `human` makes of it.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn show<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            human(value)
        };
        line(&text)
    }
}

/// Prints a line. A closed pipe (`| head`) ends the program quietly.
///
/// # Errors
/// When standard output fails otherwise.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// A table with its header; the last column is cut to the terminal's width.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let room = width();
    let bold = colours();
    let mut text = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = &str>, head: bool| {
        let mut line = String::new();
        for (i, cell) in cells.enumerate() {
            let last = i + 1 == columns;
            line.push_str(cell);
            if !last {
                line.extend(std::iter::repeat_n(
                    ' ',
                    widths[i].saturating_sub(cell.chars().count()) + 2,
                ));
            }
        }
        let line: String = line.trim_end().chars().take(room).collect();
        if head && bold {
            text.push_str(&format!("\u{1b}[1m{line}\u{1b}[0m\n"));
        } else {
            text.push_str(&line);
            text.push('\n');
        }
    };
    push(&mut header.iter().copied(), true);
    for row in rows {
        push(&mut row.iter().map(String::as_str), false);
    }
    text.truncate(text.trim_end().len());
    text
}

/// The terminal's width; no limit where output goes to a file or pipe.
fn width() -> usize {
    if !std::io::stdout().is_terminal() {
        return usize::MAX;
    }
    std::env::var("COLUMNS")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(160)
}

/// Whether output may be coloured: a terminal, and nobody said no (<https://no-color.org>).
#[must_use]
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A time for a table: whole seconds, UTC; a dash when there is none.
#[must_use]
pub fn time(at: Option<chrono::DateTime<chrono::Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), |t| t.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A value that may be missing.
#[must_use]
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let rows = [vec!["1".into(), "check-sla".into()], vec!["1234".into(), "é".into()]];
        assert_eq!(table(&["ID", "KIND"], &rows), "ID    KIND\n1     check-sla\n1234  é");
    }
}
