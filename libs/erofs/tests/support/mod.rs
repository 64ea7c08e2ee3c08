//! What the tests share: page-aligned images, the walk over everything in an image, and erofs-utils.
#![expect(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod sample;
pub(crate) mod walk;

use std::path::Path;
use std::process::Command;

use erofs::write::{Options, Tree, plan};

/// A copy of an image that begins on a page boundary, as in the kernel.
pub(crate) struct Aligned {
    pages: Vec<Page>,
    len: usize,
}

#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl Aligned {
    pub(crate) fn new(bytes: &[u8]) -> Aligned {
        let mut pages = vec![Page([0; 4096]); bytes.len().div_ceil(4096)];
        zerocopy::IntoBytes::as_mut_bytes(pages.as_mut_slice())[..bytes.len()]
            .copy_from_slice(bytes);
        Aligned {
            pages,
            len: bytes.len(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(self.pages.as_slice())[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut zerocopy::IntoBytes::as_mut_bytes(self.pages.as_mut_slice())[..self.len]
    }
}

/// Writes an image into memory.
pub(crate) fn build(tree: &Tree, options: &Options) -> Vec<u8> {
    let mut image = Vec::new();
    let plan = plan(tree, options).expect("the tree is valid");
    let mut last = (0, 0);
    plan.write(&mut image, &mut |done, total| last = (done, total))
        .expect("a vector takes everything");
    assert_eq!(image.len() as u64, plan.image_size());
    assert_eq!(last, (plan.image_size(), plan.image_size()));
    image
}

/// Runs a program of erofs-utils; `None`, and a line that says so, when it is not installed.
pub(crate) fn erofs_utils(program: &str, args: &[&std::ffi::OsStr]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(
                output.status.success(),
                "{program} {args:?}: {}\n{text}",
                output.status
            );
            Some(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed (package erofs-utils)");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Has fsck.erofs check an image and read all its data.
pub(crate) fn fsck(image: &Path) {
    if let Some(text) = erofs_utils("fsck.erofs", &["--extract".as_ref(), image.as_os_str()]) {
        assert!(
            !text.contains("<E>") && !text.contains("<W>"),
            "fsck.erofs: {text}"
        );
    }
}
