//! The environment: variables of options, and those that no option has.

use std::ffi::{OsStr, OsString};

use iforest_server::escape::escape;
use iforest_server::excerpt::excerpt;

use super::values::{check_values, nearest};

const PREFIX: &str = "IFOREST_";

/// Variables of the Node-RED flows, which may run in the same environment.
const FLOWS: [&str; 4] = [
    "IFOREST_URL",
    "IFOREST_KEY",
    "IFOREST_CA",
    "IFOREST_SERVER_BIN",
];

/// Checks all variables that are called `IFOREST_…`.
pub(super) fn check(
    command: &clap::Command,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), String> {
    for (variable, value) in variables {
        let variable = variable.to_string_lossy();
        let Some(rest) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let is_service_link = is_service_link(rest, &value);
        let option = command
            .get_arguments()
            .find(|option| option.get_env() == Some(OsStr::new(&*variable)));
        if let Some(option) = option {
            check_values(option, [value.as_os_str()]).map_err(|problem| {
                let value = value.to_string_lossy();
                let hint = if is_service_link {
                    "; Kubernetes sets this variable where a service is called iforest: put \
                     enableServiceLinks: false into the specification of the pod"
                } else {
                    ""
                };
                format!(
                    "invalid value '{}' for {variable}: {problem}{hint}",
                    excerpt(&value)
                )
            })?;
        } else if !FLOWS.contains(&&*variable) && !is_service_link && !is_known(command, &variable)
        {
            let hint = match nearest(command, &rest.replace('_', "-")).and_then(clap::Arg::get_env)
            {
                Some(similar) => format!("did you mean {}?", similar.to_string_lossy()),
                None => "iforest-server --help names all variables".to_owned(),
            };
            return Err(format!(
                "unknown environment variable {}; {hint}",
                escape(&variable)
            ));
        }
    }
    Ok(())
}

/// Whether an option of a subcommand has the variable.
fn is_known(command: &clap::Command, variable: &str) -> bool {
    command.get_subcommands().any(|command| {
        command
            .get_arguments()
            .any(|option| option.get_env() == Some(OsStr::new(variable)))
    })
}

/// Whether Kubernetes sets a variable for a service whose name begins with `iforest`, such as
/// `IFOREST_SERVER_SERVICE_HOST`, `IFOREST_SERVER_PORT=tcp://10.0.0.1:5000` and
/// `IFOREST_SERVER_PORT_5000_TCP_ADDR` for `iforest-server`. `rest` is what follows `IFOREST_`.
fn is_service_link(rest: &str, value: &OsStr) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let has_words = words
        .windows(2)
        .any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(
            |words| matches!(words, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)),
        );
    let is_address = value.to_string_lossy().contains("://");
    has_words || (words.last() == Some(&"PORT") && is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(variable: &str, value: &str) -> Result<(), String> {
        let variables = [(variable.into(), value.into())];
        check(&crate::config::command(), variables.into_iter())
    }

    // As Kubernetes 1.34 documents them, for the services iforest-server and iforest.
    #[test]
    fn service_links_of_other_names_are_no_settings() {
        for (variable, value) in [
            ("IFOREST_SERVER_SERVICE_HOST", "10.0.0.11"),
            ("IFOREST_SERVER_SERVICE_PORT", "5000"),
            ("IFOREST_SERVER_SERVICE_PORT_HTTP", "5000"),
            ("IFOREST_SERVER_PORT", "tcp://10.0.0.11:5000"),
            ("IFOREST_SERVER_PORT_5000_TCP", "tcp://10.0.0.11:5000"),
            ("IFOREST_SERVER_PORT_5000_TCP_PROTO", "tcp"),
            ("IFOREST_SERVER_PORT_5000_TCP_PORT", "5000"),
            ("IFOREST_SERVER_PORT_5000_TCP_ADDR", "10.0.0.11"),
            ("IFOREST_SERVICE_HOST", "10.0.0.11"),
            ("IFOREST_PORT_5000_TCP_ADDR", "10.0.0.11"),
            ("IFOREST_URL", "http://localhost:5000"),
            ("IFOREST_KEY", "a key"),
            ("IFOREST_CA", "ca.pem"),
            ("IFORESTS", "not ours"),
            ("IFOREST_PORT", "5000"),
        ] {
            assert_eq!(check_one(variable, value), Ok(()), "{variable}");
        }
        let error = check_one("IFOREST_PORT", "tcp://10.0.0.11:5000").expect_err("not a port");
        assert!(error.contains("enableServiceLinks: false"), "{error}");
        for variable in ["IFOREST_SERVER_PORT", "IFOREST_PORT_TCP", "IFOREST_SERVICE"] {
            assert!(check_one(variable, "5000").is_err(), "{variable}");
        }
    }
}
