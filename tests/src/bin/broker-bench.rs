#![forbid(unsafe_code)]
//! Prints how fast and how small the broker is. The method stands in `broker_tests::bench` and in docs/performance.md.

use std::process::ExitCode;
use std::time::Duration;

use broker_tests::bench::{self, NAMES, Plan, app_server, report::Figure};

const HELP: &str = "\
Measures the broker between a fake Slack and an app-server whose turns take 5 ms.

usage: broker-bench [single|burst|stream|sessions]...   all of them when none is named
       broker-bench soak [MINUTES [MESSAGES_PER_SECOND]] 32 minutes at 50 per second unless told otherwise

Exit code 1 when a goal was missed.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let app_server = arguments.first().is_some_and(|first| ["app-server", "sandbox"].contains(&first.as_str()));
    // The app-server must cost little; the bench holds a fake Slack beside it.
    let mut runtime = if app_server {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    if app_server {
        let ended = runtime.block_on(app_server::run(&arguments));
        // A read of stdin may still be under way.
        runtime.shutdown_background();
        return if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    runtime.block_on(bench(&arguments))
}

async fn bench(arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|argument| ["-h", "--help"].contains(&argument.as_str())) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if arguments.first().is_some_and(|first| first == "soak") {
        let Some(plan) = plan(&arguments[1..]) else { return usage() };
        return print(&bench::soak(plan).await);
    }
    let names: Vec<&str> =
        if arguments.is_empty() { NAMES.to_vec() } else { arguments.iter().map(String::as_str).collect() };
    if names.iter().any(|name| !NAMES.contains(name)) {
        return usage();
    }
    let mut ended = ExitCode::SUCCESS;
    for name in names {
        eprintln!("measuring {name} …");
        let figures = bench::measure(name).await.unwrap_or_default();
        if print(&figures) != ExitCode::SUCCESS {
            ended = ExitCode::FAILURE;
        }
    }
    ended
}

fn plan(arguments: &[String]) -> Option<Plan> {
    let mut plan = Plan::default();
    if let Some(minutes) = arguments.first() {
        plan.length = Duration::from_secs(minutes.parse::<u64>().ok()?.max(1) * 60);
    }
    if let Some(rate) = arguments.get(1) {
        plan.per_second = rate.parse::<u32>().ok()?.max(1);
    }
    Some(plan)
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(64)
}

fn print(figures: &[Figure]) -> ExitCode {
    println!("| what | measured | goal | |");
    println!("|---|---|---|---|");
    for figure in figures {
        println!("{figure}");
    }
    if figures.iter().any(Figure::missed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
