//! What the server's processes have used so far: CPU time and memory, from /proc. It measures
//! nothing but what the kernel counts, and only on Linux.

use std::fs;
use std::io;

/// The unit of times in /proc/PID/stat on every Linux: `USER_HZ`.
const TICKS_PER_SECOND: u64 = 100;

/// Of all processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_us: u64,
    pub system_us: u64,
    pub resident_kib: u64,
}

impl Usage {
    /// Fails if one of them is not there, with its number in the error.
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
    // Behind the name, which may hold anything: the state is the first field, the times are 12th
    // and 13th.
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
