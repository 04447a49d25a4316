//! A load generator for loopback, and reference servers to compare with.
//!
//! * `http baseline`: an axum handler that parses `{"value":x}` and returns a constant, on the
//!   runtime of the real server. Prints its address and serves until it is killed.
//! * `http limit`: axum handlers that parse `{"values":[…]}` with serde and answer as many bytes as the
//!   path says, on the same runtime: `/values/BYTES` takes numbers, `/rows/BYTES` arrays of numbers.
//! * `http bare`: a loop that answers every read with the same constant, parses nothing and never
//!   sleeps: a lower bound for the latency of one connection.
//! * `http load ADDRESS CONNECTIONS SECONDS [RETRAIN_ADDRESS]`: sends requests to /predict; each
//!   connection sends the next request after the last response. With RETRAIN_ADDRESS, it also sends
//!   500 readings to /retrain there, again and again. Prints one line of JSON, latencies in
//!   seconds. Sends the API key in the variable `IFOREST_KEY`, if there is one.
//! * `http poll …`: same as `load`, but the client polls for responses and never sleeps. Waking a
//!   client takes longer than the server takes to respond, so this measures the server better.
//! * `http batch ADDRESS PATH ROWSxFEATURES SECONDS`: as `load`, with so many readings in each request, on
//!   two connections, so that the server never waits for the client. To a PATH below `/v2` it sends
//!   the tensor of the Open Inference Protocol, else `{"values":[…]}`.
//! * no arguments (`cargo bench --bench http`): the server and the baseline, in alternating order,
//!   without and with API keys. The baseline ignores the key that it is sent.
//!
//! `compare/compare.py` uses all but the last.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Path};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use iforest_server::server;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Slower requests count as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of requests per run.
const MAX_REQUESTS: usize = 5_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["baseline"] => baseline(),
        ["limit"] => limit(),
        ["bare"] => bare(),
        ["batch", address, path, shape, seconds] => {
            let address = address.parse()?;
            let (rows, columns) = shape.split_once('x').ok_or("no shape")?;
            let body = batch(rows.parse()?, columns.parse()?, path.starts_with("/v2/"));
            let work = Work {
                wait: Wait::Sleep,
                address,
                connections: 2,
                request: request(path, address, &body, None),
                retrain: None,
            };
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            println!("{}", Load::run(&work, seconds)?.to_json());
            Ok(())
        }
        [
            command @ ("load" | "poll"),
            address,
            connections,
            seconds,
            ref retrain @ ..,
        ] => {
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            let retrain = retrain.first().map(|a| a.parse()).transpose()?;
            let wait = if command == "poll" {
                Wait::Poll
            } else {
                Wait::Sleep
            };
            let key = std::env::var("IFOREST_KEY").ok();
            let (address, connections) = (address.parse()?, connections.parse()?);
            let work = Work::predict(wait, address, connections, retrain, key.as_deref());
            println!("{}", Load::run(&work, seconds)?.to_json());
            Ok(())
        }
        _ => side_by_side(),
    }
}

/// As long as a real response.
const CONSTANT: &str = concat!(
    r#"{"input_value":2.5,"scaled_value":-0.0123456789012345,"anomaly_score":-0.0987654321098765,"#,
    r#""prediction":0,"status":"Normal Behaviour"}"#,
    "\n"
);

fn baseline() -> Result<(), Box<dyn Error>> {
    #[derive(serde::Deserialize)]
    struct Reading {
        value: f64,
    }
    async fn constant(
        Json(reading): Json<Reading>,
    ) -> ([(&'static str, &'static str); 1], &'static str) {
        std::hint::black_box(reading.value);
        ([("content-type", "application/json")], CONSTANT)
    }
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    serve(listener, Router::new().route("/predict", post(constant)))
}

fn limit() -> Result<(), Box<dyn Error>> {
    #[derive(serde::Deserialize)]
    struct Batch<T> {
        values: Vec<T>,
    }
    async fn answer<T>(
        Path(size): Path<usize>,
        Json(batch): Json<Batch<T>>,
    ) -> ([(&'static str, &'static str); 1], Bytes) {
        static ANSWER: [u8; 16 << 20] = [b' '; 16 << 20];
        std::hint::black_box(batch.values);
        let answer = Bytes::from_static(&ANSWER[..size.min(ANSWER.len())]);
        ([("content-type", "application/json")], answer)
    }
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let router = Router::new()
        .route("/values/{size}", post(answer::<f64>))
        .route("/rows/{size}", post(answer::<Vec<f64>>))
        .layer(DefaultBodyLimit::disable());
    serve(listener, router)
}

