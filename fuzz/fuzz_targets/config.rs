//! Any text is a config or a list of problems, each with a place inside the text; what a config says in full is a config
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_config::{Surroundings, load};

fuzz_target!(|text: &str| {
    let surroundings = Surroundings {
        variable: &|_| Some("a value that is long enough to be a secret of any kind at all, even in production".to_owned()),
        read_file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    match load("tidegate.toml", text, surroundings) {
        Ok(config) => drop(config.effective()),
        Err(problems) => {
            let lines = text.lines().count().max(1) + 1;
            for problem in &problems.problems {
                assert!(problem.line <= lines, "{problem:?}");
                assert!(!problem.message.is_empty());
            }
        }
    }
});
