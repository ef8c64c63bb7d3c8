//! What must be so with either program. Compiled twice: as `redis` and as `valkey`.

mod alone;
mod chaos;
mod cluster;
mod sentinel;
mod trouble;

use tidegate_testkit::redis::{Program, RedisOptions};

/// The plainest server of the program that this module is called after.
fn plain() -> RedisOptions {
    let program = if module_path!().ends_with("::valkey") { Program::Valkey } else { Program::Redis };
    RedisOptions { program, ..RedisOptions::default() }
}
