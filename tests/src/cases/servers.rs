//! Servers with their clients in one machine, over local sockets.

use crate::case::Case;
use crate::paths;

/// The cases of this file.
pub(super) fn all() -> Vec<Case> {
    vec![
        script("servers/redis", "/bin/sh", "redis.sh").packages(&["redis-server", "redis-tools", "coreutils", "sed"]).cpus(&[1, 4]),
        script("servers/memcached", "/usr/bin/python3", "memcached.py").packages(&["memcached"]).cpus(&[2]),
        script("servers/nginx", "/usr/bin/python3", "nginx.py").packages(&["nginx"]).cpus(&[2]),
        script("servers/postgres", "/usr/bin/python3", "postgres.py")
            .packages(&["postgresql-15", "dash", "coreutils", "tzdata"])
            .cpus(&[2]),
        script("servers/python", "/usr/bin/python3", "unix_servers.py").packages(&["dash"]).cpus(&[1, 4]),
        script("sqlite3/threads", "/usr/bin/python3", "sqlite_threads.py").cpus(&[1, 4]),
    ]
}

fn script(name: &str, program: &'static str, file: &str) -> Case {
    let file = paths::guest_source(&format!("scenarios/{file}")).to_string_lossy().into_owned();
    Case::installed(name, program).args([file]).memory("1G").seconds(300)
}
