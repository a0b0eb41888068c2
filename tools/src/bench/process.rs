//! The CPU time and memory that the server's processes have used so far, from /proc (Linux only).

use std::fs;
use std::io;

/// The unit of times in /proc/PID/stat (`USER_HZ`), the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// The sum over all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_us: u64,
    pub system_us: u64,
    pub resident_kib: u64,
}

impl Usage {
    /// Fails if a process does not exist; the error has its number.
    pub fn of(pids: &[u32]) -> io::Result<Self> {
        let mut all = Self::default();
        for pid in pids {
            let read = |file| {
                let path = format!("/proc/{pid}/{file}");
                fs::read_to_string(&path)
                    .map_err(|err| io::Error::new(err.kind(), format!("{path}: {err}")))
            };
            let (user, system) = times(&read("stat")?);
            all.user_us += user * 1_000_000 / TICKS_PER_SECOND;
            all.system_us += system * 1_000_000 / TICKS_PER_SECOND;
            all.resident_kib += resident_kib(&read("status")?);
        }
        Ok(all)
    }
}

/// User and system time, in ticks.
fn times(stat: &str) -> (u64, u64) {
    // The name may contain anything, so count from its end: the state is the first field, and the
    // times are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse().unwrap_or(0));
    (times.next().unwrap_or(0), times.next().unwrap_or(0))
}

fn resident_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_read_from_where_they_are() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 912 0 0 0 123 45 6 7 20 0 9 0 88 0 0";
        assert_eq!(times(stat), (123, 45));
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t1\n"), 2048);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_something_and_another_is_an_error() {
        let usage = Usage::of(&[std::process::id()]).unwrap();
        assert!(usage.resident_kib > 100, "{usage:?}");
        let missing = Usage::of(&[u32::MAX]).unwrap_err().to_string();
        assert!(missing.contains("/proc/4294967295/stat"), "{missing}");
    }
}
