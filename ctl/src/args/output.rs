//! `-o`: how a command prints its result.

use clap::{Args as ClapArgs, ValueEnum};

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text.
    Table,
    /// Text with all columns.
    Wide,
    /// JSON.
    Json,
}

/// `-o`.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct Output {
    /// How to print.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
    /// The same as `-o json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Output {
    /// Whether programs read it.
    pub fn json(self) -> bool {
        self.json || self.format == Format::Json
    }

    /// Whether there is room.
    pub fn wide(self) -> bool {
        !self.json && self.format == Format::Wide
    }
}
