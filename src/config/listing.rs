//! Shows all settings as `--check-config` prints them, in the form of a file of settings.

use std::fmt;

use clap::Arg;
use iforest_server::escape::{escape, json_escape};
use iforest_server::store::without_secrets;

use super::file::Kind;
use super::settings::Settings;
use super::values::name;

/// The settings, one in each line, with the source as a comment.
pub(crate) struct Listing<'a>(pub(crate) &'a Settings);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_setting = |option: &&Arg| option.get_env().is_some();
        for option in self.0.command.get_arguments().filter(is_setting) {
            let id = option.get_id().as_str();
            let (name, source) = (name(option), self.0.source(id));
            let Some(values) = self.0.matches.get_raw(id) else {
                writeln!(f, "# {name} is not set")?;
                continue;
            };
            let kind = Kind::of(option);
            let values = values.map(|value| {
                let value = value.to_string_lossy();
                let is_number = value.parse::<f64>().is_ok();
                match kind {
                    Kind::Number => value.into_owned(),
                    Kind::NumberOrText if is_number => value.into_owned(),
                    _ => quote(&without_secrets(&value)),
                }
            });
            let mut value = values.collect::<Vec<_>>().join(", ");
            if kind == Kind::List {
                value = format!("[{value}]");
            }
            // The file cannot name itself.
            let comment = if id == "config" { "# " } else { "" };
            writeln!(
                f,
                "{comment}{name} = {value} # {}",
                escape(&source.to_string())
            )?;
        }
        Ok(())
    }
}

/// A text in quotes. Those of JSON are those of TOML.
fn quote(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_else(|_| format!("{text:?}"));
    json_escape(&quoted).into_owned()
}
