//! The subcommand `store verify`: reads every stored version.

use std::error::Error;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use futures_util::{StreamExt, stream};
use iforest_server::escape::escape;
use iforest_server::store::{ReadError, Store, StoreError};

use crate::config::Config;
use crate::progress::Step;
use crate::store_failed;

/// How many versions are read at a time: an object store answers one after some ten milliseconds.
const CONCURRENCY: usize = 4;

/// Look after the store
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum StoreCommand {
    /// Read every version of every model, and name those that cannot be served
    ///
    /// Writes a line for each version that is damaged, of a newer release or unreadable, and for each
    /// model whose folder cannot be listed, and a last one with the counts. The exit code is 1 if there
    /// is such a version or model. Changes nothing, and a server may use the store meanwhile.
    Verify,
}

pub(crate) fn run(config: &Config, args: &StoreArgs) -> Result<(), Box<dyn Error + Send + Sync>> {
    match args.command {
        StoreCommand::Verify => verify(config),
    }
}

fn verify(config: &Config) -> Result<(), Box<dyn Error + Send + Sync>> {
    let failed = |error| store_failed(config, &error);
    let store = Store::open_to_read(&config.storage.store).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let step = Step::start(format!("reading the versions of {store}"));
    let problems = runtime.block_on(read_all(&store)).map_err(failed)?;
    drop(step);
    match problems {
        0 => Ok(()),
        _ => Err(format!("{} in {store}, named above", counted(problems, "problem")).into()),
    }
}

/// Reads every version, and writes a line for each that cannot be served and for each model that cannot
/// be listed; returns how many these are.
async fn read_all(store: &Store) -> Result<usize, StoreError> {
    let models = store.list().await?;
    let unlisted = store.unlisted().await?;
    for (name, error) in &unlisted {
        print(&format!("{name}: its versions cannot be listed: {error}"));
    }
    let count = models.len();
    let versions = models
        .into_iter()
        .flat_map(|(name, versions)| versions.into_iter().map(move |v| (name.clone(), v.number)));
    let mut read = stream::iter(versions)
        .map(async |(name, number)| {
            let problem = store.read(&name, number).await.err();
            (store.path(&name, number), problem)
        })
        .buffered(CONCURRENCY);
    let (mut good, mut bad) = (0, 0);
    while let Some((path, problem)) = read.next().await {
        match problem {
            None => good += 1,
            // A server has pruned or deleted it meanwhile.
            Some(ReadError::Missing) => {}
            Some(problem) => {
                bad += 1;
                print(&format!("{path}: {problem}"));
            }
        }
    }
    print(&format!(
        "{} of {}: {good} can be served, {bad} cannot",
        counted(good + bad, "version"),
        counted(count, "model")
    ));
    Ok(bad + unlisted.len())
}

/// Writes a line to standard output. Fails where that is closed, and the exit code remains.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{}", escape(line));
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
