//! Code shared by the sampler, the evaluator, `difflow score`, `difflow sample` and a server: between
//! `difflow_model`, which computes, and the programs, which ask.
//!
//! | to | use |
//! |---|---|
//! | open a checkpoint, a base model, a run | [`Session::open`], [`Peers::base`], [`Peers::model`] |
//! | know what a checkpoint records about itself | [`Facts`] |
//! | ask anything, in batches | [`Task`], [`Asking`], [`Session::answer`] |
//! | generate: from nothing, after a prompt, in gaps | [`Decoding`], [`Session::write`] |
//! | the same for texts that come and go, each in its own way | [`Batch`] |
//! | ask a model that was finetuned on conversations | [`Session::chat`], [`Chat`] |
//! | measure likelihood | [`Session::nelbo`], [`Session::ar_loss`], [`Estimate`], [`Session::perplexity_of`] |
//! | choose between candidates by likelihood, with errors | [`Question`], [`Scorer`], [`Session::candidates`] |
//! | read documents and gaps | [`documents`], [`Gap`], [`every_second_sentence_hidden`] |
//! | have a command judge texts | [`Checker`] |
//! | compare decoders | [`Measuring`] |
//!
//! ```no_run
//! use difflow_inference::*;
//! # fn main() -> Result<(), InferenceError> {
//! let session = Session::open("runs/default".as_ref(), &Opening::default())?;
//! let mut ready = |_: Progress| Ok::<(), InferenceError>(());
//!
//! // −ln p of a text, in nats: the diffusion bound, or exactly for a model that reads from left to right.
//! let words = session.words();
//! let tokens = [vec![words.bos], words.encode("A day at the lake")?, vec![words.eos]].concat();
//! let text = difflow_text::Gap { id: 0, left: "A day at".into(), answer: " the".into(), right: " lake".into() };
//! let tasks = [Task::Likelihood(Document::new(tokens)), Task::Gap(Gap::of_text(&text, words)?)];
//! let asking = Asking {
//!     reading: Reading::Trained,
//!     decoding: Decoding::surest_first(),
//!     noise: Noise { seed: 0, draws: 8 },
//!     batching: Batching::Tokens(16_384),
//!     rows: 16,
//! };
//! for answer in session.answer(&tasks, &asking, &mut ready)? {
//!     match answer {
//!         Answer::Likelihood(Nats { nats, tokens }) => println!("{nats} nats over {tokens} tokens"),
//!         Answer::Gap(Filled { filling, exact, .. }) => println!("{:?}: {}", exact, words.decode_inner(&filling)?),
//!         Answer::Choice(_) | Answer::Generate(_) => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Token ids are `u32`; likelihoods are in nats (natural logarithm); a text begins with its anchor (BOS, or EOS if
//! there is none). The tasks given in one call get the same answers however they are batched. A session is shared by
//! reference between threads.

mod batch;
mod candidates;
mod chat;
mod checker;
mod compute;
mod decoding;
pub mod documents;
mod error;
mod facts;
mod gaps;
mod generation;
mod likelihood;
mod measure;
mod parts;
mod progress;
mod session;
mod shared_prompts;
mod task;
#[doc(hidden)]
pub mod tiny;
mod ways;
mod writing;

pub use batch::{Batch, Step};
pub use candidates::{Error, Question, Scorer, Scoring, Value};
pub use chat::{Chat, Exchange};
pub use checker::{Checker, CheckerError, Judged, OK};
pub use compute::Compute;
pub use decoding::{Decoder, Decoding};
pub use error::{InferenceError, lacks_memory};
pub use facts::{Facts, IN_CHECKPOINT, Token, in_checkpoint};
pub use gaps::{Gap, every_second_sentence_hidden};
pub use likelihood::{Batching, Document, Estimate, Nats, Noise};
pub use measure::{Measuring, Row};
pub use parts::{DEFAULT_LENGTH, Pieces};
pub use progress::{GoOn, Progress};
pub use session::{Opening, Peers, Session};
pub use task::{Answer, Asking, Choice, Filled, Reading, Task};
pub use writing::Written;

// What a caller needs of the model crate, so that programs need not name it.
pub use difflow_model::{
    Blocks, Caching, Canvas, Checked, Device, Expected, GapLength, ModelConfig, ModelError, Piece, Precision, Reveal,
    Score, Template, Watch, Watched, num_threads, set_num_threads,
};
