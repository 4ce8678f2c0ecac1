//! The token sequence of clean and noisy frames, and who may see whom in it.
//!
//! A clean frame is the block `<img>`, S frame tokens, `</img>`; a noisy frame is `<|diffusion|>`, the
//! time token, S frame tokens. The attention mask follows from one number per token, its [`level`],
//! and three facts per block: clean or noisy, its frame, its clip.

/// Whether a block holds a known frame or one that is being denoised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A known frame: history.
    Clean,
    /// A frame being denoised.
    Noisy,
}

/// One frame's block in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Clean or noisy.
    pub role: Role,
    /// Index of the frame in time; its position ids start at `frame * L`. A noisy frame and its own
    /// clean copy (in training) share it.
    pub frame: usize,
    /// Index of the clip that the frame belongs to.
    pub clip: usize,
}

/// The level of a token within its block: a token sees those of its own block, and a noisy token those
/// of the other noisy blocks of its clip, whose level is not above its own.
///
/// Clean: `<img>` 0, frame tokens 1, `</img>` 2. Noisy: `<|diffusion|>` 0, time token 1, frame tokens 2.
pub fn level(role: Role, offset: usize, block_tokens: usize) -> u8 {
    match (role, offset) {
        (_, 0) => 0,
        (Role::Clean, offset) if offset + 1 == block_tokens => 2,
        (Role::Clean, _) | (Role::Noisy, 1) => 1,
        (Role::Noisy, _) => 2,
    }
}

/// How much of a key block the tokens of a query block see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nothing of it.
    None,
    /// The tokens whose level is not above the query's own.
    ByLevel,
    /// All of it.
    All,
}

/// The mask between two blocks.
pub fn sight(query: Block, key: Block) -> Sight {
    match (query.role, key.role) {
        // History never sees what is being denoised.
        (Role::Clean, Role::Noisy) => Sight::None,
        (Role::Clean, Role::Clean) if key.frame < query.frame => Sight::All,
        (Role::Clean, Role::Clean) if key.frame == query.frame => Sight::ByLevel,
        // A noisy clip sees earlier clips clean, never its own clean copy.
        (Role::Noisy, Role::Clean) if key.clip < query.clip => Sight::All,
        (Role::Noisy, Role::Noisy) if key.clip == query.clip => Sight::ByLevel,
        _ => Sight::None,
    }
}

/// Whether the token at `query_offset` of block `query` sees the token at `key_offset` of block `key`.
pub fn sees(
    (query, query_offset): (Block, usize),
    (key, key_offset): (Block, usize),
    block_tokens: usize,
) -> bool {
    match sight(query, key) {
        Sight::None => false,
        Sight::All => true,
        Sight::ByLevel => {
            level(key.role, key_offset, block_tokens) <= level(query.role, query_offset, block_tokens)
        }
    }
}

/// Blocks of a pass at inference: `history` clean frames, then one clip of `clip` noisy ones.
pub fn inference_blocks(history: usize, clip: usize) -> Vec<Block> {
    let clean = (0..history).map(|frame| Block { role: Role::Clean, frame, clip: 0 });
    let noisy = (history..history + clip).map(|frame| Block { role: Role::Noisy, frame, clip: 1 });
    clean.chain(noisy).collect()
}

/// Blocks of a training sequence over clips of the given sizes, in the published, interleaved order:
/// of every clip but the last the noisy blocks, then the clean ones; of the last the noisy ones only.
pub fn training_blocks(clip_sizes: &[usize]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut first = 0;
    for (clip, &size) in clip_sizes.iter().enumerate() {
        let frames = first..first + size;
        blocks.extend(frames.clone().map(|frame| Block { role: Role::Noisy, frame, clip }));
        if clip + 1 < clip_sizes.len() {
            blocks.extend(frames.map(|frame| Block { role: Role::Clean, frame, clip }));
        }
        first += size;
    }
    blocks
}

/// The whole attention mask of a sequence, row-major (query, key); true where the query sees the key.
pub fn mask(blocks: &[Block], block_tokens: usize) -> Vec<bool> {
    let token = |index: usize| (blocks[index / block_tokens], index % block_tokens);
    let tokens = blocks.len() * block_tokens;
    (0..tokens * tokens).map(|cell| sees(token(cell / tokens), token(cell % tokens), block_tokens)).collect()
}

/// Position ids of a sequence: each block takes `block_tokens` positions from its frame's first.
pub fn position_ids(blocks: &[Block], block_tokens: usize) -> Vec<usize> {
    blocks
        .iter()
        .flat_map(|block| (0..block_tokens).map(move |offset| block.frame * block_tokens + offset))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every rule of the published table, spelled out independently of levels.
    fn by_the_table(query: (Block, usize), key: (Block, usize), block_tokens: usize) -> bool {
        let ((q, i), (k, j)) = (query, key);
        let last = block_tokens - 1;
        match (q.role, k.role) {
            (Role::Clean, Role::Noisy) => false,
            (Role::Clean, Role::Clean) if q.frame == k.frame => match i {
                0 => j == 0,
                i if i == last => true,
                _ => j < last,
            },
            (Role::Clean, Role::Clean) => k.frame < q.frame,
            (Role::Noisy, Role::Clean) => k.clip < q.clip,
            (Role::Noisy, Role::Noisy) => {
                q.clip == k.clip
                    && match i {
                        0 => j == 0,
                        1 => j <= 1,
                        _ => true,
                    }
            }
        }
    }

    proptest! {
        #[test]
        fn mask_is_the_published_table(
            sizes in prop::collection::vec(1_usize..4, 1..5), frame_tokens in 1_usize..5
        ) {
            let block_tokens = frame_tokens + 2;
            let blocks = training_blocks(&sizes);
            let mask = mask(&blocks, block_tokens);
            let tokens = blocks.len() * block_tokens;
            for (cell, &seen) in mask.iter().enumerate() {
                let token = |index: usize| (blocks[index / block_tokens], index % block_tokens);
                prop_assert_eq!(seen, by_the_table(token(cell / tokens), token(cell % tokens), block_tokens));
            }
        }

        #[test]
        fn history_never_sees_noise_and_every_token_sees_itself(
            history in 0_usize..5, clip in 1_usize..5, frame_tokens in 1_usize..5
        ) {
            let block_tokens = frame_tokens + 2;
            let blocks = inference_blocks(history, clip);
            let mask = mask(&blocks, block_tokens);
            let tokens = blocks.len() * block_tokens;
            for query in 0..tokens {
                prop_assert!(mask[query * tokens + query]);
                for key in history * block_tokens..tokens {
                    prop_assert!(query >= history * block_tokens || !mask[query * tokens + key]);
                }
            }
        }
    }

    #[test]
    fn a_noisy_clip_shares_positions_with_its_clean_copy() {
        let blocks = training_blocks(&[1, 2]);
        assert_eq!(position_ids(&blocks, 3), [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(blocks.iter().filter(|block| block.role == Role::Clean).count(), 1);
    }
}
