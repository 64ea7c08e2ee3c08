//! `/.oxv/exec.json`: how the guest starts the program. Written into every image; read by the kernel.

use serde::{Deserialize, Serialize};

/// Its place in the image.
pub(crate) const PATH: &str = "/.oxv/exec.json";

/// The program to start, as execve(2) takes it, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) argv: Vec<String>,
    /// `KEY=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    /// Absolute path of the file to start; its `#!` line has been followed.
    pub(crate) exe: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) hostname: String,
}

impl Exec {
    /// The file's bytes.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings and numbers can be written as JSON")
    }
}
