//! Returns memory that the program has freed to the system.
//!
//! glibc returns what lies at the end of an arena, and nothing below memory that is still in use.
//! After a burst that is almost everything: a server that once needed a gigabyte stays that large.
//! Allocators that return memory by themselves were measured (CHANGELOG.md, ARCHITECTURE.md, "Why
//! it is like this"): each takes 5 to 20 % more for an idle connection, and a chat server has
//! mostly idle connections.

/// Returns whether anything was given back. Takes a few milliseconds for each 100 MB, during which
/// other threads may wait to allocate. Does nothing if the C library is not glibc.
pub fn trim() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: the function takes a number and only touches the allocator's free memory, under
        // the allocator's own locks. It may be called at any time, from any thread.
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
