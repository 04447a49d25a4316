//! The memory budget: how much memory models, trainings and bodies may take together, and how much
//! of it is reserved.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Units of a size, longest first where one ends in another.
const UNITS: [(&str, u64); 9] = [
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", 1024 * GIB),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// The smallest limit. The program takes 10 MB for itself, and the default model and a small
/// training need some.
const SMALLEST_LIMIT: u64 = 32 * MIB;

/// The memory of a machine that does not say how much it has.
const UNKNOWN_MACHINE: u64 = 4 * GIB;

/// Most memory for bodies that are being received or wait to be parsed.
const MAX_BODIES: u64 = 256 * MIB;

/// How much memory models, trainings and bodies may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit(u64);

/// Why a text is not a [`MemoryLimit`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryLimitError {
    /// It is not a number and a unit.
    #[error("expected a size such as 512MiB, 2GiB or 1500MB")]
    NotASize,
    /// The server cannot work with so little.
    #[error("expected at least {}", MemoryLimit(SMALLEST_LIMIT))]
    TooSmall,
}

impl MemoryLimit {
    /// Three quarters of the memory that the control group, the process or the machine may use,
    /// whichever is least. The last quarter is for the program itself, for connections, and for what
    /// the allocator cannot return to the system.
    pub fn detect() -> Self {
        let machine = machine_memory().unwrap_or(UNKNOWN_MACHINE);
        let available = control_group_limits()
            .chain(address_space_limit())
            .fold(machine, u64::min);
        Self((available / 4 * 3).max(SMALLEST_LIMIT))
    }

    /// The limit in bytes.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The share of bodies that are being received or wait to be parsed: a quarter, at most 256 MiB.
    pub fn bodies(self) -> usize {
        usize::try_from(MAX_BODIES.min(self.0 / 4)).unwrap_or(usize::MAX)
    }

    /// The share of models and trainings: the rest.
    pub fn models(self) -> usize {
        self.bytes() - self.bodies()
    }
}

impl FromStr for MemoryLimit {
    type Err = MemoryLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| {
                let number = lower.strip_suffix(&name.to_ascii_lowercase())?;
                Some((number.trim_end(), *unit))
            })
            .ok_or(MemoryLimitError::NotASize)?;
        let is_number = number.starts_with(|c: char| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number: f64 = number
            .parse()
            .ok()
            .filter(|_| is_number)
            .ok_or(MemoryLimitError::NotASize)?;
        // The cast saturates.
        let bytes = (number * unit as f64) as u64;
        if bytes < SMALLEST_LIMIT {
            return Err(MemoryLimitError::TooSmall);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 / MIB)
    }
}

/// The memory of the machine.
fn machine_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(KIB))
}

/// The limits of the control groups that the process is in, of version 1 and 2.
fn control_group_limits() -> impl Iterator<Item = u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&groups)
        .into_iter()
        .filter_map(|file| parse_limit(&std::fs::read_to_string(file).ok()?))
}

/// The files that hold the limits of control groups, as `/proc/self/cgroup` names the groups: those
/// of the group itself and of all groups above it. In a container the path may be the host's, and
/// only the file at the root exists.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, file) = if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else if id == "0" && controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else {
            continue;
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
    }
    files
}

/// Parses the content of such a file: a number of bytes, or `max`.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The limit of the address space, as `ulimit -v` sets it. Half of it counts: threads and the
/// allocator reserve address space that they do not use.
fn address_space_limit() -> Option<u64> {
    #[cfg(unix)]
    let limit = rlimit::Resource::AS.get_soft().ok();
    #[cfg(not(unix))]
    let limit: Option<u64> = None;
    limit.map(|limit| limit / 2)
}

