//! How many connections fit into the open-file limit of the process. Each connection is a file.
//! Some files are kept for the node itself, because a full node must still serve the connections it
//! has, and health checks.

use super::WATCHERS_MAX;
use super::admission::files_beyond;
use crate::config::Config;

/// Standard streams, runtime, listeners, signals, name look-ups, generously.
const FILES_OF_PROCESS: usize = 32;
/// A connection to the log is one file, or with the embedded log up to three.
const FILES_OF_LOG_CONNECTION: usize = 3;
/// Connections to the log besides those of lanes and readers, and connections to Redis.
const CONNECTIONS_BESIDE: usize = 8;

/// The open-file limit that all settings together need.
pub fn wanted(config: &Config) -> usize {
    let connections_max = config.server.connections_max;
    connections_max.saturating_add(files_beyond(connections_max)).saturating_add(of_node(config))
}

/// How many connections fit into `files_max` open files.
pub fn connections_max(config: &Config, files_max: usize) -> usize {
    if files_max >= wanted(config) {
        return config.server.connections_max;
    }
    let room = files_max.saturating_sub(of_node(config));
    room.saturating_sub(files_beyond(room)).clamp(1, config.server.connections_max)
}

/// Files kept for the node itself.
fn of_node(config: &Config) -> usize {
    let log = config.lane.count + config.log.readers + CONNECTIONS_BESIDE;
    let watchers = if config.server.internal_listen.is_empty() { 0 } else { WATCHERS_MAX };
    FILES_OF_PROCESS + FILES_OF_LOG_CONNECTION * log + watchers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_as_many_as_there_is_room_for() {
        let config = Config::from_defaults();
        let all = config.server.connections_max;
        assert_eq!(connections_max(&config, wanted(&config)), all);
        assert_eq!(connections_max(&config, usize::MAX), all);
        for files in [0, 64, 200, 1024, 4096, 65_536, wanted(&config) - 1] {
            let fit = connections_max(&config, files);
            let beyond = files_beyond(fit);
            assert!(fit == 1 || fit + beyond + of_node(&config) <= files, "{fit} of {files}");
            assert!(fit < all);
        }
        // Most of the usual limit is for connections.
        assert!(connections_max(&config, 1024) > 650);
        assert!(connections_max(&config, 200) > 50);
    }
}
