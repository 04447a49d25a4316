//! Console blocks: a line that starts with `$ ` is a command, and the lines after it are its output.
//! In `sh` blocks and indented blocks every line is a command, which is not run here.
//!
//! `curl` and `iforest-server` run here. Requests to port 5000 go to a server that was started with
//! the options in the comment directly before the block, `<!-- server: --random-state 42 -->`; a
//! block without a comment uses the server of the block before it. A block after
//! `<!-- file: NAME -->` is written to a file of that name, for the commands after it.

use std::path::Path;
use std::process::Command;

use super::{read, root};
use crate::support::folder::Folder;
use crate::support::server::{BINARY, Server};

/// The options that the prose of a document gives when it has no comment.
const DEFAULT_OPTIONS: &str = "--random-state 42 --store memory:";

/// How documents write the address of the server.
const ADDRESSES: [&str; 3] = ["localhost:5000", "127.0.0.1:5000", "0.0.0.0:5000"];

/// What the check of one document found. Each entry has the number of its line.
#[derive(Default)]
pub(super) struct Report {
    /// How many commands were run.
    pub(super) run: usize,
    /// Commands whose output differs from the document.
    pub(super) errors: Vec<(usize, String)>,
    /// Commands that cannot be run here.
    pub(super) others: Vec<(usize, String)>,
}

/// Runs the commands of a document and compares their output.
pub(super) fn check(document: &str) -> Report {
    let mut report = Report {
        others: shell_commands(document),
        ..Report::default()
    };
    let mut session = Session::new();
    let write_files = |session: &Session| {
        for (name, content) in files(document) {
            session.folder.file(name, content);
        }
    };
    write_files(&session);
    for block in blocks(document) {
        if let Some(options) = &block.server {
            if let Err(error) = session.start(options) {
                report.errors.push((block.line, error));
                continue;
            }
            write_files(&session);
        }
        if block.commands.is_empty() {
            let error = "a console block without a command".to_owned();
            report.errors.push((block.line, error));
        }
        for shown in block.commands {
            let result = match Kind::of(&shown.command) {
                Kind::Curl => session.curl(&shown),
                Kind::Server => session.server(&shown),
                Kind::Other => {
                    report.others.push((shown.line, shown.command));
                    continue;
                }
            };
            report.run += 1;
            if let Err(error) = result {
                let error = format!("$ {}\n{error}", shown.command);
                report.errors.push((shown.line, error));
            }
        }
    }
    report
}

/// Whether `.ci/run` runs the same command: as a line of its own, or as the README's test command
/// or a part of that.
pub(super) fn is_in_ci(command: &str) -> bool {
    let script = read(Path::new(".ci/run"));
    let readme = read(Path::new("README.md"));
    let tests = readme
        .lines()
        .find_map(|line| {
            line.strip_prefix("    ")
                .filter(|line| line.starts_with("cargo test"))
        })
        .unwrap_or_default();
    script.lines().any(|line| line.trim() == command)
        || tests == command
        || tests.split(" && ").any(|part| part == command)
}

#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    /// The options in the comment before the block.
    server: Option<String>,
    commands: Vec<Shown>,
}

/// A command and its output as a document shows them.
#[derive(Debug, PartialEq)]
struct Shown {
    line: usize,
    command: String,
    output: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut server = None;
    let mut lines = (1..).zip(document.lines());
    while let Some((line, text)) = lines.next() {
        let text = text.trim();
        if let Some(comment) = text.strip_prefix("<!-- server:") {
            let options = comment.strip_suffix("-->").unwrap_or(comment);
            server = Some(options.trim().to_owned());
        } else if let Some(language) = text.strip_prefix("```") {
            let code = lines
                .by_ref()
                .take_while(|(_, text)| !text.trim_start().starts_with("```"));
            let code: Vec<(usize, &str)> = code.collect();
            if language == "console" {
                blocks.push(Block {
                    line,
                    server: server.take(),
                    commands: commands(&code),
                });
            }
            server = None;
        } else if !text.is_empty() {
            server = None;
        }
    }
    blocks
}

/// The names and contents of the blocks that are files.
fn files(document: &str) -> impl Iterator<Item = (&str, &str)> {
    document.split("<!-- file: ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(" -->\n```")?;
        let (_, rest) = rest.split_once('\n')?;
        let (content, _) = rest.split_once("```")?;
        Some((name, content))
    })
}