/// Reservations of memory, which together stay within a limit.
///
/// Nothing is allocated here: who reserves states how much it is about to allocate.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    reserved: Mutex<usize>,
    /// Notified when a reservation shrinks or ends.
    freed: Condvar,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            reserved: Mutex::new(0),
            freed: Condvar::new(),
        })
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes are reserved.
    pub fn reserved(&self) -> usize {
        *self.lock()
    }

    /// How many bytes must be given back before `bytes` can be reserved.
    pub fn missing(&self, bytes: usize) -> usize {
        self.reserved()
            .saturating_add(bytes)
            .saturating_sub(self.limit)
    }

    /// Reserves memory; `None` if that would exceed the limit.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut reserved = self.lock();
        let sum = reserved
            .checked_add(bytes)
            .filter(|&sum| sum <= self.limit)?;
        *reserved = sum;
        drop(reserved);
        Some(self.reservation(bytes))
    }

    /// Reserves memory that is in use already, even beyond the limit.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Reservation {
        *self.lock() += bytes;
        self.reservation(bytes)
    }

    /// Blocks until memory is given back, or the timeout has passed.
    pub fn wait(&self, timeout: Duration) {
        let reserved = self.lock();
        // Whoever waits looks again, whatever woke it up.
        let _ = self.freed.wait_timeout(reserved, timeout);
    }

    fn reservation(self: &Arc<Self>, bytes: usize) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // The sum changes in one step, so a poisoned lock holds a valid one.
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a [`MemoryBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Reservation {
    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let freed = self.bytes.saturating_sub(bytes);
        *self.budget.lock() -= freed;
        self.bytes -= freed;
        self.budget.freed.notify_all();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Operators write sizes as container tools do; a wrong unit must not become another size.
    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, bytes) in [
            ("512MiB", 512 * MIB),
            ("2GiB", 2 * GIB),
            ("1.5 gib", GIB + GIB / 2),
            ("1500MB", 1_500_000_000),
            ("1500mb", 1_500_000_000),
            ("1TB", 1_000_000_000_000),
            ("100000kB", 100_000_000),
            ("100000KiB", 102_400_000),
            ("100000000B", 100_000_000),
        ] {
            assert_eq!(text.parse(), Ok(MemoryLimit(bytes)), "{text}");
        }
        for text in [
            "", "512", "512m", "2G", "GiB", "-1GiB", "1e3GiB", "infGiB", "1..5GiB",
        ] {
            let parsed = text.parse::<MemoryLimit>();
            assert_eq!(parsed, Err(MemoryLimitError::NotASize), "{text}");
        }
        let parsed = "1MiB".parse::<MemoryLimit>();
        assert_eq!(parsed, Err(MemoryLimitError::TooSmall));
        assert_eq!(
            MemoryLimitError::TooSmall.to_string(),
            "expected at least 32 MiB"
        );
    }

    // In a container the group's path may be the host's, so the groups above it count as well.
    #[test]
    fn the_files_of_control_groups_of_both_versions() {
        assert_eq!(
            limit_files("0::/system.slice/iforest.service\n"),
            [
                "/sys/fs/cgroup/system.slice/iforest.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(limit_files("0::/"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            limit_files("9:name=systemd:/x\n4:memory:/docker/1f\n1:cpu,cpuacct:/docker/1f\n"),
            [
                "/sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("536870912\n"), Some(512 * MIB));
    }

    #[test]
    fn bodies_have_a_quarter_of_a_small_limit_and_a_fixed_share_of_a_large_one() {
        let small = MemoryLimit(400 * MIB);
        assert_eq!((small.bodies(), small.models()), (100 << 20, 300 << 20));
        let large = MemoryLimit(4 * GIB);
        assert_eq!(
            (large.bodies(), large.models()),
            (256 << 20, (4 << 30) - (256 << 20))
        );
    }

    #[test]
    fn reservations_stay_within_the_limit_and_are_given_back() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.try_reserve(60).expect("there is room");
        assert!(budget.try_reserve(41).is_none());
        assert!(budget.try_reserve(usize::MAX).is_none());
        let second = budget.reserve(90);
        assert_eq!((budget.reserved(), budget.missing(5)), (150, 55));
        first.shrink(30);
        assert_eq!((budget.reserved(), first.bytes()), (120, 30));
        drop((first, second));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_waiting_reservation_wakes_up_when_memory_is_released() {
        let budget = MemoryBudget::new(100);
        let held = budget.reserve(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let long = Duration::from_secs(60);
                while budget.missing(50) > 0 {
                    budget.wait(long);
                }
            });
            drop(held);
            waiting.join().expect("no panic");
        });
    }
}
