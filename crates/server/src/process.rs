//! What the process uses, read from /proc (proc(5)). What cannot be read is zero.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit, setrlimit};
use tidegate_metrics::ProcessStats;

/// Raises the soft limit of file descriptors to the hard one, which is what a server is meant to use.
///
/// # Errors
/// The kernel refused; the limit is as before.
pub fn raise_fd_limit() -> io::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current.unwrap_or(u64::MAX))
}

/// What the process uses now. `started_seconds` is its start since the Unix epoch.
pub(crate) fn stats(started_seconds: f64) -> ProcessStats {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    ProcessStats {
        cpu_seconds: cpu_seconds().unwrap_or(0.0),
        resident_bytes: field("VmRSS:").unwrap_or(0).saturating_mul(1024),
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        threads: field("Threads:").unwrap_or(0),
        start_time_seconds: started_seconds,
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses, which may hold anything; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory that the process may use, bytes: the machine's, or less if its control group has a limit.
pub(crate) fn memory_total() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
    });
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => 0,
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_something() {
        let stats = stats(1.0);
        assert!(stats.resident_bytes > 100_000 && stats.open_fds >= 3 && stats.threads >= 1, "{stats:?}");
        assert!(memory_total() > stats.resident_bytes);
    }

    #[test]
    fn the_fd_limit_is_raised_as_far_as_it_goes() {
        let limit = raise_fd_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
