//! The real binary, or an example, as a child process on a free port of the loopback interface.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use ndarray::Array2;
use serde_json::json;

use super::data::samples;
use super::folder::Folder;
use super::http::{self, Response};

/// The path of the real binary.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_iforest-server");

/// How long a line of output may take. Training a large forest takes seconds, and many times that
/// on a machine that is busy with other things.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);

/// The command that runs an example. Cargo puts examples beside the binary.
pub(crate) fn example(name: &str) -> Command {
    let folder = Path::new(BINARY).parent().expect("a folder");
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    Command::new(folder.join("examples").join(name))
}

/// A server process, killed when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    lines: Receiver<String>,
    seen: RefCell<Vec<String>>,
}

impl Server {
    /// Starts the real binary and waits until it listens. Models are kept in memory unless the
    /// arguments name a store.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(Self::command(arguments))
    }

    /// Starts the real binary with a folder as its store.
    pub(crate) fn on(folder: &Folder, arguments: &[&str]) -> Self {
        Self::spawn(Self::command_on(folder, arguments))
    }

    /// The command of [`start`](Self::start).
    pub(crate) fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env("IFOREST_STORE", "memory:")
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(arguments);
        command
    }

    /// The command of [`on`](Self::on).
    pub(crate) fn command_on(folder: &Folder, arguments: &[&str]) -> Command {
        let mut command = Self::command(&["--store", folder.text(), "--random-state", "42"]);
        command.args(arguments);
        command
    }

    /// Starts a command and waits until it prints `listening on ADDRESS`.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_or_exit(command).unwrap_or_else(|output| panic!("it does not start:\n{output}"))
    }

    /// Like [`spawn`](Self::spawn), but returns all output if the process exits instead.
    pub(crate) fn spawn_or_exit(command: Command) -> Result<Self, String> {
        let mut server = Self::spawn_only(command);
        loop {
            match server.next_line() {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on ") {
                        let end = address.find(',').unwrap_or(address.len());
                        server.address = address[..end].to_owned();
                        return Ok(server);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(server.log()),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it neither listens nor exits:\n{}", server.log())
                }
            }
        }
    }

    /// Starts a command and does not wait.
    pub(crate) fn spawn_only(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().expect("piped")),
            Box::new(process.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self {
            process,
            address: String::new(),
            lines,
            seen: RefCell::default(),
        }
    }

    /// Starts a command whose output is not read and waits until `address` accepts connections.
    /// `None` if the process exits before that.
    #[cfg(target_os = "linux")]
    pub(crate) fn spawn_unlogged(mut command: Command, address: String) -> Option<Self> {
        let mut server = Self {
            process: command.spawn().expect("the program starts"),
            address,
            lines: mpsc::channel().1,
            seen: RefCell::default(),
        };
        while server.process.try_wait().expect("a child").is_none() {
            if TcpStream::connect(&server.address).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Waits for a line of output that contains a text.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        loop {
            match self.next_line() {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!(
                    "no line contains {text:?}: {error}; the output was:\n{}",
                    self.log()
                ),
            }
        }
    }

    fn next_line(&self) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(LINE_TIMEOUT)?;
        self.seen.borrow_mut().push(line.clone());
        Ok(line)
    }

    /// All output so far.
    pub(crate) fn log(&self) -> String {
        let mut seen = self.seen.borrow_mut();
        seen.extend(self.lines.try_iter());
        seen.join("\n")
    }

    /// All output so far, once every stored model was loaded.
    pub(crate) fn log_when_loaded(&self) -> String {
        self.wait_for_line(" stored models in ");
        self.log()
    }

    /// Kills the process in the middle of whatever it does and returns all of its output.
    pub(crate) fn kill(mut self) -> String {
        self.process.kill().expect("it runs");
        self.wait();
        self.seen.borrow_mut().extend(self.lines.iter());
        self.log()
    }

    /// Sends a signal, as a service manager or Ctrl-C does.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &self.process.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until the process exits and returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.process.wait().expect("a child").code()
    }

    /// Stops the process with SIGTERM. The exit code must be 0.
    #[cfg(unix)]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.wait(), Some(0));
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A figure of `/proc/PID/status` in bytes: `VmRSS` for the memory held now, `VmHWM` for its
    /// peak.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("it runs");
        let figure = status.lines().find_map(|line| {
            let figure = line.strip_prefix(field)?.strip_prefix(':')?;
            figure.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        figure.expect("a number of KiB") * 1024
    }

    pub(crate) fn connect(&self) -> TcpStream {
        http::connect(&self.address).expect("it listens")
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        http::request(&self.address, "GET", path, "").expect("a response")
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        http::request(&self.address, "POST", path, body).expect("a response")
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        http::request(&self.address, "DELETE", path, "").expect("a response")
    }

    /// `GET /models/NAME`
    pub(crate) fn model(&self, name: &str) -> Response {
        self.get(&format!("/models/{name}"))
    }

    pub(crate) fn retrain(&self, name: &str, data: &Array2<f64>) -> Response {
        let body = json!({ "samples": samples(data) }).to_string();
        self.post(&format!("/models/{name}/retrain"), body)
    }

    pub(crate) fn predict(&self, name: &str, row: &[f64]) -> Response {
        let body = json!({ "value": row }).to_string();
        self.post(&format!("/models/{name}/predict"), body)
    }

    /// The predictions of a model for a fixed set of readings in and around its training range.
    pub(crate) fn predictions(&self, model: &str, features: usize) -> String {
        let rows = super::data::readings(99, 40, features).map(|value| 2.0 * value - 2.0);
        let body = json!({ "values": samples(&rows) }).to_string();
        self.post(&format!("/models/{model}/predict"), body).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
