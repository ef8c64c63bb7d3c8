//! Runs the cluster's simulation under as many seeds as you like and tells every promise that was broken:
//! `cargo run -p tidegate-sim --example cluster -- --seeds 1000 [--from 0] [--steps 2000]`.

use tidegate_sim::cluster::{Report, Sabotage, run};

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (from, seeds, steps) = (number("--from", 0), number("--seeds", 100), number("--steps", 2_000));
    let (mut total, mut broken) = (Report::default(), 0);
    for seed in from..from + seeds {
        match run(seed, steps, Sabotage::Nothing) {
            Ok(report) => total.add(&report),
            Err(violation) => {
                broken += 1;
                println!("seed {seed}, {} ms: {}", violation.at_ms, violation.what);
            }
        }
    }
    println!("{seeds} seeds, {broken} broken: {total:?}");
    std::process::ExitCode::from(u8::from(broken > 0))
}
