//! Settings: the file, variables and options, their check, and the help.

use std::net::TcpListener;
use std::process::{Command, Output};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::READING;
use crate::support::folder::Folder;
use crate::support::server::{BINARY, Server};

/// Runs the program with variables and options until it exits.
fn run(variables: &[(&str, &str)], options: &[&str]) -> Output {
    Command::new(BINARY)
        .envs(variables.iter().copied())
        .args(options)
        .output()
        .expect("the program starts")
}

/// Runs the program, which must refuse its settings. Returns its message.
fn refusal(variables: &[(&str, &str)], options: &[&str]) -> String {
    let output = run(variables, options);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{options:?}: {said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    said
}

/// The settings as `--check-config` prints them.
fn listing(variables: &[(&str, &str)], options: &[&str]) -> String {
    let output = run(variables, &[options, &["--check-config"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_file_sets_options() {
    let folder = Folder::new();
    let settings =
        "# loopback only\nhost = \"127.0.0.1\"\nport = 0\nrandom-state = 42\nstore = \"memory:\"\n";
    let file = folder.file("settings.toml", settings);
    let start = |option: bool| {
        let mut command = Command::new(BINARY);
        if option {
            command.args(["--config", &file]);
        } else {
            command.env("IFOREST_CONFIG", &file);
        }
        Server::spawn(command)
    };
    for option in [true, false] {
        let server = start(option);
        assert!(server.address.starts_with("127.0.0.1:"));
        let body = server.post("/predict", READING).ok();
        assert!(
            body.contains("\"anomaly_score\":-0.05813124527712765,"),
            "{body}"
        );
    }
}

// Windows PowerShell writes UTF-16 with `>`.
#[test]
fn a_file_may_be_utf16() {
    let folder = Folder::new();
    let text = "\u{feff}n-estimators = 7\r\n";
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = folder.file("settings.toml", bytes);
    let expected = format!("n-estimators = 7 # {file}, line 1\n");
    let listing = listing(&[], &["--config", &file]);
    assert!(listing.contains(&expected), "{listing}");
}

#[test]
fn options_override_variables_which_override_the_file() {
    let folder = Folder::new();
    let file = folder.file(
        "settings.toml",
        "n-estimators = 7\nkeep-versions = 7\nport = 7\n\nallowed-origins = [\"http://a\", \"http://b\"]\n",
    );
    let variables = [
        ("IFOREST_CONFIG", file.as_str()),
        ("IFOREST_KEEP_VERSIONS", "8"),
        ("IFOREST_PORT", "8"),
    ];
    let listing = listing(&variables, &["--port", "9"]);
    for expected in [
        format!("\nn-estimators = 7 # {file}, line 1\n"),
        "\nkeep-versions = 8 # IFOREST_KEEP_VERSIONS\n".to_owned(),
        "\nport = 9 # --port\n".to_owned(),
        format!("\nallowed-origins = [\"http://a\", \"http://b\"] # {file}, line 5\n"),
        "\ncontamination = 0.05 # default\n".to_owned(),
        "\n# random-state is not set\n".to_owned(),
        format!("\n# config = {file:?} # IFOREST_CONFIG\n"),
    ] {
        assert!(listing.contains(&expected), "{expected:?} in {listing}");
    }
}

#[test]
fn a_wrong_file_is_refused_by_line_key_and_range() {
    let folder = Folder::new();
    let at = |line: usize| format!("settings.toml, line {line}: ");
    for (settings, line, expected) in [
        (
            "host = \"a\"\n\nport = 70000\n",
            3,
            "invalid value 70000 for port: expected a whole number from 0 to 65535",
        ),
        (
            "n_estimators = 5",
            1,
            "unknown key n_estimators; did you mean n-estimators?",
        ),
        (
            "contamination = 0.9",
            1,
            "contamination must be greater than 0 and at most 0.5, got 0.9",
        ),
        (
            "# x\nout-of-range = \"no\"",
            2,
            "expected one of score, anomaly, distance",
        ),
        ("memory-limit = \"1MiB\"", 1, "expected at least 32 MiB"),
        ("port = 1\nport = 2", 2, "duplicate key"),
        (
            "config = \"x\"",
            1,
            "config must not be in the file of settings",
        ),
    ] {
        let file = folder.file("settings.toml", settings);
        let said = refusal(&[], &["--config", &file]);
        let place = at(line);
        assert!(said.contains(&place) && said.contains(expected), "{said}");
        // Also where an option overrides the value.
        let said = refusal(
            &[],
            &["--config", &file, "--port", "1", "--n-estimators", "1"],
        );
        assert!(said.contains(expected), "{said}");
    }
    let file = folder.file("settings.toml", "port = 1\n# \u{1b}[2J\n");
    let said = refusal(&[], &["--config", &file]);
    assert!(
        said.contains(&at(2)) && !said.contains('\u{1b}'),
        "{said:?}"
    );
    let file = folder.file("settings.toml", b"port = \xff");
    let said = refusal(&[], &["--config", &file]);
    assert!(said.contains("not UTF-8"), "{said}");
    assert!(said.contains("save the file as UTF-8"), "{said}");
    let file = folder.file("settings.toml", "#".repeat(1024 * 1024 + 1));
    let said = refusal(&[], &["--config", &file]);
    assert!(said.contains("larger than 1048576 bytes"), "{said}");
    for missing in ["no-such-file.toml", folder.text()] {
        let said = refusal(&[], &["--config", missing]);
        assert!(said.contains(missing), "{said}");
    }
    let said = refusal(&[("IFOREST_CONFIG", "no-such-file.toml")], &[]);
    assert!(said.contains("no-such-file.toml"), "{said}");
}

#[test]
fn unknown_and_wrong_variables_are_refused_by_name() {
    for (variable, value, expected) in [
        (
            "IFOREST_PROT",
            "1",
            "unknown environment variable IFOREST_PROT; did you mean IFOREST_PORT?",
        ),
        (
            "IFOREST_ESTIMATORS",
            "1",
            "IFOREST_ESTIMATORS; did you mean IFOREST_N_ESTIMATORS?",
        ),
        ("IFOREST_\u{1b}[2J", "1", "--help names all variables"),
        (
            "IFOREST_PORT",
            "70000",
            "invalid value '70000' for IFOREST_PORT: expected a whole number from 0 to 65535",
        ),
        (
            "IFOREST_PORT",
            "",
            "invalid value '' for IFOREST_PORT: expected a whole number",
        ),
        (
            "IFOREST_TRAIN",
            "",
            "invalid value '' for IFOREST_TRAIN: expected a value, got none",
        ),
        (
            "IFOREST_STORE",
            "",
            "invalid value '' for IFOREST_STORE: expected a value, got none",
        ),
        ("IFOREST_RANDOM_STATE", "-1", "from 0 to 4294967295"),
        (
            "IFOREST_LOG_LEVEL",
            "loud",
            "expected one of error, warn, info, debug",
        ),
        (
            "IFOREST_PORT",
            "tcp://10.0.0.11:5000",
            "enableServiceLinks: false",
        ),
    ] {
        for options in [&[][..], &["--port", "0", "--random-state", "1"]] {
            let said = refusal(&[(variable, value)], options);
            assert!(said.contains(expected), "{variable}={value}: {said}");
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
    }
    // Those of the flows, and those that Kubernetes sets for a service called iforest-server.
    let foreign = [
        ("IFOREST_URL", "http://localhost:5000"),
        ("IFOREST_SERVER_PORT", "tcp://10.0.0.11:5000"),
        ("IFOREST_SERVER_SERVICE_HOST", "10.0.0.11"),
    ];
    assert!(listing(&foreign, &[]).contains("\nport = 5000 # default\n"));
    // Help is given all the same.
    assert!(run(&[("IFOREST_PROT", "1")], &["--help"]).status.success());
}

#[test]
fn settings_that_exclude_each_other_are_named_as_they_were_given() {
    let folder = Folder::new();
    let file = folder.file("settings.toml", "\ntls-cert = \"cert.pem\"\n");
    let said = refusal(&[], &["--config", &file]);
    let expected = format!("tls-cert ({file}, line 2) also needs --tls-key");
    assert!(said.contains(&expected), "{said}");
    let said = refusal(&[("IFOREST_TLS_KEY", "key.pem")], &[]);
    assert!(
        said.contains("IFOREST_TLS_KEY also needs --tls-cert"),
        "{said}"
    );
    let file = folder.file("settings.toml", "out-of-range-margin = 0.5\n");
    let said = refusal(&[], &["--config", &file, "--out-of-range", "distance"]);
    let expected = format!(
        "out-of-range-margin ({file}, line 1) must not be given with --out-of-range distance"
    );
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn check_config_shows_what_holds_and_changes_nothing() {
    let folder = Folder::new();
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("made");
    let cert = folder.file("cert.pem", cert.pem());
    let key = folder.file("key.pem", signing_key.serialize_pem());
    let secret = "secret-secret-secret";
    let keys = folder.file("keys", format!("node-red read {secret}\n"));
    let train = folder.file("readings.csv", "1\n2\n3\n");
    let store = folder.path().join("below").join("store");
    // It need not be free.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let options = [
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--api-keys",
        &keys,
        "--train",
        &train,
        "--store",
        store.to_str().expect("text"),
        "--max-samples",
        "0.5",
        "--memory-limit",
        "64MiB",
    ];
    let shown = listing(&[("IFOREST_LOG_FORMAT", "json")], &options);
    for expected in [
        &format!("port = {port} # --port\n"),
        &format!("api-keys = {keys:?} # --api-keys\n"),
        "max-samples = 0.5 # --max-samples\n",
        "log-format = \"json\" # IFOREST_LOG_FORMAT\n",
        "out-of-range-margin = 0 # default\n",
        "# models, trainings and requests take at most 64 MiB\n",
        "# requests need one of 1 API keys\n",
        "# the certificate and its key belong together\n",
        "# 3 readings to train on\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} in {shown}");
    }
    assert!(!shown.contains(secret), "{shown}");
    assert!(!folder.path().join("below").exists());
    drop(taken);

    // It is a file of settings with the same values.
    let file = folder.file("shown.toml", &shown);
    let again = listing(&[], &["--config", &file]);
    let values = |listing: &str| -> Vec<String> {
        let lines = listing.lines().filter(|line| !line.contains("config"));
        lines
            .map(|line| line.split(" # ").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(values(&again), values(&shown));
    assert!(again.contains(&format!(" # {file}, line ")), "{again}");
}

// Its paths stand in double quotes, where those of Windows have escapes.
#[cfg(unix)]
#[test]
fn the_settings_of_the_debian_package_are_valid_with_each_that_is_commented_out() {
    let folder = Folder::new();
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("made");
    folder.file("cert.pem", cert.pem());
    folder.file("key.pem", signing_key.serialize_pem());
    folder.file("keys", "node-red read 0123456789abcdef\n");
    let settings = include_str!("../../../deploy/debian/config.toml");
    // Comments have a space after the sign.
    let lines = settings.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
        _ => line,
    });
    let settings = lines.collect::<Vec<_>>().join("\n");
    let settings = settings.replace("/etc/iforest-server", folder.text());
    let file = folder.file("config.toml", &settings);
    let shown = listing(&[], &["--config", &file]);
    for key in ["host", "store", "api-keys", "tls-cert", "memory-limit"] {
        let line = shown
            .lines()
            .find(|line| line.starts_with(&format!("{key} = ")));
        let line = line.unwrap_or_else(|| panic!("{key} in {shown}"));
        assert!(line.contains(&format!("# {file}, line ")), "{line}");
    }
    assert!(shown.contains("host = \"127.0.0.1\" "), "{shown}");
}

#[test]
fn check_config_hides_secrets_of_the_store() {
    let options = ["--store", "s3://key:secret-1@bucket/path?token=secret-2"];
    let shown = listing(&[], &options);
    assert!(
        shown.contains("store = \"s3://***@bucket/path?***\" # --store\n"),
        "{shown}"
    );
    let options = [
        "--store",
        "https://key:secret-1@example.org",
        "--check-config",
    ];
    let output = run(&[], &options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot use the store https://***@example.org"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn check_config_names_what_is_wrong() {
    let folder = Folder::new();
    let readings = folder.file("readings.csv", "1\ntwo\n");
    let keys = folder.file("keys", "node-red read short\n");
    let file = folder.file("file", "");
    let below = format!("{file}/store");
    for (options, expected) in [
        (["--train", &readings], format!("{readings}, line 2: ")),
        (
            ["--train", folder.text()],
            format!("{}: cannot read the readings: ", folder.text()),
        ),
        (
            ["--api-keys", "no-such-file"],
            "API keys: cannot read no-such-file: ".to_owned(),
        ),
        (["--api-keys", &keys], format!("{keys}, line 1: ")),
        (["--store", &file], format!("{file} is not a folder")),
        (["--store", &below], format!("{file} is not a folder")),
        (
            ["--store", "s4://bucket"],
            "a store is a folder, memory:".to_owned(),
        ),
        (
            ["--host", "no such host"],
            "cannot listen on no such host:5000".to_owned(),
        ),
    ] {
        let output = run(&[], &[&options[..], &["--check-config"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options:?}: {said}");
        assert!(said.contains(&expected), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn the_short_help_fits_a_screen_and_the_long_one_has_all() {
    let help = |option| {
        let output = run(&[("IFOREST_STORE", "s3://key:secret@bucket")], &[option]);
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let (short, long) = (help("-h"), help("--help"));
    assert!(short.lines().count() <= 32, "{short}");
    let too_long = short.lines().find(|line| line.chars().count() > 80);
    assert_eq!(too_long, None, "{short}");
    for group in [
        "Serving:",
        "Models:",
        "Storage:",
        "Security:",
        "Configuration and log:",
    ] {
        assert!(short.contains(group) && long.contains(group), "{group}");
    }
    assert!(
        !short.contains("secret") && !long.contains("secret"),
        "{long}"
    );
    let shown = listing(&[], &[]);
    for line in shown.lines() {
        let words = line.trim_start_matches("# ");
        let Some((name, _)) = words.split_once(" = ").or(words.split_once(" is not set")) else {
            continue;
        };
        let variable = format!("[env: IFOREST_{}]", name.to_uppercase().replace('-', "_"));
        assert!(
            long.contains(&format!("--{name} ")) && long.contains(&variable),
            "{name}"
        );
    }
}
