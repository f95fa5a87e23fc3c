//! What a run costs: parameters, tokens, floating-point operations, memory and disk. Pure arithmetic on shapes.

use difflow_diffusion::BlockSizes;
use difflow_model::{Memory, ModelConfig, Trained};
use difflow_trainer::config::{ObjectiveKind, PrecisionKind};
use difflow_trainer::preset::MaskToken;

/// The rule of thumb that the printed FLOPs are to be compared with. N: parameters of the blocks, and of the output head as often as a
/// position passes it, and of experts those of a token; D: tokens; L: layers; A: heads × head size; S: sequence length. Attention is
/// counted as full.
pub const FORMULA: &str = "6·N·D + 12·L·A·S·D";
/// The same with activation checkpointing: one forward pass of the blocks more. M: parameters of the blocks alone.
pub const FORMULA_RECOMPUTED: &str = "6·N·D + 12·L·A·S·D + 2·M·D + 4·L·A·S·D";

/// The settings that decide the work.
pub struct Work {
    pub trainer: difflow_trainer::config::Config,
    pub tokenizer: difflow_tokenizer::config::Config,
    pub noiser: difflow_noiser::config::Config,
    pub checkpointer: difflow_checkpointer::config::Config,
    /// Share of maskable tokens that are masked, in the mean over t.
    pub masked_share: f64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Of the base model.
    pub base_parameters: u64,
    /// Rows that the mask token adds: one, two where the head is not tied, none where a token of the vocabulary serves.
    pub mask_rows: u64,
    pub hidden_size: u64,
    pub rows_per_step: u64,
    pub tokens_per_step: u64,
    pub tokens: u64,
    /// Positions that the forwards read: more than the tokens where a text stands twice, noised and clean.
    pub positions: u64,
    /// Share of the positions whose logits are computed.
    pub head_share: f64,
    /// Operations of all matrix products, one by one.
    pub flops: f64,
    /// The rule of thumb that applies, and its value.
    pub rule: &'static str,
    pub formula: f64,
    pub memory: Memory,
    /// What several ranks share.
    pub trained: Trained,
    /// Of the moving average of the weights.
    pub average_bytes: u64,
    /// Of the base model that the hidden states are aligned with.
    pub frozen_bytes: u64,
    pub checkpoint_bytes: u64,
    /// At most at once, the one being written included.
    pub checkpoints_kept: u64,
    pub disk_bytes: u64,
}

/// Multiply-adds of one forward pass per token: in the blocks, and in the output head for a position that passes it.
pub fn forward_products(config: &ModelConfig, length: u64) -> (f64, f64) {
    (block_products(config, length).iter().sum(), config.vocab_size as f64 * config.hidden_size as f64)
}

/// Of each block.
pub fn block_products(config: &ModelConfig, length: u64) -> Vec<f64> {
    let d = config.hidden_size as f64;
    let attended = (config.heads * config.head_dim) as f64;
    let kept = (config.kv_heads * config.head_dim) as f64;
    let query_key_value = d * (attended + 2.0 * kept);
    // Scores and their sum over values, for every position of the row.
    let attention = 2.0 * attended * length as f64;
    let output = attended * d;
    let block = query_key_value + attention + output;
    (0..config.layers).map(|layer| block + feed_forward(config, layer)).collect()
}

/// Of the feed-forward block of a layer; of experts only those that compute the token, and the router.
fn feed_forward(config: &ModelConfig, layer: usize) -> f64 {
    let d = config.hidden_size as f64;
    match config.experts_of(layer) {
        Some(mixture) => d * (3 * mixture.chosen * mixture.width + mixture.count) as f64,
        None => d * config.intermediate_size as f64 * if config.gated { 3.0 } else { 2.0 },
    }
}

/// Multiply-adds of a forward pass per token in the matrices of the blocks.
fn products(config: &ModelConfig) -> f64 {
    (config.hidden_matrix_count() - config.idle_count()) as f64
}

