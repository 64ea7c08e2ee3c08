//! Processes: execve, exit, wait, groups and sessions.
