//! The process's heap.

/// Makes all threads share one heap, for the life of the process. To be called before there is a
/// second thread; returns whether the C library does so.
///
/// The C library would give nearly every thread its own, and each keeps what it once needed: a
/// thousand nodes that join one by one left 5 MiB in them. Lanes do not wait for each other in the
/// one, because packets that flow take no memory.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library here wraps mallopt(3)")]
pub fn share() -> bool {
    // SAFETY: mallopt takes two numbers and reads no memory of ours; no other thread uses the heap
    // meanwhile.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) == 1 }
}

/// Other C libraries have one heap anyway.
#[cfg(not(target_env = "gnu"))]
pub fn share() -> bool {
    true
}
