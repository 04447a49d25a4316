//! Several servers on one store, a folder or an object store: each serves what another one learns,
//! and no acknowledged change is lost between them.

mod bucket;
mod folder;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use iforest_server::store::decode;
use ndarray::Array2;
use serde_json::json;

use crate::support::data::{encoded, fit, is_from, readings, samples};
use crate::support::folder::{version_path, write};
use crate::support::http::request;
use crate::support::server::Server;
use crate::support::wait_until;

const TREES: usize = 10;

/// Options of every server here.
const COMMON: [&str; 4] = ["--n-estimators", "10", "--random-state", "42"];

const ROW: [f64; 2] = [1.5, 2.5];

/// A load balancer: each connection goes to the next server.
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
                    // The client notices an error by the missing response.
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

/// The time until the other server served each kind of change.
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
            let most = delays.iter().max().expect("a delay");
            println!(
                "{store}: {kind} by the other server after {mean:.0?} on average, {most:.0?} at most"
            );
        }
    }
}

/// Changes models at either of two servers, again and again, while clients predict through a load
/// balancer.
fn change_while_clients_predict(store: &str, servers: [&Server; 2]) {
    let [first, second] = servers;
    first.retrain("default", &readings(1, 50, 1)).ok();
    first.retrain("steady", &readings(2, 50, 2)).ok();
    first.retrain("changing", &readings(3, 50, 2)).ok();
    wait_until("the second server serves all models", || {
        second.model("default").version() == Some(1)
            && second.model("steady").status == 200
            && second.model("changing").status == 200
    });
    let steady = first.predict("steady", &ROW);
    let default = first.predict("default", &[1.5]);
    let mut possible = HashSet::from([first.predict("changing", &ROW).body]);

    let balancer = Balancer::start(servers);
    let done = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let mut delays = Delays::default();
    let predict = |model: &str, row: &[f64]| {
        let path = format!("/models/{model}/predict");
        let body = format!("{{\"value\":{row:?}}}");
        let answer = request(&balancer.address, "POST", &path, &body);
        let answer = answer.unwrap_or_else(|error| panic!("{model}: {error}"));
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        count.fetch_add(1, Ordering::Relaxed);
        // Keeps the number of connections below the number of free ports.
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
        // Stops the clients even when an assertion below panics.
        let stop_clients = SetOnDrop(&done);
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

            let changed = here.post("/models/changing/rollback", "");
            let version = changed.version();
            assert!(version.is_some(), "{changed:?}");
            delays.measure("a rollback is served", || {
                there.model("changing").version() == version
            });
            let body = here.predict("changing", &ROW).ok();
            assert!(
                possible.contains(&body),
                "the rollback restored a known model"
            );
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
        drop(stop_clients);
        let answers = clients.into_iter().map(std::thread::ScopedJoinHandle::join);
        answers
            .flat_map(|seen| seen.expect("no request failed"))
            .collect()
    });
    assert!(answers.len() > 2, "clients saw the changes");
    assert!(
        answers.is_subset(&possible),
        "each prediction comes from one whole model"
    );
    delays.print(store);
    println!("{store}: {} predictions meanwhile", count.into_inner());
    for server in servers {
        let log = server.log();
        assert!(!log.contains("cannot be served"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Changes a model at one server, and another behind the servers' backs. The other server must look
/// after what was announced, and not list the whole store, which takes long if it has many models.
fn change_among_models_that_are_not_announced(servers: [&Server; 2], store: &std::path::Path) {
    let [here, there] = servers;
    let first = readings(1, 50, 2);
    here.retrain("motor", &first).ok();
    // At its start, each server announces that any model may have changed.
    wait_until("both servers have announced themselves", || {
        let marker = std::fs::read_to_string(store.join("changed")).unwrap_or_default();
        marker.lines().filter(|line| !line.contains(' ')).count() == 2
    });
    wait_until("the model is served", || there.model("motor").status == 200);
    std::thread::sleep(Duration::from_secs(1));
    let unannounced = encoded(fit(TREES, first));
    let write_unannounced = |version| {
        write(
            &store.join(version_path("models", "unannounced", version)),
            &unannounced,
        );
    };
    write_unannounced(1);
    let assert_only_announced = |version: Option<u64>| {
        wait_until("the change is served", || {
            there.model("motor").version() == version
        });
        let other = there.model("unannounced");
        assert_eq!(other.status, 404, "the whole store was listed: {other:?}");
    };
    let trained = here.retrain("motor", &readings(2, 60, 2));
    assert_only_announced(trained.version());
    let back = here.post("/models/motor/rollback", "");
    assert_eq!(back.version(), Some(3), "{back:?}");
    assert_only_announced(back.version());
    here.delete("/models/motor").ok();
    assert_only_announced(None);
    assert_eq!(there.model("motor").status, 404);
}

/// Sets a flag when dropped.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Retrains one model from many clients at two servers at once. Each acknowledged training must
/// have a version of its own, and both servers must end up with the last. Returns the training by
/// version.
fn retrain_at_once(servers: [&Server; 2], clients: u64, each: u64) -> BTreeMap<u64, u64> {
    let acknowledged: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| {
                let server = &servers[client as usize % 2].address;
                scope.spawn(move || {
                    (0..each)
                        .map(|i| {
                            let number = client * each + i;
                            let body = json!({ "samples": samples(&training(number)) });
                            let path = "/models/motor/retrain";
                            let answer = request(server, "POST", path, body.to_string());
                            let answer = answer.expect("a response");
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
        "each training has its own version: {by_version:?}"
    );
    let data = training(by_version[&count]);
    let (rows, expected) = (data.nrows() as u64, fit(TREES, data));
    for server in servers {
        wait_until("the last version is served", || {
            server.model("motor").version() == Some(count)
        });
        assert_eq!(server.model("motor").samples_used(), Some(rows));
        assert!(is_from(&server.predict("motor", &ROW), &expected, &ROW));
    }
    by_version
}

/// The readings of the training with this number, recognisable by their count.
fn training(number: u64) -> Array2<f64> {
    readings(500 + number, 20 + number as usize, 2)
}

/// Asserts that a folder holds what was acknowledged.
fn assert_stored(folder: &std::path::Path, by_version: &BTreeMap<u64, u64>) {
    for (version, &number) in by_version {
        let path = folder.join(version_path("models", "motor", *version));
        let bytes = std::fs::read(path).expect("it is stored");
        let record = decode(&bytes).expect("it is whole");
        let rows = record.detector.forest().n_samples();
        assert_eq!(rows, training(number).nrows(), "version {version}");
    }
}
