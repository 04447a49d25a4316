//! The subcommand `predict`: predicts the readings of a file with a stored model.

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use iforest_server::predict_csv::{PredictCsvError, predict_csv};
use iforest_server::registry::Registry;
use iforest_server::store::{ModelName, Store};

use crate::config::Config;
use crate::{progress, store_failed};

/// Predict the readings of a CSV file with a stored model
///
/// Writes each line with its anomaly_score, prediction and status to standard output, and a summary
/// to standard error. Nothing is stored, and a server may use the same store meanwhile.
///
/// The readings are in the columns that are named after the model's features, or in the column
/// called value; without a header, in the order of the features. A model with a window uses a
/// column called time.
#[derive(Debug, Clone, Args)]
#[command(max_term_width = 100)]
pub(crate) struct PredictArgs {
    /// File of readings, as for --train [default: -, standard input]
    file: Option<PathBuf>,

    /// Name of the model
    #[arg(long, value_name = "NAME", default_value = ModelName::DEFAULT)]
    model: ModelName,
}

pub(crate) fn run(config: &Config, args: &PredictArgs) -> Result<(), Box<dyn Error + Send + Sync>> {
    let store =
        Store::open_to_read(&config.storage.store).map_err(|error| store_failed(config, &error))?;
    let Input { reader, size, name } = Input::open(args.file.as_deref())?;
    let model = Registry::load_one(store, config.registry_config()?, args.model.clone())?;
    let bar = progress::bar(size);
    let predicted = predict_csv(&model, bar.wrap_read(reader), io::stdout());
    bar.finish_and_clear();
    match predicted {
        Ok(summary) => {
            // Fails where standard error is closed; the predictions are written all the same.
            let _ = write!(io::stderr(), "{summary}");
            Ok(())
        }
        // As of `head`, which has seen enough.
        Err(PredictCsvError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// The readings to predict.
struct Input {
    reader: Box<dyn Read>,
    /// In bytes, if it is known.
    size: Option<u64>,
    /// For messages.
    name: String,
}

impl Input {
    fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Self::standard();
        };
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| format!("cannot read {name}: {error}"))?;
        Ok(Self {
            size: size(&file),
            reader: Box::new(file),
            name,
        })
    }

    fn standard() -> Result<Self, String> {
        let input = io::stdin();
        if input.is_terminal() {
            return Err(
                "name a file of readings, or redirect one: iforest-server predict \
                        < history.csv > verdicts.csv"
                    .to_owned(),
            );
        }
        #[cfg(unix)]
        let size = {
            let file = std::os::fd::AsFd::as_fd(&input).try_clone_to_owned();
            file.ok().and_then(|file| size(&file.into()))
        };
        #[cfg(not(unix))]
        let size = None;
        Ok(Self {
            reader: Box::new(input),
            size,
            name: "standard input".to_owned(),
        })
    }
}

/// The size of a regular file.
fn size(file: &File) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}
