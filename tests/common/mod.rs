//! What several tests share: the data sets and hashes of `tests/reference/record.py`, repeated, so
//! that the recorded files stay small; and server processes.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of it

pub mod router;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ndarray::Array2;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A data set as the recording script names it.
#[derive(Debug, Deserialize)]
pub struct DataSpec {
    kind: String,
    rows: usize,
    columns: usize,
    seed: u64,
    #[serde(default = "one")]
    scale: f64,
    #[serde(default)]
    shift: f64,
    #[serde(default)]
    tail: Vec<f64>,
}

fn one() -> f64 {
    1.0
}

impl DataSpec {
    pub fn data(&self) -> Array2<f64> {
        let mut random = SplitMix(self.seed);
        let mut data = Array2::zeros((self.rows, self.columns));
        for ((row, column), slot) in data.indexed_iter_mut() {
            *slot = value(&self.kind, column, row, &mut random) * self.scale + self.shift;
        }
        let first = self.rows - self.tail.len();
        for (i, &value) in self.tail.iter().enumerate() {
            data[(first + i, 0)] = value;
        }
        data
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-53)
    }
}

fn value(kind: &str, column: usize, row: usize, random: &mut SplitMix) -> f64 {
    match kind {
        "uniform" => 5.0 * random.uniform(),
        "bimodal" => {
            let upper = random.uniform() < 0.3;
            let v = random.uniform();
            if upper { 10.0 + 0.5 * v } else { v }
        }
        "skewed" => 1.0 / (random.uniform() + 0.01),
        "quantised" => (20.0 * random.uniform()).floor() * 0.25,
        "constant" => 7.0,
        "index" => row as f64,
        "mixed" => {
            let kinds = ["uniform", "quantised", "constant", "skewed"];
            value(kinds[column % 4], column, row, random)
        }
        _ => panic!("the recording script makes no data set of kind {kind}"),
    }
}

/// FNV-1a over 64-bit words.
pub fn hash_words(words: impl IntoIterator<Item = u64>) -> String {
    let hash = words.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x100_0000_01B3u64)
    });
    format!("{hash:016x}")
}

pub fn hash_floats<'a>(values: impl IntoIterator<Item = &'a f64>) -> String {
    hash_words(values.into_iter().map(|value| value.to_bits()))
}

/// Whether scores are those recorded to the bit. A score is a power of two, and an average path
/// length a logarithm, of the C library; both were recorded with glibc's, and another library's may
/// differ in the last bit. Trees and scaled values need neither and are the same everywhere.
pub const RECORDED_SCORES: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// What the recording script wrote.
pub fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the fixture is committed");
    serde_json::from_str(&text).expect("the fixture is JSON as recorded")
}

/// A server process, started with the arguments given and stopped when dropped.
pub struct Server {
    process: Child,
    pub address: String,
    log: Receiver<String>,
    heard: RefCell<Vec<String>>,
}

impl Server {
    /// Starts the real binary on a free port of the loopback interface, and waits for the line
    /// that tells the address. It stores nothing, unless the arguments say where.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(Self::command(arguments))
    }

    /// The command for that.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iforest-server"));
        command
            .env("IFOREST_STORE", "memory:")
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(arguments);
        command
    }

    /// Starts a command that tells `listening on ADDRESS` on standard error or output.
    pub fn spawn(command: Command) -> Self {
        let mut server = Self::spawn_until(command, "");
        let line = server.wait_for_line("listening on ");
        let (_, address) = line.split_once("listening on ").expect("it stands there");
        let end = address.find(',').unwrap_or(address.len());
        server.address = address[..end].to_owned();
        server
    }

    /// Starts a command and waits for a line that contains a text.
    pub fn spawn_until(mut command: Command, text: &str) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, log) = mpsc::channel();
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
        let server = Self {
            process,
            address: String::new(),
            log,
            heard: RefCell::default(),
        };
        if !text.is_empty() {
            server.wait_for_line(text);
        }
        server
    }

    /// Waits for a line of the log that contains a text.
    pub fn wait_for_line(&self, text: &str) -> String {
        loop {
            match self.log.recv_timeout(Duration::from_secs(30)) {
                Ok(line) => {
                    self.heard.borrow_mut().push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!(
                    "the program never said {text:?}: {error}; it said:\n{}",
                    self.log()
                ),
            }
        }
    }

    /// All that it said so far; once it has ended, all that it ever said.
    pub fn log(&self) -> String {
        let mut heard = self.heard.borrow_mut();
        heard.extend(self.log.try_iter());
        heard.join("\n")
    }

    /// Ends it at once, in the middle of whatever it does; returns all that it ever said.
    pub fn kill(mut self) -> String {
        self.process.kill().expect("it runs");
        self.wait();
        self.heard.borrow_mut().extend(self.log.iter());
        self.log()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Opens a connection.
    pub fn connect(&self) -> TcpStream {
        connect(&self.address)
    }

    /// Posts JSON on a connection of its own; returns the whole response.
    pub fn post(&self, path: &str, body: &str) -> String {
        post(&self.address, path, body)
    }

    /// Asks it to stop, as a service manager or Ctrl-C does.
    #[cfg(unix)]
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &self.process.id().to_string()])
            .status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end; returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens a connection.
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    let timeout = Some(Duration::from_secs(30));
    stream.set_read_timeout(timeout).expect("a timeout");
    stream
}

/// Posts JSON to a server on a connection of its own; returns the whole response.
pub fn post(address: &str, path: &str, body: &str) -> String {
    let mut stream = connect(address);
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("it answers");
    response
}
