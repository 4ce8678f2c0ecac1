//! Who attends to whom, cut into calls: each clip to just the keys that its mask leaves.

use nextclip_core::sequence::{self, Block, Role};
use tch::{Device, Kind, Tensor};

/// One attention call: a clip's blocks of one role, what precedes them, and themselves.
#[derive(Debug)]
struct Query {
    /// First query token.
    first: i64,
    /// First token of the keys that are masked by `bias`: the query's own blocks.
    first_key: i64,
    /// Query tokens.
    len: i64,
    /// Clean tokens from the sequence's start that all queries see.
    prefix: i64,
    /// 0 or a large negative, (len, len).
    bias: Tensor,
}

/// How a sequence of clean blocks, then noisy blocks, falls into attention calls.
#[derive(Debug)]
pub(crate) struct Layout {
    queries: Vec<Query>,
}

impl Layout {
    /// `skipped` frames at the beginning, whole clips, have no noisy blocks.
    pub(crate) fn new(
        clip_sizes: &[usize],
        skipped: usize,
        block_tokens: usize,
        kind: Kind,
        device: Device,
    ) -> Self {
        let clean_frames: usize = clip_sizes.iter().rev().skip(1).sum();
        let call = |role: Role, first_frame: usize, frames: usize| {
            let blocks: Vec<Block> = (0..frames).map(|frame| Block { role, frame, clip: 0 }).collect();
            let bias: Vec<f32> = sequence::mask(&blocks, block_tokens)
                .into_iter()
                .map(|seen| if seen { 0.0 } else { -1e30 })
                .collect();
            let len = (frames * block_tokens) as i64;
            let block = if role == Role::Noisy { clean_frames + first_frame - skipped } else { first_frame };
            let first = (block * block_tokens) as i64;
            Query {
                first,
                first_key: first,
                len,
                prefix: (first_frame * block_tokens) as i64,
                bias: Tensor::from_slice(&bias).reshape([len, len]).to_kind(kind).to_device(device),
            }
        };
        let mut starts = Vec::new();
        let mut start = 0;
        for &size in clip_sizes {
            starts.push((start, size));
            start += size;
        }
        let clean = starts[..starts.len() - 1].iter().map(|&(start, size)| call(Role::Clean, start, size));
        let estimated = starts.iter().filter(|(start, _)| *start >= skipped);
        let noisy = estimated.map(|&(start, size)| call(Role::Noisy, start, size));
        Self { queries: clean.chain(noisy).collect() }
    }

    /// Attention of rotated, scaled queries over keys and values, each (B, heads, T, d_head), of all queries from token
    /// `skip` on.
    pub(crate) fn attend(&self, [q, k, v]: [&Tensor; 3], skip: i64) -> Tensor {
        let out: Vec<Tensor> = self
            .queries
            .iter()
            .filter(|query| query.first >= skip)
            .map(|query| {
                let part = |x: &Tensor| match query.prefix {
                    0 => x.narrow(2, query.first_key, query.len),
                    prefix if prefix == query.first_key => x.narrow(2, 0, prefix + query.len),
                    prefix => {
                        Tensor::cat(&[x.narrow(2, 0, prefix), x.narrow(2, query.first_key, query.len)], 2)
                    }
                };
                let scores = q.narrow(2, query.first, query.len).matmul(&part(k).transpose(2, 3));
                let _ = scores.narrow(3, query.prefix, query.len).g_add_(&query.bias);
                scores.softmax(-1, None).matmul(&part(v))
            })
            .collect();
        Tensor::cat(&out, 2)
    }
}
