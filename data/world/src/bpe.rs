//! The tokenizer of the world: byte-level BPE, trained on the training stories alone.

use crate::error::WorldError;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer, TokenizerBuilder};

/// Size of the vocabulary: two special tokens, 256 bytes, the rest merges.
pub const VOCABULARY: usize = 1024;
/// Begins a text, id 0.
pub const BOS: &str = "<bos>";
/// Ends a text, id 1.
pub const EOS: &str = "<eos>";

/// Trains the tokenizer. It adds no special tokens by itself and decodes to exactly the text that was encoded, whatever its bytes.
///
/// # Errors
/// Whatever the trainer of the `tokenizers` crate reports.
pub fn train<'a>(stories: impl Iterator<Item = &'a str> + Send) -> Result<Tokenizer, WorldError> {
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<_, NormalizerWrapper, _, PostProcessorWrapper, _>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(None)
        .with_decoder(Some(bytes))
        .build()?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .special_tokens(vec![AddedToken::from(BOS, true), AddedToken::from(EOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, stories)?;
    // Read back, so that what is used here is what everybody else will load.
    Ok(Tokenizer::from_bytes(tokenizer.to_string(false)?.as_bytes())?)
}