/// Multiply-adds per token that rows cut into blocks do not need of two copies' full attention: of the 2L keys of a position, the noised
/// text sees its block and what is clean before it, the clean text what is before it.
fn attention_saved(config: &ModelConfig, length: u64, shares: &[(usize, f64)]) -> f64 {
    let full = (config.layers * config.heads * config.head_dim) as f64 * 2.0 * length as f64;
    let cut = shares.iter().filter(|(size, _)| (*size as u64) < length);
    cut.map(|(size, share)| share * full * (1.0 - *size as f64 / length as f64)).sum()
}

impl Cost {
    /// The cost of some work on a base model.
    pub fn of(work: &Work, base: &ModelConfig) -> Self {
        let t = &work.trainer;
        let diffusion = t.objective != ObjectiveKind::Ar;
        let added = diffusion && t.mask_token_for(base) == Some(MaskToken::Added) && base.adapted.is_none();
        let mask_rows = match (added, base.tied) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        let length = work.tokenizer.sequence_length as u64;
        let micro_batch = work.tokenizer.micro_batch as u64 * if work.noiser.complementary { 2 } else { 1 };
        let rows_per_step = micro_batch * t.accumulation;
        let (hidden_size, base_parameters) = (base.hidden_size as u64, base.parameter_count());
        let parameters = base_parameters + mask_rows * hidden_size;
        let tokens_per_step = rows_per_step * length;
        let tokens = tokens_per_step.saturating_mul(t.steps);
        let sizes = match t.objective {
            ObjectiveKind::Block => work.noiser.block_size.parse::<BlockSizes>().ok(),
            ObjectiveKind::Diffusion | ObjectiveKind::Ar => None,
        };
        let shares = sizes.map_or_else(Vec::new, |sizes| sizes.shares(length as usize));
        let cut: f64 = shares.iter().filter(|(size, _)| *size < length as usize).map(|(_, share)| share).sum();
        let positions = (tokens as f64 * (1.0 + cut)) as u64;
        // The clean text of cut rows predicts its next tokens.
        let next = if t.ar_weight > 0.0 { cut } else { 0.0 };
        let head_share = if diffusion { work.masked_share + next } else { 1.0 };
        let (blocks, head) = forward_products(base, length);
        let blocks = blocks * (1.0 + cut) - attention_saved(base, length, &shares);
        // A multiply-add is two operations; backward is twice forward; recomputing is one forward of the blocks more.
        let passes = if t.activation_checkpointing { 4.0 } else { 3.0 };
        let aligned = if t.align_weight > 0.0 { forward_products(base, length).0 } else { 0.0 };
        // Of an adapter, which is small, only the matrices that stay are counted: they have no gradients.
        let adapter = (t.lora_rank > 0).then(|| t.adapter(base, mask_rows > 0)).transpose().ok().flatten();
        let frozen = adapter.as_ref().map_or(0.0, |adapter| {
            let kept = if adapter.keeps_head(base) { 0.0 } else { head_share * head };
            products(base) * (1.0 + cut) + kept
        });
        let flops = 2.0 * (passes * blocks + 3.0 * head_share * head + aligned - frozen) * tokens as f64;
        let optimizer = t.optimizer();
        let on_device = t.device.starts_with("cuda") && t.precision == PrecisionKind::Bf16;
        let estimate = if on_device { Memory::of_device_training } else { Memory::of_training };
        let mut memory = estimate(
            base,
            parameters,
            &optimizer,
            micro_batch,
            if cut > 0.0 { 2 * length } else { length },
            t.activation_checkpointing,
        );
        // The values that have gradients, moments and a place in a checkpoint.
        let trained = adapter.as_ref().map_or(parameters, |adapter| {
            let rows = if adapter.keeps_head(base) { mask_rows * hidden_size } else { 0 };
            adapter.parameter_count(base) + rows
        });
        if let Some(adapter) = &adapter {
            let halved = if t.lora_base == PrecisionKind::Bf16 { 2 * adapter.still_count(base) } else { 0 };
            memory.parameters = 4 * parameters - halved + 4 * trained + optimizer.state_bytes(base, trained);
        }
        let average_bytes = if t.ema_decay > 0.0 { 4 * trained } else { 0 };
        let frozen_bytes = if t.align_weight > 0.0 { 4 * base_parameters } else { 0 };
        // fp32 weights and the optimizer's state; the average takes the place of the weights, which then stand beside it.
        let checkpoint_bytes = 4 * trained + optimizer.state_bytes(base, trained) + average_bytes;
        let state = optimizer.state_bytes(base, trained);
        // On a GPU gradients take the place of activations, where all weights have some.
        let gradients = if on_device && adapter.is_none() { 0 } else { 4 * trained };
        let shared = Trained {
            weights: memory.parameters - gradients - state + average_bytes + frozen_bytes,
            values: trained,
            state,
            activations: memory.activations + memory.logits,
            largest: base.largest_count().min(trained),
            tied: base.tied && adapter.is_none(),
            // With activation checkpointing those of a block at a time.
            rounded: if t.precision == PrecisionKind::Bf16 && !t.activation_checkpointing { 2 * parameters } else { 0 },
            units: base.unit_counts(),
            on_device,
        };
        let checkpoints_kept = kept(t.steps, t.checkpoint_every, &work.checkpointer);
        Self {
            base_parameters,
            mask_rows,
            hidden_size,
            rows_per_step,
            tokens_per_step,
            tokens,
            positions,
            head_share: head_share / (1.0 + cut),
            flops,
            rule: if t.activation_checkpointing { FORMULA_RECOMPUTED } else { FORMULA },
            // Each position of a doubled input is counted; its attention as if it were full.
            formula: formula(base, length, positions, head_share / (1.0 + cut), t.activation_checkpointing),
            memory,
            trained: shared,
            average_bytes,
            frozen_bytes,
            checkpoint_bytes,
            checkpoints_kept,
            disk_bytes: checkpoint_bytes.saturating_mul(checkpoints_kept),
        }
    }
}

