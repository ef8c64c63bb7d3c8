//! What a process costs, read from `/proc`: CPU time and private memory of it, its threads and its children.

use std::fs;

/// One reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time used so far, user and system, in microseconds.
    pub cpu_us: u64,
    /// Part of `cpu_us` spent in the kernel, in microseconds (in clock ticks of 10 ms, hence coarse).
    pub system_us: u64,
    /// Private_Clean + Private_Dirty of `smaps_rollup`, in KiB: what would be freed if the process ended.
    pub private_kib: u64,
    /// How many processes were summed up.
    pub processes: u32,
}

/// Linux counts in hundredths of a second for user space on every architecture (USER_HZ).
const TICK_US: u64 = 10_000;

/// Reads the process `pid` and all its descendants; `None` when there is no such process or no `/proc`.
pub fn usage(pid: u32) -> Option<Usage> {
    let mut total = Usage::default();
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok() else { continue };
        // The name may hold spaces and brackets; the fields are counted from the last bracket (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect())?;
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * TICK_US;
        let (user, system) = (ticks(11), ticks(12));
        let mut scheduled_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let path = task.path();
            if let Ok(text) = fs::read_to_string(path.join("schedstat")) {
                scheduled_ns += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
            if let Ok(text) = fs::read_to_string(path.join("children")) {
                waiting.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        // The scheduler's figure is exact to a few milliseconds but forgets threads that ended; `stat` keeps them.
        total.cpu_us += (scheduled_ns / 1_000).max(user + system);
        total.system_us += system;
        total.private_kib += private_kib(pid);
        total.processes += 1;
    }
    (total.processes > 0).then_some(total)
}

/// Reads several processes, each with its descendants; `None` when there are none or one of them has ended.
pub fn usage_of(pids: &[u32]) -> Option<Usage> {
    let mut total = None;
    for pid in pids {
        let one = usage(*pid)?;
        let sum: &mut Usage = total.get_or_insert_default();
        sum.cpu_us += one.cpu_us;
        sum.system_us += one.system_us;
        sum.private_kib += one.private_kib;
        sum.processes += one.processes;
    }
    total
}

fn private_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_is_one_or_more_processes() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.private_kib > 0);
        assert!(usage.processes >= 1);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_usage() {
        assert!(usage(u32::MAX - 1).is_none());
    }
}
