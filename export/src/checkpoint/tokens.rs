//! The ids of the three special tokens, from whichever tokenizer file has them.

use std::collections::BTreeMap;
use std::path::Path;

use nextclip_core::checkpoint::TokenIds;
use serde::Deserialize;

use super::CheckpointError;
use super::config::read_json;

/// `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: usize,
    content: String,
}

/// `tokenizer_config.json`, as far as it matters here: ids are keys of a JSON object, so strings.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Spelling>,
}

#[derive(Deserialize)]
struct Spelling {
    content: String,
}

/// Looks for the three tokens in the tokenizer files, in the order in which they take precedence; the
/// first file that has all three decides.
pub fn read_token_ids(folder: &Path) -> Result<TokenIds, CheckpointError> {
    for source in [from_tokenizer, from_added_tokens, from_tokenizer_config] {
        if let Some(ids) = source(folder)?.as_ref().and_then(special) {
            return Ok(ids);
        }
    }
    Err(CheckpointError::NoTokens(folder.into()))
}

type Ids = BTreeMap<String, usize>;

fn special(ids: &Ids) -> Option<TokenIds> {
    let [img, img_end, diffusion] = TokenIds::SPELLING.map(|spelling| ids.get(spelling).copied());
    Some(TokenIds { img: img?, img_end: img_end?, diffusion: diffusion? })
}

fn from_tokenizer(folder: &Path) -> Result<Option<Ids>, CheckpointError> {
    let file: Option<Tokenizer> = read_if_there(&folder.join("tokenizer.json"))?;
    Ok(file.map(|file| file.added_tokens.into_iter().map(|token| (token.content, token.id)).collect()))
}

fn from_added_tokens(folder: &Path) -> Result<Option<Ids>, CheckpointError> {
    read_if_there(&folder.join("added_tokens.json"))
}

fn from_tokenizer_config(folder: &Path) -> Result<Option<Ids>, CheckpointError> {
    let file: Option<TokenizerConfig> = read_if_there(&folder.join("tokenizer_config.json"))?;
    Ok(file.map(|file| {
        let entries = file.added_tokens_decoder.into_iter();
        entries.filter_map(|(id, token)| Some((token.content, id.parse().ok()?))).collect()
    }))
}

fn read_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, CheckpointError> {
    match read_json(path, "") {
        Ok(value) => Ok(Some(value)),
        Err(CheckpointError::NoFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WANTED: TokenIds = TokenIds { img: 3, img_end: 4, diffusion: 5 };

    #[test]
    fn reads_every_tokenizer_file() {
        let files = [
            ("added_tokens.json", r#"{"<img>": 3, "</img>": 4, "<|diffusion|>": 5}"#),
            (
                "tokenizer.json",
                r#"{"version": "1.0", "added_tokens": [{"id": 3, "content": "<img>", "special": true},
                {"id": 4, "content": "</img>"}, {"id": 5, "content": "<|diffusion|>"}]}"#,
            ),
            (
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"3": {"content": "<img>"}, "4": {"content": "</img>"},
                "5": {"content": "<|diffusion|>"}}, "model_max_length": 4096}"#,
            ),
        ];
        for (name, text) in files {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), text).unwrap();
            assert_eq!(read_token_ids(folder.path()).unwrap(), WANTED, "{name}");
        }
    }

    #[test]
    fn a_file_without_all_three_does_not_decide() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("tokenizer.json"),
            r#"{"added_tokens": [{"id": 9, "content": "<img>"}]}"#,
        )
        .unwrap();
        assert!(matches!(read_token_ids(folder.path()), Err(CheckpointError::NoTokens(_))));
        fs::write(
            folder.path().join("added_tokens.json"),
            r#"{"<img>": 3, "</img>": 4, "<|diffusion|>": 5}"#,
        )
        .unwrap();
        assert_eq!(read_token_ids(folder.path()).unwrap(), WANTED);
    }
}
