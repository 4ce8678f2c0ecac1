//! What a measured speed depends on: the processor and its instruction sets.

use std::fs;

/// The processor's name, its cores and those of its instruction sets that matrix products use.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let sets = instruction_sets();
    let sets = if sets.is_empty() { "no vector instructions known".to_owned() } else { sets.join(" ") };
    format!("{}, {cores} cores, {sets}", processor())
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("AVX-VNNI", is_x86_feature_detected!("avxvnni")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX512-VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX512-BF16", is_x86_feature_detected!("avx512bf16")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as there;
    [
        ("NEON", there!("neon")),
        ("dot product", there!("dotprod")),
        ("I8MM", there!("i8mm")),
        ("BF16", there!("bf16")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}
