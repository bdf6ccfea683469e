#![forbid(unsafe_code)]
//! Runs any number of seeds, from any seed, on all cores.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use broker_sim::run::run;
use broker_sim::scenario::Scenario;
use broker_sim::shrink::{shrink, story};
use clap::Parser;

/// Simulates the broker, one run per seed, and tells the story of every run in which something was wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads; as many as there are cores when left out.
    #[arg(long)]
    jobs: Option<usize>,
    /// So many runs in which something is wrong are told; then the rest is left.
    #[arg(long, default_value_t = 1)]
    stories: usize,
    /// Tell the run of a seed as it is, also when all is well.
    #[arg(long)]
    trace: bool,
    /// A fault to plant.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    plant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let next = AtomicU64::new(arguments.from);
    let (told, runs, lives) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let print = Mutex::new(());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                #[cfg(feature = "sabotage")]
                broker_core::sabotage::plant(arguments.plant.as_deref().and_then(broker_core::sabotage::Plant::named));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.from + arguments.seeds || told.load(Ordering::Relaxed) >= arguments.stories {
                        return;
                    }
                    let scenario = Scenario::of(seed);
                    match run(&scenario) {
                        Ok(outcome) => {
                            runs.fetch_add(1, Ordering::Relaxed);
                            lives.fetch_add(u64::from(outcome.lives), Ordering::Relaxed);
                            let _print = print.lock();
                            if arguments.trace {
                                println!("{}", story(&scenario, &outcome));
                            } else if !outcome.wrong.is_empty()
                                && told.fetch_add(1, Ordering::Relaxed) < arguments.stories
                            {
                                let (shortest, outcome) = shrink(&scenario, outcome);
                                println!("{}", story(&shortest, &outcome));
                            }
                        }
                        Err(error) => {
                            told.fetch_add(1, Ordering::Relaxed);
                            eprintln!("seed {seed} could not be run: {error}");
                        }
                    }
                }
            });
        }
    });
    let told = told.load(Ordering::Relaxed);
    println!(
        "{} runs with {} brokers from seed {}: {told} in which something was wrong",
        runs.load(Ordering::Relaxed),
        lives.load(Ordering::Relaxed),
        arguments.from
    );
    if told == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