/// Readings with all their digits, as converted readings have them.
fn batch(rows: usize, columns: usize, is_tensor: bool) -> String {
    let mut random = StdRng::seed_from_u64(1);
    let mut join = |n| {
        let numbers = (0..n).map(|_| random.gen_range(0.0..5.0).to_string());
        numbers.collect::<Vec<_>>().join(",")
    };
    if is_tensor {
        let data = join(rows * columns);
        return format!(
            r#"{{"inputs":[{{"name":"readings","shape":[{rows},{columns}],"datatype":"FP64","data":[{data}]}}]}}"#
        );
    }
    let values = if columns == 1 {
        join(rows)
    } else {
        let rows: Vec<String> = (0..rows).map(|_| format!("[{}]", join(columns))).collect();
        rows.join(",")
    };
    format!(r#"{{"values":[{values}]}}"#)
}

fn bare() -> Result<(), Box<dyn Error>> {
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{CONSTANT}",
        CONSTANT.len()
    );
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut request = [0; 4096];
        loop {
            match stream.read(&mut request) {
                Ok(0) => break,
                Ok(_) => stream.write_all(response.as_bytes())?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
}

/// Serves a router on the runtime of the real server.
fn serve(listener: std::net::TcpListener, router: Router) -> Result<(), Box<dyn Error>> {
    server::run(
        listener,
        router,
        None,
        std::future::pending::<()>(),
        server::GRACE_PERIOD,
        Arc::default(),
    )?;
    Ok(())
}

/// The result of a run.
#[derive(Default)]
struct Load {
    /// Latency of each request with status 200, in nanoseconds, sorted.
    latencies: Vec<u64>,
    failed: usize,
    retrains: usize,
    seconds: f64,
    /// Length of the body of the last answer, in bytes.
    answer: usize,
}

impl Load {
    /// Adds what another connection or thread did.
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.failed += other.failed;
        self.retrains += other.retrains;
        self.answer = other.answer.max(self.answer);
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.latencies.len() * percent / 100).min(self.latencies.len().max(1) - 1);
        self.latencies
            .get(rank)
            .map_or(f64::NAN, |&n| n as f64 * 1e-9)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "requests": self.latencies.len(), "failed": self.failed, "retrains": self.retrains,
            "seconds": self.seconds, "per_second": self.per_second(),
            "p50": self.percentile(50), "p99": self.percentile(99), "answer": self.answer,
        })
    }
}

/// How the client waits for a response.
#[derive(Clone, Copy)]
enum Wait {
    Sleep,
    Poll,
}

/// What a client sends, and how.
struct Work {
    wait: Wait,
    address: SocketAddr,
    connections: usize,
    request: Vec<u8>,
    /// Another request, sent on a connection of its own.
    retrain: Option<(SocketAddr, Vec<u8>)>,
}

impl Work {
    /// One reading in each request.
    fn predict(
        wait: Wait,
        address: SocketAddr,
        connections: usize,
        retrain: Option<SocketAddr>,
        key: Option<&str>,
    ) -> Self {
        let retrain = retrain.map(|address| {
            let samples: Vec<String> = (0..500)
                .map(|i| format!("{}", f64::from(i) / 100.0))
                .collect();
            let body = format!(r#"{{"samples": [{}]}}"#, samples.join(", "));
            (address, request("/retrain", address, &body, key))
        });
        Self {
            wait,
            address,
            connections,
            request: request("/predict", address, r#"{"value": 2.5}"#, key),
            retrain,
        }
    }
}

impl Load {
    fn run(work: &Work, time: Duration) -> Result<Self, Box<dyn Error>> {
        let retrain = work.retrain.as_ref().map(|(address, _)| *address);
        for address in [Some(work.address), retrain].into_iter().flatten() {
            if !address.ip().is_loopback() {
                return Err(format!("{address} is not a loopback address").into());
            }
        }
        let start = Instant::now();
        let deadline = start + time;
        // A single client thread would leave processors idle that client and server share.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.clamp(1, work.connections.max(1));
        let mut load = std::thread::scope(|scope| {
            let shares: Vec<_> = (0..threads)
                .map(|i| scope.spawn(move || run_share(work, deadline, i, threads)))
                .collect();
            let mut load = Self::default();
            for share in shares {
                load.add(share.join().expect("no panic")?);
            }
            Ok::<_, std::io::Error>(load)
        })?;
        load.seconds = start.elapsed().as_secs_f64();
        load.latencies.sort_unstable();
        Ok(load)
    }
}

/// Runs the connections of one thread of several.
fn run_share(
    work: &Work,
    deadline: Instant,
    thread: usize,
    threads: usize,
) -> std::io::Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        if let Wait::Poll = work.wait {
            tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        let max_requests = MAX_REQUESTS / work.connections.max(1);
        let clients: Vec<_> = (thread..work.connections)
            .step_by(threads)
            .map(|_| {
                let request = work.request.clone();
                tokio::spawn(client(work.address, request, deadline, max_requests))
            })
            .collect();
        // The retraining client mostly waits, so it can share a thread.
        let retrainer = work.retrain.clone().filter(|_| thread == 0);
        let retrainer = retrainer.map(|(address, request)| {
            tokio::spawn(client(address, request, deadline, max_requests))
        });
        let mut load = Load::default();
        for client in clients {
            load.add(client.await.expect("no panic"));
        }
        if let Some(retrainer) = retrainer {
            let retrains = retrainer.await.expect("no panic");
            load.retrains = retrains.latencies.len();
            load.failed += retrains.failed;
        }
        load
    }))
}

