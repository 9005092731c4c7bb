//! The user namespace that owns another namespace (ioctl_ns(2)).

use rustix::{
    io::Result,
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode},
};
use std::{
    ffi::c_void,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    ptr::null_mut,
};

/// `NS_GET_USERNS`: without an argument, returns a new descriptor.
struct Owner;

// SAFETY: the call reads and writes no memory of this process, and its result is a descriptor that nobody else has.
#[allow(unsafe_code)]
unsafe impl Ioctl for Owner {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 1)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<OwnedFd> {
        // SAFETY: the call has succeeded, so that this is an open descriptor, made for this caller.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

/// The owner of a namespace.
pub(crate) fn of(namespace: impl AsFd) -> Result<OwnedFd> {
    // SAFETY: a namespace knows this call as above; another file does not know it, and the call fails.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(namespace, Owner)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_namespace_of_this_process_is_owned_by_its_user_namespace() {
        use std::os::unix::fs::MetadataExt;
        let open = |name: &str| std::fs::File::open(format!("/proc/self/ns/{name}")).unwrap();
        let owner = std::fs::File::from(super::of(open("net")).unwrap());
        assert_eq!(owner.metadata().unwrap().ino(), open("user").metadata().unwrap().ino());
        assert!(super::of(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
