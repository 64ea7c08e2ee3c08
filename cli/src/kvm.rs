//! Whether this machine really offers hardware virtualisation.
#![expect(unsafe_code, reason = "one ioctl(2) that takes no argument and touches no memory")]

use std::ffi::c_void;
use std::fs::File;
use std::path::Path;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The only version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Sees whether KVM can be used: the CPU has vmx or svm, and `/dev/kvm` opens and answers.
///
/// # Errors
/// What is missing, for the user.
pub(crate) fn check() -> Result<(), String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_virtualisation(&cpu) {
        return Err("the CPU offers neither vmx nor svm".into());
    }
    let device = File::options().read(true).write(true).open(Path::new("/dev/kvm")).map_err(|e| format!("/dev/kvm: {e}"))?;
    // SAFETY: KVM_GET_API_VERSION reads and writes no memory of this process.
    match unsafe { ioctl(&device, GetApiVersion) } {
        Ok(API_VERSION) => Ok(()),
        Ok(other) => Err(format!("/dev/kvm has API version {other}, not {API_VERSION}")),
        Err(e) => Err(format!("/dev/kvm does not answer: {e}")),
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|l| l.starts_with("flags"));
    flags.next().is_some_and(|l| l.split_whitespace().any(|f| f == "vmx" || f == "svm"))
}

/// The request `_IO(0xAE, 0)`, whose return value is the version.
struct GetApiVersion;

// SAFETY: the opcode is KVM_GET_API_VERSION, which takes no argument, so no pointer is passed or written through.
unsafe impl Ioctl for GetApiVersion {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xae, 0)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flag_words_count() {
        assert!(has_virtualisation("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualisation("flags\t\t: fpu svmx vmx_foo\nbugs: vmx\n"));
        assert!(!has_virtualisation(""));
    }
}