/// The lines of `sh` blocks, and indented commands that follow an empty line outside any block.
fn shell_commands(document: &str) -> Vec<(usize, String)> {
    let mut commands = Vec::new();
    let mut fence: Option<&str> = None;
    let mut indented = true;
    for (line, text) in (1..).zip(document.lines()) {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            fence = if fence.is_some() {
                None
            } else {
                Some(language)
            };
            continue;
        }
        indented = fence.is_none() && (text.is_empty() || indented && text.starts_with("    "));
        let command = ["cargo ", "npm ", "node ", "python3 ", "iforest-server "]
            .iter()
            .any(|program| text.trim_start().starts_with(program));
        if !text.is_empty() && (indented && command || fence == Some("sh")) {
            commands.push((line, text.trim().to_owned()));
        }
    }
    commands
}

fn commands(code: &[(usize, &str)]) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut complete = true;
    for &(line, text) in code {
        match (text.strip_prefix("$ "), commands.last_mut()) {
            (_, Some(shown)) if !complete => {
                shown.command.push('\n');
                shown
                    .command
                    .push_str(text.strip_prefix("> ").unwrap_or(text));
                complete = is_complete(&shown.command);
            }
            (Some(command), _) => {
                complete = is_complete(command);
                commands.push(Shown {
                    line,
                    command: command.to_owned(),
                    output: String::new(),
                });
            }
            (None, Some(shown)) => {
                shown.output.push_str(text);
                shown.output.push('\n');
            }
            // Text before the first command is a comment.
            (None, None) => {}
        }
    }
    commands
}

/// Whether a shell would run this and not wait for another line.
fn is_complete(command: &str) -> bool {
    let (mut quote, mut escaped) = (None, false);
    for c in command.chars() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    quote.is_none() && !escaped
}

#[derive(Debug, PartialEq)]
enum Kind {
    Curl,
    Server,
    Other,
}

impl Kind {
    fn of(command: &str) -> Self {
        let is_assignment = |word: &&str| word.starts_with("IFOREST_") && word.contains('=');
        let program = command.split_whitespace().find(|word| !is_assignment(word));
        match program {
            Some("curl") if ADDRESSES.iter().any(|address| command.contains(address)) => Self::Curl,
            Some("iforest-server") => Self::Server,
            _ => Self::Other,
        }
    }
}

/// The server that a document talks to, in a folder of its own.
struct Session {
    server: Option<Server>,
    folder: Folder,
}

impl Session {
    fn new() -> Self {
        Self {
            server: None,
            folder: Folder::new(),
        }
    }

    /// Starts a fresh server in a fresh folder.
    fn start(&mut self, options: &str) -> Result<(), String> {
        *self = Self::new();
        let server = self.spawn(&format!("iforest-server {options}"));
        let server = server.map_err(|output| format!("the server does not start:\n{output}"))?;
        self.server = Some(server);
        Ok(())
    }

    /// Starts the real binary as the command says, but on a free port of the loopback interface.
    /// Returns its output if it exits.
    fn spawn(&self, command: &str) -> Result<Server, String> {
        let command = command
            // Without exec the shell would be killed in place of the server.
            .replacen("iforest-server", "exec iforest-server", 1)
            .replace("--port 5000", "--port 0")
            .replace("--host 0.0.0.0", "--host 127.0.0.1");
        Server::spawn_or_exit(self.command(&command))
    }

    /// A shell command in the folder of the session. It finds the real binary first, which keeps
    /// models in memory unless the command says otherwise.
    fn command(&self, command: &str) -> Command {
        let mut path = Path::new(BINARY)
            .parent()
            .expect("a folder")
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .env("PATH", path)
            .env("IFOREST_HOST", "127.0.0.1")
            .env("IFOREST_PORT", "0")
            .env("IFOREST_STORE", "memory:")
            .env("NO_PROXY", "*")
            .current_dir(self.folder.path());
        shell
    }

