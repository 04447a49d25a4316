//! Several servers on one store, a folder or an object store: what one of them learns the others
//! serve, and nothing that was acknowledged is lost between them.

mod common;
#[path = "common/stored.rs"]
mod stored;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, Method, Request, StatusCode, header};
use common::Server;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use iforest_server::store::decode;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};
use stored::{
    Ask, Folder, ask, fit, is_from, json, readings, stored as encoded, wait_until, write,
};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

const TREES: usize = 10;
const COMMON: [&str; 4] = ["--n-estimators", "10", "--random-state", "42"];

fn on_folder(folder: &Folder, more: &[&str]) -> Server {
    let mut command = Server::command(&["--store", folder.text()]);
    command.args(COMMON).args(more);
    Server::spawn(command)
}

/// What stands in front of the servers of a site: each connection goes to the next of them.
struct Balancer {
    address: String,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Balancer {
    fn start(servers: [&Server; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let servers = servers.map(|server| server.address.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let accepting = std::thread::spawn(move || {
            for (i, client) in listener.incoming().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let server = servers[i % 2].clone();
                std::thread::spawn(move || {
                    // Whoever asks sees by a missing answer that this went wrong.
                    let _ = forward(&client?, &server);
                    Ok::<_, io::Error>(())
                });
            }
        });
        Self {
            address,
            stop,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn forward(client: &TcpStream, server: &str) -> io::Result<()> {
    let server = &TcpStream::connect(server)?;
    let pass = |mut from: &TcpStream, mut to: &TcpStream| {
        let passed = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        passed
    };
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, server));
        pass(server, client).map(|_| ())
    })
}

/// How long it took until the other server served each kind of change.
#[derive(Default)]
struct Delays(BTreeMap<&'static str, Vec<Duration>>);

impl Delays {
    fn measure(&mut self, kind: &'static str, holds: impl FnMut() -> bool) {
        let delay = wait_until(kind, holds);
        self.0.entry(kind).or_default().push(delay);
    }

    fn print(&self, store: &str) {
        for (kind, delays) in &self.0 {
            let mean = delays.iter().sum::<Duration>() / delays.len() as u32;
            let most = delays.iter().max().expect("some");
            println!("{store}: {kind} by the other server after {mean:.0?}, at most {most:.0?}");
        }
    }
}

const ROW: [f64; 2] = [1.5, 2.5];

/// Changes models at either of two servers, again and again, while clients predict through a
/// balancer.
fn change_while_clients_predict(store: &str, servers: [&Server; 2]) {
    let [first, second] = servers;
    first.retrain("default", &readings(1, 50, 1)).ok();
    first.retrain("steady", &readings(2, 50, 2)).ok();
    first.retrain("changing", &readings(3, 50, 2)).ok();
    wait_until("all are served by the second", || {
        second.model("default").version() == Some(1)
            && second.model("steady").status == 200
            && second.model("changing").status == 200
    });
    let steady = first.predict("steady", &ROW);
    let default = first.predict("default", &[1.5]);
    let mut possible = HashSet::from([first.predict("changing", &ROW).body]);

    let balancer = Balancer::start(servers);
    let done = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let mut delays = Delays::default();
    let predict = |model: &str, row: &[f64]| {
        let path = format!("/models/{model}/predict");
        let body = format!("{{\"value\":{row:?}}}");
        let answer = ask(&balancer.address, "POST", &path, &body);
        let answer = answer.unwrap_or_else(|error| panic!("{model}: {error}"));
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        asked.fetch_add(1, Ordering::Relaxed);
        // Not so many connections that the machine runs out of ports.
        std::thread::sleep(Duration::from_millis(2));
        answer
    };
    let answers: HashSet<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = HashSet::new();
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(predict("steady", &ROW), steady);
                        assert_eq!(predict("default", &[1.5]), default);
                        seen.insert(predict("changing", &ROW).body);
                    }
                    seen
                })
            })
            .collect();
        // Ends the clients if a check below panics, too.
        let ends = Ends(&done);
        for round in 0..6 {
            let (here, there) = (servers[round % 2], servers[(round + 1) % 2]);
            let changed = here.retrain("changing", &readings(10 + round as u64, 60, 2));
            let version = changed.version();
            assert!(version.is_some(), "{changed:?}");
            delays.measure("a retrain is served", || {
                there.model("changing").version() == version
            });
            let body = here.predict("changing", &ROW).ok();
            assert_eq!(there.predict("changing", &ROW).ok(), body);
            possible.insert(body);

            let changed = here.send("/models/changing/rollback", "");
            let version = changed.version();
            assert!(version.is_some(), "{changed:?}");
            delays.measure("a rollback is served", || {
                there.model("changing").version() == version
            });
            let body = here.predict("changing", &ROW).ok();
            assert!(possible.contains(&body), "rolled back to one known");
            assert_eq!(there.predict("changing", &ROW).ok(), body);

            here.retrain("visitor", &readings(20 + round as u64, 40, 2))
                .ok();
            delays.measure("a new model is served", || {
                there.model("visitor").status == 200
            });
            assert_eq!(
                there.predict("visitor", &ROW),
                here.predict("visitor", &ROW)
            );
            there.delete("/models/visitor").ok();
            delays.measure("a deletion is seen", || here.model("visitor").status == 404);
        }
        drop(ends);
        let answers = clients.into_iter().map(|client| client.join());
        answers
            .flat_map(|seen| seen.expect("no request failed"))
            .collect()
    });
    assert!(answers.len() > 2, "the changes were seen from outside");
    assert!(answers.is_subset(&possible), "each from one whole model");
    delays.print(store);
    println!("{store}: {} predictions through it all", asked.into_inner());
    for server in servers {
        let log = server.log();
        assert!(!log.contains("cannot be served"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Says that it is over when dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// A site runs two servers so that one may fail, and puts a balancer in front. Who predicts must not
// notice that models change, and must not get old answers from one of the two for ever.
#[test]
fn changes_at_one_server_of_a_folder_are_served_by_the_other_and_no_prediction_fails() {
    let folder = Folder::new();
    let options = ["--refresh-interval", "200ms"];
    let servers = [on_folder(&folder, &options), on_folder(&folder, &options)];
    change_while_clients_predict("folder", [&servers[0], &servers[1]]);
}

// Some servers may only read the store: by their rights, or because the disk is full. They can tell
// the others nothing, but must not be cut off from what the others tell.
#[cfg(target_os = "linux")]
#[test]
fn a_server_that_may_only_read_follows_the_others_all_the_same() {
    let folder = Folder::new();
    let mut command = Server::command(&["--store", folder.text()]);
    command.args(COMMON).args(["--refresh-interval", "200ms"]);
    let read_only = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;
    let Some(command) = stored::mounted(read_only, &folder, &command) else {
        return;
    };
    let reader = Server::spawn(command);
    let writer = on_folder(&folder, &[]);
    for round in 1..4 {
        writer.retrain("motor", &readings(round, 50, 2)).ok();
        let delay = wait_until("it is followed", || {
            let model = reader.model("motor");
            model.status == 200 && model.version() == Some(round)
        });
        println!("followed by a server that may only read after {delay:.0?}");
        assert_eq!(reader.predict("motor", &ROW), writer.predict("motor", &ROW));
    }
    let before = reader.model("motor");
    let answer = reader.retrain("motor", &readings(9, 50, 2));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("Read-only file system"), "{answer:?}");
    assert_eq!(reader.model("motor"), before);
    let told = reader
        .log()
        .matches("other servers are not told of changes")
        .count();
    assert!(
        told <= 4,
        "each round of it is not worth a line: {}",
        reader.log()
    );
}

/// Retrains one model from many clients at two servers; checks that each training that was
/// acknowledged is stored under the version that was told, and that both end up serving the last.
fn retrain_at_once(servers: [&Server; 2], clients: u64, each: u64) -> BTreeMap<u64, u64> {
    let acknowledged: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| {
                let server = &servers[client as usize % 2].address;
                scope.spawn(move || {
                    (0..each)
                        .map(|i| {
                            let number = client * each + i;
                            let body = json(&training(number));
                            let body = format!("{{\"samples\":{body}}}");
                            let answer = ask(server, "POST", "/models/motor/retrain", &body);
                            let answer = answer.expect("it answers");
                            assert_eq!(answer.status, 200, "{answer:?}");
                            (answer.version().expect("stored"), number)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let clients = clients.into_iter();
        clients
            .flat_map(|client| client.join().expect("all were acknowledged"))
            .collect()
    });
    let count = acknowledged.len() as u64;
    let by_version: BTreeMap<u64, u64> = acknowledged.into_iter().collect();
    assert!(
        by_version.keys().copied().eq(1..=count),
        "each has a version of its own: {by_version:?}"
    );
    let data = training(by_version[&count]);
    let (rows, expected) = (data.nrows() as u64, fit(TREES, data));
    for server in servers {
        wait_until("the greatest version is served", || {
            server.model("motor").version() == Some(count)
        });
        assert_eq!(server.model("motor").samples_used(), Some(rows));
        assert!(is_from(&server.predict("motor", &ROW), &expected, &ROW));
    }
    by_version
}

/// Told by its number of readings.
fn training(number: u64) -> ndarray::Array2<f64> {
    readings(500 + number, 20 + number as usize, 2)
}

/// What lies in a folder is what was acknowledged.
fn assert_stored(folder: &std::path::Path, by_version: &BTreeMap<u64, u64>) {
    for (version, &number) in by_version {
        let path = folder.join(stored::version_path("models", "motor", *version));
        let bytes = std::fs::read(path).expect("it is stored");
        let record = decode(&bytes).expect("it is whole");
        let rows = record.detector.forest().n_samples();
        assert_eq!(rows, training(number).nrows(), "version {version}");
    }
}

// Two servers take the same version number at the same time. One of the two trainings would be
// lost, though both were acknowledged, if the store let the later one write over the other.
#[test]
fn retrains_of_one_model_at_two_servers_at_once_each_get_a_version() {
    let folder = Folder::new();
    let options = ["--refresh-interval", "200ms", "--keep-versions", "1000"];
    let servers = [on_folder(&folder, &options), on_folder(&folder, &options)];
    let by_version = retrain_at_once([&servers[0], &servers[1]], 8, 20);
    assert_stored(folder.path(), &by_version);
    let taken = "there is such a version already";
    let met: usize = servers
        .iter()
        .map(|server| server.log().matches(taken).count())
        .sum();
    println!(
        "{} retrains, {met} of them met another server's",
        by_version.len()
    );
    assert!(met > 0, "the two must have met");
}

const BUCKET: &str = "plant-models";
const SITE: &str = "site-1";

/// An object store that speaks S3, on a port of the loopback interface, with its objects in a
/// folder.
struct ObjectStore {
    port: u16,
    hangs: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

impl ObjectStore {
    /// Port 0 takes any free one.
    fn start(folder: &Folder, port: u16) -> Self {
        std::fs::create_dir_all(folder.path().join(BUCKET)).expect("a bucket");
        let objects = s3s_fs::FileSystem::new(folder.path()).expect("a folder");
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single("test-key", "test-secret"));
        let service = builder.build();
        let gate = Arc::new(RwLock::new(()));
        let hangs = Arc::new(AtomicBool::new(false));

        let mut listener = TcpListener::bind(("127.0.0.1", port));
        if port != 0 {
            // The connections of before may hold it for a moment.
            wait_until("the port is free again", || {
                listener.is_ok() || {
                    listener = TcpListener::bind(("127.0.0.1", port));
                    listener.is_ok()
                }
            });
        }
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let hanging = Arc::clone(&hangs);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                let (service, gate) = (service.clone(), Arc::clone(&gate));
                let hanging = Arc::clone(&hanging);
                let answer = hyper::service::service_fn(move |request| {
                    let (service, gate) = (service.clone(), Arc::clone(&gate));
                    let hangs = hanging.load(Ordering::Relaxed);
                    async move {
                        if hangs {
                            std::future::pending::<()>().await;
                        }
                        answer(service, &gate, request).await
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self {
            port,
            hangs,
            runtime: Some(runtime),
        }
    }

    /// Closes the port and all connections; returns the port.
    fn stop(mut self) -> u16 {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        self.port
    }

    fn command(&self, more: &[&str]) -> Command {
        command_for(self.port, more)
    }

    fn server(&self, more: &[&str]) -> Server {
        Server::spawn(self.command(more))
    }
}

/// Two things that S3 does and this object store does not: to look whether there is an object and
/// to write it in one step, and to answer 304 where it is as it was.
async fn answer(
    service: S3Service,
    gate: &RwLock<()>,
    request: Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    let tag = |headers: &axum::http::HeaderMap, name: HeaderName| headers.get(name).cloned();
    let known = tag(request.headers(), header::IF_NONE_MATCH);
    let is_get = request.method() == Method::GET;
    let request = request.map(s3s::Body::from);
    let response = if is_get {
        let _open = gate.read().await;
        service.call(request).await?
    } else {
        let _alone = gate.write().await;
        service.call(request).await?
    };
    let now = tag(response.headers(), header::ETAG);
    if is_get && response.status() == StatusCode::OK && now.is_some() && now == known {
        let mut unchanged = HttpResponse::new(s3s::Body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
            .headers_mut()
            .extend(now.map(|now| (header::ETAG, now)));
        return Ok(unchanged);
    }
    Ok(response)
}

fn command_for(port: u16, more: &[&str]) -> Command {
    let store = format!("s3://{BUCKET}/{SITE}");
    let mut command = Server::command(&["--store", &store]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
        .env("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "test-key")
        .env("AWS_SECRET_ACCESS_KEY", "test-secret")
        .env("AWS_REGION", "eu-central-1")
        .env("NO_PROXY", "127.0.0.1")
        .args(COMMON)
        .args(more);
    command
}

// The same as on a folder, where servers in different places share a bucket.
#[test]
fn changes_at_one_server_of_a_bucket_are_served_by_the_other_and_by_the_next_start() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let options = ["--refresh-interval", "200ms"];
    let servers = [bucket.server(&options), bucket.server(&options)];
    change_while_clients_predict("bucket", [&servers[0], &servers[1]]);
    let seen = |server: &Server| {
        let mut seen = vec![server.get("/models").ok()];
        for model in ["default", "steady", "changing"] {
            seen.push(server.model(model).ok());
            let row = if model == "default" { &ROW[..1] } else { &ROW };
            seen.push(server.predict(model, row).ok());
        }
        seen
    };
    let before = seen(&servers[0]);
    assert_eq!(seen(&servers[1]), before);
    drop(servers);
    assert_eq!(seen(&bucket.server(&[])), before);
}

// Neither of two servers knows that the other has trained the model as well. The second must be told
// by the store that the version is taken.
#[test]
fn two_servers_of_a_bucket_that_do_not_know_of_each_other_lose_nothing() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let options = ["--refresh-interval", "0s", "--keep-versions", "1000"];
    let servers = [bucket.server(&options), bucket.server(&options)];
    let (first, second) = (readings(31, 50, 1), readings(32, 60, 1));
    let versions = [
        servers[0].retrain("default", &first).version(),
        servers[1].retrain("default", &second).version(),
    ];
    assert_eq!(versions, [Some(1), Some(2)]);
    // A retrain builds on what the other one stored, not on what is served here.
    let body = r#"{"samples": [1, 2, 3, 4], "contamination": 0.25}"#;
    let made = servers[0].send("/models/shared/retrain", body);
    assert_eq!(made.version(), Some(1), "{made:?}");
    let made = servers[1].send("/models/shared/retrain", r#"{"samples": [1, 2, 3]}"#);
    assert_eq!(made.version(), Some(2), "{made:?}");
    assert_eq!(servers[1].model("shared").json()["contamination"], 0.25);
    let back = servers[0].send("/models/shared/rollback", "");
    assert_eq!(back.json()["restored_from"], 1, "{back:?}");
    // Each serves its own still; the store has both, and the next start the later one.
    let row = [1.5];
    let detectors = [fit(TREES, first), fit(TREES, second)];
    for (server, detector) in servers.iter().zip(&detectors) {
        assert!(is_from(&server.predict("default", &row), detector, &row));
    }
    let third = bucket.server(&options);
    assert_eq!(third.model("default").version(), Some(2));
    assert!(is_from(
        &third.predict("default", &row),
        &detectors[1],
        &row
    ));
    third
        .send("/models/default/rollback", r#"{"version": 1}"#)
        .ok();
    assert!(is_from(
        &third.predict("default", &row),
        &detectors[0],
        &row
    ));
    drop(third);
    drop(servers);

    let options = ["--refresh-interval", "200ms", "--keep-versions", "1000"];
    let servers = [bucket.server(&options), bucket.server(&options)];
    let by_version = retrain_at_once([&servers[0], &servers[1]], 4, 10);
    assert_stored(&folder.path().join(BUCKET).join(SITE), &by_version);
}

/// A change must be refused for the store's sake, within some time.
fn assert_store_failed(server: &Server, reason: &str) {
    let start = Instant::now();
    for (model, features) in [("motor", 2), ("default", 1), ("new", 2)] {
        let start = Instant::now();
        let answer = server.retrain(model, &readings(42, 60, features));
        let took = start.elapsed();
        assert_eq!(answer.status, 503, "{answer:?}");
        let error = answer.json()["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        println!("{model}: refused after {took:.1?}: {error}");
        assert!(
            error.contains("the store failed, and what is served is as it was"),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(90), "{took:?}");
}

// The network or the object store fails for a while. What is in memory is served on, nobody is told
// that a training was kept when it was not, and nobody has to restart anything afterwards.
#[test]
fn a_bucket_out_of_reach_refuses_retrains_serves_on_and_recovers() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let server = bucket.server(&["--refresh-interval", "200ms"]);
    server.retrain("motor", &readings(41, 50, 2)).ok();
    let seen = || {
        let motor = server.predict("motor", &ROW).ok();
        (server.get("/models").ok(), motor)
    };
    let before = seen();
    let port = bucket.stop();
    assert_store_failed(&server, "Connection refused");
    assert_eq!(seen(), before);
    server.wait_for_line("what other servers change is not seen for now");
    // One that starts now has no models to serve, and must not pretend to.
    let start = Instant::now();
    let output = command_for(port, &[]).output().expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    println!("a start ends after {:.1?}", start.elapsed());
    assert!(!output.status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("ERROR"));
    let line = line.unwrap_or_else(|| panic!("no error is told:\n{log}"));
    println!("{line}");
    assert!(line.contains("the store cannot be used"), "{line}");
    assert!(
        !log.contains("panicked") && !log.contains("listening"),
        "{log}"
    );

    let bucket = ObjectStore::start(&folder, port);
    for (model, version) in [("motor", 2), ("new", 1)] {
        let answer = server.retrain(model, &readings(42, 60, 2));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
    server.wait_for_line("the store answers again");
    let other = bucket.server(&[]);
    assert_eq!(
        other.get("/models").json()["models"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    assert_eq!(other.predict("motor", &ROW), server.predict("motor", &ROW));
}

// An object store that takes connections and never answers is worse than none: whoever asks for a
// retrain must get an answer all the same.
#[test]
fn a_bucket_that_does_not_answer_refuses_retrains_in_bounded_time() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let server = bucket.server(&["--refresh-interval", "200ms"]);
    server.retrain("motor", &readings(51, 50, 2)).ok();
    let before = server.predict("motor", &ROW).ok();
    // Its turn comes when all of the change before is over, which would have to be waited for, too.
    let refused = server.send("/models/motor/rollback", r#"{"version": 9}"#);
    assert_eq!(refused.status, 404, "{refused:?}");
    bucket.hangs.store(true, Ordering::Relaxed);
    let address = &server.address;
    std::thread::scope(|scope| {
        let path = "/models/motor/retrain";
        let body = format!("{{\"samples\":{}}}", json(&readings(52, 60, 2)));
        let retrain = scope.spawn(move || {
            let start = Instant::now();
            (ask(address, "POST", path, &body), start.elapsed())
        });
        while !retrain.is_finished() {
            let answer = server.predict("motor", &ROW).ok();
            // The one who just finished may have stored it after all, but not before.
            assert_eq!(answer, before);
            std::thread::sleep(Duration::from_millis(20));
        }
        let (answer, took) = retrain.join().expect("no panic");
        let answer = answer.expect("it answers");
        println!("refused after {took:.1?}: {}", answer.body.trim_end());
        assert_eq!(answer.status, 503, "{answer:?}");
    });
    bucket.hangs.store(false, Ordering::Relaxed);
    let answer = server.retrain("motor", &readings(53, 70, 2));
    assert_eq!(answer.status, 200, "{answer:?}");
}

// A wrong key is found at the start, not at the first retrain.
#[test]
fn a_bucket_that_refuses_access_ends_the_start_with_a_line_that_says_why() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let mut command = bucket.command(&[]);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let output = command.output().expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("ERROR"));
    let line = line.unwrap_or_else(|| panic!("no error is told:\n{log}"));
    println!("{line}");
    assert!(line.contains("SignatureDoesNotMatch"), "{line}");
}

// Objects get damaged as files do, by whoever copies them from one bucket to another.
#[test]
fn a_damaged_object_is_set_aside_and_the_older_version_served() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let site = folder.path().join(BUCKET).join(SITE);
    let old = fit(TREES, readings(61, 50, 2));
    let damaged = &encoded(fit(TREES, readings(62, 50, 2)))[1..];
    let path = |kind, version| site.join(stored::version_path(kind, "motor", version));
    write(&path("models", 1), &encoded(old.clone()));
    write(&path("models", 2), damaged);
    let server = bucket.server(&[]);
    let log = server.log();
    let named = stored::version_path("models", "motor", 2);
    let line = log.lines().find(|line| line.contains(&named));
    let line = line.unwrap_or_else(|| panic!("{named} is not named in:\n{log}"));
    assert!(line.contains("cannot be served"), "{line}");
    assert_eq!(server.model("motor").version(), Some(1));
    assert!(is_from(&server.predict("motor", &ROW), &old, &ROW));
    assert!(!path("models", 2).exists());
    let aside = std::fs::read(path("set-aside", 2)).expect("set aside");
    assert_eq!(aside, damaged);
    let answer = server.retrain("motor", &readings(63, 50, 2));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
}
