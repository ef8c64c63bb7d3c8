//! Config text to a validated [`Config`]; every problem is reported at once, with its place.
//!
//! Pure: the environment and the files that a config refers to come in through [`Surroundings`]. Invariants:
//! - All that is wrong with a file is found in one pass: reading goes on after a problem.
//! - A [`Config`] is whole: names in it exist, addresses and paths do not clash, secrets are long enough.
//! - Secrets never print, neither in a problem nor in [`Config::effective`].
//!
//! Start reading at [`load`].

mod check;
mod effective;
mod file;
mod model;
mod problem;
mod reader;
mod summary;
mod text;
mod words;

use std::path::Path;

pub use check::built_in_dialects;
pub use file::json_schema;
pub use model::*;
pub use problem::{Problem, Problems};

/// The most worker threads.
pub const MAX_WORKERS: u16 = tidegate_types::MAX_SHARDS;

/// What a config may refer to outside its text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Reads an environment variable, for `${NAME}`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file that holds a secret or keys.
    pub read_file: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

/// Reads the text of the config file called `file`. Relative paths in it are relative to that file's directory.
pub fn load(file: &str, text: &str, surroundings: Surroundings<'_>) -> Result<Config, Problems> {
    let reader = reader::Reader::new(file, text, surroundings);
    let config = reader.document().map(|document| check::config(&reader, document));
    match (config, reader.finish(file)) {
        (Some(config), None) => Ok(config),
        (_, Some(problems)) => Err(problems),
        // Only syntax errors, which are problems, leave no document.
        (None, None) => Err(Problems { file: file.to_owned(), problems: Vec::new() }),
    }
}
