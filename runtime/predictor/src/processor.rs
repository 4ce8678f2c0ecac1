//! What the processor's 8-bit arithmetic needs.

/// Whether products of unsigned with signed 8-bit integers saturate at 16 bits here and are wrong. ONNX Runtime can
/// make both sides unsigned instead, at half the speed; it does so on every processor that it is asked to, so it must
/// be asked only where it matters: on x86-64 without VNNI, for weights that are large enough.
pub(crate) fn saturates() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !(is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni"));
    #[cfg(not(target_arch = "x86_64"))]
    false
}
