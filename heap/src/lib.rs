//! Gives memory that the program has freed back to the system.
//!
//! glibc returns what lies at the end of an arena, and nothing that lies below anything still in
//! use. After a burst that is nearly all of it: a server that was asked for a gigabyte once stays
//! that large. Allocators that return it by themselves were measured (CHANGELOG.md, ARCHITECTURE.md,
//! "Why it is like this"); each takes 5 to 20 % more for an idle connection, which is what a chat
//! server has most of.

/// Returns whether anything was given back. It takes a few milliseconds for each 100 MB, during which
/// other threads may wait to allocate. Does nothing where the C library is not glibc.
pub fn trim() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes a number and touches nothing but free memory of the allocator, under the
        // allocator's own locks; it may be called at any time and from any thread.
        unsafe { malloc_trim(0) == 1 }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_can_be_called_while_others_allocate() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(vec![1_u8; 100_000]);
                }
            });
            for _ in 0..100 {
                super::trim();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
