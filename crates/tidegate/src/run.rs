//! `run`, `check` and `config-schema`: what has to do with the config file.

use std::path::Path;
use std::sync::Arc;

use tidegate_config::{Config, Surroundings};
use tidegate_server::{Extras, Server, Source, exit, start_logging};

use crate::cli::{CheckArgs, RunArgs};
use crate::failure::Failure;
use crate::output::print;

/// Serves what the config says, until a signal.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    let read = {
        let (file, delay) = (args.config.clone(), args.drain_delay);
        move || {
            let mut config = load(&file)?;
            config.drain.delay = delay.unwrap_or(config.drain.delay);
            Ok::<_, Failure>(config)
        }
    };
    let config = read()?;
    start_logging(&config.log);
    let again = move || read().map_err(|failure| failure.to_string());
    let source = Source { file: args.config.clone(), watch: config.reload.watch, read: Arc::new(again) };
    let extras = Extras { signals: true, source: Some(source), ..Extras::default() };
    let schemes: Vec<_> = config.listeners.iter().map(|at| if at.tls.is_some() { "https" } else { "http" }).collect();
    let running = Server::start(config, extras)?;
    for (address, scheme) in running.addresses().iter().zip(schemes) {
        tracing::info!(%address, "listening on {scheme}://{address}");
    }
    if let Some(address) = running.admin_address() {
        tracing::info!(%address, "admin on http://{address}");
    }
    if args.end_with_stdin {
        let handle = running.handle();
        let watch = move || {
            // Nothing is expected to come; an error is as good as an end.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            handle.drain();
        };
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(watch)
            .map_err(|error| Failure::io("cannot start a thread", error))?;
    }
    Ok(running.wait())
}

/// Reports what is wrong with a config, or that nothing is.
pub fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let config = load(&args.config)?;
    if args.print {
        print(&config.effective())?;
    } else {
        print(&format!("{}: ok\n{}", args.config.display(), config.summary()))?;
    }
    Ok(exit::OK)
}

/// Prints the schema.
pub fn config_schema() -> Result<u8, Failure> {
    let schema = serde_json::to_string_pretty(&tidegate_config::json_schema()).map_err(anyhow::Error::from)?;
    print(&format!("{schema}\n"))?;
    Ok(exit::OK)
}

fn load(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let advice = if error.kind() == std::io::ErrorKind::NotFound {
            " (name it with --config; `tidegate dev` needs none)"
        } else {
            ""
        };
        Failure::usage(format!("cannot read the config {}: {error}{advice}", path.display()))
    })?;
    let variable = |name: &str| std::env::var(name).ok();
    let read_file = |path: &Path| std::fs::read_to_string(path);
    let surroundings = Surroundings { variable: &variable, read_file: &read_file };
    tidegate_config::load(&path.display().to_string(), &text, surroundings)
        .map_err(|problems| Failure::usage(format!("the config has problems\n{problems}")))
}
