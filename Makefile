# The commands of a working day. Each brings in what it needs; a second run does not install again.
.PHONY: help demo bundle test lint train clean

BUNDLE := target/bundles/base-float
INT8 := target/bundles/base-int8
SHARP := target/bundles/sharp-float
# Kept in float in the 8-bit bundle: what `nextclip-export sensitivity` says loses most, and is small.
FLOAT := motion.stem.0 motion.stem.1 decoder.up_blocks.3.resnets.0.conv_shortcut

# Whether the bundle $(1) of models/$(2) is newer than all that it is made from.
newer = [ -e $(1)/manifest.json ] && [ $(1)/manifest.json -nt models/$(2)/model.safetensors ] \
  && [ $(1)/manifest.json -nt models/$(2)/vae/diffusion_pytorch_model.safetensors ] \
  && [ $(1)/manifest.json -nt target/release/nextclip-export ]

help:   ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

demo: bundle   ## export the shipped model and predict a live generated scene for half a minute
	@scripts/demo $(BUNDLE)

bundle:   ## export the shipped models to target/bundles: base-float, base-int8 (8 bits), sharp-float (the student)
	@scripts/setup
	cargo build --release --locked -p nextclip-export -p nextclip-runtime -p nextclip-eval
	@ln -sfn $(CURDIR)/.ort/libonnxruntime.so target/release/libonnxruntime.so   # binaries look beside themselves
	@$(call newer,$(BUNDLE),base) || target/release/nextclip-export export models/base --out $(BUNDLE)
	@$(call newer,$(INT8),base) || target/release/nextclip-export export models/base --out $(INT8) \
	  --target cpu --precision w8a8 --calibrate scenes $(FLOAT:%=--keep-float %)
	@$(call newer,$(SHARP),sharp) || target/release/nextclip-export export models/sharp --out $(SHARP)

test:   ## every test of every crate, the trainer's included
	@scripts/setup train
	cargo test --locked --workspace --all-features

lint:   ## formatting, clippy, documentation, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features
	@command -v cargo-deny >/dev/null && cargo deny --offline check bans licenses sources || echo "cargo-deny is not installed: skipped"

train:   ## train the shipped model again, from nothing (hours); goes on where it stopped
	@scripts/setup train
	scripts/train-base

clean:   ## what builds left behind; the unpacked libraries stay
	cargo clean
