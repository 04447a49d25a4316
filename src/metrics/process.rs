//! Metrics that the operating system keeps of the process, under the names of Prometheus' own clients.

#[cfg(target_os = "linux")]
use std::sync::OnceLock;

use super::Exposition;

/// Writes the metrics of the process. Linux only.
pub(crate) fn write_process_metrics(text: &mut Exposition) {
    #[cfg(target_os = "linux")]
    if let Some(process) = Process::read() {
        text.gauge(
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970.",
        )
        .sample(&[], START.get_or_init(|| process.started));
        text.counter(
            "process_cpu_seconds_total",
            "Processor time of the process, in seconds.",
        )
        .sample(&[], process.cpu);
        text.gauge(
            "process_resident_memory_bytes",
            "Memory of the process, shared libraries included.",
        )
        .sample(&[], process.memory);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = text;
}

/// Computed once: a later computation differs after the clock was set.
#[cfg(target_os = "linux")]
static START: OnceLock<f64> = OnceLock::new();

#[cfg(target_os = "linux")]
struct Process {
    started: f64,
    cpu: f64,
    memory: u64,
}

#[cfg(target_os = "linux")]
impl Process {
    /// From the files that proc(5) describes.
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program, in parentheses, may contain anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first of these is field 3 of the file.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
        let boot: f64 = boot.parse().ok()?;
        Some(Self {
            started: boot + field(22)? as f64 / ticks,
            cpu: (field(14)? + field(15)?) as f64 / ticks,
            memory: field(24)? * rustix::param::page_size() as u64,
        })
    }
}