impl Cost {
    /// Of training, on one device.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.total() + self.average_bytes + self.frozen_bytes
    }
}

/// The rule of thumb, from the parameter count.
fn formula(config: &ModelConfig, length: u64, tokens: u64, head_share: f64, recomputed: bool) -> f64 {
    let (v, d) = (config.vocab_size as f64, config.hidden_size as f64);
    let learned = config.positions == difflow_model::Positions::Learned;
    let tables =
        v * d * if config.tied { 1.0 } else { 2.0 } + if learned { config.max_positions as f64 * d } else { 0.0 };
    let blocks = (config.parameter_count() - config.idle_count()) as f64 - tables;
    let attention = config.layers as f64 * (config.heads * config.head_dim) as f64 * length as f64;
    let again = if recomputed { 2.0 * blocks + 4.0 * attention } else { 0.0 };
    (6.0 * (blocks + head_share * v * d) + 12.0 * attention + again) * tokens as f64
}

/// The most checkpoints that lie side by side: step 0, the newest, the multiples that stay, and the one that is being written.
fn kept(steps: u64, every: u64, keeper: &difflow_checkpointer::config::Config) -> u64 {
    let all = 1 + steps.div_ceil(every.max(1));
    let staying =
        if keeper.keep_every == 0 { 0 } else { steps / least_common_multiple(keeper.keep_every, every.max(1)) };
    all.min(1 + keeper.keep_last as u64 + staying + 1)
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use difflow_trainer::config::{OptimizerKind, OptimizerStateKind};

    use super::*;

    fn shape(name: &str) -> ModelConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../data/experiments/shapes/{name}.json"));
        ModelConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap()
    }

    fn work(length: usize) -> Work {
        Work {
            trainer: difflow_trainer::config::Config { steps: 10, ..Default::default() },
            tokenizer: difflow_tokenizer::config::Config {
                sequence_length: length,
                micro_batch: 4,
                ..Default::default()
            },
            noiser: Default::default(),
            checkpointer: Default::default(),
            masked_share: 0.5,
        }
    }

    /// Two ways to count: product by product, and by the rule of thumb that everybody knows.
    #[test]
    fn the_operations_are_within_two_percent_of_the_formula() {
        for (name, length) in [("gpt2", 512), ("gpt2-medium", 1024), ("Llama-2-7b-hf", 2048)] {
            let cost = Cost::of(&work(length), &shape(name));
            assert!((cost.flops / cost.formula - 1.0).abs() < 0.02, "{name}: {:e} and {:e}", cost.flops, cost.formula);
        }
        // 6·124M·D without its tables, half the head, and attention at 512: by hand for one token of GPT-2 small.
        let cost = Cost::of(&work(512), &shape("gpt2"));
        let (d, v) = (768.0, 50257.0);
        let by_hand = 6.0 * (12.0 * 12.0 * d * d + 0.5 * v * d) + 12.0 * 12.0 * d * 512.0;
        assert!((cost.flops / cost.tokens as f64 / by_hand - 1.0).abs() < 1e-9);
    }

    /// Counted with all of its experts it would be four times as much.
    #[test]
    fn only_the_experts_of_a_token_are_operations() {
        let json = r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":151936,"hidden_size":2048,"intermediate_size":6144,
            "num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,
            "moe_intermediate_size":768,"num_experts_per_tok":8}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        let cost = Cost::of(&work(1024), &config);
        assert!((cost.flops / cost.formula - 1.0).abs() < 0.02, "{:e} and {:e}", cost.flops, cost.formula);
        // Attention's four matrices, the router, and three matrices of 8 experts.
        let layer = 2048.0 * (2.0 * 4096.0 + 2.0 * 512.0 + 128.0 + 8.0 * 3.0 * 768.0);
        assert_eq!(forward_products(&config, 0).0, 48.0 * layer);
    }

    /// [x_t ; x_0] of 512 tokens in blocks of 4, counted by hand: all products of the layers twice, attention once (two halves, and the
    /// block), the head for what is masked and for the next tokens.
    #[test]
    fn a_doubled_input_is_counted_twice() {
        let mut block = work(512);
        (block.trainer.objective, block.noiser.block_size) = (ObjectiveKind::Block, "4".into());
        let (full, doubled) = (Cost::of(&work(512), &shape("gpt2")), Cost::of(&block, &shape("gpt2")));
        assert_eq!((doubled.tokens, doubled.positions), (full.tokens, 2 * full.tokens));
        let (d, v) = (768.0, 50257.0);
        let products = 2.0 * 12.0 * 12.0 * d * d + 12.0 * 2.0 * d * (512.0 + 4.0);
        let by_hand = 6.0 * (products + 0.5 * v * d);
        assert!((doubled.flops / doubled.tokens as f64 / by_hand - 1.0).abs() < 1e-9);
        block.trainer.ar_weight = 0.6;
        let joint = Cost::of(&block, &shape("gpt2"));
        assert!((joint.flops / joint.tokens as f64 / (by_hand + 6.0 * v * d) - 1.0).abs() < 1e-9);
        (block.noiser.block_size, block.noiser.complementary) = ("row".into(), true);
        let whole = Cost::of(&block, &shape("gpt2"));
        assert_eq!((whole.positions, whole.tokens), (2 * full.tokens, 2 * full.tokens));
    }

    /// A causal forward of the frozen base model, without its head, and its weights.
    #[test]
    fn alignment_costs_a_forward_and_the_base_models_weights() {
        let mut aligned = work(512);
        aligned.trainer.align_weight = 10.0;
        let (plain, more) = (Cost::of(&work(512), &shape("gpt2")), Cost::of(&aligned, &shape("gpt2")));
        let (d, layers) = (768.0, 12.0);
        let by_hand = 2.0 * layers * (12.0 * d * d + 2.0 * d * 512.0);
        assert!(((more.flops - plain.flops) / more.tokens as f64 / by_hand - 1.0).abs() < 1e-9);
        assert_eq!(more.memory_bytes() - plain.memory_bytes(), 4 * 124_439_808);
    }

    /// Rank 8 beside the matrices of GPT-2's blocks, by hand: no gradients of the 12 · 12 · 768² values, and none of the head.
    #[test]
    fn an_adapter_saves_the_gradients_of_what_stays() {
        let mut adapted = work(512);
        (adapted.trainer.lora_rank, adapted.trainer.objective) = (8, ObjectiveKind::Ar);
        let (mut full, base) = (work(512), shape("gpt2"));
        full.trainer.objective = ObjectiveKind::Ar;
        let (plain, less) = (Cost::of(&full, &base), Cost::of(&adapted, &base));
        let (d, v) = (768.0, 50_257.0);
        let by_hand = 2.0 * (12.0 * 12.0 * d * d + v * d);
        assert!(((plain.flops - less.flops) / less.tokens as f64 / by_hand - 1.0).abs() < 1e-9);
        // c_attn, attn.c_proj, c_fc and mlp.c_proj: inputs and outputs add up to (1 + 3) + 2 + 5 + 5 widths.
        let trained = 12 * 8 * 16 * 768;
        assert_eq!(less.checkpoint_bytes, 12 * trained);
        assert_eq!(less.memory.parameters, 4 * 124_439_808 + 12 * trained);
        // In bf16 the matrices, with tokens' and positions' rows, take half of it.
        adapted.trainer.lora_base = PrecisionKind::Bf16;
        let matrices = 12 * 12 * 768 * 768 + (50_257 + 1024) * 768;
        assert_eq!(less.memory.parameters - Cost::of(&adapted, &base).memory.parameters, 2 * matrices);
    }

    #[test]
    fn recomputing_costs_a_forward_of_the_blocks_and_saves_memory() {
        let mut checkpointed = work(512);
        checkpointed.trainer.activation_checkpointing = true;
        let (plain, less) = (Cost::of(&work(512), &shape("gpt2")), Cost::of(&checkpointed, &shape("gpt2")));
        let more = less.flops / plain.flops;
        assert!(more > 1.2 && more < 4.0 / 3.0, "{more}");
        assert!(less.memory.total() < plain.memory.total());
    }

    /// 124,439,808 parameters, a mask row of 768, and 12 · 12 · 768² values in the matrices of the blocks.
    #[test]
    fn the_optimizers_state_is_counted() {
        let bytes = |optimizer, optimizer_state| {
            let mut work = work(512);
            (work.trainer.optimizer, work.trainer.optimizer_state) = (optimizer, optimizer_state);
            let cost = Cost::of(&work, &shape("gpt2"));
            let (parameters, matrices) = (124_439_808 + 768, 12 * 12 * 768 * 768);
            let state = cost.memory.parameters - 8 * parameters;
            assert_eq!(cost.checkpoint_bytes, 4 * parameters + state);
            (state, parameters, matrices)
        };
        let (state, parameters, _) = bytes(OptimizerKind::Adamw, OptimizerStateKind::Fp32);
        assert_eq!(state, 8 * parameters);
        let (state, parameters, matrices) = bytes(OptimizerKind::Muon, OptimizerStateKind::Fp32);
        assert_eq!(state, 8 * parameters - 4 * matrices);
        let (state, parameters, matrices) = bytes(OptimizerKind::Muon, OptimizerStateKind::Bf16);
        assert_eq!(state, 4 * parameters - 2 * matrices);
    }

    #[test]
    fn a_mask_row_is_counted_where_one_is_added() {
        let mut parity = work(512);
        parity.trainer.preset = difflow_node_kit::Preset::Parity;
        assert_eq!(Cost::of(&work(512), &shape("gpt2")).mask_rows, 1);
        assert_eq!(Cost::of(&work(512), &shape("Llama-2-7b-hf")).mask_rows, 2);
        assert_eq!(Cost::of(&parity, &shape("gpt2")).mask_rows, 0);
        assert_eq!(Cost::of(&parity, &shape("gpt2-medium")).mask_rows, 1);
    }

    #[test]
    fn checkpoints_that_stay_are_counted_once() {
        let keeper = |keep_last, keep_every| difflow_checkpointer::config::Config {
            keep_last,
            keep_every,
            ..Default::default()
        };
        assert_eq!(kept(1000, 500, &keeper(5, 0)), 3);
        assert_eq!(kept(1000, 10, &keeper(5, 0)), 7);
        assert_eq!(kept(1000, 10, &keeper(5, 100)), 17);
        assert_eq!(kept(1000, 10, &keeper(5, 15)), 7 + 33);
    }
}