fn request(path: &str, address: SocketAddr, body: &str, key: Option<&str>) -> Vec<u8> {
    let authorization = key.map_or_else(String::new, |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         {authorization}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends a request repeatedly.
async fn client(
    address: SocketAddr,
    request: Vec<u8>,
    deadline: Instant,
    max_requests: usize,
) -> Load {
    let mut load = Load::default();
    let (mut connection, mut buffer) = (None, Vec::with_capacity(4096));
    for _ in 0..max_requests {
        let start = Instant::now();
        if start >= deadline {
            break;
        }
        match timeout(
            REQUEST_TIMEOUT,
            exchange(address, &mut connection, &request, &mut buffer),
        )
        .await
        {
            Ok(Ok(Some(answer))) => {
                load.latencies.push(start.elapsed().as_nanos() as u64);
                load.answer = answer;
            }
            Ok(Ok(None)) => load.failed += 1,
            Ok(Err(_)) | Err(_) => {
                load.failed += 1;
                connection = None;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    load
}

/// Sends one request and reads the response; returns the length of its body if its status is 200.
/// Connects if needed,
/// and drops the connection if the response says that the server closes it, as Flask's server and
/// gunicorn do after each response.
async fn exchange(
    address: SocketAddr,
    connection: &mut Option<TcpStream>,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<usize>> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    stream.write_all(request).await?;
    buffer.clear();
    let (start, end, closes) = loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let (length, closes) = framing(&buffer[..head])?;
            break (head + 4, head + 4 + length, closes);
        }
    };
    while buffer.len() < end {
        if stream.read_buf(buffer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    if closes {
        *connection = None;
    }
    let is_ok = buffer.get(9..12) == Some(b"200");
    Ok(is_ok.then_some(end - start))
}

/// Parses the content length, and whether the server closes the connection after this response.
fn framing(head: &[u8]) -> std::io::Result<(usize, bool)> {
    let (mut length, mut closes) = (None, head.starts_with(b"HTTP/1.0"));
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        } else if name.eq_ignore_ascii_case(b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok((length.ok_or(ErrorKind::InvalidData)?, closes))
}

/// A server process, killed on drop.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn side_by_side() -> Result<(), Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("baseline")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line)?;
    let baseline = ServerProcess {
        child,
        address: line.trim().parse()?,
    };

    let keys = std::env::temp_dir().join(format!("iforest-http-bench-{}", std::process::id()));
    std::fs::write(&keys, format!("bench read {KEY}\n"))?;
    let open = start_server(&[])?;
    let keyed = start_server(&["--api-keys".as_ref(), keys.as_os_str()])?;
    std::fs::remove_file(&keys)?;

    for (ours, key) in [(&open, None), (&keyed, Some(KEY))] {
        for (wait, connections, label) in [
            (Wait::Sleep, 1, "1 connection"),
            (Wait::Poll, 1, "1 connection, polling"),
            (Wait::Sleep, 64, "64 connections"),
        ] {
            let label = match key {
                Some(_) => format!("{label}, API keys"),
                None => label.to_owned(),
            };
            compare(ours, &baseline, (wait, connections, key), &label)?;
        }
    }
    Ok(())
}

/// The key that is sent to a server with API keys.
const KEY: &str = "a-key-for-the-benchmark";

/// Starts the real server on a free port.
fn start_server(options: &[&std::ffi::OsStr]) -> Result<ServerProcess, Box<dyn Error>> {
    // Bind to a free port, and release it for the server.
    let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let child = Command::new(env!("CARGO_BIN_EXE_iforest-server"))
        .args(["--host", "127.0.0.1", "--store", "memory:"])
        .args(["--log-level", "error", "--port"])
        .arg(address.port().to_string())
        .args(options)
        .spawn()?;
    let server = ServerProcess { child, address };
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if start.elapsed() > REQUEST_TIMEOUT {
            return Err("the server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(server)
}

/// Measures a server and the baseline in alternating order, and prints the ratio of their rates.
fn compare(
    ours: &ServerProcess,
    baseline: &ServerProcess,
    (wait, connections, key): (Wait, usize, Option<&str>),
    label: &str,
) -> Result<(), Box<dyn Error>> {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut order = [ours, baseline];
        order.rotate_left(round % 2);
        let mut rates = [0.0; 2];
        for server in order {
            let time = Duration::from_millis(500);
            let work = Work::predict(wait, server.address, connections, None, key);
            let load = Load::run(&work, time)?;
            let index = usize::from(server.address == baseline.address);
            rates[index] = load.per_second();
            println!(
                "{label}, {}: {:.0} requests/s, p50 {:.0} us, p99 {:.0} us, {} failed",
                ["iforest-server", "baseline"][index],
                load.per_second(),
                load.percentile(50) * 1e6,
                load.percentile(99) * 1e6,
                load.failed,
            );
        }
        ratios.push(rates[0] / rates[1]);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!(
        "{label}: {:.3} of the baseline (median of {ROUNDS})",
        ratios[ROUNDS / 2],
    );
    Ok(())
}

/// An odd number, so that the median is one of the ratios.
const ROUNDS: usize = 21;
