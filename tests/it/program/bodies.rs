//! Bodies: how much memory they may take together, and which are given up where it is used up.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{MIB, closes, post, predict};
use crate::support::http::read_response;
use crate::support::server::Server;

// Uploads that stall must not keep an honest one out.
#[test]
fn stalled_uploads_make_room_for_a_retrain() {
    let server = Server::start(&[]);
    let head = post("/retrain", 63 * MIB);
    let part = " ".repeat(62 * MIB);
    let mut stalled: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(head.as_bytes()).expect("the server reads");
            stream.write_all(part.as_bytes()).expect("the server reads");
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1500));
    let body = format!("{{\"samples\":[1,2,3]{}}}", " ".repeat(8 * MIB));
    server.post("/retrain", body).ok();
    // One stalled upload made room, and gets its response well before its time-out.
    let start = Instant::now();
    let evicted = loop {
        let answered = stalled.iter().position(|stream| {
            stream.set_nonblocking(true).expect("it is connected");
            let answered = stream.peek(&mut [0]).is_ok();
            stream.set_nonblocking(false).expect("it is connected");
            answered
        });
        if let Some(answered) = answered {
            break answered;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    };
    let response = read_response(&mut stalled[evicted]).expect("a response");
    assert_eq!(response.status, 408, "{response:?}");
    assert!(response.body.contains("too many large"), "{response:?}");
    assert!(closes(&response), "{response:?}");
    // The others go on.
    let mut other = stalled.swap_remove((evicted + 1) % 4);
    let rest = &part.as_bytes()[..MIB];
    other.write_all(rest).expect("the server reads");
    let response = read_response(&mut other).expect("a response");
    assert_eq!(response.status, 400, "{response:?}");
    assert!(response.body.contains("not_json"), "{response:?}");
}

// 1,500 such bodies held 2.4 GB.
#[cfg(target_os = "linux")]
#[test]
fn unfinished_bodies_are_bounded_together() {
    super::capacity::allow_many_files();
    let server = Server::start(&[]);
    let head = post("/retrain", MIB);
    let part = " ".repeat(MIB - 1);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..6)
            .map(|_| {
                let (address, head, part) = (&server.address, &head, &part);
                scope.spawn(move || {
                    let mut streams = Vec::new();
                    for _ in 0..250 {
                        let mut stream = TcpStream::connect(address).expect("it listens");
                        // Those that are refused are closed in the middle.
                        let _ = stream
                            .write_all(head.as_bytes())
                            .and_then(|()| stream.write_all(part.as_bytes()));
                        streams.push(stream);
                    }
                    streams
                })
            })
            .collect();
        let mut most = 0;
        let mut ask = || {
            let start = Instant::now();
            let response = predict(&mut server.connect()).expect("a response");
            assert_eq!(response.status, 200, "{response:?}");
            assert!(start.elapsed() < Duration::from_secs(5));
            most = most.max(server.memory("RssAnon") as usize / MIB);
        };
        while !senders
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            ask();
        }
        let streams: Vec<_> = senders
            .into_iter()
            .map(|sender| sender.join().expect("no panic"))
            .collect();
        // The server still reads what the system received for it.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            ask();
            std::thread::sleep(Duration::from_millis(10));
        }
        // Beside the 256 MiB, each connection has a buffer.
        assert!(most < 400, "{most} MiB");
        server.post("/retrain", r#"{"samples": [1, 2, 3]}"#).ok();
        drop(streams);
    });
}
