//! Hostile clients, all at once, under a limit of memory.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{MIB, READING, post};
use crate::support::http::{connect, request, send};
use crate::support::server::{BINARY, Server};

/// How long the attack lasts.
const ATTACK: Duration = Duration::from_secs(10);

// The server has 1.5 GB of address space, of which its own threads take a part, and honest clients
// ask for a prediction and a small retrain each time.
#[test]
fn hostile_clients_neither_abort_the_server_nor_keep_honest_ones_waiting() {
    super::capacity::allow_many_files();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            r#"ulimit -v 1500000 && exec "$0" --port 0 --memory-limit 300MiB"#,
        ])
        .arg(BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_STORE", "memory:");
    let server = Server::spawn(command);
    let address = server.address.as_str();
    let over = AtomicBool::new(false);
    let repeat = |attack: &(dyn Fn(usize) + Sync)| {
        for i in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            attack(i);
        }
    };
    let mut times = std::thread::scope(|scope| {
        // Uploads that stop in the middle; their sockets stay open.
        scope.spawn(|| {
            let head = post("/retrain", 8 * MIB);
            let part = " ".repeat(4 * MIB);
            let open = std::sync::Mutex::new(Vec::new());
            repeat(&|_| {
                let Ok(mut stream) = TcpStream::connect(address) else {
                    return;
                };
                let _ = stream
                    .write_all(head.as_bytes())
                    .and_then(|()| stream.write_all(part.as_bytes()));
                let mut open = open.lock().expect("no panic");
                open.push(stream);
                if open.len() > 200 {
                    open.remove(0);
                }
            });
        });
        // Half heads, and connections that say nothing.
        scope.spawn(|| {
            let open = std::sync::Mutex::new(Vec::new());
            repeat(&|i| {
                let Ok(mut stream) = TcpStream::connect(address) else {
                    return;
                };
                if i % 2 == 0 {
                    let _ = stream.write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nX: ");
                }
                let mut open = open.lock().expect("no panic");
                open.push(stream);
                if open.len() > 1000 {
                    open.drain(..500);
                }
            });
        });
        // Forests that cost as much as a request may ask for, and more, under ever new names.
        scope.spawn(|| {
            repeat(&|i| {
                let trees = if i % 2 == 0 { 3900 } else { 100_000 };
                let body = format!(
                    r#"{{"samples":[[1,2],[2,1],[3,5],[5,3],[8,9],[9,8]],"n_estimators":{trees}}}"#
                );
                let _ = request(address, "POST", &format!("/models/m{i}/retrain"), body);
            });
        });
        // Nested lists, and bytes that are no HTTP.
        scope.spawn(|| {
            let nested = format!(
                "{{\"samples\":{}{}}}",
                "[".repeat(500_000),
                "]".repeat(500_000)
            );
            repeat(&|i| {
                if i % 2 == 0 {
                    let _ = request(address, "POST", "/retrain", &nested);
                } else if let Ok(mut stream) = connect(address) {
                    let _ = send(&mut stream, "\0\u{7f}PRI * HTTP/2.0", &[0xFF; 4096]);
                }
            });
        });
        let honest = std::panic::catch_unwind(|| {
            let start = Instant::now();
            let mut times = Vec::new();
            while start.elapsed() < ATTACK {
                let asked = Instant::now();
                let response = request(address, "POST", "/predict", READING);
                response.expect("an honest client gets a response").ok();
                times.push(asked.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            times
        });
        // Also after a panic, so that the test ends.
        over.store(true, Ordering::Relaxed);
        honest
    })
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "{} honest requests, median {median:?}, slowest {:?}; {} bytes held",
        times.len(),
        times[times.len() - 1],
        server.memory("RssAnon")
    );
    // The promise is a second; the tests beside this one use the same processors.
    assert!(median < Duration::from_secs(1), "{median:?}");
    let retrained = server.post("/retrain", r#"{"samples": [1, 2, 3]}"#);
    assert!(
        [200, 503].contains(&retrained.status.as_u16()),
        "{retrained:?}"
    );
    server.post("/predict", READING).ok();
}