    /// Runs curl against the server of the session.
    fn curl(&mut self, shown: &Shown) -> Result<(), String> {
        if self.server.is_none() {
            self.start(DEFAULT_OPTIONS)?;
        }
        let address = self.server.as_ref().map_or("", |server| &server.address);
        let mut command = shown.command.clone();
        for known in ADDRESSES {
            command = command.replace(known, address);
        }
        let silent = format!("curl() {{ command curl -sS \"$@\"; }}; {command}");
        let output = self.command(&silent).output();
        let output = output.map_err(|error| format!("no shell: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        self.compare(&String::from_utf8_lossy(&output.stdout), &shown.output)
    }

    /// Runs the real binary. If it listens, later requests go to it, and its log must start with
    /// the shown lines; otherwise its output must equal them.
    fn server(&mut self, shown: &Shown) -> Result<(), String> {
        self.server = None;
        let server = match self.spawn(&shown.command) {
            Ok(server) => server,
            Err(output) => return self.compare(&(output + "\n"), &shown.output),
        };
        let lines = shown.output.lines().count();
        while server.log().lines().count() < lines {
            server.wait_for_line("");
        }
        let log: String = server
            .log()
            .lines()
            .take(lines)
            .flat_map(|line| [line, "\n"])
            .collect();
        self.server = Some(server);
        self.compare(&log, &shown.output)
    }

    fn compare(&self, output: &str, expected: &str) -> Result<(), String> {
        let address = self.server.as_ref().map(|server| server.address.as_str());
        let mask = |text: &str| {
            let mut text = text.replace('\r', "");
            for known in ADDRESSES.into_iter().chain(address) {
                text = text.replace(known, "ADDRESS");
            }
            let lines = text.split('\n').map(|line| match line.get(..6) {
                Some(field) if field.eq_ignore_ascii_case("date: ") => "date: TIME".to_owned(),
                _ => mask_times(line),
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        if mask(output) == mask(expected) {
            return Ok(());
        }
        Err(format!("shown:\n{expected}but the output is:\n{output}"))
    }
}

/// Replaces times such as 2026-11-23T02:00:00Z, which differ from run to run.
fn mask_times(line: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let mut masked = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let bytes = rest.as_bytes();
        let fits = bytes.len() > FORM.len()
            && FORM.iter().zip(bytes).all(|(&form, byte)| match form {
                b'0' => byte.is_ascii_digit(),
                _ => form == *byte,
            });
        if fits {
            let fraction = &rest[FORM.len()..];
            rest = fraction.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
            masked.push_str("TIME");
        } else {
            masked.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}

#[cfg(unix)]
#[test]
fn wrong_output_in_a_document_is_found() {
    if !crate::support::tools::available("curl", &["--version"]) {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let document = format!(
        r#"
<!-- server: --random-state 7 --store models -->
```console
$ curl -s http://localhost:5000/retrain -H 'Content-Type: application/json' \
    -d '{{"samples": [1, 2, 3]}}'
{{"message":"Model retrained successfully","samples_used":3}}
$ curl http://localhost:5000/models -o list; grep -c . list; ls -d models
1
models
```

The next block uses the same server.

```console
$ curl http://localhost:5000/models/default/versions
{{"name":"default","served":1,"versions":[1]}}
$ curl http://localhost:5000/models/default/versions
{{"name":"default","served":2,"versions":[1]}}
$ cargo fmt --check
$ iforest-server --version
iforest-server {version}
```
<!-- server: --no-such-option -->

```console
$ curl http://localhost:5000/models
```
```sh
not run
```
"#
    );
    let report = check(&document);
    let lines: Vec<usize> = report.errors.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [17, 25], "{:?}", report.errors);
    assert!(report.errors[0].1.contains("\"served\":1"));
    assert!(report.errors[1].1.contains("--no-such-option"));
    let others = [(29, "not run"), (19, "cargo fmt --check")];
    assert_eq!(
        report.others,
        others.map(|(line, command)| (line, command.to_owned()))
    );
    assert_eq!(report.run, 5);
    assert!(is_in_ci("cargo fmt --check") && !is_in_ci("cargo"));
    assert!(root().join(".ci/run").exists());
    assert_eq!(
        mask_times("at 2026-11-23T02:00:00.123Z, 2026"),
        "at TIMEZ, 2026"
    );
}

#[cfg(unix)]
#[test]
fn a_console_block_can_start_the_server() {
    if !crate::support::tools::available("curl", &["--version"]) {
        return;
    }
    let document = r#"
```console
$ IFOREST_RANDOM_STATE=42 iforest-server --host 0.0.0.0 --port 5000 --store memory:
$ curl http://localhost:5000/models/none
{"error":"there is no model none","code":"no_model"}
```
"#;
    let report = check(document);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!((report.run, report.others.len()), (2, 0));
}
