//! Why an image cannot be built.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be built. Guest paths are shown from the root.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// Writing the image failed.
    Output(io::Error),
    /// Reading a file of the host failed.
    Host {
        /// The file.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// The content of a file is to come from something that is not a regular file.
    NotARegularFile(PathBuf),
    /// A file of the host became shorter while it was read.
    Shrank(PathBuf),
    /// A guest path has `..`, a NUL, or a name longer than 255 bytes.
    Path(PathBuf),
    /// A guest path is to lie inside something that is not a directory: the latter.
    NotADirectory(PathBuf),
    /// A hard link's target does not exist, is a directory or a hard link.
    LinkTarget {
        /// The link.
        link: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The target of this symbolic link is empty, longer than 4095 bytes or has a NUL.
    SymlinkTarget(PathBuf),
    /// This device's major number needs more than 12 bits, or its minor number more than 20.
    DeviceNumber(PathBuf),
    /// This entry's mode has bits outside 0o7777.
    Mode(PathBuf),
    /// This entry's time has a thousand million nanoseconds or more.
    Time(PathBuf),
    /// An extended attribute has an unknown namespace or a name or value too long, or they are too many.
    Xattr {
        /// Of which entry.
        path: PathBuf,
        /// The attribute's name.
        name: Vec<u8>,
    },
    /// The volume name has more than 15 bytes or a NUL.
    VolumeName,
    /// The image would have more than 2³² blocks.
    TooLarge,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Output(error) => write!(f, "cannot write the image: {error}"),
            WriteError::Host { path, error } => {
                write!(f, "cannot read {}: {error}", path.display())
            }
            WriteError::NotARegularFile(path) => {
                write!(f, "{} is not a regular file", path.display())
            }
            WriteError::Shrank(path) => {
                write!(f, "{} became shorter while it was read", path.display())
            }
            WriteError::Path(path) => {
                write!(f, "{} is not a valid path in the image", path.display())
            }
            WriteError::NotADirectory(path) => {
                write!(f, "{} is not a directory in the image", path.display())
            }
            WriteError::LinkTarget { link, target } => {
                write!(
                    f,
                    "hard link {}: {} is not a file in the image",
                    link.display(),
                    target.display()
                )
            }
            WriteError::SymlinkTarget(path) => {
                write!(f, "symbolic link {} has an invalid target", path.display())
            }
            WriteError::DeviceNumber(path) => {
                write!(f, "device number of {} is too large", path.display())
            }
            WriteError::Mode(path) => write!(
                f,
                "mode of {} has more than permission bits",
                path.display()
            ),
            WriteError::Time(path) => {
                write!(f, "time of {} has invalid nanoseconds", path.display())
            }
            WriteError::Xattr { path, name } => write!(
                f,
                "extended attribute {} of {} cannot be stored",
                String::from_utf8_lossy(name),
                path.display()
            ),
            WriteError::VolumeName => {
                f.write_str("volume name is longer than 15 bytes or has a NUL")
            }
            WriteError::TooLarge => f.write_str("image would have more than 2^32 blocks"),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WriteError::Output(error) | WriteError::Host { error, .. } => Some(error),
            _ => None,
        }
    }
}
