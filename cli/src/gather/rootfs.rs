//! `--rootfs`: a directory or a tar file that takes the place of this machine's files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;

use crate::error::{Error, Result};

/// A root file system on the host's disk.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    /// Holds an unpacked tar file; removed when dropped.
    _unpacked: Option<TempDir>,
}

impl Rootfs {
    /// Opens the directory at `path`, or unpacks the tar file there (plain or gzip).
    ///
    /// # Errors
    /// `BadRootfs` if it is neither or cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Rootfs> {
        let bad = |cause: String| Error::BadRootfs { path: path.to_owned(), cause };
        let meta = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?;
        if meta.is_dir() {
            let path = path.canonicalize().map_err(|e| bad(e.to_string()))?;
            return Ok(Rootfs { path, _unpacked: None });
        }
        let file = File::open(path).map_err(|e| bad(e.to_string()))?;
        let directory = tempfile::Builder::new().prefix("oxv-rootfs-").tempdir().map_err(|e| bad(e.to_string()))?;
        unpack(file, directory.path()).map_err(|e| bad(format!("it is no directory, and as a tar file: {e}")))?;
        Ok(Rootfs { path: directory.path().to_owned(), _unpacked: Some(directory) })
    }

    /// The directory that stands for `/`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn unpack(file: File, to: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(file);
    let gzip = std::io::BufRead::fill_buf(&mut reader)?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    let mut entries = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        // The guest kernel makes its own device nodes.
        if !(kind.is_character_special() || kind.is_block_special()) {
            entry.unpack_in(to)?;
        }
        entries += 1;
    }
    if entries == 0 {
        return Err(std::io::Error::other("it has no entries"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o755);
        header.set_mtime(1000);
        builder.append_data(&mut header, "bin/hello", &b"hello"[..]).expect("append");
        builder.into_inner().expect("finish")
    }

    #[test]
    fn plain_and_gzip_archives_are_unpacked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive()).expect("gzip");
        for bytes in [archive(), gzip.finish().expect("finish")] {
            let file = dir.path().join("x.tar");
            std::fs::write(&file, bytes).expect("write");
            let rootfs = Rootfs::open(&file).expect("open");
            assert_eq!(std::fs::read(rootfs.path().join("bin/hello")).expect("read"), b"hello");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("x");
        std::fs::write(&file, "no archive").expect("write");
        assert!(matches!(Rootfs::open(&file), Err(Error::BadRootfs { .. })));
        assert!(matches!(Rootfs::open(&dir.path().join("none")), Err(Error::BadRootfs { .. })));
    }
}
