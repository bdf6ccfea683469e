#![forbid(unsafe_code)]
//! The broker: work with a coding agent from a Slack thread.
//!
//! This binary reads the configuration, plugs the parts together, runs them and ends them in order. What a broker *is*
//! stands in `broker-core`.

mod board;
mod config;
mod env_file;
mod exit;
mod figures;
mod local;
mod log_files;
mod logging;
mod markdown;
mod reader;
mod run;
mod signals;
mod token;
mod variables;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use config::{Config, ConfigError, Tokens};
use exit::{Exit, Failure};

/// A build in which faults can be planted is for the simulation alone.
const _: () = assert!(!broker_core::sabotage::POSSIBLE, "the broker is not built with the feature `sabotage`");

/// Work with a coding agent from a Slack thread.
#[derive(Debug, Parser)]
#[command(name = "broker", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Runs the broker until SIGTERM or SIGINT. Without a command too, when Slack's tokens are set; when neither is, and
    /// somebody types or pipes something in, it is a chat in the terminal.
    Serve,
    /// Reads Markdown and writes what Slack would get.
    Mrkdwn(markdown::Choices),
    /// Writes the token that opens a session in the local API, for a script of the operator's.
    Token(token::Choices),
}

fn main() -> ExitCode {
    match cli() {
        Ok(cli) => match cli.command {
            Some(Command::Serve) => start(Mode::Slack),
            Some(Command::Mrkdwn(choices)) => match markdown::run(&choices) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => complain(&failure),
            },
            Some(Command::Token(choices)) => match token::run(&choices) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => complain(&failure),
            },
            None => start(Mode::Any),
        },
        Err(error) => {
            // A reader that hung up early needs no message, and no panic either.
            let _ = error.print();
            if error.use_stderr() { code(Exit::Usage) } else { ExitCode::SUCCESS }
        }
    }
}

fn cli() -> Result<Cli, clap::Error> {
    let help = format!("{}\n\n{}", variables::help(), exit::HELP);
    let command = Cli::command().after_help(help.clone()).mut_subcommand("serve", |serve| serve.after_help(help));
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// What the broker may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A broker on Slack and nothing else.
    Slack,
    /// That, or a chat in the terminal.
    Any,
}

/// The configuration, and whether it is one for a chat in the terminal.
fn configured(mode: Mode) -> Result<(Config, bool), ConfigError> {
    let local = mode == Mode::Any && Tokens::of_process() == Tokens::Neither && local::somebody_types();
    let config = if local { Config::of_process_without_slack() } else { Config::of_process() };
    config.map(|config| (config, local))
}

fn start(mode: Mode) -> ExitCode {
    // There are two makers of TLS in many a dependency tree; which one is ours is said once, before anybody asks.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return complain(&Failure::new(Exit::Internal, "another TLS provider was installed first"));
    }
    let (config, local) = match configured(mode) {
        Ok(configured) => configured,
        Err(error) => {
            return complain(&Failure::new(Exit::Usage, format!("{error}\n`broker --help` explains them all")));
        }
    };
    let started = match local {
        // The conversation has the terminal to itself.
        true => logging::start_beside(config.log_level, &local::logs(&config), config.secrets()),
        false => logging::start(config.log_level, config.folders.log_dir.as_deref(), config.secrets()),
    };
    let log = match started {
        Ok(log) => log,
        Err(error) => {
            let what = match (local, &config.folders.log_dir) {
                (true, None) => format!(
                    "the log in {} cannot be opened ({error}); set DATA_ROOT to a folder that can be made, or LOG_DIR",
                    local::logs(&config).display()
                ),
                _ => format!("the log cannot be opened ({error}); set LOG_DIR to a folder that can be made"),
            };
            return complain(&Failure::new(Exit::CannotCreate, what));
        }
    };
    raise_file_limit();
    let ended = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime
                .block_on(async { if local { local::chat(&config).await } else { run::serve(&config, &log).await } });
            // Blocking work that hangs (a disk, a resolver) does not keep the process.
            runtime.shutdown_timeout(run::BLOCKING_LIMIT);
            ended
        }
        Err(error) => Err(Failure::new(Exit::Internal, format!("no threads could be started ({error})"))),
    };
    match ended {
        Ok(()) => {
            tracing::info!("ended");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!(exit_code = failure.exit as u8, "ended: {failure}");
            if local { complain(&failure) } else { code(failure.exit) }
        }
    }
}

/// Sockets, files and, in Codex, two descriptors for each thread that is loaded: the usual soft limit of 1,024 is for programs
/// that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Tells a failure from before there is a log.
fn complain(failure: &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "broker: {failure}");
    code(failure.exit)
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
